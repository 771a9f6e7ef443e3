"""`python main.py` from its command line to its run folder, and what it says to bad data."""
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

import main
from roadseg.commands import run_command
from roadseg.datasets import demo, kitti
from roadseg.networks import segnet, vgg16
from roadseg.training import checkpoints, device, preflight

SIZE = (47, 155)        # of the photographs
TRAINING, HELD_OUT, TESTS = 6, 3, 3


@pytest.fixture(scope='session')
def drawn(tmp_path_factory, tiny_vgg):
    """Folder of tiny drawn scenes, as KITTI's, and a tiny VGG16."""
    folder = tmp_path_factory.mktemp('data')
    demo.write_scenes(folder, train=TRAINING + HELD_OUT, test=TESTS, held_out=1, size=SIZE)
    shutil.copytree(tiny_vgg, folder / 'vgg')
    return folder


@pytest.fixture
def data(drawn, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(drawn, tmp_path / 'data')


def arguments(data, tmp_path, *more):
    """A command line that takes a second or two; later options win."""
    return ['--data-dir', str(data), '--runs-dir', str(tmp_path / 'runs'), '--image-size', '32x96',
            '--epochs', '2', '--batch-size', '4', '--learning-rate', '1e-3', '--warmup', '2',
            '--freeze-blocks', '0', '--precision', 'float32', *more]


def error_of(capsys, argv):
    """The message of a command that must fail with exit code 2 and one line."""
    assert run_command(main.main, argv) == 2
    text = capsys.readouterr().err
    lines = [line for line in text.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1
    assert text.rstrip().endswith(lines[0])
    assert 'Traceback' not in text
    return lines[0][len('error: '):]


def no_run(tmp_path):
    """Whether no run folder was made."""
    return not (tmp_path / 'runs').exists() or not list((tmp_path / 'runs').iterdir())


# Bad input ------------------------------------------------------------------------------------

def test_a_batch_larger_than_the_data_is_refused(data, tmp_path, capsys):
    message = error_of(capsys, arguments(data, tmp_path, '--batch-size', str(TRAINING + 1)))
    assert f'--batch-size {TRAINING + 1}' in message and f'the {TRAINING} photographs' in message
    assert no_run(tmp_path)


def test_no_data_and_no_network(tmp_path, capsys, no_network):
    message = error_of(capsys, arguments(tmp_path / 'nothing', tmp_path))
    assert kitti.URL in message and '--demo' in message and '--data-dir' in message
    assert no_run(tmp_path)


def test_no_vgg_and_no_network(data, tmp_path, capsys, no_network, monkeypatch):
    shutil.rmtree(data / 'vgg')
    monkeypatch.chdir(tmp_path)         # where no data/vgg is, either
    message = error_of(capsys, arguments(data, tmp_path))
    for piece in (vgg16.COURSE_URL, '--demo', 'roadseg.networks.vgg16'):
        assert piece in message
    assert no_run(tmp_path)


def test_a_data_set_of_fewer_files_is_refused_unless_its_folder_was_named(data, tmp_path, capsys,
                                                                         monkeypatch):
    monkeypatch.chdir(tmp_path)         # its data/ is the default folder
    message = error_of(capsys, ['--runs-dir', str(tmp_path / 'runs')])
    assert f'{TRAINING + HELD_OUT} training photographs' in message and '289' in message
    assert no_run(tmp_path)


def a_photograph(data):
    """A photograph to train on."""
    return sorted((data / 'data_road/training/image_2').glob('um_*.png'))[0]


def a_label(data):
    return data / 'data_road/training/gt_image_2' / a_photograph(data).name.replace('_', '_road_')


def lose_label(data):
    a_label(data).unlink()
    return 'photographs have no road label', a_photograph(data).name


def shrink_label(data):
    with Image.open(a_label(data)) as label:
        smaller = label.crop((0, 0, SIZE[1] - 1, SIZE[0] - 2))
    smaller.save(a_label(data))
    return a_label(data).name, f'{SIZE[0]}x{SIZE[1]}', f'{SIZE[0] - 2}x{SIZE[1] - 1}'


def truncate_photograph(data):
    content = a_photograph(data).read_bytes()
    a_photograph(data).write_bytes(content[:len(content) // 2])
    return a_photograph(data).name, 'not a readable image'


def truncate_held_out_photograph(data):
    path = data / 'data_road/training/image_2/um_000079.png'
    path.write_bytes(path.read_bytes()[:999])
    return path.name, 'not a readable image'


def paint_label(data):
    label = np.array(Image.open(a_label(data)))
    label[5, 8] = (0, 255, 0)
    Image.fromarray(label).save(a_label(data))
    return a_label(data).name, '(0, 255, 0)', 'row 5, column 8'


def empty_folder(data):
    for path in (data / 'data_road/training/image_2').iterdir():
        path.unlink()
    return 'training/image_2', 'holds no'


def rename_photograph(data):
    for path in (a_photograph(data), a_label(data)):
        path.rename(path.with_name(path.name.replace('um_', 'berlin_')))
    return 'berlin_', 'belongs to no category', '--dataset folder'


def jpeg_photograph(data):
    path = a_photograph(data)
    path.rename(path.with_suffix('.jpg'))
    return path.stem + '.jpg is no .png', '--dataset folder'


def other_tag(data):
    """A graph that has no tag 'vgg16'."""
    shutil.rmtree(data / 'vgg')
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.constant(0.0, name='image_input')
        builder = tf.saved_model.Builder(str(data / 'vgg'))
        builder.add_meta_graph_and_variables(sess, ['serve'])
        builder.save()
    return str(data / 'vgg'), "'vgg16'"


def empty_vgg(data):
    shutil.rmtree(data / 'vgg')
    (data / 'vgg').mkdir()
    return str(data / 'vgg'),


@pytest.mark.parametrize('spoil', [
    lose_label, shrink_label, truncate_photograph, truncate_held_out_photograph, paint_label,
    empty_folder, rename_photograph, jpeg_photograph, other_tag, empty_vgg])
def test_bad_data_are_reported_in_one_line_before_a_run_begins(data, tmp_path, capsys, spoil):
    pieces = spoil(data)
    message = error_of(capsys, arguments(data, tmp_path))
    for piece in pieces:
        assert piece in message
    assert no_run(tmp_path)


def test_an_unknown_split_is_reported(data, tmp_path, capsys):
    assert 'kfold:3:3' in error_of(capsys, arguments(data, tmp_path, '--split', 'kfold:3:3'))
    assert no_run(tmp_path)


def test_too_little_memory_is_reported_before_a_run_begins(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(preflight, 'available_memory', lambda *_: 10_000)
    assert 'out of memory' in error_of(capsys, arguments(data, tmp_path, '--train', 'decoder'))
    assert no_run(tmp_path)


def test_what_is_wrong_with_the_options_is_known_before_anything_is_drawn(tmp_path, capsys):
    for argv in (['--classes', '3'], ['--split', 'val3'], ['--runs-dir', __file__],
                 ['--encoder', str(tmp_path)]):
        error_of(capsys, ['--demo', '--data-dir', str(tmp_path / 'data'), *argv])
        assert not (tmp_path / 'data').exists()


def test_demo_does_not_draw_over_real_photographs(data, tmp_path, capsys):
    (data / 'data_road/scenes.json').unlink()       # what marks drawn scenes
    before = sorted(data.rglob('*.png'))
    message = error_of(capsys, arguments(data, tmp_path, '--demo'))
    assert str(data) in message
    assert sorted(data.rglob('*.png')) == before
    assert no_run(tmp_path)


def test_a_runs_folder_that_is_a_file_is_reported(data, tmp_path, capsys):
    (tmp_path / 'runs').write_text('not a folder')
    assert 'runs' in error_of(capsys, arguments(data, tmp_path))


# Whole runs -----------------------------------------------------------------------------------

def read_log(folder):
    with open(folder / 'log.csv', newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def run_folder(tmp_path):
    folder, = (path for path in (tmp_path / 'runs').iterdir() if path.is_dir())
    return folder


@pytest.fixture(scope='module')
def finished(drawn, tmp_path_factory):
    """A run in a process of its own: (data, folder, what it wrote to stdout, to stderr)."""
    place = tmp_path_factory.mktemp('finished')
    data = shutil.copytree(drawn, place / 'data')
    odd = data / 'data_road/testing/image_2/um_000000.png'
    with Image.open(odd) as photograph:
        smaller = photograph.crop((0, 0, 90, 40))
    smaller.save(odd)
    answer = subprocess.run([sys.executable, 'main.py', *arguments(data, place)],
                            cwd=Path(main.__file__).parent, capture_output=True, text=True,
                            env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''}, check=False)
    assert answer.returncode == 0, answer.stderr
    return data, run_folder(place), answer.stdout, answer.stderr


def test_a_run_leaves_all_that_it_promises(finished):
    data, folder, out, _ = finished
    assert 'warning: no GPU' in out                 # and no more than that
    assert 'GFLOP per image' in out and 'epoch 2/2: loss ' in out and str(folder) in out
    saved = json.loads((folder / 'options.json').read_text())
    assert saved['options']['image_size'] == [32, 96] and saved['options']['epochs'] == 2
    assert {name: saved['data'][name] for name in ('training', 'validation', 'testing')} == {
        'training': TRAINING, 'validation': HELD_OUT, 'testing': TESTS}
    assert [(row['epoch'], row['step']) for row in read_log(folder)] == [('1', '2'), ('2', '4')]
    assert all(np.isfinite(float(row[column])) for row in read_log(folder)
               for column in ('loss', 'val_loss', 'val_maxf', 'val_iou'))
    assert [path.name for path in checkpoints.saved(folder)][-2:] == ['step-000002', 'step-000004']

    photographs = sorted((data / 'data_road/testing/image_2').iterdir())
    overlays = sorted((folder / 'overlays').iterdir())
    assert [path.name for path in overlays] == [path.name for path in photographs]
    sizes = [Image.open(path).size for path in photographs]
    assert [Image.open(path).size for path in overlays] == sizes and len(set(sizes)) == 2

    evaluation = json.loads((folder / 'evaluation.json').read_text())
    assert evaluation['split'] == 'val3' and len(evaluation['frames']) == HELD_OUT
    assert 0 <= evaluation['scores']['URBAN']['MaxF'] <= 100
    assert len(list((folder / 'validation').glob('*_overlay.jpg'))) == HELD_OUT
    assert '<html' in (folder / 'index.html').read_text(encoding='utf-8')
    assert not list(folder.rglob('*.part')) and not list(folder.rglob('.part-*'))


def test_an_ordinary_run_writes_nothing_of_tensorflows(finished):
    """No line of its log, and warnings only of our own: the data are few, as they are drawn."""
    _, _, out, err = finished
    for line in (out + err).splitlines():
        assert not re.search(r'[IWEF]\d{4} |All log messages|\.cc:\d+|TensorFlow|oneDNN|CUDA|cuda'
                             r'|DeprecationWarning|UserWarning|FutureWarning|WARNING', line), line
    assert all(line.startswith('warning: ') for line in err.splitlines() if line), err


def save_old_graph(path):
    """A VGG16 like that of the course's archive.

    Its variables are reference variables, `keep_prob` is a plain placeholder, which must be
    fed, the dropout is random in itself and nothing counts the steps.
    """
    rng = np.random.default_rng(0)
    shapes = {**vgg16.convolution_shapes(32), **vgg16.top_shapes(16, 12)}
    with tf.Graph().as_default(), tf.Session() as sess, \
            tf.variable_scope('', use_resource=False):
        image = tf.placeholder(tf.float32, [None, None, None, 3], name='image_input')
        keep_prob = tf.placeholder(tf.float32, name='keep_prob')
        outputs = image / 255 - 0.5
        for name, shape in shapes.items():
            kernel = np.float32(rng.normal(scale=(2 / np.prod(shape[:3])) ** 0.5, size=shape))
            with tf.variable_scope(name):
                outputs = tf.nn.relu(tf.nn.conv2d(
                    outputs, tf.get_variable('filter', initializer=kernel), 1, 'SAME')
                    + tf.get_variable('biases', initializer=np.zeros(shape[-1:], np.float32)))
            if name in ('conv1_2', 'conv2_2', 'conv3_3', 'conv4_3', 'conv5_3'):
                outputs = tf.nn.max_pool2d(outputs, 2, 2, 'SAME')
            if name in ('conv3_3', 'conv4_3'):
                outputs = tf.identity(outputs, name=f'layer{name[4]}_out')
            if name in ('fc6', 'fc7'):
                outputs = tf.nn.dropout(outputs, keep_prob)
        tf.identity(outputs, name='layer7_out')
        assert tf.trainable_variables()[0].op.type == 'VariableV2'
        sess.run(tf.global_variables_initializer())
        builder = tf.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(sess, ['vgg16'])
        builder.save()


def test_a_run_that_holds_nothing_out_trains_on_all_on_a_graph_like_the_courses(data, tmp_path):
    shutil.rmtree(data / 'vgg')
    save_old_graph(data / 'vgg')
    assert run_command(main.main, arguments(data, tmp_path, '--split', 'none', '--epochs', '1',
                                            '--average-decay', '0', '--flip-test')) == 0
    folder = run_folder(tmp_path)
    assert [row['step'] for row in read_log(folder)] == ['3']       # 9 photographs, 4 at a time
    assert not (folder / 'evaluation.json').exists()
    assert len(list((folder / 'overlays').iterdir())) == TESTS
    assert (folder / 'index.html').exists()


def test_segnet_unpools_on_a_graph_like_the_courses(tmp_path):
    save_old_graph(tmp_path / 'vgg')
    with tf.Graph().as_default(), tf.Session() as sess:
        *_, layer7_out = main.load_vgg(sess, tmp_path / 'vgg')
        found = segnet.pool_inputs(layer7_out)
        assert [tensor.shape[-1] for tensor in found] == [2, 4, 8, 16, 16]
        assert {tensor.op.type for tensor in found} == {'Relu'}


# Device ---------------------------------------------------------------------------------------

def test_precision_belongs_to_the_device_that_trains(monkeypatch, capsys):
    """TensorFlow's bfloat16 is of CPUs; a GPU in the machine trains in float32, and says so."""
    monkeypatch.setattr(device, 'native_bfloat16', lambda: True)
    monkeypatch.setattr(device, 'offers_gpu', lambda: True)
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind=None: [])
    assert [device.find(choice).precision for choice in ('auto', 'float32', 'bfloat16')] == [
        'bfloat16', 'float32', 'bfloat16']
    assert not device.find().is_gpu and capsys.readouterr().err == ''

    gpu = tf.config.PhysicalDevice('/physical_device:GPU:0', 'GPU')
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind=None: [gpu])
    monkeypatch.setattr(tf.config.experimental, 'get_device_details',
                        lambda found: {'device_name': 'NVIDIA H200'})
    assert device.find('auto') == device.find('float32') == device.Device('NVIDIA H200', True,
                                                                         'float32')
    assert capsys.readouterr().err == ''
    assert device.find('bfloat16').precision == 'float32'
    assert 'warning: --precision bfloat16 is not there on a GPU' in capsys.readouterr().err
    assert device.describe(device.find('auto')) == 'device: NVIDIA H200'


def test_a_driver_without_a_gpu_is_a_cpu(monkeypatch):
    monkeypatch.setattr(device, 'offers_gpu', lambda: True)
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind=None: [])
    assert device.find().name.startswith('CPU, ')


@pytest.mark.parametrize('precision, rewritten', [('float32', False), ('bfloat16', True)])
def test_the_session_rewrites_for_bfloat16_alone(precision, rewritten):
    options = device.session_config(precision).graph_options.rewrite_options
    assert bool(options.auto_mixed_precision_onednn_bfloat16) == rewritten
