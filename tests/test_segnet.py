"""SegNet's decoder: unpooling and batch normalisation against NumPy, and a toy to learn."""
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from roadseg.errors import InputError
from roadseg.networks import segnet

CONVOLUTIONS = ['conv5_3', 'conv5_2', 'conv5_1', 'conv4_3', 'conv4_2', 'conv4_1', 'conv3_3',
                'conv3_2', 'conv3_1', 'conv2_2', 'conv2_1', 'conv1_2', 'conv1_1']


# Unpooling ------------------------------------------------------------------------------------

def first_maxima(pool_input):
    """Yields (image, row, column, channel) of each 2x2 window's first maximum, and its cell."""
    images, height, width, depth = pool_input.shape
    for image, row, column, channel in np.ndindex(images, -(-height // 2), -(-width // 2), depth):
        window = pool_input[image, 2 * row:2 * row + 2, 2 * column:2 * column + 2, channel]
        down, right = np.unravel_index(window.argmax(), window.shape)
        yield ((image, 2 * row + down, 2 * column + right, channel),
               (image, row, column, channel))


def run_unpool(values, pool_input, upstream):
    """Result of `unpool` and its gradient to the values, for sizes the graph does not know."""
    with tf.Graph().as_default(), tf.Session() as sess:
        feed, tensors = {}, []
        for array in (values, pool_input, upstream):
            tensors.append(tf.placeholder(tf.float32, [None, None, None, array.shape[-1]]))
            feed[tensors[-1]] = array
        outputs = segnet.unpool(*tensors[:2])
        assert outputs.shape.as_list() == [None, None, None, values.shape[-1]]
        assert tf.gradients(outputs, tensors[1]) == [None]
        return sess.run([outputs, tf.gradients(outputs, tensors[0], tensors[2])[0]], feed)


@pytest.mark.parametrize('shape', [(1, 13, 10, 2), (2, 6, 9, 3), (3, 4, 8, 1), (1, 7, 5, 2),
                                   (2, 1, 1, 3), (1, 1, 6, 2), (1, 3, 1, 2)])
@pytest.mark.parametrize('levels', [2, 4, 1000])
def test_unpooling_and_its_gradient_are_numpys_on_odd_and_even_sizes_with_ties(shape, levels):
    """Of few levels, most windows have several maxima, and many are zero."""
    rng = np.random.default_rng(levels)
    pool_input = np.maximum(rng.integers(0, levels, shape) - levels // 4, 0).astype(np.float32)
    pooled = (shape[0], -(-shape[1] // 2), -(-shape[2] // 2), shape[3])
    values = rng.normal(size=pooled).astype(np.float32)
    upstream = rng.normal(size=shape).astype(np.float32)
    expected, gradient = np.zeros(shape, np.float32), np.zeros(pooled, np.float32)
    for place, cell in first_maxima(pool_input):
        expected[place], gradient[cell] = values[cell], upstream[place]
    found, found_gradient = run_unpool(values, pool_input, upstream)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found_gradient, gradient)


def test_of_a_zero_window_the_first_position_is_chosen():
    values = np.array([[[[3.]], [[-4.]]], [[[5.]], [[6.]]]], np.float32).reshape(1, 2, 2, 1)
    zeros = np.zeros((1, 3, 4, 1), np.float32)
    found, gradient = run_unpool(values, zeros, zeros + 1)
    np.testing.assert_array_equal(found[0, ..., 0], [[3, 0, -4, 0], [0, 0, 0, 0], [5, 0, 6, 0]])
    np.testing.assert_array_equal(gradient, np.ones_like(values))


def test_unpooling_undoes_tensorflows_own_pooling():
    """The places are those of `max_pool_with_argmax`."""
    pool_input = np.maximum(np.random.default_rng(5).normal(size=(2, 9, 7, 3)), 0)
    with tf.Graph().as_default(), tf.Session() as sess:
        inputs = tf.constant(pool_input, tf.float32)
        pooled, places = tf.nn.max_pool_with_argmax(
            inputs, [1, 2, 2, 1], [1, 2, 2, 1], 'SAME', include_batch_in_index=True)
        scattered = tf.scatter_nd(tf.reshape(places, [-1, 1]), tf.reshape(pooled, [-1]),
                                  [pool_input.size])
        found, expected = sess.run([segnet.unpool(pooled, inputs), scattered])
    assert (expected > 0).sum() > 50
    np.testing.assert_array_equal(found.ravel(), expected)


# Batch normalisation --------------------------------------------------------------------------

def normalised(inputs, mean, variance, scale, offset):
    return (inputs - mean) / np.sqrt(variance + segnet.EPSILON) * scale + offset


class Norm:
    """`batch_norm` of depth 3 in a graph of its own, with scales and offsets that are no 1, 0."""
    scale, offset = np.array([.5, 2, -1.5], np.float32), np.array([1, -3, .25], np.float32)

    def __init__(self, moving_decay=0.9, reduce_mean=None):
        self.sess = tf.Session(graph=tf.Graph())
        with self.sess.graph.as_default():
            self.inputs = tf.placeholder(tf.float32, [None, None, None, 3])
            self.upstream = tf.placeholder(tf.float32, [None, None, None, 3])
            self.is_training = tf.placeholder_with_default(False, [], 'is_training')
            self.outputs = segnet.batch_norm(self.inputs, self.is_training, moving_decay,
                                             reduce_mean)
            step = tf.train.get_or_create_global_step()
            with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
                self.train_op = tf.assign_add(step, 1)
            self.variables = {variable.op.name: variable for variable in tf.global_variables()}
            sources = [self.inputs, self.variables['scale'], self.variables['offset']]
            self.gradients = tf.gradients(self.outputs, sources, self.upstream)
            self.sess.run(tf.global_variables_initializer())
            self.variables['scale'].load(self.scale, self.sess)
            self.variables['offset'].load(self.offset, self.sess)

    def run(self, fetches, inputs, training, upstream=None):
        feed = {self.inputs: inputs, self.is_training: training}
        if upstream is not None:
            feed[self.upstream] = upstream
        return self.sess.run(fetches, feed)

    def moving(self):
        return self.sess.run([self.variables['moving_mean'], self.variables['moving_variance']])


def draw(rng, shape):
    return (rng.normal(size=shape) * [1, 3, .2] + [5, -2, 0]).astype(np.float32)


def alone(moments):
    """`reduce_mean` of one worker."""
    return moments


@pytest.mark.parametrize('reduce_mean', [None, alone])
@pytest.mark.parametrize('shape', [(1, 5, 4, 3), (3, 2, 7, 3), (2, 1, 1, 3)])
def test_in_training_each_channel_gets_the_batchs_mean_and_variance(shape, reduce_mean):
    inputs, norm = draw(np.random.default_rng(0), shape), Norm(reduce_mean=reduce_mean)
    expected = normalised(inputs, inputs.mean((0, 1, 2)), inputs.var((0, 1, 2)), norm.scale,
                          norm.offset)
    np.testing.assert_allclose(norm.run(norm.outputs, inputs, True), expected, atol=1e-4)


@pytest.mark.parametrize('reduce_mean', [None, alone])
def test_gradients_are_those_of_the_fused_operation(reduce_mean):
    rng, norm = np.random.default_rng(1), Norm(reduce_mean=reduce_mean)
    inputs, upstream = draw(rng, (1, 6, 5, 3)), rng.normal(size=(1, 6, 5, 3)).astype(np.float32)
    found = norm.run(norm.gradients, inputs, True, upstream)
    with tf.Graph().as_default(), tf.Session() as sess:
        sources = [tf.constant(value) for value in (inputs, norm.scale, norm.offset)]
        outputs, _, _ = tf.nn.fused_batch_norm(*sources, epsilon=segnet.EPSILON, is_training=True)
        expected = sess.run(tf.gradients(outputs, sources, tf.constant(upstream)))
    for value, wanted in zip(found, expected):
        np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('reduce_mean', [None, alone])
def test_the_first_step_moves_the_averages_by_nine_tenths_and_later_ones_by_less(reduce_mean):
    """Towards the biased variance: of 12 numbers, the unbiased one would be 1.09 times that."""
    inputs = draw(np.random.default_rng(2), (1, 4, 3, 3))
    norm = Norm(0.5, reduce_mean)
    mean, variance, rates = 0.0, 1.0, []
    for step in range(12):
        norm.run(norm.train_op, inputs, True)
        rates.append(1 - min(0.5, (1 + step) / (10 + step)))
        mean += rates[-1] * (inputs.mean((0, 1, 2)) - mean)
        variance += rates[-1] * (inputs.var((0, 1, 2)) - variance)
        for found, expected in zip(norm.moving(), (mean, variance)):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert rates[0] == 0.9 and rates[-1] == 0.5


def test_moving_averages_become_the_true_moments_and_inference_uses_just_them():
    rng, norm = np.random.default_rng(3), Norm(moving_decay=0.98)
    for _ in range(300):
        norm.run(norm.train_op, draw(rng, (1, 6, 7, 3)), True)
    mean, variance = norm.moving()
    np.testing.assert_allclose(mean, [5, -2, 0], atol=0.15)
    np.testing.assert_allclose(variance, [1, 9, .04], rtol=0.1)
    inputs = 7 + draw(rng, (1, 2, 3, 3))        # a batch unlike those of the training
    found = norm.run(norm.outputs, inputs, False)
    np.testing.assert_allclose(
        found, normalised(inputs, mean, variance, norm.scale, norm.offset), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(norm.sess.run(norm.outputs, {norm.inputs: inputs}), found)


def test_updates_change_nothing_in_inference():
    norm = Norm()
    norm.run(norm.train_op, draw(np.random.default_rng(4), (1, 3, 3, 3)), True)
    before = norm.moving()
    norm.run(norm.train_op, np.full((1, 3, 3, 3), 9, np.float32), False)
    np.testing.assert_array_equal(norm.moving(), before)


@pytest.mark.parametrize('reduce_mean', [None, alone])
def test_channels_that_hardly_vary_give_finite_numbers(reduce_mean):
    """The variance, as a difference of two large numbers, may round to less than nothing."""
    norm = Norm(reduce_mean=reduce_mean)
    for level in np.geomspace(100, 1e5, 20):
        inputs = np.full((1, 5, 7, 3), level, np.float32)
        values = norm.run([norm.outputs, *norm.gradients], inputs, True, upstream=inputs)
        assert all(np.isfinite(value).all() for value in values)


def test_workers_agree_on_the_moments_of_all_their_batches():
    rng = np.random.default_rng(6)
    mine, others = draw(rng, (1, 4, 5, 3)), 1 + 2 * draw(rng, (1, 4, 5, 3))
    moments = [others.mean((0, 1, 2)), (others ** 2).mean((0, 1, 2))]

    def reduce_mean(tensors):
        assert [tensor.shape.as_list() for tensor in tensors] == [[3], [3]]
        return [(tensor + moment) / 2 for tensor, moment in zip(tensors, moments)]

    both, norm = np.concatenate([mine, others]), Norm(reduce_mean=reduce_mean)
    mean, variance = both.mean((0, 1, 2)), both.var((0, 1, 2))
    found, _ = norm.run([norm.outputs, norm.train_op], mine, True)
    np.testing.assert_allclose(
        found, normalised(mine, mean, variance, norm.scale, norm.offset), atol=1e-4)
    np.testing.assert_allclose(norm.moving(), [.9 * mean, .1 + .9 * variance], rtol=1e-3)


# The decoder ----------------------------------------------------------------------------------

def placeholders(depths=(64, 128, 256, 512, 512), sizes=None):
    """What precedes the poolings, as a frozen graph would have it."""
    sizes = sizes or [(None, None)] * len(depths)
    return [tf.placeholder(tf.float32, [None, *size, depth], f'pool{stage}_in')
            for stage, (depth, size) in enumerate(zip(depths, sizes), 1)]


def decoder(num_classes=3, weight_decay=5e-4, depths=(2, 3, 4, 5, 6), **keywords):
    is_training = tf.placeholder_with_default(False, [], 'is_training')
    return segnet.layers(placeholders(depths), num_classes, is_training,
                         weight_decay=weight_decay, **keywords)


def kernels():
    return {variable.op.name: variable for variable in tf.global_variables()
            if variable.shape.ndims == 4}


def test_the_convolutions_are_vgg16s_in_mirror_image():
    with tf.Graph().as_default():
        logits = decoder(11, depths=(64, 128, 256, 512, 512))
        shapes = {name: variable.shape.as_list() for name, variable in kernels().items()}
    assert logits.shape.as_list() == [None, None, None, 11] and logits.dtype == tf.float32
    assert list(shapes) == [f'decoder/{name}_D/kernel' for name in CONVOLUTIONS]
    depths = [512, 512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64, 11]
    assert list(shapes.values()) == [[3, 3, *pair] for pair in zip(depths, depths[1:])]


def test_every_kernel_is_in_the_regularization_losses_and_nothing_else_is():
    with tf.Graph().as_default(), tf.Session() as sess:
        decoder(weight_decay=0.3)
        losses = tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)
        sess.run(tf.global_variables_initializer())
        found, values = sess.run([losses, list(kernels().values())])
    assert len(values) == 13
    expected = [0.15 * (value ** 2).sum() for value in values]
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-5)


def test_each_normalisation_registers_one_update_and_two_moving_averages():
    with tf.Graph().as_default():
        decoder()
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        moving = [variable for variable in tf.global_variables() if 'moving' in variable.name]
        trainable = {variable.op.name for variable in tf.trainable_variables()}
        assert len(updates) == len(set(updates)) == 12
        assert len(moving) == 24 and len(trainable) == 13 + 1 + 24
        assert all(variable.dtype.base_dtype == tf.float32 and variable.op.name not in trainable
                   and variable.op.name.startswith('decoder/') for variable in moving)
        with tf.Session() as sess:      # each is updated
            sess.run(tf.global_variables_initializer())
            before = sess.run(moving)
            rng = np.random.default_rng(0)
            feed = {f'pool{stage}_in:0': rng.uniform(size=(1, *size, depth))
                    for stage, (*size, depth) in enumerate(
                        [(21, 33, 2), (11, 17, 3), (6, 9, 4), (3, 5, 5), (2, 3, 6)], 1)}
            sess.run(updates, {**feed, 'is_training:0': True})
            assert all((old != new).all() for old, new in zip(before, sess.run(moving)))


def initial_values(seed):
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.set_random_seed(seed)
        decoder(depths=(16, 24, 32, 40, 48))
        sess.run(tf.variables_initializer(kernels().values()))
        return sess.run(kernels())


def test_initial_kernels_follow_the_seed_and_keep_the_scale_of_activations():
    first, again, other = initial_values(1), initial_values(1), initial_values(2)
    for name, kernel in first.items():
        np.testing.assert_array_equal(kernel, again[name])
        assert (kernel != other[name]).mean() > 0.99
        expected = 0.0088 if 'conv1_1' in name else np.sqrt(2 / kernel[..., 0].size)
        assert kernel.std() == pytest.approx(expected, rel=0.1)


# Errors ---------------------------------------------------------------------------------------

def pooled(outputs, count=5, window=2):
    """(what precedes each pooling, what follows all of them); there is another way around each."""
    inputs = []
    for _ in range(count):
        inputs.append(tf.nn.relu(outputs))
        around = tf.nn.avg_pool2d(outputs, 2, 2, 'SAME')
        outputs = around + tf.nn.max_pool2d(inputs[-1], window, 2, 'SAME')
    return inputs, outputs


def test_pool_inputs_are_found_in_their_order():
    with tf.Graph().as_default():
        expected, last = pooled(tf.placeholder(tf.float32, [None, 47, 33, 3]))
        tf.nn.max_pool2d(last, 2, 2, 'SAME')        # leads elsewhere
        assert segnet.pool_inputs(tf.identity(last)) == expected


@pytest.mark.parametrize('count, window, found', [
    (0, 2, '0 max poolings (none)'), (4, 2, '4 max poolings (2x2, 2x2, 2x2, 2x2)'),
    (1, 3, '1 max poolings (3x3)'), (6, 2, '6 max poolings')])
def test_a_graph_with_other_poolings_is_refused_with_the_remedy(count, window, found):
    with tf.Graph().as_default():
        _, last = pooled(tf.placeholder(tf.float32, [None, 47, 33, 3]), count, window)
        with pytest.raises(InputError, match=f'{re.escape(found)}.*roadseg.networks.vgg16'):
            segnet.pool_inputs(last)


@pytest.mark.parametrize('depths, sizes, complaint', [
    ((2, 3, None, 5, 6), None, "pooling 3 there is a tensor of the shape .*, and SegNet needs to know its depth"),
    ((2, 3, 4, 5, 6), [(16, 12), (8, 6), (4, 3), (2, 2), (1, 1)],
     r'before pooling 5, the shape is \(1, 1, 1, 6\), .*--image-size')])
def test_unfit_pool_inputs_are_refused(depths, sizes, complaint):
    with tf.Graph().as_default():
        inputs = placeholders(depths, sizes)
        if sizes:
            inputs = [tf.ensure_shape(tensor, [1, None, None, None]) for tensor in inputs]
        with pytest.raises(InputError, match=complaint):
            segnet.layers(inputs, 2, tf.constant(True))


# A toy ----------------------------------------------------------------------------------------

def paintings(rng, images, height, width):
    """Photographs of two noisy colours, and which pixel has the second: uint8, bool."""
    rows, columns = np.mgrid[:height, :width]
    slopes, offsets = rng.uniform(-.5, .5, (2, images, 1, 1))
    second = rows - height / 2 > slopes * (columns - width / 2) + height / 3 * offsets
    colours = np.where(second[..., np.newaxis], [180, 60, 90], [70, 150, 110])
    return (colours + rng.uniform(-40, 40, colours.shape)).astype(np.float32), second


class Toy:
    """An encoder of one fixed convolution a stage, SegNet's decoder, and 40 steps of Adam.

    The photographs come one at a time, and their sides are odd.
    """

    def __init__(self):
        self.sess = tf.Session(graph=tf.Graph())
        rng = np.random.default_rng(7)
        with self.sess.graph.as_default():
            tf.set_random_seed(0)
            self.image = tf.placeholder(tf.float32, [None, None, None, 3], 'image_input')
            labels = tf.placeholder(tf.int32, [None, None, None])
            is_training = tf.placeholder_with_default(False, [], 'is_training')
            outputs, pool_inputs = (self.image - 110) / 60, []
            for depth in (6, 6, 8, 8, 8):
                kernel = rng.normal(size=[3, 3, outputs.shape[-1], depth]) / 4
                outputs = tf.nn.relu(tf.nn.conv2d(outputs, kernel.astype(np.float32), 1, 'SAME'))
                pool_inputs.append(outputs)
                outputs = tf.nn.max_pool2d(outputs, 2, 2, 'SAME')
            self.logits = segnet.layers(pool_inputs, 2, is_training,
                                        output_size=tf.shape(self.image)[1:3])
            tf.nn.softmax(self.logits, name='probability')
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=labels, logits=self.logits))
            with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
                train_op = tf.train.AdamOptimizer(0.03).minimize(
                    loss + tf.losses.get_regularization_loss(),
                    global_step=tf.train.get_or_create_global_step())
            self.sess.run(tf.global_variables_initializer())
        self.losses = []
        for _ in range(40):
            images, second = paintings(rng, 1, 37, 51)
            self.losses.append(self.sess.run([loss, train_op], {
                self.image: images, labels: second, is_training: True})[0])


@pytest.fixture(scope='module')
def toy():
    return Toy()


def test_training_lowers_the_loss_and_inference_keeps_what_was_learned(toy):
    assert np.mean(toy.losses[-5:]) < 0.4 * toy.losses[0]
    images, second = paintings(np.random.default_rng(8), 3, 45, 38)
    logits = toy.sess.run(toy.logits, {toy.image: images})
    assert logits.shape == (3, 45, 38, 2)
    assert (logits.argmax(-1) == second).mean() > 0.85


def test_in_inference_photographs_do_not_depend_on_each_other(toy):
    images, _ = paintings(np.random.default_rng(9), 2, 34, 35)
    both = toy.sess.run(toy.logits, {toy.image: images})
    for number in range(2):
        alone = toy.sess.run(toy.logits, {toy.image: images[number:number + 1]})
        np.testing.assert_allclose(alone[0], both[number], atol=1e-4)


def test_the_logits_can_be_cut():
    with tf.Graph().as_default(), tf.Session() as sess:
        inputs = [tf.ones([1, -(-21 // 2 ** stage), -(-34 // 2 ** stage), 2])
                  for stage in range(5)]
        logits = segnet.layers(inputs, 3, tf.constant(False), output_size=(20, 31))
        assert logits.shape[-1] == 3
        sess.run(tf.global_variables_initializer())
        assert sess.run(logits).shape == (1, 20, 31, 3)


def test_tflite_gives_the_same_on_any_size_and_batch(toy):
    """Normalisation is folded: nothing of it is left but what follows a convolution anyway."""
    lite = pytest.importorskip('tensorflow.lite.python.interpreter')
    converter = tf.lite.TFLiteConverter.from_session(
        toy.sess, [toy.image], [toy.sess.graph.get_tensor_by_name('probability:0')])
    interpreter = lite.Interpreter(model_content=converter.convert())
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    operations = {details['op_name'] for details in interpreter._get_ops_details()}
    assert 'CONV_2D' in operations and not operations & {'IF', 'MUL', 'ADD', 'RSQRT'}
    for shape in ((1, 32, 64), (2, 37, 43)):
        images, _ = paintings(np.random.default_rng(10), *shape)
        interpreter.resize_tensor_input(source['index'], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source['index'], images)
        interpreter.invoke()
        expected = toy.sess.run('probability:0', {toy.image: images})
        np.testing.assert_allclose(interpreter.get_tensor(target['index']), expected, atol=1e-4)
