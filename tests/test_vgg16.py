"""The fully convolutional VGG16 against Keras' own, its conversion, and its dropout."""
import shutil

import h5py
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from helper import InputError
from roadseg import vgg16

OUTPUTS = ['layer3_out:0', 'layer4_out:0', 'layer7_out:0']


def run_graph(path, image, **feed):
    """Pools 3 and 4 and fc7 of a saved graph for one photograph."""
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.saved_model.loader.load(sess, [vgg16.TAG], str(path))
        return sess.run(OUTPUTS, {'image_input:0': image[np.newaxis], **feed})


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


# Against Keras --------------------------------------------------------------------------------

def randomise(model):
    """Gives a Keras model He-normal kernels, so that activations do not vanish, and biases."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        weights = layer.get_weights()
        if weights:
            kernel, bias = weights
            fan_in = kernel.size // kernel.shape[-1]
            layer.set_weights([
                rng.standard_normal(kernel.shape, np.float32) * np.float32(np.sqrt(2 / fan_in)),
                rng.standard_normal(bias.shape, np.float32)])


def keras_outputs(model, names, image):
    """Activations of a Keras model's layers for a photograph, RGB 0-255."""
    inputs = tf.keras.applications.vgg16.preprocess_input(image[np.newaxis].astype(np.float32))
    layers = [model.get_layer(name).output for name in names]
    return [np.asarray(value) for value in tf.keras.Model(model.inputs, layers)(inputs)]


def photograph(height, width):
    """A smooth random picture: its colours differ, and so do its axes."""
    rows, columns = np.mgrid[:height, :width]
    channels = [128 + 100 * np.sin(rows / 17 + columns / 29 * (1 + channel) + channel)
                for channel in range(3)]
    noise = np.random.default_rng(1).uniform(-25, 25, (height, width, 3))
    return (np.stack(channels, axis=-1) + noise).astype(np.uint8)


def test_the_converted_graph_agrees_with_keras_up_to_fc7(tmp_path):
    """On 7x7 cells the centre of fc6 sees just what Keras' fc1 sees: the whole of pool 5."""
    model = tf.keras.applications.VGG16(weights=None)
    randomise(model)
    image = photograph(224, 224)
    expected = keras_outputs(model, ['block3_pool', 'block4_pool', 'fc2'], image)
    model.save_weights(tmp_path / 'vgg16.weights.h5')
    vgg16.convert(tmp_path / 'vgg16.weights.h5', tmp_path / 'vgg')
    pool3, pool4, fc7 = run_graph(tmp_path / 'vgg', image, **{'keep_prob:0': 1.0})
    shutil.rmtree(tmp_path)         # a gigabyte
    assert fc7.shape == (1, 7, 7, 4096)
    assert relative_error(pool3, expected[0]) < 1e-4
    assert relative_error(pool4, expected[1]) < 1e-4
    assert (expected[2] > 0).mean() > 0.2
    assert relative_error(fc7[:, 3, 3], expected[2]) < 1e-4


def keras_shapes():
    """Dict from layer name to kernel shape of Keras' VGG16 with its top."""
    channels = [3] + [(64, 128, 256, 512, 512)[int(name[4]) - 1] for name in vgg16.CONVOLUTIONS]
    shapes = {f'block{name[4]}_conv{name[6]}': (3, 3, inputs, outputs) for name, inputs, outputs
              in zip(vgg16.CONVOLUTIONS, channels, channels[1:])}
    return {**shapes, 'fc1': (25088, 4096), 'fc2': (4096, 4096), 'predictions': (4096, 1000)}


def write_legacy_h5(path):
    """Weights in the layout of the files that Keras Applications offers for download.

    Most are left out, which HDF5 reads as zeros, so that the file stays small.

    Returns:
        Dict from layer name to the corner of the kernel that is not zero, and 'elsewhere', the
        first 40 weights of fc1 that meet pool 5 at row 2, column 5, channel 9.
    """
    rng, corners = np.random.default_rng(0), {}
    with h5py.File(path, 'w') as file:
        file.attrs['layer_names'] = [name.encode() for name in keras_shapes()]
        for name, shape in keras_shapes().items():
            group = file.create_group(name)
            names = [f'{name}_W_1:0', f'{name}_b_1:0']
            group.attrs['weight_names'] = [weight.encode() for weight in names]
            kernel = group.create_dataset(names[0], shape, np.float32)
            corner = tuple(slice(0, 40) for _ in shape)
            corners[name] = kernel[corner] = np.float32(rng.normal(size=kernel[corner].shape))
            if name == 'fc1':       # pool 5's row 2, column 5, channel 9
                kernel[(2 * 7 + 5) * 512 + 9, :40] = corners['elsewhere'] = np.arange(1, 41)
            group.create_dataset(names[1], data=np.arange(shape[-1], dtype=np.float32))
    return corners


def test_keras_weight_files_are_read_and_fc1_becomes_a_convolution(tmp_path):
    """Its input, flattened from rows, columns, channels, is unfolded in that order."""
    corners = write_legacy_h5(tmp_path / 'vgg16.h5')
    weights = vgg16.read_keras(tmp_path / 'vgg16.h5')
    (tmp_path / 'vgg16.h5').unlink()
    assert list(weights) == [*vgg16.CONVOLUTIONS, 'fc6', 'fc7']
    for name in vgg16.CONVOLUTIONS:
        kernel, bias = weights[name]
        keras_name = f'block{name[4]}_conv{name[6]}'
        assert kernel.shape == keras_shapes()[keras_name]
        np.testing.assert_array_equal(kernel[:, :, :40, :40], corners[keras_name])
        np.testing.assert_array_equal(bias, np.arange(kernel.shape[-1]))
    kernel, bias = weights['fc6']
    assert kernel.shape == (7, 7, 512, 4096)
    np.testing.assert_array_equal(kernel[0, 0, :40, :40], corners['fc1'])
    np.testing.assert_array_equal(kernel[2, 5, 9, :40], corners['elsewhere'])
    kernel, bias = weights['fc7']
    assert kernel.shape == (1, 1, 4096, 4096)
    np.testing.assert_array_equal(kernel[0, 0, :40, :40], corners['fc2'])
    np.testing.assert_array_equal(bias, np.arange(4096))


@pytest.fixture(scope='module')
def keras_features():
    model = tf.keras.applications.VGG16(include_top=False, weights=None)
    randomise(model)
    return model


def features_of(model):
    """The 13 convolutions of a Keras VGG16."""
    return {f'conv{name[5]}_{name[-1]}': tuple(model.get_layer(name).get_weights())
            for name in (layer.name for layer in model.layers) if 'conv' in name}


def test_pools_3_and_4_agree_with_keras(tmp_path, keras_features):
    """With Caffe's preprocessing, on a photograph whose sides are multiples of 32."""
    image = photograph(64, 96)
    expected = keras_outputs(keras_features, ['block3_pool', 'block4_pool', 'block5_pool'], image)
    weights = features_of(keras_features)
    weights['fc6'] = np.eye(512, dtype=np.float32)[np.newaxis, np.newaxis], np.zeros(512)
    weights['fc7'] = weights['fc6']     # the identity, as pool 5 is not negative
    vgg16.save(weights, vgg16.caffe_input, tmp_path / 'vgg')
    found = run_graph(tmp_path / 'vgg', image, **{'keep_prob:0': 1.0})
    assert [value.shape[1:3] for value in found] == [(8, 12), (4, 6), (2, 3)]
    assert all((value > 0).mean() > 0.1 for value in expected)
    for value, wanted in zip(found, expected):
        assert relative_error(value, wanted) < 1e-4


# Conversion from .npz -------------------------------------------------------------------------

@pytest.fixture(scope='module')
def arrays():
    """The 13 convolutions at their real sizes, nearly all zero."""
    rng, result, inputs = np.random.default_rng(0), {}, 3
    for name in vgg16.CONVOLUTIONS:
        outputs = (64, 128, 256, 512, 512)[int(name[4]) - 1]
        kernel = np.zeros((3, 3, inputs, outputs), np.float16)
        kernel[:, :, :3] = rng.normal(size=(3, 3, 3, outputs))
        result[name + '_W'] = kernel
        result[name + '_b'] = rng.normal(size=outputs).astype(np.float16)
        inputs = outputs
    return result


@pytest.fixture(scope='module')
def npz(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'vgg16.npz'
    np.savez_compressed(path, **arrays)
    return path


def test_npz_becomes_a_graph_with_torchvisions_scaling_and_a_new_top(npz, arrays, tmp_path):
    vgg16.convert(npz, tmp_path / 'vgg', fc_width=6, fc_kernel=3)
    image = photograph(33, 47)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.saved_model.loader.load(sess, [vgg16.TAG], str(tmp_path / 'vgg'))
        values = {variable.op.name: sess.run(variable) for variable in tf.trainable_variables()}
        convolution, = (op for op in sess.graph.get_operations() if op.name == 'conv1_1/Conv2D')
        scaled, fc7 = sess.run([convolution.inputs[0], 'layer7_out:0'],
                               {'image_input:0': image[np.newaxis]})
    expected = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(scaled[0], expected, atol=1e-5)
    assert fc7.shape == (1, 2, 2, 6)
    assert values['fc6/kernel'].shape == (3, 3, 512, 6) and values['fc6/kernel'].any()
    assert values['fc7/kernel'].shape == (1, 1, 6, 6) and values['fc7/kernel'].any()
    for name in vgg16.CONVOLUTIONS:
        np.testing.assert_array_equal(values[name + '/kernel'], arrays[name + '_W'])
        np.testing.assert_array_equal(values[name + '/bias'], arrays[name + '_b'])


def test_new_layers_keep_the_scale_of_activations():
    kernel = vgg16.he_kernel(np.random.default_rng(0), 5, 40, 30)
    assert kernel.shape == (5, 5, 40, 30) and kernel.dtype == np.float32
    assert kernel.var() == pytest.approx(2 / (5 * 5 * 40), rel=0.05)


def spoil_shape(path, arrays):
    np.savez(path, **{**arrays, 'conv2_1_W': np.zeros((3, 3, 128, 64), np.float16)})


def spoil_missing(path, arrays):
    np.savez(path, **{name: array for name, array in arrays.items() if name != 'conv4_3_b'})


def spoil_truncated(path, arrays):
    np.savez(path, conv1_1_W=arrays['conv1_1_W'])
    path.write_bytes(path.read_bytes()[:-40])


def spoil_byte(path, arrays):
    """A damaged compressed member of an archive whose directory is whole."""
    np.savez_compressed(path, conv1_1_W=arrays['conv1_1_W'])
    content = bytearray(path.read_bytes())
    name, extra = content[26], content[28]      # lengths of two fields before the member
    content[30 + name + extra] = 0xff           # no kind of block that deflate knows
    path.write_bytes(content)


def spoil_empty(path, arrays):
    path.write_bytes(b'')


def spoil_text(path, arrays):
    path.write_text('not found\n')


def spoil_single_array(path, arrays):
    with path.open('wb') as file:
        np.save(file, arrays['conv1_1_W'])


def spoil_folder(path, arrays):
    path.mkdir()


def spoil_nothing_there(path, arrays):
    pass


@pytest.mark.parametrize('spoil, message', [
    (spoil_shape, 'conv2_1.*128, 64.*expected.*64, 128'),
    (spoil_missing, 'lacks.*conv4_3_b'),
    (spoil_truncated, 'not a readable'),
    (spoil_byte, 'not a readable'),
    (spoil_empty, 'not a readable'),
    (spoil_text, 'not a readable'),
    (spoil_single_array, ''),
    (spoil_folder, 'no weight file'),
    (spoil_nothing_there, 'no weight file')])
def test_a_bad_npz_is_an_input_error_and_writes_nothing(tmp_path, arrays, spoil, message):
    path, out = tmp_path / 'weights.npz', tmp_path / 'out/vgg'
    spoil(path, arrays)
    with pytest.raises(InputError, match=message) as caught:
        vgg16.convert(path, out)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)
    assert not out.parent.exists()


def test_a_bad_h5_is_an_input_error_and_writes_nothing(tmp_path):
    path = tmp_path / 'weights.h5'
    path.write_bytes(b'\x89HDF\r\n')
    with pytest.raises(InputError, match='weights.h5') as caught:
        vgg16.convert(path, tmp_path / 'out/vgg')
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'out').exists()


def test_weights_of_an_unknown_kind_are_an_input_error(tmp_path):
    (tmp_path / 'weights.pth').write_bytes(b'PK')
    with pytest.raises(InputError, match=r'weights.pth.*\.h5.*\.npz'):
        vgg16.convert(tmp_path / 'weights.pth', tmp_path / 'vgg')
    assert not (tmp_path / 'vgg').exists()


# The command ----------------------------------------------------------------------------------

def one_error(capsys):
    """The one line that was written to stderr for the user."""
    lines = [line for line in capsys.readouterr().err.splitlines() if 'error' in line]
    assert len(lines) == 1 and 'Traceback' not in lines[0]
    return lines[0]


def test_the_command_writes_the_graph(npz, tmp_path, capsys):
    assert vgg16.main(['--weights', str(npz), '--out', str(tmp_path / 'vgg'),
                       '--fc-width', '5', '--fc-kernel', '1']) == 0
    assert str(tmp_path / 'vgg') in capsys.readouterr().out
    *_, fc7 = run_graph(tmp_path / 'vgg', photograph(32, 64))
    assert fc7.shape == (1, 1, 2, 5)


def test_the_command_leaves_an_older_graph_alone(npz, tmp_path, capsys):
    (tmp_path / 'vgg').mkdir()
    assert vgg16.main(['--weights', str(npz), '--out', str(tmp_path / 'vgg')]) == 2
    assert one_error(capsys).startswith(f"error: {tmp_path / 'vgg'} is there already")
    assert list(tmp_path.iterdir()) == [tmp_path / 'vgg']
    assert not list((tmp_path / 'vgg').iterdir())


def test_the_command_reports_a_missing_file_in_one_line(tmp_path, capsys):
    assert vgg16.main(['--weights', str(tmp_path / 'no.npz'), '--out', str(tmp_path / 'vgg')]) == 2
    assert one_error(capsys) == f"error: no weight file {tmp_path / 'no.npz'}"


@pytest.mark.parametrize('option, value', [('--fc-width', '0'), ('--fc-width', '-3'),
                                           ('--fc-kernel', '0'), ('--fc-kernel', 'x')])
def test_the_command_refuses_sizes_that_are_none(npz, tmp_path, capsys, option, value):
    try:
        code = vgg16.main(['--weights', str(npz), '--out', str(tmp_path / 'vgg'), option, value])
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    assert option in one_error(capsys)
    assert not (tmp_path / 'vgg').exists()


# Saving ---------------------------------------------------------------------------------------

@pytest.mark.parametrize('interruption', [KeyboardInterrupt, OSError])
def test_an_interrupted_save_leaves_no_graph_and_can_be_repeated(tmp_path, monkeypatch,
                                                                 interruption):
    weights, out = vgg16.random_weights(64, 3, 1), tmp_path / 'data/vgg'

    def interrupt(self, *args, **kwargs):
        raise interruption

    with monkeypatch.context() as patch:
        patch.setattr(tf.saved_model.Builder, 'save', interrupt)
        with pytest.raises(interruption):
            vgg16.save(weights, vgg16.torch_input, out)
    assert not out.exists()
    vgg16.save(weights, vgg16.torch_input, out)
    assert [path.name for path in out.parent.iterdir()] == ['vgg']
    assert run_graph(out, photograph(32, 32))[2].shape == (1, 1, 1, 3)


def test_random_weights_are_narrow_alive_and_repeatable():
    weights = vgg16.random_weights(width_divisor=16, fc_width=7, fc_kernel=3, seed=4)
    assert weights['conv1_1'][0].shape == (3, 3, 3, 4)
    assert weights['conv5_3'][0].shape == (3, 3, 32, 32)
    assert weights['fc6'][0].shape == (3, 3, 32, 7) and weights['fc7'][0].shape == (1, 1, 7, 7)
    assert all(kernel.dtype == bias.dtype == np.float32 for kernel, bias in weights.values())
    again = vgg16.random_weights(width_divisor=16, fc_width=7, fc_kernel=3, seed=4)
    other = vgg16.random_weights(width_divisor=16, fc_width=7, fc_kernel=3, seed=5)
    for name, (kernel, _) in weights.items():
        np.testing.assert_array_equal(kernel, again[name][0])
        assert (kernel != other[name][0]).any()


# Dropout --------------------------------------------------------------------------------------

def dropped(keep_prob, layer=6, steps=0, inputs=None):
    """Dropout of ones, after so many steps."""
    inputs = np.ones((2, 5, 7, 50), np.float32) if inputs is None else inputs
    with tf.Graph().as_default(), tf.Session() as sess:
        outputs = vgg16.dropout(tf.constant(inputs), tf.constant(keep_prob), layer)
        step = tf.train.get_or_create_global_step()
        sess.run(step.initializer)
        for _ in range(steps):
            sess.run(tf.assign_add(step, 1))
        first, second = sess.run(outputs), sess.run(outputs)
        np.testing.assert_array_equal(first, second)    # the step alone makes it change
        return first


def test_dropout_that_keeps_all_is_the_identity():
    inputs = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(dropped(1.0, inputs=inputs), inputs)


def test_dropout_depends_on_step_and_layer_alone():
    first = dropped(0.5, layer=6, steps=3)
    np.testing.assert_array_equal(dropped(0.5, layer=6, steps=3), first)
    for other in (dropped(0.5, layer=6, steps=4), dropped(0.5, layer=7, steps=3)):
        # independent of it: half of the activations agree
        assert ((other > 0) == (first > 0)).mean() == pytest.approx(0.5, abs=0.05)


def test_dropout_drops_each_activation_of_each_image_on_its_own():
    outputs = dropped(0.5)
    for axis in range(4):
        halves = np.split(np.take(outputs, range(outputs.shape[axis] // 2 * 2), axis), 2, axis)
        assert ((halves[0] > 0) == (halves[1] > 0)).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize('keep_prob', [0.25, 0.8])
def test_dropout_keeps_the_expected_value(keep_prob):
    outputs = dropped(keep_prob)
    assert (outputs > 0).mean() == pytest.approx(keep_prob, abs=0.03)
    np.testing.assert_allclose(np.unique(outputs), [0, 1 / keep_prob], rtol=1e-6)
    assert outputs.mean() == pytest.approx(1, abs=0.08)


def test_saved_graph_drops_by_the_step_that_training_counts(tiny_vgg):
    """The step that the loaded graph reads is the one that `tf.train` finds after loading."""
    image = photograph(64, 96)[np.newaxis]
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.saved_model.loader.load(sess, [vgg16.TAG], str(tiny_vgg))
        step = tf.train.get_or_create_global_step()
        bump = tf.assign_add(step, 1)
        feed = {'image_input:0': image, 'keep_prob:0': 0.5}
        first = sess.run('layer7_out:0', feed)
        np.testing.assert_array_equal(sess.run('layer7_out:0', feed), first)
        sess.run(bump)
        assert (sess.run('layer7_out:0', feed) != first).any()
        whole = sess.run('layer7_out:0', {'image_input:0': image})
        np.testing.assert_array_equal(
            whole, sess.run('layer7_out:0', {'image_input:0': image, 'keep_prob:0': 1.0}))


def test_context_looks_near_far_and_at_the_whole_image(tmp_path):
    weights = vgg16.random_weights(width_divisor=64, fc_width=8, fc_kernel=3, context=True)
    assert [name for name in weights if name.startswith('fc')] == [
        'fc6_1', 'fc6_2', 'fc6_4', 'fc6_image', 'fc7']
    vgg16.save(weights, vgg16.torch_input, tmp_path / 'vgg')
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.saved_model.loader.load(sess, ['vgg16'], str(tmp_path / 'vgg'))
        image = sess.graph.get_tensor_by_name('image_input:0')
        layer7 = sess.graph.get_tensor_by_name('layer7_out:0')
        assert layer7.shape[-1] == 8
        photograph = np.random.default_rng(0).uniform(0, 255, (1, 64, 1600, 3))
        changed = photograph.copy()
        changed[:, :, -32:] = 0
        seen, seen_changed = (sess.run(layer7, {image: value})[0] for value in
                              (photograph, changed))
    assert seen.shape == (2, 50, 8)
    assert (seen[:, 0] != seen_changed[:, 0]).any()     # though 49 cells away


def test_skips_of_torchvision_weights_are_in_caffes_units(tmp_path):
    """The same network, without biases and fed with inputs that are 58 times smaller."""
    weights = vgg16.random_weights(width_divisor=64, fc_width=8, fc_kernel=3)
    image = photograph(64, 96)
    for source in (vgg16.caffe_input, vgg16.torch_input):
        vgg16.save(weights, source, tmp_path / source.__name__)
    caffe, torch = (run_graph(tmp_path / source.__name__, image)
                    for source in (vgg16.caffe_input, vgg16.torch_input))
    for skip in (0, 1):
        assert 0.2 < np.abs(torch[skip]).mean() / np.abs(caffe[skip]).mean() < 5
