"""The contract of main.py's functions and of what they lean on, in seconds.

    pytest project_tests.py

Run it before paying for a long training. Sizes are tiny and distinct, so that swapped axes show.
"""
import itertools
import math
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

import helper
import main
from conftest import save_tiny_vgg
from roadseg.datasets import kitti
from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError
from roadseg.networks import encoder, vgg16
from roadseg.training import pipeline, schedule
from roadseg.training.augment import distort
from roadseg.training.run_folder import Progress

D3, D4, D7 = 8, 16, 12      # channels of the tiny VGG16's outputs


@pytest.fixture(scope='session')
def vgg_path(tiny_vgg):
    return str(tiny_vgg)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def save_graph(path, tag, names):
    """Writes a SavedModel of constants with these names."""
    with tf.Graph().as_default(), tf.Session() as sess:
        for name in names:
            tf.constant(0.0, name=name)
        builder = tf.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(sess, [tag])
        builder.save()


def values(sess, variables):
    """Dict from variable name to value."""
    return sess.run({variable.name: variable for variable in variables})


def changed(before, after):
    """Names of the variables whose bits differ."""
    return {name for name in before if before[name].tobytes() != after[name].tobytes()}


# load_vgg -------------------------------------------------------------------------------------

NAMES = ['image_input', 'keep_prob', 'layer3_out', 'layer4_out', 'layer7_out']


def test_load_vgg_calls_the_loader_with_session_tag_and_path(vgg_path, monkeypatch):
    calls, load = [], tf.saved_model.loader.load

    def spy(*args, **kwargs):
        calls.append((args, kwargs))
        return load(*args, **kwargs)

    monkeypatch.setattr(tf.saved_model.loader, 'load', spy)
    with tf.Graph().as_default(), tf.Session() as sess:
        main.load_vgg(sess, vgg_path)
    assert calls == [((sess, ['vgg16'], vgg_path), {})]


@pytest.mark.parametrize('path', ['', './data/vgg', 'data/vgg/'])
def test_load_vgg_hands_the_path_on_as_it_is(path, monkeypatch):
    """The course's own test compares it, with a loader that loads nothing."""
    calls = []
    monkeypatch.setattr(tf.saved_model.loader, 'load', lambda *args: calls.append(args))
    with tf.Graph().as_default(), tf.Session() as sess:
        for name in NAMES:
            tf.placeholder(tf.float32, name=name)
        main.load_vgg(sess, path)
        assert calls == [(sess, ['vgg16'], path)]


def test_load_vgg_returns_the_named_tensors_of_the_sessions_graph(vgg_path):
    with tf.Session(graph=tf.Graph()) as sess:
        tensors = main.load_vgg(sess, vgg_path)
    assert [tensor.name for tensor in tensors] == [name + ':0' for name in NAMES]
    assert all(tensor.graph is sess.graph for tensor in tensors)
    assert [tensor.shape[-1] for tensor in tensors[2:]] == [D3, D4, D7]


def test_load_vgg_brings_weights_and_pools_odd_sizes_rounding_up(vgg_path, rng):
    with tf.Graph().as_default(), tf.Session() as sess:
        image_input, keep_prob, *outputs = main.load_vgg(sess, vgg_path)
        shapes = [value.shape for value in sess.run(outputs, {
            image_input: rng.uniform(0, 255, (2, 75, 101, 3)), keep_prob: 1.0})]
    assert shapes == [(2, 10, 13, D3), (2, 5, 7, D4), (2, 3, 4, D7)]


def test_load_vgg_names_the_tag_that_is_missing(tmp_path):
    save_graph(tmp_path / 'other', 'serve', NAMES)
    with tf.Graph().as_default(), tf.Session() as sess:
        with pytest.raises(InputError, match="other.*tag 'vgg16'"):
            main.load_vgg(sess, str(tmp_path / 'other'))


def test_load_vgg_names_the_tensor_that_is_missing(tmp_path):
    save_graph(tmp_path / 'other', 'vgg16', [name for name in NAMES if name != 'layer4_out'])
    with tf.Graph().as_default(), tf.Session() as sess:
        with pytest.raises(InputError, match='layer4_out') as caught:
            main.load_vgg(sess, str(tmp_path / 'other'))
    assert 'layer3_out' not in str(caught.value)


@pytest.mark.parametrize('content', [None, 'saved_model.pb'])
def test_load_vgg_names_the_folder_that_is_no_saved_model(tmp_path, content):
    if content:
        (tmp_path / content).write_bytes(b'\xff' * 99)
    with tf.Graph().as_default(), tf.Session() as sess:
        with pytest.raises(InputError, match=re.escape(str(tmp_path))):
            main.load_vgg(sess, str(tmp_path))


def test_load_vgg_names_the_folder_that_has_lost_its_weights(tmp_path):
    save_tiny_vgg(tmp_path / 'vgg', width_divisor=64, fc_width=2, fc_kernel=1)
    for path in (tmp_path / 'vgg/variables').iterdir():
        path.unlink()
    with tf.Graph().as_default(), tf.Session() as sess:
        with pytest.raises(InputError, match=re.escape(str(tmp_path / 'vgg'))):
            main.load_vgg(sess, str(tmp_path / 'vgg'))


@pytest.mark.parametrize('byte', [b'A', b'\xff'])      # another name; one that is no UTF-8
def test_load_vgg_names_the_graph_that_is_damaged_inside(tmp_path, byte):
    save_tiny_vgg(tmp_path / 'vgg', width_divisor=64, fc_width=2, fc_kernel=1)
    graph = tmp_path / 'vgg/saved_model.pb'
    before, after = graph.read_bytes().rsplit(b'conv2_1/kernel/Read', 1)
    graph.write_bytes(before + b'con' + byte + b'2_1/kernel/Read' + after)
    with tf.Graph().as_default(), tf.Session() as sess:
        with pytest.raises(InputError, match='^' + re.escape(str(tmp_path / 'vgg'))
                           + r' holds no .* \(.+\); move'):
            main.load_vgg(sess, str(tmp_path / 'vgg'))


# layers ---------------------------------------------------------------------------------------

C, K = 3, 5
SIZES = {3: (10, 13, D3), 4: (5, 7, D4), 7: (3, 4, D7)}      # of an image of 75 x 101


def build_decoder(**options):
    """A decoder on placeholders of unknown size, and what tests want of it."""
    inputs = [tf.placeholder(tf.float32, [None, None, None, SIZES[layer][-1]])
              for layer in (3, 4, 7)]
    logits = main.layers(*inputs, C, **options)
    operations = tf.get_default_graph().get_operations()
    return SimpleNamespace(
        inputs=inputs, logits=logits,
        scorings=[op for op in operations if op.type == 'Conv2D'],
        upsamplings=[op for op in operations if op.type == 'Conv2DBackpropInput'])


def zeros(decoder, batch=2):
    """Feeds each input of the decoder with zeros."""
    return {tensor: np.zeros((batch, *SIZES[layer]))
            for layer, tensor in zip((3, 4, 7), decoder.inputs)}


@pytest.mark.parametrize('output_size, expected', [
    (None, (80, 104)), ((75, 101), (75, 101)), ([73, 97], (73, 97))])
def test_layers_returns_scores_of_the_asked_size(output_size, expected):
    with tf.Graph().as_default(), tf.Session() as sess:
        if isinstance(output_size, list):       # as a tensor
            output_size = tf.constant(output_size)
        decoder = build_decoder(output_size=output_size)
        main.initialize_new(sess)
        assert sess.run(decoder.logits, zeros(decoder)).shape == (2, *expected, C)
        assert decoder.logits.shape[-1] == C


@pytest.mark.parametrize('height, width', [(32, 64), (75, 101), (1, 33)])
def test_layers_fits_the_image_through_the_whole_network(vgg_path, height, width):
    with tf.Graph().as_default(), tf.Session() as sess:
        image_input, _, *outputs = main.load_vgg(sess, vgg_path)
        logits = main.layers(*outputs, C, output_size=tf.shape(image_input)[1:3])
        main.initialize_new(sess)
        scores = sess.run(logits, {image_input: np.zeros((2, height, width, 3))})
    assert scores.shape == (2, height, width, C)


def test_layers_is_three_scorings_and_three_upsamplings():
    with tf.Graph().as_default():
        decoder = build_decoder()
        kernels = [tuple(op.inputs[1].shape.as_list()) for op in decoder.scorings]
        assert sorted(kernels) == [(1, 1, D3, C), (1, 1, D7, C), (1, 1, D4, C)]
        kernels = [tuple(op.inputs[1].shape.as_list()) for op in decoder.upsamplings]
        assert kernels == [(4, 4, C, C), (4, 4, C, C), (16, 16, C, C)]
        assert len(tf.trainable_variables()) == 3 * 2 + 3


def test_layers_with_score_channels_mixes_them_into_classes_at_the_end():
    with tf.Graph().as_default(), tf.Session() as sess:
        decoder = build_decoder(score_channels=K)
        kernels = [tuple(op.inputs[1].shape.as_list()) for op in decoder.scorings]
        assert sorted(kernels) == [(1, 1, D3, K), (1, 1, D7, K), (1, 1, D4, K)]
        kernels = [tuple(op.inputs[1].shape.as_list()) for op in decoder.upsamplings]
        assert kernels == [(4, 4, K, K), (4, 4, K, K), (16, 16, C, K)]
        main.initialize_new(sess)
        scores = sess.run(decoder.logits, zeros(decoder))
        assert scores.shape == (2, 80, 104, C)
        # through a ReLU: channels below zero say nothing, those above differ by class
        biases = [variable for variable in tf.trainable_variables() if 'bias' in variable.name]
        for value, silent in ((-1, True), (1, False)):
            for bias in biases:
                bias.load(np.full(K, value), sess)
            by_class = sess.run(decoder.logits, zeros(decoder))[0, 40, 52]
            assert (not by_class.any()) == silent and (np.ptp(by_class) == 0) == silent


@pytest.mark.parametrize('which, factor', [(0, 2), (1, 2), (2, 8)])
@pytest.mark.parametrize('output_size', [None, (75, 101)])
def test_layers_upsamples_bilinearly_and_in_register(which, factor, output_size):
    """A plane stays that plane: the output's pixel i sees (i + 0.5) / factor - 0.5.

    That is where the pooling layers put their cells, whatever the size of the image.
    """
    def plane(rows, columns):
        return 3 + 2 * rows[:, np.newaxis] - 5 * columns

    with tf.Graph().as_default(), tf.Session() as sess:
        decoder = build_decoder(output_size=output_size)
        main.initialize_new(sess)
        upsampling, (rows, columns, _) = decoder.upsamplings[which], SIZES[(7, 4, 3)[which]]
        coarse = plane(np.arange(rows), np.arange(columns))
        inputs = coarse[np.newaxis, ..., np.newaxis] * [1, 0, -1]
        padded = np.pad(inputs, [(0, 0), (1, 1), (1, 1), (0, 0)], 'edge')
        fine = sess.run(upsampling.outputs[0],
                        {**zeros(decoder, 1), upsampling.inputs[2]: padded})[0]
        if which == 2:
            fine = sess.run(decoder.logits, {**zeros(decoder, 1), upsampling.inputs[2]: padded})[0]
        else:
            fine = fine[factor:-factor, factor:-factor]
    centres = [(np.arange(length) + 0.5) / factor - 0.5 for length in fine.shape[:2]]
    # beyond the centres of the outermost cells, their values go on
    expected = plane(*(np.clip(centre, 0, length - 1)
                       for centre, length in zip(centres, (rows, columns))))
    np.testing.assert_allclose(fine[..., 0], expected, atol=1e-4)
    np.testing.assert_allclose(fine[..., 2], -expected, atol=1e-4)
    assert not fine[..., 1].any()       # classes do not mix


@pytest.mark.parametrize('output_size', [None, (75, 101)])
def test_layers_does_not_fade_towards_the_border(output_size):
    """Scores of 1 everywhere are logits of 1 everywhere, in the corners, too."""
    with tf.Graph().as_default(), tf.Session() as sess:
        decoder = build_decoder(output_size=output_size)
        main.initialize_new(sess)
        bias, = (variable for variable in tf.trainable_variables()
                 if variable.name == 'decoder/score7/bias:0')
        bias.load(np.ones(C), sess)
        np.testing.assert_allclose(sess.run(decoder.logits, zeros(decoder)), 1, atol=1e-5)


@pytest.mark.parametrize('layer, factor', [(3, 1e-4), (4, 1e-2), (7, 1)])
def test_layers_scales_pools_3_and_4(rng, layer, factor):
    """The scores of a layer alone, the same everywhere, are its 1x1 convolution times the factor."""
    with tf.Graph().as_default(), tf.Session() as sess:
        decoder = build_decoder()
        main.initialize_new(sess)
        vector = rng.normal(size=SIZES[layer][-1]) / factor
        placeholder = decoder.inputs[(3, 4, 7).index(layer)]
        kernel, = (variable for variable in tf.trainable_variables()
                   if variable.shape.as_list() == [1, 1, SIZES[layer][-1], C])
        expected = factor * vector @ sess.run(kernel)[0, 0]
        found = sess.run(decoder.logits, {
            **zeros(decoder), placeholder: np.broadcast_to(vector, (2, *SIZES[layer]))})
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-6)


def test_layers_adds_every_kernels_l2_loss():
    with tf.Graph().as_default(), tf.Session() as sess:
        build_decoder(weight_decay=0.5)
        main.initialize_new(sess)
        kernels = [value for value in values(sess, tf.trainable_variables()).values()
                   if value.ndim == 4]
        assert len(tf.losses.get_regularization_losses()) == len(kernels) == 6
        expected = 0.5 * sum(np.square(kernel).sum() / 2 for kernel in kernels)
        assert sess.run(tf.losses.get_regularization_loss()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('freeze_blocks, kernels', [(0, 15), (2, 11), (5, 2)])
def test_weight_decay_reaches_every_kernel_of_vgg_that_is_trained(vgg_path, freeze_blocks, kernels):
    with tf.Graph().as_default(), tf.Session() as sess:
        main.load_vgg(sess, vgg_path)
        main.add_weight_decay(main.trained_variables(freeze_blocks), 0.5)
        trained = [variable for variable in tf.trainable_variables() if variable.shape.ndims == 4
                   and int(variable.name[4] if variable.name[:4] == 'conv' else 9) > freeze_blocks]
        assert len(trained) == len(tf.losses.get_regularization_losses()) == kernels
        expected = 0.5 * sum(np.square(value).sum() / 2
                             for value in values(sess, trained).values())
        assert sess.run(tf.losses.get_regularization_loss()) == pytest.approx(expected, rel=1e-5)


# optimize -------------------------------------------------------------------------------------

SHAPE = (2, 3, 5)       # images, rows, columns


def one_hot(classes, count=C):
    return classes[..., np.newaxis] == np.arange(count)


@pytest.fixture
def classes(rng):
    """uint8 ndarray of class numbers, some of them ignored."""
    classes = rng.integers(0, C, SHAPE, dtype=np.uint8)
    classes[0, 1, 2:] = classes[1, 0, 0] = IGNORED
    return classes


def build_optimizer(scores, labels, **options):
    """`optimize` on a variable that is the network's last layer."""
    last = tf.get_variable('last', initializer=np.float32(scores))
    rate = tf.placeholder_with_default(0.1, [])
    logits, train_op, loss = main.optimize(last, tf.constant(labels), rate, C, **options)
    return SimpleNamespace(last=last, rate=rate, logits=logits, train_op=train_op, loss=loss)


@pytest.mark.parametrize('dtype', [bool, np.uint8, np.float32])
def test_optimize_loss_is_the_mean_over_evaluated_pixels(rng, classes, dtype):
    scores = rng.normal(size=(*SHAPE, C))
    with tf.Graph().as_default(), tf.Session() as sess:
        network = build_optimizer(scores, one_hot(classes).astype(dtype))
        main.initialize_new(sess)
        logits, loss = sess.run([network.logits, network.loss])
    evaluated = classes != IGNORED
    chances = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    assert loss == pytest.approx(-np.log(chances[one_hot(classes)]).sum() / evaluated.sum())
    np.testing.assert_array_equal(logits, np.float32(scores.reshape(-1, C)))
    assert network.logits.shape.as_list()[1:] == [C] and network.loss.shape == []


def test_optimize_ignored_pixels_have_no_part_in_loss_or_gradient(rng, classes):
    """Softmax cross entropy of an all-zero row has loss 0 but a gradient: it must be masked."""
    scores = rng.normal(size=(*SHAPE, C))
    ignored = classes == IGNORED
    others = np.where(ignored[..., np.newaxis], rng.normal(size=scores.shape), scores)
    results = []
    for values_of_last in (scores, others):
        with tf.Graph().as_default(), tf.Session() as sess:
            network = build_optimizer(values_of_last, one_hot(classes))
            main.initialize_new(sess)
            results.append(sess.run([network.loss, *tf.gradients(network.loss, network.last)]))
    (loss, gradient), (other_loss, other_gradient) = results
    assert loss == other_loss
    assert not gradient[ignored].any()
    assert gradient[~ignored].all()
    np.testing.assert_array_equal(gradient, other_gradient)


def test_optimize_leaves_a_batch_without_evaluated_pixels_alone(rng):
    with tf.Graph().as_default(), tf.Session() as sess:
        network = build_optimizer(rng.normal(size=(*SHAPE, C)), np.zeros((*SHAPE, C), bool))
        main.initialize_new(sess)
        before = sess.run(network.last)
        loss, _ = sess.run([network.loss, network.train_op])
        assert loss == 0
        np.testing.assert_array_equal(sess.run(network.last), before)


def test_optimize_one_step_of_adam_lowers_the_loss(rng, classes):
    """Adam's first step moves each weight by the learning rate, against its gradient."""
    with tf.Graph().as_default(), tf.Session() as sess:
        network = build_optimizer(rng.normal(size=(*SHAPE, C)), one_hot(classes))
        gradient = tf.gradients(network.loss, network.last)[0]
        main.initialize_new(sess)
        before, slope, loss = sess.run([network.last, gradient, network.loss])
        sess.run(network.train_op, {network.rate: 0.25})
        after, new_loss = sess.run([network.last, network.loss])
        assert sess.run(tf.train.get_global_step()) == 1
    assert new_loss < loss
    np.testing.assert_allclose(after - before, -0.25 * np.sign(slope), atol=1e-3)


@pytest.mark.parametrize('weight_decay', [0.0, 1.0])
def test_optimize_trains_on_the_regularization_losses(weight_decay):
    """Where no pixel is evaluated, weight decay alone moves the kernels, towards zero."""
    with tf.Graph().as_default(), tf.Session() as sess:
        decoder = build_decoder(weight_decay=weight_decay)
        labels = tf.zeros([2, 80, 104, C])
        _, train_op, loss = main.optimize(decoder.logits, labels, tf.constant(1e-4), C)
        main.initialize_new(sess)
        kernels = [variable for variable in tf.trainable_variables() if variable.shape.ndims == 4]
        before = values(sess, kernels)
        assert sess.run([loss, train_op], zeros(decoder))[0] == 0
        after = values(sess, kernels)
    assert changed(before, after) == (set(before) if weight_decay else set())
    if weight_decay:
        assert all(np.square(after[name]).sum() < np.square(before[name]).sum() for name in before)


@pytest.mark.parametrize('clip_norm', [None, 1e-3, 1e3])
def test_optimize_clips_the_gradients_norm(rng, classes, clip_norm):
    """Adam's first moment is a tenth of the first gradient that it gets."""
    with tf.Graph().as_default(), tf.Session() as sess:
        network = build_optimizer(rng.normal(size=(*SHAPE, C)), one_hot(classes),
                                  clip_norm=clip_norm)
        gradient = tf.gradients(network.loss, network.last)[0]
        main.initialize_new(sess)
        norm = np.linalg.norm(sess.run(gradient))
        sess.run(network.train_op)
        moment, = (variable for variable in tf.global_variables()
                   if variable.name == 'last/Adam:0')
        found = 10 * np.linalg.norm(sess.run(moment))
    assert norm > 1e-2
    assert found == pytest.approx(min(norm, clip_norm or norm), rel=1e-4)


def test_optimize_changes_no_kernel_before_all_gradients_are_there(rng):
    """Variables from TensorFlow 1, such as the course's VGG16 has, change in place: a kernel that
    changed early would spoil the gradients of the layers before it.
    """
    with tf.Graph().as_default(), tf.Session() as sess:
        outputs = tf.constant(rng.normal(size=(4, 24, 24, 64)), tf.float32)
        kernels = [tf.get_variable(f'kernel{number}', use_resource=False, initializer=np.float32(
            rng.normal(0, 0.06, (3, 3, 64, 64)))) for number in range(8)]
        for kernel in kernels:
            outputs = tf.nn.relu(tf.nn.conv2d(outputs, kernel, 1, 'SAME'))
        labels = one_hot(rng.integers(0, C, (4, 24, 24)))
        _, train_op, loss = main.optimize(outputs[..., :C], tf.constant(labels),
                                          tf.constant(0.5), C)
        slopes = tf.gradients(loss, kernels)
        start = tf.global_variables_initializer()
        moments = [variable for kernel in kernels for variable in tf.global_variables()
                   if variable.op.name == kernel.op.name + '/Adam']
        sess.run(start)
        expected = sess.run(slopes)
        for _ in range(8):
            sess.run(start)
            sess.run(train_op)
            for moment, slope in zip(sess.run(moments), expected, strict=True):
                np.testing.assert_allclose(10 * moment, slope, rtol=1e-3,
                                           atol=1e-3 * abs(slope).max())


def test_optimize_moves_the_decoder_faster(vgg_path):
    """Adam's first step is as long as the learning rate, so the factor shows."""
    with tf.Graph().as_default(), tf.Session() as sess:
        image, keep_prob, *outputs = main.load_vgg(sess, vgg_path)
        labels = np.zeros((1, 32, 64, C), bool)
        labels[..., 1] = True
        _, train_op, _ = main.optimize(main.layers(*outputs, C), tf.constant(labels),
                                       tf.constant(1e-5), C, decoder_rate=100.0)
        main.initialize_new(sess)
        before = values(sess, tf.trainable_variables())
        sess.run(train_op, {image: np.full((1, 32, 64, 3), 99.0)})
        after = values(sess, tf.trainable_variables())
        assert sess.run(tf.train.get_global_step()) == 1
    step = {name: np.abs(after[name] - before[name]).max() for name in before}
    assert step['decoder/score7/bias:0'] == pytest.approx(1e-3, rel=0.02)
    assert step['fc7/bias:0'] == pytest.approx(1e-5, rel=0.02)


def test_optimize_leaves_frozen_blocks_bit_identical(vgg_path, rng):
    with tf.Graph().as_default(), tf.Session() as sess:
        image_input, _, *outputs = main.load_vgg(sess, vgg_path)
        main.add_weight_decay(main.trained_variables(2), 0.1)
        logits = main.layers(*outputs, 2)
        labels = one_hot(rng.integers(0, 2, (1, 32, 64)), 2)
        _, train_op, _ = main.optimize(logits, tf.constant(labels), tf.constant(1e-3), 2,
                                       freeze_blocks=2, average_decay=0.9)
        main.initialize_new(sess)
        kernels = [variable for variable in tf.trainable_variables() if variable.shape.ndims == 4]
        before = values(sess, tf.trainable_variables())
        for _ in range(2):
            sess.run(train_op, {image_input: rng.uniform(0, 255, (1, 32, 64, 3))})
        moved = changed(before, values(sess, tf.trainable_variables()))
        sess.run('swap_averages')
        moved |= changed(before, values(sess, tf.trainable_variables()))
    frozen = {name for name in before if name.startswith(('conv1_', 'conv2_'))}
    assert len(frozen) == 8
    assert not moved & frozen
    assert moved >= {variable.name for variable in kernels} - frozen


def test_optimize_runs_the_update_operations(rng, classes):
    """Batch normalisation's moving averages would stand still otherwise."""
    with tf.Graph().as_default(), tf.Session() as sess:
        moving = tf.get_variable('moving', [], initializer=tf.zeros_initializer, trainable=False)
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign_add(moving, 1).op)
        network = build_optimizer(rng.normal(size=(*SHAPE, C)), one_hot(classes))
        main.initialize_new(sess)
        sess.run(network.train_op)
        assert sess.run(moving) == 1


def test_optimize_weighs_classes(rng, classes):
    """With weights w, the loss is the weighted mean of the pixels' cross entropy."""
    scores, weights = rng.normal(size=(*SHAPE, C)), np.float32([0.5, 3, 0])
    with tf.Graph().as_default(), tf.Session() as sess:
        network = build_optimizer(scores, one_hot(classes), class_weights=weights)
        main.initialize_new(sess)
        loss = sess.run(network.loss)
    chances = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    weight = (one_hot(classes) * weights).sum(axis=-1)
    expected = -(np.log(chances) * one_hot(classes) * weights).sum() / weight.sum()
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('use_resource', [True, False])
def test_optimize_averages_are_swapped_in_and_out(rng, classes, use_resource):
    """Reference variables, as in old graphs, are exchanged just as well."""
    with tf.Graph().as_default(), tf.Session() as sess, \
            tf.variable_scope('', use_resource=use_resource):
        network = build_optimizer(rng.normal(size=(*SHAPE, C)), one_hot(classes),
                                  average_decay=0.9)
        assert (network.last.op.type == 'VariableV2') != use_resource
        average, = (variable for variable in tf.global_variables()
                    if variable.name.startswith('last/ExponentialMovingAverage'))
        sess.run(network.last.initializer)      # as if it had been loaded
        main.initialize_new(sess)
        first = sess.run(network.last)
        for _ in range(3):
            sess.run(network.train_op)
        weights, averages = sess.run([network.last, average])
        # It lags: the steps all go one way, so the average lies strictly between.
        moving = weights != first
        assert moving.any()
        share = (averages - first)[moving] / (weights - first)[moving]
        assert 0 < share.min() and share.max() < 1
        sess.run('swap_averages')
        swapped = sess.run([network.last, average])
        assert [value.tobytes() for value in swapped] == [averages.tobytes(), weights.tobytes()]
        sess.run('swap_averages')
        swapped = sess.run([network.last, average])
        assert [value.tobytes() for value in swapped] == [weights.tobytes(), averages.tobytes()]


def test_optimize_averages_begin_with_the_pretrained_weights(vgg_path):
    """Not with the values that the loaded graph would initialise its weights with."""
    with tf.Graph().as_default(), tf.Session() as sess:
        _, _, *outputs = main.load_vgg(sess, vgg_path)
        labels = tf.zeros([1, 32, 64, 2])
        main.optimize(main.layers(*outputs, 2), labels, tf.constant(1e-3), 2, average_decay=0.9)
        main.initialize_new(sess)
        before = values(sess, tf.trainable_variables())
        sess.run('swap_averages')
        assert not changed(before, values(sess, tf.trainable_variables()))


def test_optimize_without_averages_has_nothing_to_swap(rng, classes):
    with tf.Graph().as_default() as graph:
        build_optimizer(rng.normal(size=(*SHAPE, C)), one_hot(classes))
        assert not [op for op in graph.get_operations() if 'swap' in op.name]


# train_nn -------------------------------------------------------------------------------------

def feeds():
    """The placeholders that `train_nn` feeds, by the names of its arguments."""
    return {'input_image': tf.placeholder(tf.float32, name='input_image'),
            'correct_label': tf.placeholder(tf.float32, name='correct_label'),
            'keep_prob': tf.placeholder(tf.float32, name='keep_prob'),
            'learning_rate': tf.placeholder(tf.float32, name='learning_rate')}


def batches_of(count):
    """A `get_batches_fn` of `count` batches, whose images hold the batch's number."""
    def get_batches_fn(batch_size, first=0):
        for number in range(first, count):
            yield (np.full((batch_size, 4, 5, 3), number, np.uint8),
                   np.full((batch_size, 4, 5, 2), number % 2, bool))
    return get_batches_fn


@pytest.mark.parametrize('by_name', [False, True])
def test_train_nn_prints_the_loss_of_a_graph_without_variables(capsys, by_name):
    with tf.Graph().as_default(), tf.Session() as sess:
        train_op, loss = tf.constant(2), tf.constant(10.11)
        if by_name:
            main.train_nn(sess=sess, epochs=1, batch_size=2, get_batches_fn=batches_of(3),
                          train_op=train_op, cross_entropy_loss=loss, **feeds())
        else:
            main.train_nn(sess, 1, 2, batches_of(3), train_op, loss, *feeds().values())
    assert '10.11' in capsys.readouterr().out


def test_train_nn_takes_batches_from_anything_that_yields_pairs(capsys):
    """Also an array whose items are pairs."""
    with tf.Graph().as_default(), tf.Session() as sess:
        main.train_nn(sess, 1, 2, lambda batch_size: np.zeros((batch_size, 2, 3, 3)),
                      tf.constant(2), tf.constant(10.11), *feeds().values())
    assert '10.11' in capsys.readouterr().out


def test_train_nn_runs_the_training_step_for_each_batch_of_each_epoch():
    with tf.Graph().as_default(), tf.Session() as sess:
        counter = tf.get_variable('counter', [], tf.int32, tf.zeros_initializer)
        progress = main.train_nn(sess, 3, 2, batches_of(4), tf.assign_add(counter, 1),
                                 tf.constant(1.0), *feeds().values())
        assert sess.run(counter) == 3 * 4
    assert (progress.epoch, progress.step, progress.epoch_steps) == (3, 12, 0)


def test_images_of_all_workers_are_counted(monkeypatch):
    rates = []
    for workers in (1, 3):
        clock = itertools.count()
        monkeypatch.setattr(main.time, 'perf_counter', lambda: float(next(clock)))
        with tf.Graph().as_default(), tf.Session() as sess:
            main.train_nn(sess, 1, 2, batches_of(4), tf.constant(0), tf.constant(1.0),
                          *feeds().values(), workers=workers,
                          after_epoch=lambda row: rates.append(row['images_per_second']))
    assert rates[1] == 3 * rates[0] > 0


def test_train_nn_feeds_each_placeholder_with_its_own_value():
    seen = []

    def record(*fed):
        seen.append(fed)
        return np.float32(1)

    with tf.Graph().as_default(), tf.Session() as sess:
        placeholders = feeds()
        step = tf.numpy_function(record, list(placeholders.values()), tf.float32)
        main.train_nn(sess, 2, 3, batches_of(2), step, tf.constant(1.0), **placeholders,
                      keep_probability=0.25, schedule=lambda number: 0.5 ** number)
    assert [images.shape for images, *_ in seen] == [(3, 4, 5, 3)] * 4
    assert [labels.shape for _, labels, *_ in seen] == [(3, 4, 5, 2)] * 4
    assert [images.max() for images, *_ in seen] == [0, 1, 0, 1]
    assert [labels.max() for _, labels, *_ in seen] == [0, 1, 0, 1]
    assert [float(keep) for _, _, keep, _ in seen] == [0.25] * 4
    assert [float(rate) for *_, rate in seen] == [1, 0.5, 0.25, 0.125]


def test_train_nn_drops_activations_with_probability_a_half_by_default():
    with tf.Graph().as_default(), tf.Session() as sess:
        placeholders = feeds()
        rows = []
        main.train_nn(sess, 1, 1, batches_of(2), tf.constant(0), placeholders['keep_prob'],
                      **placeholders, after_epoch=rows.append)
    assert rows[0]['loss'] == 0.5


def test_train_nn_initialises_only_what_has_no_value():
    with tf.Graph().as_default(), tf.Session() as sess:
        old = tf.get_variable('old', [2, 3], initializer=tf.zeros_initializer)
        new = tf.get_variable('new', [3, 2], initializer=tf.ones_initializer)
        sess.run(old.assign(np.full((2, 3), 0.1, np.float32)))
        main.train_nn(sess, 1, 1, batches_of(1), tf.constant(0), tf.constant(1.0),
                      *feeds().values())
        found_old, found_new = sess.run([old, new])
    np.testing.assert_array_equal(found_old, np.full((2, 3), 0.1, np.float32))
    np.testing.assert_array_equal(found_new, np.ones((3, 2)))


def test_train_nn_leaves_pretrained_weights_bit_identical_at_learning_rate_0(vgg_path):
    with tf.Graph().as_default(), tf.Session() as sess:
        image_input, keep_prob, *outputs = main.load_vgg(sess, vgg_path)
        pretrained = tf.trainable_variables()
        before = values(sess, pretrained)
        label = tf.placeholder(tf.bool, [None, None, None, 2])
        rate = tf.placeholder(tf.float32, [])
        logits = main.layers(*outputs, 2, output_size=tf.shape(label)[1:3])
        _, train_op, loss = main.optimize(logits, label, rate, 2)
        main.train_nn(sess, 1, 2, batches_of(2), train_op, loss, image_input, label, keep_prob,
                      rate, schedule=lambda step: 0.0)
        after = values(sess, pretrained)
        assert len(sess.run(tf.report_uninitialized_variables())) == 0
    assert len(before) == 30 and all(value.any() for name, value in before.items()
                                     if 'kernel' in name)
    assert not changed(before, after)


def test_a_global_initializer_that_wipes_the_pretrained_weights_is_loud(tmp_path):
    """It used to leave a VGG16 of zeros, on which a script then trained, silently."""
    weights = {name: (np.full(shape, 0.01, np.float32), np.zeros(shape[-1], np.float32))
               for name, shape in vgg16.convolution_shapes(32).items()}
    vgg16.save(weights, vgg16.top_shapes(16, 4), vgg16.torch_input, tmp_path / 'vgg')
    with tf.Graph().as_default(), tf.Session() as sess:
        main.load_vgg(sess, tmp_path / 'vgg')
        with pytest.raises(tf.errors.InvalidArgumentError, match='call main.initialize_new'):
            sess.run(tf.global_variables_initializer())


def test_pretrained_weights_are_trained_on_and_begin_their_moving_averages(tmp_path):
    """Their initial value, which is an error, went into the averages' on every new encoder."""
    rng = np.random.default_rng(0)
    weights = {name: (rng.normal(0, 0.1, shape).astype(np.float32), rng.random(shape[-1], np.float32))
               for name, shape in vgg16.convolution_shapes(32).items()}
    vgg16.save(weights, vgg16.top_shapes(16, 4), vgg16.torch_input, tmp_path / 'vgg')
    with tf.Graph().as_default(), tf.Session() as sess:
        main.build(sess, tmp_path / 'vgg', 2, main.parse_args([]))
        main.initialize_new(sess)
        found = {variable.op.name: sess.run(variable) for variable in tf.global_variables()}
    for name in ('conv1_1', 'conv4_2', 'conv5_3'):
        for part, value in zip(('kernel', 'bias'), weights[name]):
            np.testing.assert_array_equal(found[f'{name}/{part}'], value)
            average = found.get(f'{name}/{part}/ExponentialMovingAverage')
            assert (average is None) == (name == 'conv1_1')     # its block is left as it is
            if average is not None:
                np.testing.assert_array_equal(average, value)


@pytest.mark.parametrize('seeds, same', [((3, 3), True), ((3, 4), False)])
def test_the_seed_reaches_new_layers_and_dropout(vgg_path, seeds, same):
    found = []
    for seed in seeds:
        with tf.Graph().as_default(), tf.Session() as sess:
            image_input, keep_prob, *outputs = main.load_vgg(sess, vgg_path)
            feed = encoder.draw_new_kernels(sess, seed)
            fc6, = (variable for variable in tf.global_variables()
                    if variable.name == 'fc6/kernel:0')
            main.initialize_new(sess)
            drawn = sess.run(fc6)
            masks = sess.run(tf.equal(outputs[2], 0), {
                **feed, image_input: np.full((1, 64, 96, 3), 99), keep_prob: 0.5})
            found.append((drawn.tobytes(), masks.tobytes()))
    assert (found[0][0] == found[1][0]) == same and (found[0][1] == found[1][1]) == same


def test_train_nn_adds_no_operation_per_step_or_epoch():
    counts = []
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        counter = tf.get_variable('counter', [], tf.int32, tf.zeros_initializer)

        def get_batches_fn(batch_size):
            for batch in batches_of(2)(batch_size):
                yield batch
                counts.append(len(graph.get_operations()))

        main.train_nn(sess, 3, 2, get_batches_fn, tf.assign_add(counter, 1), tf.constant(1.0),
                      *feeds().values())
        counts.append(len(graph.get_operations()))
    assert len(counts) == 7 and len(set(counts)) == 1


def test_train_nn_works_on_a_finalized_graph():
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        placeholders = feeds().values()
        step, loss = tf.constant(2), tf.constant(1.0)
        graph.finalize()
        assert main.train_nn(sess, 2, 1, batches_of(2), step, loss, *placeholders).step == 4


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_train_nn_stops_on_a_loss_that_is_not_finite(bad):
    losses = iter(np.float32([1, 2, 3, bad, 5, 6]))
    with tf.Graph().as_default(), tf.Session() as sess:
        loss = tf.numpy_function(lambda: next(losses), [], tf.float32)
        with pytest.raises(InputError, match=f'{bad}.*epoch 2, step 4'):
            main.train_nn(sess, 2, 1, batches_of(3), tf.constant(0), loss, *feeds().values())
    assert list(losses) == [5, 6]


def test_train_nn_ends_after_max_steps():
    with tf.Graph().as_default(), tf.Session() as sess:
        counter = tf.get_variable('counter', [], tf.int32, tf.zeros_initializer)
        progress = main.train_nn(sess, 9, 2, batches_of(3), tf.assign_add(counter, 1),
                                 tf.constant(1.0), *feeds().values(), max_steps=4)
        assert sess.run(counter) == progress.step == 4


@pytest.mark.parametrize('stop_after, epochs, left_over', [(0, 0, 0), (2, 0, 2), (5, 1, 2)])
def test_train_nn_ends_between_two_steps_when_it_is_stopped(stop_after, epochs, left_over):
    with tf.Graph().as_default(), tf.Session() as sess:
        progress = Progress()
        main.train_nn(sess, 4, 2, batches_of(3), tf.constant(0), tf.constant(1.0),
                      *feeds().values(), progress=progress,
                      stopped=lambda: progress.step >= stop_after)
    assert (progress.step, progress.epoch, progress.epoch_steps) == (stop_after, epochs, left_over)


def test_train_nn_goes_on_where_it_was_stopped():
    """The epoch's mean loss covers the steps before and after, and no batch comes twice."""
    seen, rows = [], []
    with tf.Graph().as_default(), tf.Session() as sess:
        placeholders = feeds()
        loss = tf.reduce_max(placeholders['input_image']) + 1
        step = tf.numpy_function(lambda loss: seen.append(float(loss)) or np.float32(0),
                                 [loss], tf.float32)
        progress = Progress()
        arguments = (sess, 2, 2, batches_of(4), step, loss, *placeholders.values())
        main.train_nn(*arguments, progress=progress, after_epoch=rows.append,
                      stopped=lambda: progress.step >= 3)
        assert seen == [1, 2, 3] and not rows
        main.train_nn(*arguments, progress=progress, after_epoch=rows.append)
    assert seen == [1, 2, 3, 4, 1, 2, 3, 4]
    assert [(row['epoch'], row['step'], row['loss']) for row in rows] == [(1, 4, 2.5), (2, 8, 2.5)]


def test_learning_rate_rises_in_the_warmup_and_falls_as_a_cosine_after_it():
    rates = [schedule.learning_rate_at(step, 110, 0.5, 'cosine', warmup=10) for step in range(111)]
    np.testing.assert_allclose(rates[:10], 0.05 * np.arange(1, 11))
    assert rates[9] == rates[10] == 0.5         # the warm-up reaches what the cosine begins with
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[60] == pytest.approx(0.25) and rates[110] == pytest.approx(0)
    assert rates[85] == pytest.approx(0.25 * (1 - math.sqrt(0.5)))
    assert schedule.learning_rate_at(70, 100, 0.5, 'constant', warmup=0) == 0.5
    # few steps, as of large batches, are not all warm-up
    assert max(schedule.learning_rate_at(step, 80, 1.0) for step in range(80)) == 1


def test_the_whole_network_learns_to_tell_bright_from_dark(tmp_path, rng):
    save_tiny_vgg(tmp_path / 'vgg', width_divisor=16, fc_width=24)
    classes = np.zeros((6, 32, 64), np.uint8)
    for number, left in enumerate((12, 20, 28, 36, 44, 52)):
        classes[number, :, :left] = 1
    noise = rng.integers(0, 60, (*classes.shape, 3), dtype=np.uint8)
    images = 40 + 120 * classes[..., np.newaxis] + noise

    def get_batches_fn(batch_size):
        for start in range(0, len(images), batch_size):
            yield (images[start:start + batch_size],
                   one_hot(classes[start:start + batch_size], 2))

    with tf.Graph().as_default(), tf.Session() as sess:
        tf.set_random_seed(0)
        image_input, keep_prob, *outputs = main.load_vgg(sess, str(tmp_path / 'vgg'))
        label = tf.placeholder(tf.bool, [None, None, None, 2])
        rate = tf.placeholder(tf.float32, [])
        last = main.layers(*outputs, 2, output_size=tf.shape(image_input)[1:3])
        logits, train_op, loss = main.optimize(last, label, rate, 2, clip_norm=1.0)
        main.train_nn(sess, 30, 3, get_batches_fn, train_op, loss, image_input, label, keep_prob,
                      rate, schedule=lambda step: 3e-3)
        scores = sess.run(logits, {image_input: images, keep_prob: 1.0})
    accuracy = (scores.argmax(axis=1) == classes.ravel()).mean()
    assert accuracy > 0.95


# gen_batch_function ---------------------------------------------------------------------------

COLOURS = {0: (255, 0, 0), 1: (255, 0, 255), IGNORED: (0, 0, 0)}
COUNT = 7


def write_photographs(folder, count=COUNT, size=(12, 20)):
    """A KITTI training folder: photograph i is of the grey 10 + 30 * i, its left half brighter.

    Of each label the left half is road, the right half not, and the top quarter is ignored.
    """
    (folder / 'image_2').mkdir(parents=True)
    (folder / 'gt_image_2').mkdir()
    for number in range(count):
        image = np.full((*size, 3), 10 + 30 * number, np.uint8)
        image[:, :size[1] // 2] += 15
        label = np.full((*size, 3), COLOURS[0], np.uint8)
        label[:, :size[1] // 2] = COLOURS[1]
        label[:size[0] // 4] = COLOURS[IGNORED]
        Image.fromarray(image).save(folder / f'image_2/um_{number:06d}.png')
        Image.fromarray(label).save(folder / f'gt_image_2/um_road_{number:06d}.png')
    return folder


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp('data_road') / 'training')


def class_batches(photographs, **options):
    """`pipeline.gen_batch_function` of the photographs, at 4 x 10 pixels."""
    return pipeline.gen_batch_function(kitti.paired_paths(photographs), kitti.read_road_label,
                                       (4, 10), **options)


def numbers(images):
    """Which photographs these are."""
    return [int(round((image.mean() - 17.5) / 30)) for image in images]


def test_batches_have_the_documented_shapes_and_types(photographs):
    batches = list(helper.gen_batch_function(photographs, (4, 10))(3))
    assert [images.shape for images, _ in batches] == [(3, 4, 10, 3), (3, 4, 10, 3), (1, 4, 10, 3)]
    assert [labels.shape for _, labels in batches] == [(3, 4, 10, 2), (3, 4, 10, 2), (1, 4, 10, 2)]
    assert {images.dtype.name for images, _ in batches} == {'uint8'}
    assert {labels.dtype.name for _, labels in batches} == {'bool'}


def test_batch_labels_are_one_hot_and_all_false_where_ignored(photographs):
    (images, labels), = helper.gen_batch_function(photographs, (4, 10))(COUNT)
    bright = images[..., 0] - images.min(axis=(1, 2))[:, :1, np.newaxis] > 7
    assert not labels[:, 0].any()
    assert (labels[:, 1:, :, 1] == bright[:, 1:]).all()
    assert (labels[:, 1:, :, 0] == ~bright[:, 1:]).all()


def test_class_numbers_of_batches_are_what_the_labels_say(photographs):
    (_, classes), = class_batches(photographs, augment=partial(distort, flip=False))(COUNT)
    assert classes.dtype == np.uint8 and classes.shape == (COUNT, 4, 10)
    assert (classes[:, 0] == IGNORED).all()
    assert (classes[:, 1:, :5] == 1).all() and (classes[:, 1:, 5:] == 0).all()


def test_each_photograph_comes_once_an_epoch_in_an_order_of_its_own(photographs):
    get_batches_fn = class_batches(photographs, seed=5)
    epochs = [[number for images, _ in get_batches_fn(2) for number in numbers(images)]
              for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(COUNT))] * 3
    assert len(set(map(tuple, epochs))) == 3


def test_batches_depend_on_seed_and_number_of_the_epoch_alone(photographs):
    def epoch(function):
        return [array.tobytes() for batch in function(2) for array in batch]

    function = class_batches(photographs, seed=5)
    first, second = epoch(function), epoch(function)
    again = class_batches(photographs, seed=5, first_epoch=1)
    assert epoch(again) == second != first
    other = class_batches(photographs, seed=6)
    assert epoch(other) != first


def test_photograph_and_label_are_mirrored_together(photographs):
    get_batches_fn = helper.gen_batch_function(photographs, (4, 10))
    mirrored = []
    for _ in range(4):
        for images, labels in get_batches_fn(2):
            for image, label in zip(images.astype(int), labels):
                left_is_bright = image[2, 0, 0] > image[2, -1, 0]
                assert label[2, 0, 1] == left_is_bright != label[2, -1, 1]
                mirrored.append(not left_is_bright)
    assert 0.2 < np.mean(mirrored) < 0.8


@pytest.mark.parametrize('batch_size', [0, -1, COUNT + 1])
def test_a_batch_size_that_does_not_fit_the_data_is_an_error(photographs, batch_size):
    with pytest.raises(InputError, match=f'{batch_size} is not between 1 and the {COUNT}'):
        list(helper.gen_batch_function(photographs, (4, 10))(batch_size))


# save_inference_samples -----------------------------------------------------------------------

TEST_SIZES = {'um_000000.png': (40, 65), 'umm_000000.png': (44, 62)}


def road_is_red():
    """A stand-in for the network: road where red exceeds 128."""
    image = tf.placeholder(tf.float32, [None, None, None, 3])
    keep_prob = tf.placeholder(tf.float32, [])
    red = (image[..., 0] - 128) / keep_prob
    return tf.reshape(tf.stack([tf.zeros_like(red), red], axis=-1), [-1, 2]), keep_prob, image


@pytest.fixture
def test_photographs(tmp_path):
    """Data of two test photographs, red on the right, green on the left."""
    folder = tmp_path / 'data/data_road/testing/image_2'
    folder.mkdir(parents=True)
    for name, (height, width) in TEST_SIZES.items():
        image = np.full((height, width, 3), (200, 10, 40), np.uint8)
        image[:, :width // 2] = (0, 90, 60)
        Image.fromarray(image).save(folder / name)
    return tmp_path / 'data'


def test_overlays_are_green_on_the_road_at_the_photographs_size(tmp_path, test_photographs):
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        logits, keep_prob, image = road_is_red()
        graph.finalize()
        folder = helper.save_inference_samples(tmp_path / 'runs', test_photographs, sess, (16, 30),
                                               logits, keep_prob, image)
    assert folder.parent == tmp_path / 'runs'
    assert sorted(path.name for path in folder.iterdir()) == sorted(TEST_SIZES)
    for name, (height, width) in TEST_SIZES.items():
        overlay = np.asarray(Image.open(folder / name))
        assert overlay.shape == (height, width, 3)
        assert (overlay[:, :width // 2 - 5] == (0, 90, 60)).all()
        # half (200, 10, 40), half pure green, but for the outline
        inside = overlay[8:-8, width // 2 + 8:-8].astype(int)
        assert inside.size and abs(inside - (100, 132, 20)).max() <= 1


def test_overlays_add_nothing_to_the_graph(tmp_path, test_photographs):
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        arguments = road_is_red()
        count = len(graph.get_operations())
        helper.save_inference_samples(tmp_path / 'runs', test_photographs, sess, (16, 30),
                                      *arguments)
        assert len(graph.get_operations()) == count


def test_overlays_of_no_photograph_are_an_error(tmp_path):
    with tf.Graph().as_default(), tf.Session() as sess:
        with pytest.raises(InputError, match='testing/image_2'):
            helper.save_inference_samples(tmp_path / 'runs', tmp_path, sess, (16, 30),
                                          *road_is_red())
    assert not (tmp_path / 'runs').exists()
