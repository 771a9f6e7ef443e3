"""What a network makes of photographs, at several scales and mirrored."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from scipy.special import expit, softmax

from roadseg.errors import InputError
from roadseg.images import resize, resize_planes
from roadseg.inference import Network, averaged_weights
from roadseg.training.averages import averaged


class FakeSession:
    """Stands for a session: logits of road are `network(image)`, those of the rest zero."""

    def __init__(self, network):
        self.network, self.feeds = network, []

    def run(self, fetch, feed_dict):
        self.feeds.append(feed_dict)
        found = np.float32(self.network(feed_dict['image'][0].astype(np.float32)))
        if found.ndim == 2:
            found = np.stack([np.zeros_like(found), found], axis=-1)
        return found.reshape(-1, found.shape[-1])


def look(network, image_shape, **options):
    """A `Network` of two classes, or of as many as `network` gives."""
    sess = FakeSession(network)
    return Network(sess, 'logits', 'keep_prob', 'image', image_shape, **options), sess


def probability(network, photograph, image_shape, **options):
    seen, sess = look(network, image_shape, **options)
    return seen.probability(photograph), sess


def red(image):
    return (image[..., 0] - 128) / 64


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Probability of road --------------------------------------------------------------------------

def test_probability_of_constant_logits_is_that_everywhere():
    road, sess = probability(lambda image: np.full(image.shape[:2], 1.5),
                             np.zeros((13, 22, 3), np.uint8), (4, 10))
    assert road.shape == (13, 22) and road.dtype == np.float32
    np.testing.assert_allclose(road, 1 / (1 + np.exp(-1.5)), rtol=1e-6)
    feed, = sess.feeds
    assert feed['image'].shape == (1, 4, 10, 3) and feed['keep_prob'] == 1


def test_probability_keeps_rows_and_columns_apart():
    photograph = np.zeros((12, 30, 3), np.uint8)
    photograph[:4] = 255
    road, _ = probability(lambda image: (image[..., 0] - 128) / 8, photograph, (6, 10))
    assert (road[:3] > 0.9).all() and (road[6:] < 0.1).all()


def test_probability_with_flip_is_the_mean_over_both_views():
    """Where the network always answers 'left', the mean with the mirrored answer is one half."""
    def left(image):
        return np.where(np.arange(image.shape[1]) < image.shape[1] // 2, 50.0,
                        -50.0) * np.ones(image.shape[:2])

    photograph = np.zeros((8, 20, 3), np.uint8)
    once, _ = probability(left, photograph, (4, 10))
    both, sess = probability(left, photograph, (4, 10), flip=True)
    assert once[:, :8].min() > 0.99 and once[:, 12:].max() < 0.01
    np.testing.assert_allclose(both, 0.5, atol=1e-6)
    assert len(sess.feeds) == 2


def test_probability_at_several_scales_is_their_mean():
    """A network that answers by the width that it is shown."""
    photograph = np.zeros((20, 50, 3), np.uint8)
    road, sess = probability(lambda image: np.full(image.shape[:2], image.shape[1] / 40),
                             photograph, (16, 40), scales=(1, 2, 3.9))
    assert [feed['image'].shape[1:3] for feed in sess.feeds] == [(16, 40), (32, 80), (64, 160)]
    expected = np.mean([1 / (1 + np.exp(-width / 40)) for width in (40, 80, 160)])
    assert road.shape == (20, 50) and road.dtype == np.float32
    np.testing.assert_allclose(road, expected, rtol=1e-6)


def test_probability_with_flip_of_a_fair_network_is_that_without():
    once, _ = probability(red, noise(4, 10), (4, 10))
    both, _ = probability(red, noise(4, 10), (4, 10), flip=True)
    np.testing.assert_allclose(both, once, atol=1e-6)


def test_probability_of_extreme_logits_is_0_or_1_and_warns_of_nothing():
    with np.errstate(all='raise', under='ignore'):
        road, _ = probability(lambda image: 1e4 * (image[..., 0] - 128), noise(4, 10), (4, 10))
    np.testing.assert_array_equal(road, np.float32(noise(4, 10)[..., 0] > 128)
                                  + 0.5 * (noise(4, 10)[..., 0] == 128))


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_network_that_has_diverged_is_told(value):
    seen, _ = look(lambda image: np.full(image.shape[:2], value), (4, 10))
    for see in (seen.probability, seen.scores):
        with pytest.raises(InputError, match='diverged'):
            see(noise(4, 10))


# Scores of several classes --------------------------------------------------------------------

def three(image):
    """Logits of three classes: the photograph's own colours."""
    return image / 50


def test_scores_are_the_logits_at_the_networks_size():
    seen, sess = look(three, (4, 10))
    scores = seen.scores(noise(9, 21))
    assert scores.shape == (4, 10, 3) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, resize(noise(9, 21), (4, 10)) / np.float32(50))
    assert len(sess.feeds) == 1


def test_scores_of_several_views_are_logarithms_of_their_mean_probability():
    photograph = noise(16, 40)
    seen, sess = look(three, (16, 40), scales=(1, 2), flip=True)
    scores = seen.scores(photograph)
    assert [feed['image'].shape[1:3] for feed in sess.feeds] == [(16, 40)] * 2 + [(32, 80)] * 2
    assert scores.shape == (16, 40, 3) and scores.dtype == np.float32
    np.testing.assert_allclose(np.exp(scores).sum(axis=-1), 1, atol=1e-5)
    at_two = softmax(three(resize(photograph, (32, 80))), axis=-1)
    expected = (softmax(three(photograph), axis=-1)
                + resize_planes(np.float32(at_two), (16, 40))) / 2
    np.testing.assert_allclose(np.exp(scores), expected, atol=1e-5)


def test_scores_of_two_classes_give_the_probability():
    photograph = noise(4, 10)
    for options in ({}, {'flip': True}):
        seen, _ = look(red, (4, 10), **options)
        scores = seen.scores(photograph)
        np.testing.assert_allclose(expit(scores[..., 1] - scores[..., 0]),
                                   seen.probability(photograph), atol=1e-5)


# In a graph -----------------------------------------------------------------------------------

def test_a_network_is_found_by_the_names_of_its_tensors():
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        image = tf.placeholder(tf.uint8, [None, None, None, 3], 'photographs')
        keep_prob = tf.placeholder(tf.float32, [], 'keep_prob')
        floats = tf.cast(image, tf.float32)
        tf.identity(floats, 'image_input')
        logits = (floats[..., :2] - 128) / keep_prob
        tf.reshape(logits, [-1, 2], name='logits')
        graph.finalize()
        network = Network.of_session(sess, [4, 10], [1.0, 1.5], True)
        assert network.input_image is image
        assert (network.image_shape, network.scales, network.flip) == ((4, 10), (1.0, 1.5), True)
        photograph = noise(4, 10)
        np.testing.assert_allclose(network.run(photograph), photograph[..., :2] - np.float32(128))
        assert network.probability(noise(9, 21)).shape == (9, 21)


def test_a_graph_of_something_else_is_a_key_error():
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.placeholder(tf.float32, [None, None, None, 3], 'image_input')
        with pytest.raises(KeyError):
            Network.of_session(sess, (4, 10))


def test_averaged_weights_are_in_place_within_and_never_after():
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        weight = tf.get_variable('weight', initializer=np.float32([1, 2]))
        step = tf.train.get_or_create_global_step()
        averaged(tf.assign_add(weight, [1, 1]), [weight], 0.5, step)
        average, = (variable for variable in tf.global_variables()
                    if 'ExponentialMovingAverage' in variable.name)
        sess.run(tf.global_variables_initializer())
        average.load([10, 20], sess)
        graph.finalize()
        with averaged_weights(sess):
            assert sess.run(weight).tolist() == [10, 20]
        assert sess.run(weight).tolist() == [1, 2] and sess.run(average).tolist() == [10, 20]
        with pytest.raises(ZeroDivisionError), averaged_weights(sess):
            1 / 0
        assert sess.run(weight).tolist() == [1, 2]


def test_without_averages_the_weights_are_what_they_are():
    with tf.Graph().as_default(), tf.Session() as sess:
        weight = tf.get_variable('weight', initializer=np.float32([1, 2]))
        sess.run(weight.initializer)
        with averaged_weights(sess):
            assert sess.run(weight).tolist() == [1, 2]
