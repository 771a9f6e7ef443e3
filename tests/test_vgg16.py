"""The fully convolutional VGG16: against Keras' own, its conversion, dropout, and getting it."""
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorflow.python.util import _pywrap_util_port

import main
from conftest import save_tiny_vgg
from roadseg.commands import run_command
from roadseg.errors import InputError
from roadseg.networks import encoder, vgg16
from roadseg.training import preflight
from test_download import no_proxy, serving     # noqa: F401

OUTPUTS = ['layer3_out:0', 'layer4_out:0', 'layer7_out:0']


def run_graph(path, image, **feed):
    """Pools 3 and 4 and fc7 of a saved graph for one photograph."""
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.saved_model.loader.load(sess, [encoder.TAG], str(path))
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


def keras_shapes():
    """Dict from layer name to kernel shape of Keras' VGG16 with its top."""
    channels = [3] + [(64, 128, 256, 512, 512)[int(name[4]) - 1] for name in vgg16.CONVOLUTIONS]
    shapes = {f'block{name[4]}_conv{name[6]}': (3, 3, inputs, outputs) for name, inputs, outputs
              in zip(vgg16.CONVOLUTIONS, channels, channels[1:])}
    return {**shapes, 'fc1': (25088, 4096), 'fc2': (4096, 4096), 'predictions': (4096, 1000)}


def write_legacy_h5(path):
    """Weights in the layout of the files that Keras Applications offers for download.

    Kernels are He-normal for the first 40 outputs of the first 40 inputs, and of all inputs of
    fc1; the others are left out, which HDF5 reads as zeros, so that the file stays small. Biases
    are whole.
    """
    rng = np.random.default_rng(0)
    with h5py.File(path, 'w') as file:
        file.attrs['layer_names'] = [name.encode() for name in keras_shapes()]
        for name, shape in keras_shapes().items():
            group = file.create_group(name)
            names = [f'{name}_W_1:0', f'{name}_b_1:0']
            group.attrs['weight_names'] = [weight.encode() for weight in names]
            seen = shape[0] if name == 'fc1' else min(40, shape[-2])
            part = (*shape[:-2], seen, min(40, shape[-1]))
            kernel = group.create_dataset(names[0], shape, np.float32, chunks=part)
            kernel[tuple(map(slice, part))] = np.float32(
                rng.normal(scale=np.sqrt(2 / np.prod(part[:-1])), size=part))
            group.create_dataset(names[1], data=np.float32(rng.normal(size=shape[-1])))


@pytest.mark.slow
def test_a_keras_file_becomes_a_graph_that_agrees_with_keras_up_to_fc7(tmp_path, monkeypatch):
    """On 7x7 cells the centre of fc6 sees just what Keras' fc1 sees: the whole of pool 5.

    fc1's input is flattened from rows, columns, channels, and unfolded in that order.
    """
    models, build = [], tf.keras.applications.VGG16

    def noting(**options):
        models.append(build(**options))
        return models[-1]

    monkeypatch.setattr(tf.keras.applications, 'VGG16', noting)
    write_legacy_h5(tmp_path / 'vgg16.h5')
    vgg16.convert(tmp_path / 'vgg16.h5', tmp_path / 'vgg')
    image = photograph(224, 224)
    expected = keras_outputs(models[0], ['block3_pool', 'block4_pool', 'fc2'], image)
    pool3, pool4, fc7 = run_graph(tmp_path / 'vgg', image, **{'keep_prob:0': 1.0})
    shutil.rmtree(tmp_path)         # a gigabyte
    assert fc7.shape == (1, 7, 7, 4096)
    assert relative_error(pool3, expected[0]) < 1e-4
    assert relative_error(pool4, expected[1]) < 1e-4
    assert (expected[2] > 0).mean() > 0.2
    assert relative_error(fc7[:, 3, 3], expected[2]) < 1e-4


def test_options_for_new_layers_that_would_be_ignored_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vgg16, 'read_keras', lambda path: {'fc6': None})
    (tmp_path / 'vgg16.h5').write_bytes(b'with its top')
    with pytest.raises(InputError, match='vgg16.h5 has its own fc6 and fc7; leave --context out'):
        vgg16.convert(tmp_path / 'vgg16.h5', tmp_path / 'vgg', context=True)
    assert run_command(vgg16.main, ['--weights', 'x.npz', '--out', str(tmp_path / 'vgg'),
                                    '--context', '--fc-kernel', '7']) == 2
    assert 'leave --fc-kernel out' in capsys.readouterr().err


@pytest.mark.parametrize('names, has_top', [
    (['block1_conv1', 'fc1', 'fc2'], True), (['model_weights/block1_conv1', 'model_weights/fc1'],
                                             True),
    (['layers/conv2d', 'layers/dense', 'layers/dense_1', 'vars'], True),    # of Keras 3
    (['block1_conv1', 'block5_conv3'], False), (['layers/conv2d', 'vars'], False),
    (['model_weights/block1_conv1', 'optimizer_weights/fc1'], False)])
def test_the_top_is_found_in_all_layouts_of_keras(tmp_path, names, has_top):
    """Otherwise, new layers would silently take its place."""
    with h5py.File(tmp_path / 'vgg16.h5', 'w') as file:
        for name in names:
            file.create_group(name)
    assert vgg16._has_top(tmp_path / 'vgg16.h5') == has_top


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
    vgg16.save(weights, {}, vgg16.caffe_input, tmp_path / 'vgg')
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
        tf.saved_model.loader.load(sess, [encoder.TAG], str(tmp_path / 'vgg'))
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


def test_new_layers_keep_the_scale_of_activations_and_depend_on_seed_and_name():
    def drawn(seed, name):
        with tf.Graph().as_default(), tf.Session() as sess:
            return sess.run(encoder.he_normal([5, 5, 40, 30], tf.constant(seed, tf.int64), name))

    kernel = drawn(3, 'fc6')
    assert kernel.shape == (5, 5, 40, 30) and kernel.dtype == np.float32
    assert kernel.var() == pytest.approx(2 / (5 * 5 * 40), rel=0.05)
    assert abs(kernel.mean()) < 0.1 * kernel.std()
    np.testing.assert_array_equal(kernel, drawn(3, 'fc6'))
    for other in (drawn(4, 'fc6'), drawn(3, 'fc7')):
        assert abs(np.corrcoef(kernel.ravel(), other.ravel())[0, 1]) < 0.05


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


def spoil_encrypted(path, arrays):
    np.savez(path, **arrays)
    content = bytearray(path.read_bytes())
    content[6] |= 1                             # in the header of the first member
    content[content.index(b'PK\1\2') + 8] |= 1  # and in the archive's directory
    path.write_bytes(content)


def spoil_compression(path, arrays):
    """A kind that Python does not unpack."""
    np.savez(path, **arrays)
    content = bytearray(path.read_bytes())
    content[8] = content[content.index(b'PK\1\2') + 10] = 9
    path.write_bytes(content)


def write_member(path, arrays, array=None, header=None):
    """An archive whose conv1_1_W is something else."""
    np.savez(path, **{name: value for name, value in arrays.items() if name != 'conv1_1_W'})
    member = io.BytesIO()
    if header is None:
        np.save(member, array, allow_pickle=True)
    else:
        np.lib.format.write_array_header_1_0(member, {'descr': '<f4', 'fortran_order': False,
                                                      'shape': (3, 3, 3, 64), **header})
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('conv1_1_W.npy', member.getvalue())


def spoil_terabytes(path, arrays):
    """The header claims them, and nothing follows."""
    write_member(path, arrays, header={'shape': (10**6, 10**6, 3)})


def spoil_shortened(path, arrays):
    write_member(path, arrays, header={})


def spoil_objects(path, arrays):
    write_member(path, arrays, np.full((3, 3, 3, 64), None))


def spoil_complex(path, arrays):
    write_member(path, arrays, np.zeros((3, 3, 3, 64), complex))


def spoil_words(path, arrays):
    write_member(path, arrays, np.full((3, 3, 3, 64), 'ten'))


def spoil_record(path, arrays):
    write_member(path, arrays, np.zeros((3, 3, 3, 64), [('a', 'f4'), ('b', 'f4')]))


def spoil_header(path, arrays):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('conv1_1_W.npy', b'\x93NUMPY\x01\x00\x10\x00{"descr": __imp\n')


def spoil_kind(path, arrays):
    write_member(path, arrays, header={'descr': ()})


def spoil_depth(path, arrays):
    """Python's parser gives up, with a MemoryError."""
    header = b'-' * 9000 + b'1'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('conv1_1_W.npy',
                         b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header)


def spoil_version(path, arrays):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('conv1_1_W.npy', b'\x93NUMPY\x09\x00\x10\x00' + b' ' * 16)


def spoil_with(value):
    def spoil(path, arrays):
        kernel = arrays['conv3_2_W'].copy()
        kernel[1, 2, 0, 9] = value
        np.savez(path, **{**arrays, 'conv3_2_W': kernel})
    return spoil


def spoil_bias(path, arrays):
    np.savez(path, **{**arrays, 'conv4_1_b': arrays['conv4_1_b'] * np.nan})


def spoil_overflow(path, arrays):
    """Finite, but not in float32."""
    kernel = arrays['conv1_2_W'].astype(np.float64)
    kernel[0, 0, 0, 0] = 1e300
    np.savez(path, **{**arrays, 'conv1_2_W': kernel})


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
    (spoil_single_array, 'not a readable'),
    (spoil_encrypted, 'not a readable.*encrypted'),
    (spoil_compression, 'not a readable.*compression'),
    (spoil_terabytes, r'conv1_1_W has the shape \(1000000, 1000000, 3\).*\(3, 3, 3, 64\)'),
    (spoil_shortened, 'not a readable'),
    (spoil_objects, 'conv1_1_W holds object'),
    (spoil_complex, 'conv1_1_W holds complex128.*expected floating-point numbers'),
    (spoil_words, 'conv1_1_W holds <U3'),
    (spoil_record, 'conv1_1_W holds '),
    (spoil_header, 'not a readable'),
    (spoil_kind, 'not a readable.*IndexError|not a readable.*index'),
    (spoil_depth, 'not a readable.*Error'),
    (spoil_version, 'not a readable'),
    (spoil_with(np.nan), 'the kernel of conv3_2 holds a number that is not finite'),
    (spoil_with(-np.inf), 'the kernel of conv3_2 holds a number that is not finite'),
    (spoil_bias, 'the bias of conv4_1 holds a number that is not finite'),
    (spoil_overflow, 'the kernel of conv1_2 holds a number that is not finite'),
    (spoil_folder, 'it is a folder'),
    (spoil_nothing_there, 'no such file')])
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
    assert run_command(vgg16.main, ['--weights', str(npz), '--out', str(tmp_path / 'vgg'),
                       '--fc-width', '5', '--fc-kernel', '1']) == 0
    assert str(tmp_path / 'vgg') in capsys.readouterr().out
    *_, fc7 = run_graph(tmp_path / 'vgg', photograph(32, 64))
    assert fc7.shape == (1, 1, 2, 5)


def test_the_command_leaves_an_older_graph_alone(npz, tmp_path, capsys):
    (tmp_path / 'vgg').mkdir()
    assert run_command(vgg16.main, ['--weights', str(npz), '--out', str(tmp_path / 'vgg')]) == 2
    assert one_error(capsys).startswith(f"error: {tmp_path / 'vgg'} is there already")
    assert list(tmp_path.iterdir()) == [tmp_path / 'vgg']
    assert not list((tmp_path / 'vgg').iterdir())


def test_the_command_reports_a_missing_file_in_one_line(tmp_path, capsys):
    assert run_command(vgg16.main, ['--weights', str(tmp_path / 'no.npz'),
                                    '--out', str(tmp_path / 'vgg')]) == 2
    message = one_error(capsys)
    assert message.startswith(f"error: cannot read {tmp_path / 'no.npz'}: no such file")


@pytest.mark.parametrize('weights', ['imagenet', 'no.npz'])
def test_the_command_looks_at_its_target_before_it_reads_or_fetches_anything(tmp_path, capsys,
                                                                            no_network, weights):
    (tmp_path / 'there').mkdir()
    (tmp_path / 'file').write_text('')
    for out in ('there', 'file', 'file/vgg'):
        assert run_command(vgg16.main, ['--weights', weights, '--out', str(tmp_path / out)]) == 2
        message = one_error(capsys)
        assert str(tmp_path / out) in message and weights not in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'there']


@pytest.mark.parametrize('argv', [['--fc-width', '16384', '--fc-kernel', '31'],
                                  ['--fc-width', '16384', '--context']])
def test_the_command_refuses_new_layers_that_no_memory_holds(tmp_path, capsys, no_network,
                                                            monkeypatch, argv):
    """32 GB and 1.2 GB; before anything is read."""
    monkeypatch.setattr(vgg16, 'free_memory', lambda: 2**30)
    assert run_command(vgg16.main, ['--weights', 'imagenet', '--out', str(tmp_path / 'vgg'),
                                    *argv]) == 2
    message = one_error(capsys)
    assert '--fc-width 16384' in message and 'GB' in message and 'choose a smaller' in message


@pytest.mark.parametrize('option, value', [('--fc-width', '0'), ('--fc-width', '-3'),
                                           ('--fc-width', '100000000'), ('--fc-width', '9' * 400),
                                           ('--fc-kernel', '1e300'), ('--fc-kernel', '²'),
                                           ('--fc-kernel', 'inf'),
                                           ('--fc-kernel', '0'), ('--fc-kernel', 'x')])
def test_the_command_refuses_sizes_that_are_none(npz, tmp_path, capsys, option, value):
    try:
        code = run_command(vgg16.main, ['--weights', str(npz), '--out', str(tmp_path / 'vgg'),
                                        option, value])
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    assert option in one_error(capsys)
    assert not (tmp_path / 'vgg').exists()


# Saving ---------------------------------------------------------------------------------------

@pytest.mark.parametrize('interruption, reported', [
    (KeyboardInterrupt, KeyboardInterrupt), (OSError(28, 'No space left on device'), InputError),
    (tf.errors.ResourceExhaustedError(None, None, 'x/y; No space left on device'), InputError)])
def test_an_interrupted_save_leaves_no_graph_and_can_be_repeated(tmp_path, monkeypatch,
                                                                 interruption, reported):
    out = tmp_path / 'data/vgg'

    def interrupt(self, *args, **kwargs):
        raise interruption

    with monkeypatch.context() as patch:
        patch.setattr(tf.saved_model.Builder, 'save', interrupt)
        with pytest.raises(reported) as caught:
            save_tiny_vgg(out, 64, 3, 1)
    if reported is InputError:
        assert f'cannot write {out}: no space left' in str(caught.value)
    assert not out.exists()
    save_tiny_vgg(out, 64, 3, 1)
    assert [path.name for path in out.parent.iterdir()] == ['vgg']
    assert run_graph(out, photograph(32, 32))[2].shape == (1, 1, 1, 3)


def test_another_process_that_makes_the_same_graph_does_no_harm(tmp_path, monkeypatch):
    """Not even if it begins between this one's variables and graph, and is interrupted."""
    out, save = tmp_path / 'vgg', tf.saved_model.Builder.save

    def interrupt(self, *args, **kwargs):
        raise KeyboardInterrupt

    def after_another(self, *args, **kwargs):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(tf.saved_model.Builder, 'save', interrupt)
            save_tiny_vgg(out, 64, 5, 1)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(tf.saved_model.Builder, 'save', after_another)
    save_tiny_vgg(out, 64, 3, 1)
    assert [path.name for path in tmp_path.iterdir()] == ['vgg']
    assert run_graph(out, photograph(32, 32))[2].shape == (1, 1, 1, 3)


def test_a_name_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(InputError, match=r'vgg\\udcff.*its name is no UTF-8') as caught:
        save_tiny_vgg(tmp_path / 'vgg\udcff', 64, 3, 1)
    assert str(caught.value).isprintable()


def variables_of(path):
    """Dict from variable name to value."""
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.saved_model.loader.load(sess, [encoder.TAG], str(path))
        return sess.run({variable.op.name: variable for variable in tf.trainable_variables()})


def test_new_weights_are_narrow_alive_and_repeatable(tmp_path):
    save_tiny_vgg(tmp_path / 'vgg', width_divisor=16, fc_width=7)
    save_tiny_vgg(tmp_path / 'again', width_divisor=16, fc_width=7)
    found, again = variables_of(tmp_path / 'vgg'), variables_of(tmp_path / 'again')
    shapes = {name: value.shape for name, value in found.items()}
    assert shapes['conv1_1/kernel'] == (3, 3, 3, 4) and shapes['conv5_3/kernel'] == (3, 3, 32, 32)
    assert shapes['fc6/kernel'] == (3, 3, 32, 7) and shapes['fc7/kernel'] == (1, 1, 7, 7)
    for name, value in found.items():
        assert value.dtype == np.float32 and value.any() == name.endswith('kernel')
        np.testing.assert_array_equal(value, again[name])


def test_new_layers_of_a_loaded_graph_are_drawn_from_the_seed_of_the_training(tiny_vgg, npz,
                                                                             tmp_path):
    """Those alone: the pretrained ones stay."""
    vgg16.convert(npz, tmp_path / 'vgg', fc_width=6)

    def drawn(path, seed):
        with tf.Graph().as_default(), tf.Session() as sess:
            tf.saved_model.loader.load(sess, [encoder.TAG], str(path))
            before = sess.run({variable.op.name: variable
                               for variable in tf.trainable_variables()})
            feed = encoder.draw_new_kernels(sess, seed)
            assert [tensor.name for tensor in feed] == ['seed:0']
            after = sess.run({variable.op.name: variable for variable in tf.trainable_variables()})
        return before, after

    before, after = drawn(tmp_path / 'vgg', 5)
    assert {name for name in before if (before[name] != after[name]).any()} == {
        'fc6/kernel', 'fc7/kernel'}
    _, again = drawn(tmp_path / 'vgg', 5)
    np.testing.assert_array_equal(after['fc6/kernel'], again['fc6/kernel'])
    before, after = drawn(tiny_vgg, 5)
    assert {name for name in before if (before[name] != after[name]).any()} == {
        name for name in before if name.endswith('kernel')}


# Dropout --------------------------------------------------------------------------------------

def dropped(keep_prob, layer=6, steps=0, inputs=None, seed=0):
    """Dropout of ones, after so many steps."""
    inputs = np.ones((2, 5, 7, 50), np.float32) if inputs is None else inputs
    with tf.Graph().as_default(), tf.Session() as sess:
        outputs = encoder.dropout(tf.constant(inputs), tf.constant(keep_prob), layer,
                                tf.constant(seed, tf.int64))
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


def test_dropout_depends_on_step_layer_and_seed_alone():
    first = dropped(0.5, layer=6, steps=3)
    np.testing.assert_array_equal(dropped(0.5, layer=6, steps=3), first)
    for other in (dropped(0.5, layer=6, steps=4), dropped(0.5, layer=7, steps=3),
                  dropped(0.5, layer=6, steps=3, seed=1)):
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
        tf.saved_model.loader.load(sess, [encoder.TAG], str(tiny_vgg))
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


# Context --------------------------------------------------------------------------------------

def test_context_looks_near_far_and_at_the_whole_image(tmp_path):
    save_tiny_vgg(tmp_path / 'vgg', 64, 8, context=True)
    names = {name.split('/')[0] for name in variables_of(tmp_path / 'vgg')}
    assert {name for name in names if name.startswith('fc')} == {
        'fc6_1', 'fc6_2', 'fc6_4', 'fc6_image', 'fc7'}
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


DILATED = """
import sys
import numpy as np
import tensorflow.compat.v1 as tf
from roadseg.networks import encoder, vgg16

with tf.Graph().as_default(), tf.Session() as sess:
    tf.saved_model.loader.load(sess, [encoder.TAG], sys.argv[1])
    layer7 = sess.graph.get_tensor_by_name('layer7_out:0')
    kernels = [variable for variable in tf.trainable_variables() if 'fc6' in variable.name]
    image = np.random.default_rng(0).uniform(0, 255, (1, 96, 160, 3))
    values = sess.run([layer7, *tf.gradients(layer7, kernels)],
                      {'image_input:0': image, 'keep_prob:0': 1})
    np.savez(sys.argv[2], *values)
"""


def test_context_has_no_gradient_that_eigen_lacks(tmp_path, monkeypatch):
    save_tiny_vgg(tmp_path / 'vgg', 64, 8, context=True)
    monkeypatch.setenv('TF_ENABLE_ONEDNN_OPTS', '0')
    monkeypatch.setattr(preflight, 'offers_gpu', lambda: False)
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        tf.saved_model.loader.load(sess, [encoder.TAG], str(tmp_path / 'vgg'))
        kernels = [variable for variable in tf.trainable_variables() if 'fc6' in variable.name]
        assert None not in tf.gradients(graph.get_tensor_by_name('layer7_out:0'), kernels)
        preflight.check_dilation(graph)


@pytest.mark.slow
def test_context_can_be_trained_where_onednn_is_off(tmp_path, monkeypatch):
    """Eigen, which is then used, has no gradient of a dilated convolution."""
    save_tiny_vgg(tmp_path / 'vgg', 64, 8, context=True)
    subprocess.run([sys.executable, '-c', DILATED, str(tmp_path / 'vgg'), str(tmp_path / 'off')],
                   check=True, capture_output=True, cwd=Path(vgg16.__file__).parents[2],
                   env={**os.environ, 'TF_ENABLE_ONEDNN_OPTS': '0'})
    assert _pywrap_util_port.IsMklEnabled()         # in this process
    monkeypatch.setattr(sys, 'argv', ['', str(tmp_path / 'vgg'), str(tmp_path / 'on')])
    exec(DILATED, {})
    with np.load(tmp_path / 'off.npz') as off, np.load(tmp_path / 'on.npz') as on:
        assert len(off) == len(on) == 1 + 2 * 4
        for name in off:
            assert off[name].any() and relative_error(off[name], on[name]) < 1e-4


def test_dilated_convolution_is_tensorflows_own(tmp_path):
    """Of a picture whose sides are no multiple of the dilation."""
    save_tiny_vgg(tmp_path / 'vgg', 64, 8, context=True)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.saved_model.loader.load(sess, [encoder.TAG], str(tmp_path / 'vgg'))
        *_, pool5 = [op for op in sess.graph.get_operations() if op.type == 'MaxPool']
        branches = [op for op in sess.graph.get_operations() if op.name.startswith('fc6_')
                    and op.type == 'Relu']
        kernels = {variable.op.name: variable for variable in tf.trainable_variables()}
        assert len(branches) == 4
        for dilation, branch in zip(vgg16.DILATIONS, branches):
            expected = tf.nn.relu(tf.nn.conv2d(pool5.outputs[0],
                                               kernels[f'fc6_{dilation}/kernel'], 1, 'SAME',
                                               dilations=dilation))
            found, wanted = sess.run([branch.outputs[0], expected], {
                'image_input:0': photograph(150, 330)[np.newaxis]})
            assert found.shape == (1, 5, 11, 4) and wanted.any()
            assert relative_error(found, wanted) < 1e-5


def test_layers_are_in_the_same_units_whatever_the_weights_are_made_for(tmp_path):
    """The same network, without biases and fed with inputs that are 58 times smaller."""
    shapes = vgg16.convolution_shapes(64)
    shapes.update(vgg16.top_shapes(shapes['conv5_3'][-1], 8))
    image = photograph(64, 96)
    for source in (vgg16.caffe_input, vgg16.torch_input):
        vgg16.save({}, shapes, source, tmp_path / source.__name__)
    caffe, torch = (run_graph(tmp_path / source.__name__, image)
                    for source in (vgg16.caffe_input, vgg16.torch_input))
    for layer in range(3):
        assert 0.2 < np.abs(torch[layer]).mean() / np.abs(caffe[layer]).mean() < 5


def graph_like_the_courses(change):
    """(image, keep_prob, [layer 3, 4, 7]) of a graph; `change` turns (stride, layer) into it."""
    image = tf.placeholder(tf.uint8, [None, None, None, 3])
    keep_prob = tf.placeholder(tf.float32, [])
    layers = [change(stride, tf.nn.avg_pool2d(keep_prob * tf.cast(image, tf.float32), stride,
                                              stride, 'SAME')) for stride in (8, 16, 32)]
    return image, keep_prob, layers


def stated(layer, shape):
    """As a graph that was saved for photographs of one size states it."""
    layer = tf.placeholder_with_default(layer, [None, None, None, 3])
    layer.set_shape(shape)
    return layer


def of_layer_4(spoil):
    return lambda stride, layer: spoil(layer) if stride == 16 else layer


@pytest.mark.parametrize('spoil, message', [
    (lambda layer: tf.cast(layer, tf.int32), r'as int32 \(None, None, None, 3\)'),
    (lambda layer: tf.cast(layer, tf.float16), 'as float16'),
    (lambda layer: tf.reduce_mean(layer, [1, 2]), r'as float32 \(None, 3\), and \(3,\) of'),
    (lambda layer: tf.placeholder_with_default(layer, None), 'as float32 <unknown>'),
    (lambda layer: tf.placeholder_with_default(layer, [None] * 4), 'of which D is known'),
    (lambda layer: layer[:, :-1], r'\(4, 7\) of photographs of \(72, 104\); .*\(5, 7\)$'),
    (lambda layer: tf.ensure_shape(layer, [None, 14, 14, 3]),
     'not take photographs of 72x104 pixels: .* is not compatible with expected shape'),
    (lambda layer: stated(layer, [None, 14, 14, 3]), r'\(None, 14, 14, 3\)'),
    (lambda layer: layer * np.float32(np.nan), 'values that are not finite')])
def test_a_graph_of_another_kind_is_refused(spoil, message):
    with tf.Graph().as_default(), tf.Session() as sess:
        with pytest.raises(InputError, match=f'^the graph in data/vgg .*{message}') as caught:
            encoder.check_layers(sess, 'data/vgg', *graph_like_the_courses(of_layer_4(spoil)))
    assert '\n' not in str(caught.value)


def test_graphs_of_any_depth_are_taken(tiny_vgg):
    with tf.Graph().as_default(), tf.Session() as sess:
        encoder.check_layers(sess, 'vgg', *graph_like_the_courses(lambda stride, layer: layer))
        image, keep_prob, *layers = main.load_vgg(sess, str(tiny_vgg))
        encoder.check_layers(sess, 'vgg', image, keep_prob, layers)


# Getting it -----------------------------------------------------------------------------------

def below(folder):
    """All files below a folder, with their content."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob('*') if path.is_file()}


def zipped(tiny_vgg):
    """The course's vgg.zip, as bytes."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, 'w') as members:
        for name, content in below(tiny_vgg).items():
            members.writestr(f'vgg/{name}', content)
    return archive.getvalue()


def test_a_graph_that_is_there_is_taken(tmp_path, no_network):
    (tmp_path / 'vgg').mkdir()
    assert vgg16.fetch(tmp_path) == tmp_path / 'vgg'


@pytest.mark.parametrize('own', (False, True))
@pytest.mark.parametrize('dataset', ('folder', 'cityscapes'))
def test_data_elsewhere_shares_the_vgg16_that_is_there(tmp_path, monkeypatch, no_network, own,
                                                      dataset):
    monkeypatch.chdir(tmp_path)
    Path('data/vgg').mkdir(parents=True)
    Path('mine/vgg' if own else 'mine').mkdir(parents=True)
    options = SimpleNamespace(encoder=None, dataset=dataset, data_dir='mine')
    assert vgg16.find_encoder(options) == Path('mine/vgg' if own else 'data/vgg')
    fetched = []
    monkeypatch.setattr(vgg16, 'fetch', fetched.append)
    for folder in ('data/vgg', *['mine/vgg'] * own):
        Path(folder).rmdir()
    vgg16.find_encoder(options)
    assert fetched == ['data' if dataset == 'folder' else 'mine']


def test_another_process_that_wrote_the_narrow_graph_is_no_error(tmp_path, monkeypatch):
    def too_late(weights, new, preprocess, out):
        out.mkdir()
        (out / 'saved_model.pb').touch()
        raise InputError('is there already')

    monkeypatch.setattr(vgg16, 'save', too_late)
    options = SimpleNamespace(encoder=None, dataset='demo', data_dir=tmp_path)
    assert vgg16.find_encoder(options) == tmp_path / 'vgg'


@pytest.mark.parametrize('dataset', ['kitti', 'folder', 'demo'])
def test_a_data_folder_whose_name_is_too_long_is_an_input_error(tmp_path, monkeypatch, no_network,
                                                                dataset):
    monkeypatch.chdir(tmp_path)     # photographs of one's own share data/vgg
    with pytest.raises(InputError, match='no VGG16|name is too long'):
        vgg16.find_encoder(SimpleNamespace(encoder=None, dataset=dataset, data_dir='a' * 300))


def test_a_graph_that_was_put_there_as_an_archive_is_unpacked(tmp_path, no_network, tiny_vgg):
    (tmp_path / 'vgg.zip').write_bytes(zipped(tiny_vgg))
    assert vgg16.fetch(tmp_path) == tmp_path / 'vgg'
    assert below(tmp_path / 'vgg') == below(tiny_vgg)


def test_the_course_is_asked_before_keras(tmp_path, no_network, monkeypatch, tiny_vgg):
    with serving(zipped(tiny_vgg)) as server:
        monkeypatch.setattr(vgg16, 'COURSE_URL', server.url)
        folder = vgg16.fetch(tmp_path / 'data')
    assert folder == tmp_path / 'data/vgg'
    assert below(folder) == below(tiny_vgg)


def test_weights_come_from_keras_where_the_archive_is_gone(tmp_path, no_network, monkeypatch,
                                                           capsys):
    asked = []

    def read_keras(weights):
        asked.append(weights)
        rng = np.random.default_rng(0)
        return {name: (rng.normal(size=shape).astype(np.float32), np.zeros(shape[-1], np.float32))
                for name, shape in vgg16.convolution_shapes(64).items()}

    monkeypatch.setattr(vgg16, 'read_keras', read_keras)
    folder = vgg16.fetch(tmp_path)
    assert asked == ['imagenet']
    assert folder == tmp_path / 'vgg' and (folder / 'saved_model.pb').exists()
    assert 'fc6_image' in {name.split('/')[0] for name in variables_of(folder)}
    assert 'Keras' in capsys.readouterr().err


def test_without_network_three_ways_on_are_named(tmp_path, no_network):
    with pytest.raises(InputError) as caught:
        vgg16.fetch(tmp_path)
    message = str(caught.value)
    for piece in (vgg16.COURSE_URL, 'no Keras weights either', 'vgg.zip',
                  'roadseg.networks.vgg16', '--demo', str(tmp_path)):
        assert piece in message
    assert '\n' not in message
    assert not list(tmp_path.iterdir())


def test_a_damaged_archive_is_an_error(tmp_path, no_network):
    (tmp_path / 'vgg.zip').write_bytes(b'PK')
    with pytest.raises(InputError, match='vgg.zip could not be unpacked'):
        vgg16.fetch(tmp_path)
