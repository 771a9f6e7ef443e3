"""Exports: the graph for inference, each format, its check, and what can go wrong."""
import json
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from scipy.special import softmax

import exported
import roadseg
import tiny
from roadseg import compare, export, runtimes
from roadseg.commands import run_command
from roadseg.errors import InputError
from roadseg.files import file_checksum, write_json
from roadseg.images import read_image, resize, seen_size, write_image
from roadseg.inference_graph import inference_graph, phases
from roadseg.training import start_from
from roadseg.training.run_folder import checksum, photograph_names

RNG = np.random.default_rng(11)
UNTRAINED = {'Select', 'If', 'StatelessIf', 'Conv2DBackpropInput', 'MirrorPad', 'SpaceToBatchND',
             'BroadcastTo', 'VarHandleOp', 'VariableV2', 'ReadVariableOp', 'RandomUniform',
             'StatelessRandomUniformV2', 'FusedBatchNormV3', 'Rsqrt'}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return exported.save_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    return exported.save_run(tmp_path_factory.mktemp('runs') / 'run [1] ä', data, 'fcn8s')


@pytest.fixture(scope='module')
def bright(data, tmp_path_factory):
    """A run that knows road by its brightness; its last weights are wrong, the averages right."""
    return tiny.save_run(tmp_path_factory.mktemp('bright') / 'run', data_dir=str(data),
                         precision='float32')


def call(*arguments):
    return run_command(export.main, [str(argument) for argument in arguments])


def error_of(capsys):
    return capsys.readouterr().err.splitlines()[-1]


# The graph --------------------------------------------------------------------------------------

@pytest.mark.parametrize('factor', [2, 4, 8])
def test_a_transposed_convolution_is_one_before_depth_to_space(factor):
    kernel = RNG.normal(size=(2 * factor, 2 * factor, 3, 5)).astype(np.float32)
    image = RNG.normal(size=(2, 4, 3, 5)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as sess:
        expected = tf.nn.conv2d_transpose(image, kernel, [2, 4 * factor, 3 * factor, 3], factor)
        found = tf.nn.depth_to_space(tf.nn.conv2d(image, phases(kernel), 1, 'SAME'), factor)
        expected, found = sess.run([expected, found])
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('kind', ['fcn8s', 'segnet', 'resnet50'])
def test_the_graph_for_inference_answers_as_the_one_for_training(data, tmp_path, kind):
    run = exported.save_run(tmp_path / 'run', data, kind)
    with export.checkpoint_network(run) as (_, network, frozen):
        for size, fixed in (((41, 75), True), ((53, 83), False)):
            graph_def = inference_graph(*frozen, size if fixed else None)
            kinds = Counter(node.op for node in graph_def.node)
            assert not UNTRAINED & set(kinds)
            assert not graph_def.library.function
            assert kinds['Mul'] <= 6                # no normalisation is left
            images = RNG.integers(0, 256, (2, *size, 3), np.uint8)
            expected = softmax(np.stack([network.run(image) for image in images]), axis=-1)
            assert expected.std() > 0.01            # the network says something
            for node in graph_def.node:
                if node.op == 'Placeholder':        # of any number of images
                    node.attr['shape'].shape.dim[0].size = -1
            with tf.Graph().as_default(), tf.Session() as sess:
                tf.import_graph_def(graph_def, name='')
                found = sess.run('probabilities:0', {'photographs:0': images})
            assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_segnets_unpooling_is_the_same_in_onnx(data, tmp_path):
    pytest.importorskip('tf2onnx', reason='requirements-export.txt is not installed')
    pytest.importorskip('onnxruntime', reason='requirements-export.txt is not installed')
    run, out = exported.save_run(tmp_path / 'run', data, 'segnet'), tmp_path / 'onnx'
    assert call(run, '--format', 'onnx', '--out', out) == 0
    images = RNG.integers(0, 256, (1, *exported.SIZE, 3), np.uint8)
    with export.checkpoint_network(run) as (_, network, _):
        expected = softmax(network.run(images[0]), axis=-1)
    with runtimes.open_export(out, 'onnxruntime') as opened:
        assert opened.run(images)[0] == pytest.approx(expected, abs=1e-4)


def test_the_dropout_of_the_course_is_left_out():
    with tf.Graph().as_default() as graph:
        image = tf.placeholder(tf.uint8, [None, None, None, 3], 'photographs')
        keep_prob = tf.placeholder(tf.float32, name='keep_prob')
        tf.nn.dropout(tf.cast(image, tf.float32) / 50, rate=1 - keep_prob, name='scores')
        scores = graph.get_tensor_by_name('scores/SelectV2:0') if 'scores/SelectV2' in {
            op.name for op in graph.get_operations()} else graph.get_operations()[-1].outputs[0]
    graph_def = inference_graph(graph.as_graph_def(), scores.name)
    assert not {'RandomUniform', 'SelectV2', 'Mul'} & {node.op for node in graph_def.node}
    images = RNG.integers(0, 256, (1, 2, 2, 3), np.uint8)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.import_graph_def(graph_def, name='')
        found = sess.run('probabilities:0', {'photographs:0': images})
    assert found == pytest.approx(softmax(images / 50, axis=-1), abs=1e-5)


def test_a_dilated_convolution_of_an_older_encoder_is_padded_by_hand():
    """ONNX Runtime's convolutions of 8 channels and more have no padding 'SAME' with gaps."""
    kernel = RNG.normal(size=(3, 5, 3, 2)).astype(np.float32)
    images = RNG.integers(0, 256, (2, 9, 11, 3), np.uint8)
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        image = tf.placeholder(tf.uint8, [None, None, None, 3], 'photographs')
        scores = tf.nn.conv2d(tf.cast(image, tf.float32), kernel / 999, 1, 'SAME', dilations=[2, 3])
        expected = softmax(sess.run(scores, {image: images}), axis=-1)
    graph_def = inference_graph(graph.as_graph_def(), scores.name)
    conv = next(node for node in graph_def.node if node.op == 'Conv2D')
    assert conv.attr['padding'].s == b'VALID'
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.import_graph_def(graph_def, name='')
        found = sess.run('probabilities:0', {'photographs:0': images})
    assert found == pytest.approx(expected, abs=1e-5)


# The formats ------------------------------------------------------------------------------------

def test_a_frozen_graph_of_any_size_with_what_is_to_be_known_of_it(run, capsys):
    assert call(run, '--format', 'frozen') == 0
    folder = run / 'exports' / 'frozen'
    assert 'same class 100' in capsys.readouterr().out
    about = json.loads((folder / 'export.json').read_text())
    assert about['classes'] == ['not road', 'road'] and about['road'] == 1
    assert len(about['palette']) == 2 and about['image_size'] == [40, 72]
    assert about['checkpoint'] == 'step-000000' and len(about['checkpoint_sha256']) == 64
    assert about['fixed_size'] is False and about['run_id'] == 'ab12' and 'commit' in about
    check = about['check']
    assert check['photographs'] == 3 and check['largest_difference'] < 1e-4
    assert check['before'] == pytest.approx(check['after'], abs=0.01)
    assert sorted(path.name for path in folder.iterdir()) == ['export.json', 'frozen.pb']

    picture = RNG.integers(0, 256, (50, 201, 3), np.uint8)
    with roadseg.load(run) as trained, roadseg.load(folder, runtime='tensorflow') as opened:
        assert opened.predict(picture) == pytest.approx(trained.predict(picture), abs=1e-3)
        assert (opened.classes, opened.road) == (('not road', 'road'), 1)


def test_the_averages_are_exported(bright, tmp_path):
    assert call(bright, '--format', 'frozen', '--out', tmp_path / 'new' / 'bright') == 0
    with runtimes.open_export(tmp_path / 'new' / 'bright', 'tensorflow') as opened:
        assert opened.run(np.full((1, 8, 8, 3), 255, np.uint8))[..., 1].min() > 0.99


SERVE = '''
import sys
import tensorflow as tf
import numpy as np
model = tf.saved_model.load(sys.argv[1], tags=['serve'])
answer = model.signatures['serving_default'](photographs=tf.zeros([2, 33, 50, 3], tf.uint8))
assert list(answer) == ['probabilities'], answer
values = answer['probabilities'].numpy()
assert values.shape == (2, 33, 50, 2) and np.allclose(values.sum(-1), 1), values.shape
'''


@pytest.mark.slow
def test_a_savedmodel_is_served_in_a_process_without_this_project(run, tmp_path):
    out = tmp_path / 'served'
    assert call(run, '--format', 'savedmodel', '--out', out) == 0
    subprocess.run([sys.executable, '-I', '-c', SERVE, str(out)], check=True, cwd=tmp_path,
                   env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'})
    with runtimes.open_export(out, 'tensorflow') as opened:
        assert opened.run(np.zeros((2, 40, 72, 3), np.uint8)).shape == (2, 40, 72, 2)


@pytest.mark.parametrize('shape, seen_at', [
    ((80, 144), (40, 72)), ((80, 120), (40, 72)), ((160, 80), (72, 40))])
def test_onnx_runs_by_the_lines_of_the_documentation(run, tmp_path, shape, seen_at):
    pytest.importorskip('tf2onnx', reason='requirements-export.txt is not installed')
    pytest.importorskip('onnxruntime', reason='requirements-export.txt is not installed')
    out, picture = tmp_path / 'onnx', tmp_path / 'photo.png'
    assert call(run, '--format', 'onnx', '--out', out) == 0
    write_image(picture, RNG.integers(0, 256, (*shape, 3), np.uint8))
    readme = (Path(__file__).parents[1] / 'README.md').read_text(encoding='utf-8')
    blocks = [block.partition('```')[0] for block in readme.split('```python\n')[1:]]
    code = next(block for block in blocks if 'onnxruntime' in block)
    subprocess.run([sys.executable, '-I', '-c', code, str(out), str(picture),
                    str(tmp_path / 'seen.png')], check=True, cwd=tmp_path)
    seen = read_image(tmp_path / 'seen.png')
    palette = json.loads((out / 'export.json').read_text())['palette']
    assert seen.shape == (*seen_at, 3) == (*seen_size(shape, (40, 72)), 3)
    assert {tuple(colour) for colour in seen.reshape(-1, 3)} <= set(map(tuple, palette))
    with roadseg.load(run) as trained, \
            runtimes.open_export(out, 'onnxruntime') as opened:
        images = RNG.integers(0, 256, (2, 33, 50, 3), np.uint8)
        expected = softmax(trained.network.run(images[1]), axis=-1)
        assert opened.run(images)[1] == pytest.approx(expected, abs=1e-4)


def test_calibration_spans_all_grey_levels_also_of_dark_photographs(tmp_path):
    """Otherwise the input's 256 steps would end at the brightest pixel, and 255 mean that."""
    for name in 'ab':
        write_image(tmp_path / f'{name}.png', RNG.integers(20, 99, (9, 11, 3), np.uint8))
    first, second = (image for image, in export._calibrating(sorted(tmp_path.iterdir()), (4, 5)))
    assert first.shape == (1, 4, 5, 3) and first.dtype == np.float32
    assert (first.min(), first.max()) == (0, 255) and 20 <= second.min() < second.max() < 99


@pytest.mark.parametrize('precision', ['none', 'float16', 'dynamic', 'int8'])
def test_tflite_of_each_precision(run, data, tmp_path, precision, monkeypatch):
    # An untrained network is everywhere in between, where a little is enough to change a class.
    monkeypatch.setitem(export.LIMITS, precision, (0.2, 0.8, 10))
    out = tmp_path / 'lite'
    assert call(run, '--format', 'tflite', '--quantize', precision, '--out', out) == 0
    # Photographs like those that eight bits are calibrated on: noise is far from them.
    images = np.stack([resize(read_image(path), (40, 72)) for path in
                       sorted((data / 'data_road/training/image_2').iterdir())[:3]])
    with roadseg.load(run) as trained, runtimes.open_export(out, 'tflite') as opened:
        found = opened.run(images)
        expected = softmax(np.stack([trained.network.run(image) for image in images]), axis=-1)
        assert found.dtype == np.float32
        tolerance = {'none': 1e-4, 'float16': 0.01}.get(precision, 0.03)
        assert found == pytest.approx(expected, abs=tolerance)
        with pytest.raises(InputError, match='takes 40x72 pixels only, found 40x80'):
            opened.run(np.zeros((1, 40, 80, 3), np.uint8))
    with pytest.warns(UserWarning, match='deprecated'):
        interpreter = tf.lite.Interpreter(str(out / 'model.tflite'))
    kinds = {detail['dtype'] for detail in interpreter.get_tensor_details()}
    if precision == 'int8':
        assert np.float32 not in kinds
        assert interpreter.get_input_details()[0]['dtype'] == np.uint8
        about = json.loads((out / 'export.json').read_text())
        assert len(about['calibration']) == 9 and about['output_scale'] == 1 / 256
    size = (out / 'model.tflite').stat().st_size
    assert size > 110e3 if precision == 'none' else size < 90e3


# The check --------------------------------------------------------------------------------------

def test_an_export_that_differs_is_left_out(bright, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(export.LIMITS, 'none', (-1, 1.1, 0.05))
    assert call(bright, '--format', 'frozen', '--out', tmp_path / 'out') == 1
    lines = capsys.readouterr().err.splitlines()
    assert 'left out: a probability differs by 0.0000, at most -1 is allowed' in lines[-2]
    assert 'at least 110.0% is expected' in lines[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('change, count', [
    ({}, 0), ({'largest_difference': float('nan')}, 1), ({'agreement': 0.99}, 1),
    ({'after': 89.9}, 1), ({'after': 90.5}, 0), ({'after': None}, 1),
    ({'before': None, 'after': None}, 0)])
def test_what_is_good(change, count):
    check = {'largest_difference': 1e-4, 'agreement': 1.0, 'measure': 'MaxF', 'before': 90.0,
             'after': 89.99, **change}
    assert len(export.problems_of(check, 'none')) == count


def test_a_network_that_says_nan_is_found(bright, data):
    dataset, _, held_out = export.photographs_of(bright, None)
    with export.checkpoint_network(bright) as (_, network, _):
        nothing = np.full((32, 96, 2), np.nan, np.float32)
        broken = compare._Known(nothing, None, None, None, (32, 96))
        with np.errstate(invalid='ignore'):
            check = compare.compare_answers(network, broken, dataset, held_out[:1])
    assert export.problems_of(check, 'int8')


# The comparison ---------------------------------------------------------------------------------

def test_ctrl_c_does_not_reach_the_processes_that_time(capfd):
    """They would show a traceback each."""
    code = 'import os; print(os.getpgid(0), flush=True); sys.stdin.read()'
    with compare.timing(code) as ask:
        assert ask() != os.getpgid(0)


@pytest.mark.parametrize('code', ['raise SystemExit(9)', 'print("no number", flush=True); input()'])
def test_a_process_that_cannot_time_is_one_line(code, capfd):
    with pytest.raises(InputError, match='that timed this has ended'), \
            compare.timing(code, 'this') as ask:
        for _ in range(99):
            ask()


def test_a_process_that_is_lost_costs_its_own_row(capfd):
    good = 'import time\nfor _ in sys.stdin: print(1.5, flush=True)'
    rows = [{}, {}, {}]
    compare.measure_in_turns(rows, [(good, 'a'), ('raise SystemExit(9)', 'b'), (good, 'c')])
    assert rows == [{'ms': 1.5, 'peak_bytes': 1.5}, {'lost': True}, {'ms': 1.5, 'peak_bytes': 1.5}]
    assert 'warning: the process that timed b has ended' in capfd.readouterr().err
    with pytest.raises(InputError, match='timed a has ended'):
        compare.measure_in_turns([{}], [('raise SystemExit(9)', 'a')])


def test_the_score_of_a_runtime_is_its_own(bright, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(bright, tmp_path / 'run')
    monkeypatch.setattr(export, 'PRECISIONS', {'tflite': ('none',)})
    monkeypatch.setattr(runtimes, 'is_installed', lambda name: True)
    monkeypatch.setattr(compare, 'measure_in_turns', lambda rows, starts: timed.extend(
        runtime for *_, runtime in starts[1:]))
    timed, check_on = [], compare.check_on
    monkeypatch.setattr(compare, 'check_on', lambda folder, runtime, *rest: {
        **check_on(folder, 'tflite', *rest), 'agreement': 0.5, 'after': 1.0})
    assert call(run, '--compare') == 0
    lite, other = (next(row for row in json.loads((run / 'compare.json').read_text())['rows']
                        if row['runtime'] == name) for name in ('tflite', 'openvino'))
    assert other['score'] == 1 != lite['score'] and other['problems'] and not lite['problems']
    assert timed == ['tflite']
    assert 'tflite on openvino: ' in capsys.readouterr().out
    assert compare.LEFT_OUT in (run / 'compare.md').read_text()


def test_photographs_that_it_has_learned_from_are_not_checked_on(bright, data, tmp_path,
                                                                capsys):
    """As where photographs have come since, and the split moves."""
    run = shutil.copytree(bright, tmp_path / 'run')
    _, training, held_out = export.photographs_of(run, None)
    (run / 'photographs.json').write_text(json.dumps(
        photograph_names(data, [*training, held_out[-1]], held_out[:-1])))
    assert len(export.photographs_of(run, None)[2]) == len(held_out) - 1
    assert 'was trained on 1 of the' in capsys.readouterr().err
    write_json(run / start_from.NOTES, {'photographs': [        # without its label
        {'sha256': file_checksum(held_out[0][0])}, {'sha256': 'another'}]})
    assert export.photographs_of(run, None)[2] == held_out[1:-1]
    assert 'was trained on 2 of the' in capsys.readouterr().err


@pytest.mark.slow
def test_the_comparison_measures_beside_the_training_graph(bright, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(bright, tmp_path / 'run')
    monkeypatch.setattr(export, 'PRECISIONS', {'tflite': ('none', 'int8')})
    monkeypatch.setitem(runtimes.RUNTIMES, 'tflite', ('tflite',))
    monkeypatch.setitem(export.LIMITS, 'int8', (-1, 1, 100))        # none is as good
    monkeypatch.setattr(compare, 'ROUNDS', 2)
    assert call(run, '--compare') == 1
    result = json.loads((run / 'compare.json').read_text())
    training, lite, small = result['rows']
    assert training['format'] == 'training graph' and small['problems'] and 'ms' not in small
    for row in (training, lite):
        assert 0 < row['ms'] < 60_000 and row['peak_bytes'] > 30e6
    assert training['score'] == pytest.approx(lite['score'], abs=0.01)
    assert lite['bytes'] < training['bytes']
    text = (run / 'compare.md').read_text()
    assert text in capsys.readouterr().out and '| tflite         | float32' in text
    assert sorted(path.name for path in (run / 'exports').iterdir()) == ['tflite']

    content = json.loads((run / 'exports/tflite/export.json').read_text())
    content['checkpoint_sha256'] = '0' * 64
    (run / 'exports/tflite/export.json').write_text(json.dumps(content))
    assert call(run, '--compare') == 2
    assert 'move it away' in error_of(capsys)


@pytest.mark.parametrize('name, value', [
    ('largest_difference', None), ('before', 'x'), ('photographs', [3]), ('agreement', None),
    ('measure', 3)])
def test_an_edited_check_of_an_export_has_it_made_anew(tmp_path, name, value):
    folder, checkpoint = tiny.save_export(tmp_path / 'export'), tmp_path / 'step-000001'
    checkpoint.mkdir()
    path = folder / 'export.json'
    check = {'photographs': 3, 'largest_difference': 0.0, 'agreement': 1.0, 'before': None,
             'after': 90.5, 'measure': 'MaxF'}
    content = {**json.loads(path.read_text()), 'bytes': 99, 'check': check,
               'checkpoint_sha256': checksum(checkpoint)}
    path.write_text(json.dumps(content))
    assert export.existing(folder, checkpoint)[0] == content
    path.write_text(json.dumps({**content, 'check': {**check, name: value}}))
    with pytest.raises(InputError, match='move it away to have it made anew'):
        export.existing(folder, checkpoint)
    del check[name]
    path.write_text(json.dumps({**content, 'check': check}))
    with pytest.raises(InputError, match='move it away to have it made anew'):
        export.existing(folder, checkpoint)


# Mistakes ---------------------------------------------------------------------------------------

@pytest.mark.parametrize('arguments, message', [
    ([], 'name one of --format and --compare'),
    (['--format', 'frozen', '--compare'], 'name one of'),
    (['--compare', '--quantize', 'int8'], 'leave out'),
    (['--format', 'frozen', '--quantize', 'int8'],
     '--format frozen goes with --quantize none only; --quantize int8 is there for --format '
     'tflite')])
def test_options_that_do_not_go_together(bright, capsys, arguments, message):
    assert call(bright, *arguments) == 2
    assert message in error_of(capsys)


def test_no_run_and_no_checkpoint(bright, tmp_path, capsys):
    assert call(tmp_path / 'none', '--format', 'frozen') == 2
    assert 'options.json' in error_of(capsys)
    copy = shutil.copytree(bright, tmp_path / 'copy')
    shutil.rmtree(copy / 'checkpoints')
    assert call(copy, '--format', 'frozen') == 2
    assert 'no last checkpoint' in error_of(capsys)


@pytest.mark.parametrize('content', ['{"training": 7}', '{"validation": null}',
                                     '{"training": [1]}'])
def test_photographs_that_are_no_names(bright, tmp_path, capsys, content):
    copy = shutil.copytree(bright, tmp_path / 'copy')
    (copy / 'photographs.json').write_text(content)
    assert call(copy, '--format', 'frozen') == 2
    assert 'is no list of names' in error_of(capsys)


def test_two_at_once_do_not_mix(bright, data, tmp_path, capsys, monkeypatch):
    """The second one writes all its own while the first one does."""
    out, write, codes = tmp_path / 'out', export.WRITERS['frozen'], []

    def writing(frozen, part, *more):
        if not codes:
            codes.append(None)
            codes[0] = call(bright, '--format', 'frozen', '--out', out)
        assert not list(part.iterdir())
        return write(frozen, part, *more)

    monkeypatch.setitem(export.WRITERS, 'frozen', writing)
    assert call(bright, '--format', 'frozen', '--out', out) == 2 and codes == [0]
    assert f'{out} is there already' in error_of(capsys)
    assert list(tmp_path.iterdir()) == [out] and runtimes.read_metadata(out)


def test_the_photographs_have_been_moved(bright, data, tmp_path, capsys):
    assert call(bright, '--format', 'tflite', '--quantize', 'int8', '--data-dir',
                tmp_path / 'gone') == 2
    assert '--data-dir' in error_of(capsys)
    copy = shutil.copytree(bright, tmp_path / 'copy')
    there = next((data / 'data_road/training/image_2').iterdir()).relative_to(data).as_posix()
    (copy / 'photographs.json').write_text(json.dumps(
        {'training': [there, 'data_road/a.png'], 'validation': []}))
    assert call(copy, '--format', 'frozen') == 2
    assert '1 of 2 photographs are not in' in (line := error_of(capsys)) and '--data-dir' in line


def test_a_place_that_is_taken_or_no_folder(bright, tmp_path, capsys):
    (tmp_path / 'file').write_text('x')
    assert call(bright, '--format', 'frozen', '--out', tmp_path / 'file') == 2
    assert 'is there already' in error_of(capsys)
    assert call(bright, '--format', 'frozen', '--out', tmp_path / 'file' / 'below') == 2
    assert 'is a file; choose another' in error_of(capsys)
    assert (tmp_path / 'file').read_text() == 'x'


@pytest.mark.parametrize('error, code, says', [
    (tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating'), 2, 'out of memory while'),
    (tf.errors.ResourceExhaustedError(None, None, 'x: No space left on device'), 2,
     'cannot write'), (tf.errors.InvalidArgumentError(None, None, 'wrong shape'), None, '')])
def test_what_is_no_matter_of_the_disk_is_not_said_to_be(bright, tmp_path, monkeypatch, capsys,
                                                        error, code, says):
    def fail(*_):
        raise error

    monkeypatch.setitem(export.WRITERS, 'frozen', fail)
    if code is None:            # a fault of this project keeps its traceback
        with pytest.raises(tf.errors.InvalidArgumentError):
            call(bright, '--format', 'frozen', '--out', tmp_path / 'out')
    else:
        assert call(bright, '--format', 'frozen', '--out', tmp_path / 'out') == code
        assert says in error_of(capsys)


def test_too_little_memory_for_onnx_is_told_before(monkeypatch):
    graph_def = tf.GraphDef()
    graph_def.node.add(name='x' * 1000)
    for free, fits in ((39_000, False), (60_000, True), (None, True)):
        monkeypatch.setattr(export, 'free_memory', lambda free=free: free)
        with nullcontext() if fits else pytest.raises(InputError, match='39 kB are free'):
            export.check_memory_of_onnx(graph_def)


@pytest.mark.parametrize('form', ['frozen', 'savedmodel', 'tflite'])
def test_a_full_disk_leaves_nothing(run, tmp_path, capsys, form):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        code = call(run, '--format', form, '--out', tmp_path / 'out')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = error_of(capsys)
    assert code == 2 and 'cannot write' in line and 'too large' in line
    assert not list(tmp_path.iterdir())
