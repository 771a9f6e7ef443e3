"""The estimate before a run, against counts by hand."""
import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
from roadseg.errors import InputError
from roadseg.inference import Network
from roadseg.training import preflight
from roadseg.training.preflight import Cost
from roadseg.training.workers import Workers

GIB = 2 ** 30


def tiny_network():
    """3x3 convolution to 5 channels, pooling, 1x1 to 2, upsampled twice; all with biases."""
    image = tf.placeholder(tf.float32, [None, None, None, 3])

    def parameters(name, *shape):
        return tf.get_variable(name, shape, initializer=tf.ones_initializer)

    outputs = tf.nn.conv2d(image, parameters('a', 3, 3, 3, 5), strides=1, padding='SAME')
    outputs = tf.nn.relu(tf.nn.bias_add(outputs, parameters('a_bias', 5)))
    outputs = tf.nn.max_pool2d(outputs, ksize=2, strides=2, padding='SAME')
    outputs = tf.nn.conv2d(outputs, parameters('b', 1, 1, 5, 2), strides=1, padding='SAME')
    shape = tf.concat([tf.shape(image)[:3], [2]], axis=0)
    outputs = tf.nn.conv2d_transpose(outputs, parameters('c', 4, 4, 2, 2), shape, 2)
    return image, tf.reshape(outputs, [-1, 2])


def count(height, width):
    """GFLOP of `tiny_network`: a multiplication and an addition for each weight met."""
    full, half = height * width, height * width / 4
    return 2 * (full * 3 * 3 * 3 * 5 + half * 5 * 2 + half * 4 * 4 * 2 * 2) / 1e9


def estimate(image_shape, batch_size, precision='float32', trained=lambda name: True):
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        image, logits = tiny_network()
        sess.run(tf.global_variables_initializer())
        graph.finalize()
        variables = [variable for variable in tf.trainable_variables() if trained(variable.name)]
        return preflight.cost(sess, logits, image, image_shape, batch_size, variables, precision,
                              {})


@pytest.mark.parametrize('image_shape, tolerance', [((96, 96), 1e-6), ((64, 320), 1e-6),
                                                    ((75, 101), 0.15)])
def test_work_and_parameters_agree_with_a_count_by_hand(image_shape, tolerance):
    cost = estimate(image_shape, 1)
    assert cost.parameters == 3 * 3 * 3 * 5 + 5 + 5 * 2 + 4 * 4 * 2 * 2
    assert cost.gflop_per_image == pytest.approx(count(*image_shape), rel=tolerance)


def test_memory_grows_with_batch_and_image():
    one, three, larger = estimate((64, 64), 1), estimate((64, 64), 3), estimate((64, 128), 1)
    assert three.memory - one.memory == pytest.approx(2 * one.memory_of_image, rel=1e-6)
    assert larger.memory_of_image == pytest.approx(2 * one.memory_of_image, rel=1e-6)
    # what the backward pass keeps of an image, the layer's output and the pool, and some more
    kept = 4 * 64 * 64 * (5 + 5 / 4)
    assert kept <= one.memory_of_image < 10 * kept


def test_memory_is_less_in_bfloat16_and_with_layers_that_are_not_trained():
    one = estimate((64, 64), 1)
    assert estimate((64, 64), 1, 'bfloat16').memory_of_image == pytest.approx(
        one.memory_of_image / 2, rel=1e-6)
    last_alone = estimate((64, 64), 1, trained=lambda name: name == 'c:0')
    assert last_alone.memory_of_image < one.memory_of_image
    assert last_alone.parameters == 4 * 4 * 2 * 2
    assert last_alone.gflop_per_image == one.gflop_per_image    # forward, it is all the same
    assert one.carried_back == 1
    full, half = 3 * 3 * 3 * 5, 5 * 2 / 4
    last = 4 * 4 * 2 * 2 / 4
    assert last_alone.carried_back == pytest.approx(last / (full + half + last))


def test_cost_of_the_whole_network(tiny_vgg):
    """Convolutions of VGG16 by hand, at a size that is no multiple of 32."""
    with tf.Graph().as_default(), tf.Session() as sess:
        image, _, *outputs = main.load_vgg(sess, str(tiny_vgg))
        last = main.layers(*outputs, 2, output_size=tf.shape(image)[1:3])
        logits = tf.reshape(last, [-1, 2])
        main.initialize_new(sess)
        cost = preflight.cost(sess, logits, image, (80, 240), 2, tf.trainable_variables(), 'float32',
                              {})
        kernels = {variable.name: int(np.prod(variable.shape.as_list()))
                   for variable in tf.trainable_variables() if variable.shape.ndims == 4}
        parameters = sum(value.size for value in sess.run(tf.trainable_variables()))
    work = 0
    for name, size in kernels.items():
        if name.startswith('conv'):
            work += size / 4 ** (int(name[4]) - 1)
        elif name.startswith('fc') or 'score7' in name or 'upsample2/' in name:
            work += size / 4 ** 5
        elif 'score4' in name or 'upsample4' in name:
            work += size / 4 ** 4
        else:
            work += size / 4 ** 3
    assert cost.parameters == parameters
    assert cost.gflop_per_image == pytest.approx(2 * 80 * 240 * work / 1e9, rel=0.15)


def test_the_layers_are_found_in_order():
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        image, logits = tiny_network()
        sess.run(tf.global_variables_initializer())
        graph.finalize()        # nothing is added to it
        found = [(operation.type, shape)
                 for operation, shape in preflight.layer_shapes(sess, logits, image, {})]
        assert found == [('Conv2D', (1, 96, 96, 5)), ('Relu', (1, 96, 96, 5)),
                         ('MaxPool', (1, 48, 48, 5)), ('Conv2D', (1, 48, 48, 2)),
                         ('Conv2DBackpropInput', (1, 96, 96, 2))]


@pytest.mark.parametrize('available', [3 * GIB, None])
def test_check_lets_pass_what_fits_and_what_is_unknown(available):
    preflight.check(Cost(1000, 1.0, 3 * GIB, GIB), 2, available)


def test_check_raises_with_what_is_needed_and_what_is_free():
    cost = Cost(1000, 1.0, 9 * GIB, 2 * GIB)
    with pytest.raises(InputError, match='out of memory: .*9.0 GiB.*batches of 4.*5.5 GiB'):
        preflight.check(cost, 4, int(5.5 * GIB))


@pytest.mark.parametrize('available', [3 * GIB, 5 * GIB + 5, 8 * GIB - 1])
def test_the_advised_batch_size_fits(available):
    """1 GiB for the weights and 1 GiB for each of 8 images."""
    def cost(batch_size):
        return Cost(1000, 1.0, (1 + batch_size) * GIB, GIB)

    words = preflight.memory_advice(cost(8), 8, available).split()
    advised = int(words[words.index('--batch-size') + 1])
    assert advised >= 1
    preflight.check(cost(advised), advised, available)
    with pytest.raises(InputError):
        preflight.check(cost(advised + 1), advised + 1, available)


def test_advice_where_not_even_one_image_fits_is_a_smaller_image():
    advice = preflight.memory_advice(Cost(1000, 1.0, 3 * GIB, GIB), 2, 1.5 * GIB)
    assert '--image-size' in advice and '--batch-size' not in advice


def test_advice_where_the_weights_alone_do_not_fit_is_a_smaller_encoder():
    """As of the course's VGG16 with `--train decoder`, whose weights are 0.5 GiB."""
    advice = preflight.memory_advice(Cost(1000, 1.0, 3 * GIB, GIB), 1, 2 * GIB)
    assert advice.endswith('2.0 GiB are for the weights, whatever the photographs: choose a '
                           'smaller --encoder')


def test_advice_is_never_a_batch_of_none():
    """The device may run out of memory although the estimate says that one image fits."""
    advice = preflight.memory_advice(Cost(1000, 1.0, 2 * GIB, GIB), 1, 5 * GIB)
    assert '--batch-size 0' not in advice and 'not even one' not in advice
    assert '--image-size' in advice and 'end what else uses the memory' in advice


@pytest.mark.parametrize('error', [tf.errors.ResourceExhaustedError(None, None, 'OOM'),
                                   MemoryError('Unable to allocate 12 TB')])
@pytest.mark.parametrize('available', [5 * GIB, 3 * GIB, None])
def test_running_out_of_memory_becomes_advice(available, error):
    """Also where nobody knows how much there is."""
    with pytest.raises(InputError, match='out of memory: about 5.0 GiB.*batches of 4'):
        with preflight.advising(Cost(1000, 1.0, 5 * GIB, GIB), 4, available):
            raise error


def test_running_out_of_memory_while_scoring_becomes_advice_too():
    error = tf.errors.ResourceExhaustedError(None, None, 'OOM')
    sess = SimpleNamespace(run=lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(InputError, match='out of memory: about 5.0 GiB.*batches of 4'):
        with preflight.advising(Cost(1000, 1.0, 5 * GIB, GIB), 4, 3 * GIB):
            Network(sess, None, 'keep_prob', 'image', (3, 4)).run(np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(InputError, match='^another$'):
        with preflight.advising(Cost(1000, 1.0, 5 * GIB, GIB), 4, 3 * GIB):
            raise InputError('another')


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(tf.errors.InvalidArgumentError):
        with preflight.advising(Cost(1000, 1.0, 5 * GIB, GIB), 4, GIB):
            raise tf.errors.InvalidArgumentError(None, None, 'shapes')


def test_available_memory_is_a_plausible_number_of_bytes():
    with tf.Graph().as_default(), tf.Session() as sess:
        available = preflight.available_memory(sess)
    assert available is None or 2 ** 20 < available < 2 ** 50


# What is too large ----------------------------------------------------------------------------

@pytest.fixture
def little_memory(monkeypatch):
    """A machine with 2 GiB."""
    monkeypatch.setattr(preflight, 'available_memory', lambda *_: 2 * GIB)


def found(image_size, test_scale=(1.0,), logits=None, team=Workers()):
    """`preflight.estimate` of `tiny_network`, or of what `logits` makes of its image."""
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        image, last = tiny_network()
        if logits is not None:
            last = logits(image, last)
        net = SimpleNamespace(input_image=image, logits=last, keep_prob=tf.placeholder(tf.float32))
        sess.run(tf.global_variables_initializer())
        graph.finalize()
        return preflight.estimate(sess, net, tf.trainable_variables(), SimpleNamespace(
            image_size=image_size, batch_size=1, precision='float32', test_scale=test_scale), team)


def test_what_a_training_takes_is_found(little_memory):
    cost, seconds, available = found((32, 64))
    assert available == 2 * GIB and cost.memory < 2 * GIB and 0 < seconds < 10


def test_a_test_scale_whose_memory_will_not_do_is_refused_before_the_training(little_memory):
    """The training itself would fit."""
    found((320, 640), test_scale=[1.0, 2.0])
    with pytest.raises(InputError, match=r'out of memory: .*--test-scale 100.* and 2.0 GiB are '
                                         'free.*choose a smaller one'):
        found((320, 640), test_scale=[1.0, 100.0])


def test_workers_of_a_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr(preflight, 'free_memory', lambda: 2 ** 30)
    *_, alone = found((32, 64))
    *_, shared = found((32, 64), team=Workers(['a:1', 'a:2', 'b:1', 'a:3']))
    assert (alone, shared) == (2 ** 30, 2 ** 30 // 3)


def test_weights_that_are_left_as_they_are_take_memory_too():
    """The course's VGG16 has 537 MB of them, and on a GPU they are none of the free memory."""
    every, none = (estimate((96, 96), 0, trained=lambda name, value=value: value)
                   for value in (True, False))
    assert none.parameters == 0 and every.parameters > 50
    assert every.memory - none.memory == (20 - 4) * every.parameters


def test_memory_to_predict_grows_with_the_square_of_the_scale():
    def memory(scale):
        with tf.Graph().as_default(), tf.Session() as sess:
            image, logits = tiny_network()
            sess.run(tf.global_variables_initializer())
            return preflight.cost(sess, logits, image, (96, 96), 1, tf.trainable_variables(),
                                  'float32', {}, scale).memory_to_predict

    assert memory(4) - memory(2) == pytest.approx(3 * 4 * (memory(1) - memory(0)), rel=1e-6)
    assert memory(1) - memory(0) >= 4 * 96 * 96 * 5         # the largest layer, in bytes


def test_a_network_that_is_to_predict_is_measured_alike(little_memory):
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        image, logits = tiny_network()
        sess.run(tf.global_variables_initializer())
        network = Network(sess, logits, tf.placeholder(tf.float32), image, (320, 640), (1, 2))
        graph.finalize()
        preflight.check_prediction(network)
        with pytest.raises(InputError, match='out of memory: .*--test-scale 100'):
            preflight.check_prediction(network._replace(scales=(100, 1)))


def test_memory_that_runs_out_while_the_time_is_measured_is_advice(little_memory):
    """The probe of the layers' shapes fits. TensorFlow makes its own error of Python's."""
    def look(image):
        if image.shape[1] > preflight.PROBE:
            raise MemoryError('12 TB')
        return np.float32(0)

    def spoilt(image, logits):
        return logits + tf.numpy_function(look, [image], tf.float32)

    with pytest.raises(InputError, match='out of memory: about .*--image-size') as caught:
        found((160, 320), logits=spoilt)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('dilation, onednn, told', [
    (2, '0', True), (2, '1', False), (2, None, False), (1, '0', False)])
def test_gradients_that_eigen_lacks_are_told(monkeypatch, dilation, onednn, told):
    monkeypatch.setattr(preflight, 'offers_gpu', lambda: False)
    monkeypatch.delenv('TF_ENABLE_ONEDNN_OPTS', raising=False)
    if onednn:
        monkeypatch.setenv('TF_ENABLE_ONEDNN_OPTS', onednn)
    with tf.Graph().as_default() as graph:
        kernel = tf.get_variable('kernel', [3, 3, 2, 4])
        outputs = tf.nn.conv2d(tf.ones([1, 8, 9, 2]), kernel, 1, 'SAME', dilations=dilation)
        preflight.check_dilation(graph)         # it may be used, but not trained
        tf.gradients(outputs, kernel)
        with pytest.raises(InputError, match='=1') if told else nullcontext():
            preflight.check_dilation(graph)


def test_seconds_are_measured(monkeypatch):
    clock = itertools.count(step=2).__next__
    monkeypatch.setattr(preflight, 'time', SimpleNamespace(perf_counter=clock))
    with tf.Graph().as_default(), tf.Session() as sess:
        image, logits = tiny_network()
        sess.run(tf.global_variables_initializer())
        # the backward pass, in which the whole network is, takes twice as long as the forward one
        assert preflight.seconds_per_image(sess, logits, image, (32, 64), {}, 1) == 6


def test_description_holds_the_numbers():
    text = preflight.describe(Cost(12_300_000, 45.6, 3 * GIB, GIB), 0.5, 1200, 'bfloat16')
    for piece in ('12.3 million', '45.6 GFLOP', 'bfloat16', '3.0 GiB', '2 images/s', '10 min'):
        assert piece in text
    of_three = preflight.describe(Cost(12_300_000, 45.6, 3 * GIB, GIB), 0.5, 1200, 'bfloat16', 3)
    assert '6 images/s, 10 min' in of_three
