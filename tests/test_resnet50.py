"""The fully convolutional ResNet-50 against Keras' own, its units, and the bad inputs."""
import errno
import math
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
from roadseg.commands import run_command
from roadseg.errors import InputError
from roadseg.networks import encoder, resnet50

OUTPUTS = ['layer3_out:0', 'layer4_out:0', 'layer7_out:0']
ENDS = ['conv3_block4_out', 'conv4_block6_out', 'conv5_block3_out']     # as Keras calls them


def picture(height, width):
    """A smooth random picture: its colours differ, and so do its axes."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([rows / 7, columns / 5, (rows + 2 * columns) / 11], axis=2)
    noise = np.random.default_rng(height * width).normal(0, 20, (height, width, 3))
    return (127 + 90 * np.sin(waves) + noise).clip(0, 255).astype(np.float32)


def run_graph(path, image, **feed):
    with tf.Graph().as_default(), tf.Session() as sess:
        main.load_vgg(sess, str(path))
        return sess.run(OUTPUTS, {'image_input:0': image[np.newaxis], **feed})


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.fixture(scope='module')
def keras_model():
    """Keras' ResNet-50 without its top; its batch normalisation is not the identity."""
    import keras
    model = keras.applications.ResNet50(include_top=False, weights=None)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        weights = layer.get_weights()
        if layer.name.endswith('_conv'):
            layer.set_weights([weights[0], rng.normal(0, 0.1, weights[1].shape)])
        elif layer.name.endswith('_bn'):
            gamma, beta, mean, variance = weights
            layer.set_weights([rng.uniform(0.5, 1.5, gamma.shape),
                               rng.normal(0, 0.2, beta.shape), rng.normal(0, 0.2, mean.shape),
                               rng.uniform(0.2, 2, variance.shape)])
    return model


@pytest.fixture(scope='module')
def h5(keras_model, tmp_path_factory):
    """Its weights in a file of the kind that Keras downloads."""
    path = tmp_path_factory.mktemp('weights') / 'resnet50_notop.h5'
    keras_model.save(path)
    return path


@pytest.fixture(scope='module')
def saved(h5, tmp_path_factory):
    """The graph with these weights."""
    path = tmp_path_factory.mktemp('frozen') / 'resnet50'
    assert run_command(resnet50.main, ['--weights', str(h5), '--out', str(path)]) == 0
    return path


@pytest.fixture(scope='module')
def narrow(tmp_path_factory):
    """A graph with new weights, 16 times narrower than the real one."""
    path = tmp_path_factory.mktemp('frozen') / 'narrow'
    resnet50.convert('random', path, width_divisor=16)
    return path


# Against Keras --------------------------------------------------------------------------------

def test_layers_are_those_of_keras_but_for_their_units(keras_model, saved):
    import keras
    layers = keras.Model(keras_model.input, [keras_model.get_layer(name).output for name in ENDS])
    images = [picture(*size)[np.newaxis] for size in ((64, 96), (65, 97), (33, 127))]
    expected = [layers(keras.applications.resnet.preprocess_input(image.copy()))
                for image in images]
    with tf.Graph().as_default(), tf.Session() as sess:
        main.load_vgg(sess, str(saved))
        found = [sess.run(OUTPUTS, {'image_input:0': image}) for image in images]
    units = []
    for image, outputs, wanted in zip(images, found, expected):
        for value, keras_value, stride in zip(outputs, map(np.asarray, wanted), (8, 16, 32)):
            assert value.shape[1:3] == tuple(math.ceil(size / stride) for size in image.shape[1:3])
            assert (value > 0).mean() > 0.1
            units.append(value.max() / keras_value.max())
            assert relative_error(value / units[-1], keras_value) < 1e-4
    np.testing.assert_allclose(units, units[:3] * len(images), rtol=1e-4)   # of the layer alone


def test_parameters_are_keras_without_batch_normalisation_and_the_top(keras_model, saved):
    expected = {f'{layer.name}/{what}:0': value.shape for layer in keras_model.layers
                if layer.name.endswith('_conv')
                for what, value in zip(('kernel', 'bias'), layer.get_weights())}
    with tf.Graph().as_default(), tf.Session() as sess:
        main.load_vgg(sess, str(saved))
        assert {variable.name: tuple(variable.shape.as_list())
                for variable in tf.trainable_variables()} == expected
        assert sum(math.prod(shape) for shape in expected.values()) == 23481472
        for frozen, first in ((1, 'conv2_block1_0_conv'), (4, 'conv5_block1_0_conv')):
            assert main.trained_variables(frozen)[0].name == first + '/kernel:0'
        assert not main.trained_variables(5)
        assert not tf.get_collection(encoder.NEW_KERNELS)


@pytest.mark.slow       # a second network of Keras at its full width
def test_weights_with_a_top_are_read_as_well(keras_model, h5, tmp_path):
    import keras
    model = keras.applications.ResNet50(weights=None)
    model.set_weights(keras_model.get_weights() + model.layers[-1].get_weights())
    model.save(tmp_path / 'top.h5')
    with_top, without = resnet50.read_keras(tmp_path / 'top.h5'), resnet50.read_keras(h5)
    assert list(with_top) == list(without) == list(resnet50.convolution_shapes())
    for name, shape in resnet50.convolution_shapes().items():
        assert list(with_top[name][0].shape) == shape
        for first, second in zip(with_top[name], without[name]):
            assert first.dtype == np.float32
            np.testing.assert_array_equal(first, second)


# The frozen graph -----------------------------------------------------------------------------

def test_skips_are_as_large_as_vgg16s(saved, narrow):
    """For weights of whatever scale: those of the two networks differ by far."""
    for path in (saved, narrow):
        found = run_graph(path, resnet50.calibration_picture()[0])
        for value, (name, target) in zip(found, resnet50.TARGETS.items()):
            assert value.mean() == pytest.approx(target, rel=1e-3), name
        for value, target in zip(run_graph(path, picture(96, 160)), resnet50.TARGETS.values()):
            assert 1 / 4 < value.mean() / target < 4


def test_calibration_picture_is_like_a_photograph():
    first = resnet50.calibration_picture()
    assert first.shape == (1, 224, 224, 3) and first.dtype == np.float32
    assert first.min() == 0 and first.max() == 255
    np.testing.assert_allclose(first.mean(axis=(0, 1, 2)), [123.68, 116.779, 103.939], atol=6)
    np.testing.assert_array_equal(resnet50.calibration_picture(), first)
    red, green = first[0, :, :, 0], first[0, :, :, 1]
    assert np.corrcoef(red.ravel(), green.ravel())[0, 1] > 0.7
    assert np.corrcoef(red[:, 1:].ravel(), red[:, :-1].ravel())[0, 1] > 0.7


def test_cells_are_centred_where_the_documentation_says(narrow):
    """Layer 3's cell (i, j) sees a square around the pixel (8 i, 8 j)."""
    with tf.Graph().as_default(), tf.Session() as sess:
        image, _, layer3, _, _ = main.load_vgg(sess, str(narrow))
        gradient, = tf.gradients(layer3[:, 12, 14], image)
        seen = sess.run(gradient, {image: picture(192, 224)[np.newaxis]}).any(axis=(0, 3))
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert (rows[0] + rows[-1]) / 2 == 8 * 12
    assert (columns[0] + columns[-1]) / 2 == 8 * 14


def test_dropout_is_of_layer_7_alone_and_depends_on_the_seed(narrow):
    image = picture(64, 96)
    with tf.Graph().as_default(), tf.Session() as sess:
        main.load_vgg(sess, str(narrow))
        whole, first, again, other = (
            sess.run(OUTPUTS, {'image_input:0': image[np.newaxis], **feed}) for feed in (
                {}, {'keep_prob:0': 0.5}, {'keep_prob:0': 0.5, 'seed:0': 0},
                {'keep_prob:0': 0.5, 'seed:0': 1}))
    for value in (first, again, other):
        np.testing.assert_array_equal(value[0], whole[0])
        np.testing.assert_array_equal(value[1], whole[1])
        kept = value[2] > 0
        assert 0.3 < kept.sum() / (whole[2] > 0).sum() < 0.7
        np.testing.assert_allclose(value[2][kept], 2 * whole[2][kept], rtol=1e-5)
    np.testing.assert_array_equal(first[2], again[2])
    assert (first[2] != other[2]).any()


def test_initialising_everything_does_not_wipe_pretrained_weights_silently(saved):
    with tf.Graph().as_default(), tf.Session() as sess:
        main.load_vgg(sess, str(saved))
        feed = {'image_input:0': picture(32, 64)[np.newaxis]}
        before = sess.run(OUTPUTS, feed)
        main.initialize_new(sess)
        for first, second in zip(before, sess.run(OUTPUTS, feed)):
            np.testing.assert_array_equal(first, second)
        with pytest.raises(tf.errors.InvalidArgumentError, match='call main.initialize_new'):
            sess.run(tf.global_variables_initializer())


# Random weights -------------------------------------------------------------------------------

def test_random_kernels_come_from_the_seed(narrow):
    with tf.Graph().as_default(), tf.Session() as sess:
        main.load_vgg(sess, str(narrow))
        names = {name.decode() for name in tf.get_collection(encoder.NEW_KERNELS)}
        kernels = [variable for variable in tf.trainable_variables()
                   if variable.op.name in names]
        assert names == {name + '/kernel' for name in resnet50.convolution_shapes()}

        def draw(seed):
            sess.run([kernel.initializer for kernel in kernels], {'seed:0': seed})
            return sess.run(kernels)

        saved, first, other = sess.run(kernels), draw(0), draw(5)
    for kernel, same, different in zip(saved, first, other):
        np.testing.assert_array_equal(kernel, same)
        assert (kernel != different).all()


def test_random_weights_neither_grow_nor_fade():
    """Without it, 16 residual blocks grow activations by about 2**8."""
    with tf.Graph().as_default(), tf.Session() as sess:
        variables, layers = resnet50.features(
            tf.constant(picture(96, 160)[np.newaxis]), tf.constant(0, tf.int64),
            resnet50.convolution_shapes(width_divisor=8), new=True)
        encoder.fill(sess, variables, {})
        first = tf.nn.relu(sess.graph.get_tensor_by_name('conv1_conv/BiasAdd:0'))
        values = sess.run([first, *layers.values()])
    for value in values[1:]:
        assert 1 / 8 < np.sqrt(np.mean(value ** 2) / np.mean(values[0] ** 2)) < 8


def drawn_scenes(count, height, width):
    """Grey roads on green ground: float32 [N, H, W, 3], 0-255, and one-hot bool [N, H, W, 2]."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    middle = rng.uniform(0.3, 0.7, (count, 1, 1)) * width
    road = (abs(columns - middle) < 0.1 * width + 0.6 * (rows - height / 3)) & (rows > height / 3)
    colours = np.where(road[..., np.newaxis], (110, 110, 115), (80, 140, 60))
    images = colours + rng.normal(0, 20, colours.shape)
    return images.clip(0, 255).astype(np.float32), np.stack([~road, road], axis=3)


def test_trains_from_random_weights(narrow):
    images, labels = drawn_scenes(4, 65, 97)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.set_random_seed(0)
        image, keep_prob, *outputs = main.load_vgg(sess, str(narrow))
        kernels = {variable.op.name: variable for variable in tf.trainable_variables()}
        logits = main.layers(*outputs, 2, output_size=tf.shape(image)[1:3])
        label = tf.placeholder(tf.bool, [None, None, None, 2])
        _, train_op, loss = main.optimize(logits, label, tf.constant(1e-3), 2)
        main.initialize_new(sess)
        before, losses = sess.run(kernels), []
        for step in range(40):
            batch = [2 * step % 4, 2 * step % 4 + 1]
            losses.append(sess.run([loss, train_op], {
                image: images[batch], label: labels[batch], keep_prob: 0.9})[0])
        after = sess.run(kernels)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-4:]) < 0.5 * losses[0]
    for name, value in before.items():      # each has a gradient
        assert (value != after[name]).any(), name


# Bad input ------------------------------------------------------------------------------------

def one_error(capsys):
    """The one line that was written to stderr for the user."""
    lines = [line for line in capsys.readouterr().err.splitlines() if 'error' in line]
    assert len(lines) == 1 and lines[0].startswith('error: ') and 'Traceback' not in lines[0]
    return lines[0]


def spoil_text(path):
    path.write_text('not found\n')


def spoil_empty(path):
    path.write_bytes(b'')


def spoil_signature_only(path):
    path.write_bytes(b'\x89HDF\r\n\x1a\n')


def spoil_other_content(path):
    with h5py.File(path, 'w') as file:
        file['image'] = np.zeros((2, 3))


def spoil_network(path):
    import keras
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)


def spoil_folder(path):
    path.mkdir()


def spoil_nothing_there(path):
    pass


@pytest.mark.parametrize('spoil, message', [
    (spoil_text, 'no weights of ResNet-50'), (spoil_empty, 'no weights of ResNet-50'),
    (spoil_signature_only, 'no weights of ResNet-50'),
    (spoil_other_content, 'no weights of ResNet-50'),
    (spoil_network, 'no weights of ResNet-50.* 1 saved'),
    (spoil_folder, 'is a folder; give'), (spoil_nothing_there, 'no such file or folder; give')])
def test_a_bad_weight_file_is_an_input_error_and_writes_nothing(tmp_path, spoil, message):
    path, out = tmp_path / 'weights.h5', tmp_path / 'out/resnet50'
    spoil(path)
    with pytest.raises(InputError, match=message) as caught:
        resnet50.convert(str(path), out)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)
    assert not out.parent.exists()


def test_weights_of_an_unknown_kind_are_an_input_error(tmp_path):
    (tmp_path / 'weights.pth').write_bytes(b'PK')
    with pytest.raises(InputError, match=r'weights.pth is no \.h5; give imagenet'):
        resnet50.convert(str(tmp_path / 'weights.pth'), tmp_path / 'resnet50')


@pytest.mark.parametrize('layer, variable, value', [
    ('conv4_block2_2_conv', 'kernel', np.nan), ('conv5_block1_0_bn', 'moving_variance', -1.0)])
def test_weights_that_are_not_finite_are_an_input_error(h5, tmp_path, layer, variable, value):
    path = shutil.copy(h5, tmp_path / 'weights.h5')
    with h5py.File(path, 'r+') as file:
        found = []
        file['model_weights'][layer].visititems(
            lambda name, item: found.append(item) if name.endswith(variable) else None)
        found[0][..., 0] = value
    convolution = layer.replace('_bn', '_conv')
    with pytest.raises(InputError, match=f'weights.h5.*{convolution} holds NaN'):
        resnet50.convert(str(path), tmp_path / 'out/resnet50')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('scale', [0, 1e30])
def test_a_network_that_is_silent_or_overflows_is_an_input_error(tmp_path, scale):
    shapes = resnet50.convolution_shapes(width_divisor=32)
    weights = {name: (np.full(shape, scale, np.float32), np.zeros(shape[-1], np.float32))
               for name, shape in shapes.items()}
    with pytest.raises(InputError, match='layer3_out is (0|inf|nan) on average'):
        resnet50.save(shapes, weights, tmp_path / 'out/resnet50')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('arguments, message', [
    ([], '--weights'),
    (['--weights', 'Random'], 'cannot read Random: no such file or folder; give imagenet')])
def test_the_command_refuses_what_it_cannot_build(tmp_path, capsys, arguments, message):
    try:
        code = run_command(resnet50.main, [*arguments, '--out', str(tmp_path / 'resnet50')])
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    assert message in one_error(capsys)
    assert not list(tmp_path.iterdir())


def test_the_command_leaves_what_is_there_alone(tmp_path, capsys):
    older, file = tmp_path / 'older', tmp_path / 'file'
    older.mkdir()
    file.write_text('mine')
    for out, message in ((older, 'is there already'), (file, 'is there already'),
                         (file / 'sub/resnet50', f'{file} is a file'),
                         (tmp_path / ('a' * 300), 'too long')):
        assert run_command(resnet50.main, ['--weights', 'random', '--out', str(out)]) == 2
        error = one_error(capsys)
        assert str(out) in error and message in error
    assert sorted(tmp_path.iterdir()) == [file, older]
    assert not list(older.iterdir()) and file.read_text() == 'mine'


def test_without_a_network_imagenet_is_one_line_that_says_what_to_do(tmp_path, nowhere, capsys,
                                                                     monkeypatch):
    proxy = nowhere.rpartition('/')[0]
    for name, value in (('KERAS_HOME', str(tmp_path / 'keras')), ('no_proxy', ''),
                        ('NO_PROXY', ''), ('https_proxy', proxy), ('HTTPS_PROXY', proxy)):
        monkeypatch.setenv(name, value)
    assert run_command(resnet50.main, ['--weights', 'imagenet',
                                       '--out', str(tmp_path / 'out/resnet50')]) == 2
    line = one_error(capsys)
    assert 'resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5' in line and '--weights' in line
    assert not (tmp_path / 'out').exists()


# Saving ---------------------------------------------------------------------------------------

def test_an_interrupted_save_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    shapes, out = resnet50.convolution_shapes(width_divisor=16), tmp_path / 'data/resnet50'
    disk_full = OSError(errno.ENOSPC, 'No space left on device')
    in_tensorflow = tf.errors.ResourceExhaustedError(
        None, None, 'Graph execution error:\n\nat node save\nresnet50.part/variables; No space '
        'left on device\n\t [[save]]')
    for failure, raised, message in ((disk_full, InputError, 'no space left on the disk'),
                                     (in_tensorflow, InputError, 'no space left on the disk'),
                                     (KeyboardInterrupt('^C'), KeyboardInterrupt, r'\^C')):
        def fail(self, *args, **kwargs):
            Path(tf.compat.as_str(self._export_dir), 'half').write_text('written')
            raise failure

        with monkeypatch.context() as patch, tf.Graph().as_default(), tf.Session() as sess:
            tf.get_variable('weights', [3], initializer=tf.zeros_initializer())
            sess.run(tf.global_variables_initializer())
            patch.setattr(tf.saved_model.Builder, 'save', fail)
            with pytest.raises(raised, match=message) as caught:
                encoder.save(sess, out)
        assert '\n' not in str(caught.value)
        assert not list(out.parent.iterdir())

    left, busy = (out.with_name(f'.resnet50.{name}.part') for name in ('killed', 'busy'))
    for part in left, busy:
        part.mkdir()
        (part / 'half').write_text('written')
    os.utime(left, (0, 0))
    resnet50.save(shapes, {}, out)
    assert set(out.parent.iterdir()) == {out, busy}     # of another process, by its age
    assert [value.shape[-1] for value in run_graph(out, picture(32, 32))] == [32, 64, 128]
