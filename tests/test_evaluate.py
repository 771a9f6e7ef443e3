"""The evaluation command, from a trained run to its table and the server's archive."""
import io
import json
import os
import runpy
import shutil
import zipfile
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
import tiny
from conftest import save_tiny_vgg
import roadseg
from roadseg import evaluate
from roadseg.commands import run_command
from roadseg.datasets import demo, kitti
from roadseg.errors import InputError
from roadseg.files import file_checksum, write_json
from roadseg.images import read_image
from roadseg.scoring import bev, road
from roadseg.training import checkpoints, preflight
from roadseg.training.run_folder import read_log, read_options, read_photographs
from roadseg.training.schedule import learning_rate_at

OPTIONS = ('--image-size', '32x96', '--epochs', '2', '--batch-size', '2', '--warmup', '5',
           '--learning-rate', '1e-2', '--precision', 'float32', '--freeze-blocks', '0')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    demo.write_scenes(folder, train=18, test=3, held_out=2, size=(47, 155))
    save_tiny_vgg(folder / 'vgg', fc_width=16)
    return folder


def train(data, runs, *arguments):
    assert run_command(main.main, ['--data-dir', str(data), '--runs-dir', str(runs), *OPTIONS,
                                   *arguments]) == 0
    return next(path for path in runs.iterdir() if path.is_dir())


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp('runs'), '--train', 'decoder')


@pytest.fixture(scope='module')
def quick(run, data, tmp_path_factory):
    """A run on the same photographs, whose network goes by brightness and takes no time."""
    folder = tiny.save_run(tmp_path_factory.mktemp('quick') / 'run', data_dir=str(data),
                           split='val3', precision='float32')
    shutil.copy(run / 'photographs.json', folder)
    assert evaluated(folder) == 0
    return folder


@pytest.fixture(scope='module')
def seven(data, tmp_path_factory):
    """A run of seven classes, in the layout of a folder of one's own."""
    folder = demo.write_scenes(tmp_path_factory.mktemp('seven'), train=12, test=0, held_out=1,
                               size=(47, 155), num_classes=7)
    return train(folder, tmp_path_factory.mktemp('runs'), '--dataset', 'folder', '--epochs', '50',
                 '--encoder', str(data / 'vgg'), '--max-steps', '2', '--train', 'decoder',
                 '--average-decay', '0')


def evaluated(*arguments):
    """Exit code of the command."""
    return run_command(evaluate.main, list(map(str, arguments)))


def error_of(capsys, *arguments):
    """The one line with which a command line is refused."""
    capsys.readouterr()
    assert evaluated(*arguments) == 2
    text = capsys.readouterr().err
    lines = text.splitlines()
    assert lines[-1].startswith('error: ') and 'Traceback' not in text
    return lines[-1]


def copy_of(run, folder, lay_in=None, **options):
    """A copy of a run, whose options say something else, and whose data lay in another place."""
    copy = Path(shutil.copytree(run, folder))
    content = json.loads((copy / 'options.json').read_text())
    content['options'].update(options)
    if lay_in:
        content['data']['folder'] = str(lay_in)
    (copy / 'options.json').write_text(json.dumps(content))
    return copy


def pictured(run):
    return json.loads((run / 'evaluation.json').read_text())


# Scores ---------------------------------------------------------------------------------------

def test_evaluation_repeats_what_the_training_said(run, capsys):
    before = pictured(run)
    assert evaluated(run) == 0
    after = pictured(run)
    assert before['split'] == after['split'] == 'val3'
    assert len(after['frames']) == 6
    for category in ('um', 'umm', 'uu', 'URBAN'):
        assert after['scores'][category]['MaxF'] == pytest.approx(
            before['scores'][category]['MaxF'], abs=0.2)
    assert 'URBAN' in capsys.readouterr().out


def test_training_leaves_scalars_pictures_and_the_graph_for_tensorboard(run):
    tags, graph = {}, False
    for path in (run / 'tensorboard').iterdir():
        for event in tf.train.summary_iterator(str(path)):
            graph = graph or event.HasField('graph_def')
            for value in event.summary.value:
                tags.setdefault(value.tag, []).append((event.step, value))
    assert graph
    log = read_log(run)
    for column in ('loss', 'learning_rate', 'val_maxf'):
        assert [step for step, _ in tags[column]] == [int(row['step']) for row in log]
        assert [value.simple_value for _, value in tags[column]] == pytest.approx(
            [float(row[column]) for row in log], rel=1e-5)
    panel = tags['held out/um_000079'][-1][1].image
    picture = imageio.imread(panel.encoded_image_string)
    assert picture.shape == (3 * 194, 640, 3)       # 47 x 155, widened to 640, one above the other
    assert (panel.height, panel.width, panel.colorspace) == (3 * 194, 640, 3)


def test_the_log_has_the_learning_rate_of_the_schedule(run):
    rows = read_log(run)
    assert [int(row['step']) for row in rows] == [6, 12]
    for row in rows:
        expected = learning_rate_at(int(row['step']) - 1, 12, 1e-2, 'cosine', 5)
        assert float(row['learning_rate']) == pytest.approx(expected, rel=1e-5)


def test_a_photograph_that_has_been_trained_on_is_told_though_the_split_says_otherwise(
        quick, tmp_path, capsys):
    """As where photographs have come since, and a share of them is held out."""
    copy = shutil.copytree(quick, tmp_path / 'copy')
    names = read_photographs(copy)
    names['training'].append(names['validation'][1])
    write_json(copy / 'photographs.json', names)
    # By a teacher's labels, what got its own ones later:
    photograph, = (path for path in Path(read_options(copy)['data_dir']).rglob('image_2/*')
                   if path.name == Path(names['validation'][0]).name)
    write_json(copy / 'pseudo_labels.json', {'photographs': [{'sha256': file_checksum(photograph)}]})
    assert evaluated(copy) == 0
    assert f"was trained on 2 of these {len(names['validation'])}" in capsys.readouterr().err


def test_all_photographs_are_scored_in_both_views_with_a_warning(quick, tmp_path, capsys):
    quick = copy_of(quick, tmp_path / 'copy')
    assert evaluated(quick, '--split', 'all', '--bev') == 0
    printed = capsys.readouterr()
    assert 'was trained on 12 of these 18' in printed.err
    assert "18 photographs, bird's-eye view" in printed.out
    content = pictured(quick)
    assert content['split'] == 'all' and content['bev']['frames'] == 18
    assert content['bev']['scores']['URBAN'] != content['scores']['URBAN']
    assert 'bird' in (quick / 'index.html').read_text()


def test_size_and_mirroring_can_be_other_than_in_the_training(quick):
    assert evaluated('--flip-test', '--test-scale', '1,1.5', quick) == 0
    other = pictured(quick)
    assert other['test_scale'] == [1, 1.5] and other['flip_test'] is True
    assert evaluated(quick) == 0
    assert pictured(quick)['test_scale'] == [1] and pictured(quick)['flip_test'] is False
    assert pictured(quick)['loss'] != other['loss']


def test_a_run_that_ends_early_without_test_photographs_is_complete(seven):
    assert [row['step'] for row in read_log(seven)] == ['2']
    for name in ('evaluation.json', 'index.html', 'checkpoints/step-000002'):
        assert (seven / name).exists()
    assert not (seven / 'overlays').exists()


def test_iou_of_each_class_and_the_confusion_are_in_log_and_tensorboard(seven):
    [row] = read_log(seven)
    names = pictured(seven)['classes']
    found = {f'val_iou_{name}' for name in names} & set(row)
    assert {'val_iou_road', 'val_iou_sky', 'val_road_iou', 'val_miou'} <= set(row)
    assert len(found) > 3 and row['val_iou_road'] == row['val_road_iou']
    [path] = (seven / 'tensorboard').iterdir()
    values = {value.tag: value for event in tf.train.summary_iterator(str(path))
              for value in event.summary.value}
    assert values['val_iou_sky'].simple_value == pytest.approx(float(row['val_iou_sky']), rel=1e-5)
    assert imageio.imread(values['confusion'].image.encoded_image_string).shape[0] == (
        values['confusion'].image.height)
    [panel] = [value.image for tag, value in values.items() if tag.startswith('held out/')][:1]
    assert panel.height == 4 * 194      # photograph, truth, prediction, confidence


def test_several_classes_are_scored_by_their_names(seven, capsys):
    assert evaluated(seven, '--split', 'kfold:3:1') == 0
    printed = capsys.readouterr()
    assert 'mIoU' in printed.out and 'road' in printed.out and 'photographs' in printed.err
    content = pictured(seven)
    assert len(content['detail']['confusion']) == 7 and content['split'] == 'kfold:3:1'


def test_the_benchmark_of_errors_tells_the_same_score(quick, seven, capsys):
    path = Path(evaluate.__file__).parents[1] / 'benchmarks/errors.py'
    command = runpy.run_path(str(path))['command']
    assert run_command(command, [str(quick)]) == 0
    held_out, = (line.split() for line in capsys.readouterr().out.splitlines()
                 if line.startswith('held out '))
    assert float(held_out[2]) == pytest.approx(pictured(quick)['scores']['URBAN']['MaxF'], abs=0.01)
    assert run_command(command, [str(seven)]) == 2
    assert 'of 7 classes' in capsys.readouterr().err


def test_the_benchmark_of_temperatures_leaves_the_order_of_the_pixels(quick, seven, capsys):
    path = Path(evaluate.__file__).parents[1] / 'benchmarks/temperature.py'
    benchmark = runpy.run_path(str(path))
    assert run_command(benchmark['command'], [str(quick)]) == 0
    rows = {row[0]: [float(value) for value in row[1:]]
            for row in (line.split() for line in capsys.readouterr().out.splitlines()[2:])}
    scores = pictured(quick)['scores']['URBAN']
    assert rows['1'][:2] == pytest.approx([scores['MaxF'], scores['AP']], abs=0.01)
    for max_f, average_precision, ten, last, _ in rows.values():
        assert max_f == pytest.approx(rows['1'][0], abs=0.5)        # but for 256 levels
        assert average_precision == pytest.approx((10 * ten + last) / 11, abs=0.01)
    assert rows['4'][-1] != rows['1'][-1]
    assert run_command(benchmark['command'], [str(seven)]) == 2
    assert 'of 7 classes' in capsys.readouterr().err

    probability = np.float32([0, 1e-6, 0.2, 0.5, 0.9, 1])
    softer = benchmark['tempered'](probability, 3)
    assert (np.diff(softer) > 0).all() and softer[3] == 0.5
    assert softer[4] == pytest.approx(9 ** (1 / 3) / (1 + 9 ** (1 / 3)), abs=1e-6)


def test_a_damaged_log_is_told_before_anything_is_scored(quick, tmp_path, capsys):
    spoilt = copy_of(quick, tmp_path / 'copy')
    before = (spoilt / 'evaluation.json').stat().st_mtime_ns
    (spoilt / 'log.csv').write_bytes(b'\xff\xfe no table')
    assert 'log.csv' in error_of(capsys, quick, spoilt)
    assert (spoilt / 'evaluation.json').stat().st_mtime_ns == before


# Several runs ---------------------------------------------------------------------------------

def test_folds_are_pooled_over_their_runs(quick, tmp_path, capsys):
    folds = [copy_of(quick, tmp_path / str(fold), split=f'kfold:2:{fold}') for fold in range(2)]
    for fold in folds:
        (fold / 'photographs.json').unlink()    # those of the quick that it is a copy of
    assert evaluated(*folds, '--split', 'kfold:2') == 0
    printed = capsys.readouterr()
    assert '18 photographs, perspective' in printed.out
    assert 'was trained on' not in printed.err and 'differ' not in printed.err
    assert [pictured(fold)['split'] for fold in folds] == ['kfold:2:0', 'kfold:2:1']
    losses = [pictured(fold)['loss'] for fold in folds]
    assert min(losses) < float(printed.out.split('cross entropy ')[1].split(',')[0]) < max(losses)


def test_runs_of_several_seeds_give_mean_and_deviation_and_their_differences_are_named(
        quick, tmp_path, capsys):
    other = copy_of(quick, tmp_path / 'other', epochs=7, image_size=[32, 96])
    assert evaluated(quick, other) == 0
    printed = capsys.readouterr()
    assert 'mean of 2 runs' in printed.out and 'sample standard deviation' in printed.out
    differing = [line for line in printed.err.splitlines() if 'differ' in line]
    assert differing == [f'warning: the runs differ in --epochs: {quick}: 40; {other}: 7']


def test_runs_of_several_data_sets_are_refused(quick, seven, tmp_path, capsys):
    message = error_of(capsys, quick, seven)
    for piece in ('--dataset is', f'{quick}: kitti', f'{seven}: folder'):
        assert piece in message
    # two classes are KITTI's own
    typed = copy_of(quick, tmp_path / 'typed', classes=2)
    assert evaluated(quick, typed, '--split', 'kfold:5') == 2
    assert 'several data sets' not in capsys.readouterr().err


def test_runs_that_make_no_common_table_are_refused_before_anything_is_scored(
        quick, data, seven, tmp_path, capsys):
    folds = [copy_of(quick, tmp_path / name, split=split) for name, split in (
        ('a', 'kfold:2:0'), ('b', 'kfold:2:0'), ('c', 'kfold:2:1'))]
    others = {'moved': data, 'changed': data, 'fewer': json.loads((seven / 'options.json').read_text())['options']['data_dir']}
    for name, folder in list(others.items()):
        others[name] = shutil.copytree(folder, tmp_path / 'data' / name)
    for photograph in others['changed'].glob('data_road/training/image_2/*'):
        imageio.imwrite(photograph, 255 - imageio.imread(photograph))
    content = json.loads((others['fewer'] / 'classes.json').read_text())
    content['names'][0] = 'street'
    (others['fewer'] / 'classes.json').write_text(json.dumps(content))
    other_names = list(content['names'])
    moved, changed = (copy_of(quick, tmp_path / name, data_dir=str(others[name]))
                      for name in ('moved', 'changed'))
    renamed = copy_of(seven, tmp_path / 'renamed', data_dir=str(others['fewer']))
    assert 'started with the classes' in error_of(capsys, renamed)
    made = json.loads((renamed / 'options.json').read_text())
    made['data']['classes'] = other_names
    (renamed / 'options.json').write_text(json.dumps(made))
    for runs, message in (((quick, changed), 'different photographs of the same name'),
                          ((seven, renamed), 'know different classes'),
                          (folds, 'of which they share some')):
        before = [pictured(one) for one in runs]
        shutil.rmtree(runs[0] / 'validation', ignore_errors=True)
        assert message in error_of(capsys, *runs, *(['--split', 'kfold:2'] if runs == folds
                                                    else []))
        assert [pictured(one) for one in runs] == before
        assert not (runs[0] / 'validation').exists()
    assert evaluated(quick, moved) == 0


def test_a_split_that_holds_nothing_out(run, capsys):
    for more in ([], ['--bev']):
        assert '--split none holds no photograph out' in error_of(capsys, run, '--split', 'none',
                                                                  *more)


def test_a_run_that_is_named_twice(run, tmp_path, capsys):
    """Their deviation would be 0."""
    (tmp_path / 'link').symlink_to(run)
    for other in (f'{run}/', tmp_path / 'link'):
        assert 'named twice' in error_of(capsys, run, other)


def test_every_run_is_looked_at_before_the_first_is_scored(quick, seven, tmp_path, capsys):
    """Which takes minutes."""
    whole = copy_of(quick, tmp_path / 'whole')
    before = (whole / 'evaluation.json').stat().st_mtime_ns
    empty = copy_of(quick, tmp_path / 'empty')
    shutil.rmtree(empty / 'checkpoints')
    assert 'no last checkpoint' in error_of(capsys, whole, empty)
    other = copy_of(quick, tmp_path / 'other', split='kfold:2:1')
    assert 'was trained with --split val3' in error_of(capsys, other, whole, '--split', 'kfold:2')
    assert (whole / 'evaluation.json').stat().st_mtime_ns == before


def test_a_network_that_has_diverged_is_one_line(run, tmp_path, capsys):
    """Its weights are finite, and too large; those that are not are never saved."""
    copy = copy_of(run, tmp_path / 'copy')
    *earlier, path = checkpoints.saved(copy)
    for folder in earlier:
        shutil.rmtree(folder)
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        tf.train.import_meta_graph(str(path / 'model.meta'))
        saver = tf.train.Saver()
        saver.restore(sess, str(path / 'model'))
        for variable in graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES):
            if 'score7' in variable.op.name and variable.dtype.is_floating:
                variable.load(np.full(variable.shape, 1e38), sess)
        saver.save(sess, str(path / 'model'), write_meta_graph=False)
    content = json.loads((path / 'progress.json').read_text())
    content['files'] = {name: file_checksum(path / name) for name in content['files']}
    del content['checksum']
    content['checksum'] = checkpoints._checksum(content)
    (path / 'progress.json').write_text(json.dumps(content))
    assert 'has diverged' in error_of(capsys, copy)


# Splits ---------------------------------------------------------------------------------------

def test_a_run_that_was_not_trained_for_the_folds(run, capsys):
    assert 'was trained with --split val3' in error_of(capsys, run, '--split', 'kfold:3')


@pytest.mark.parametrize('split', ['val', 'test', 'held-out', '', 'kfold:²:1', 'kfold:2:2',
                                   f"kfold:{'9' * 400}", 'tail:inf', 'kfold', 'All', 'kfold:x'])
def test_a_split_that_the_data_set_lacks(run, capsys, split):
    message = error_of(capsys, run, '--split', split)
    assert split[:20] in message and ('val3, search, kfold:K:I' in message
                                      or 'was trained with' in message)
    assert len(message) < 400


# Bad folders ----------------------------------------------------------------------------------

def test_missing_calibration_is_told(quick, data, tmp_path, capsys):
    copy = tmp_path / 'data'
    shutil.copytree(data, copy)
    for path in sorted((copy / 'data_road/training/calib').glob('*.txt'))[1:]:
        path.unlink()
    assert evaluated(quick, '--data-dir', copy, '--bev', '--split', 'all') == 0
    assert 'without 17 of 18 photographs' in capsys.readouterr().err
    message = error_of(capsys, quick, '--data-dir', copy, '--bev')
    assert 'none of 6 photographs has a calibration' in message


def test_malformed_calibration(run, data, tmp_path, capsys):
    copy = tmp_path / 'data'
    shutil.copytree(data, copy)
    path = copy / 'data_road/training/calib/um_000079.txt'
    path.write_text(path.read_text().replace('R0_rect', 'R1_rect'))
    assert 'um_000079.txt' in error_of(capsys, run, '--data-dir', copy, '--bev')


def test_birds_eye_view_is_of_road_in_photographs_with_a_camera(seven, tmp_path, capsys):
    """Calibrations beside photographs of seven classes do not make one either."""
    message = error_of(capsys, seven, '--bev')
    assert '--bev' in message and 'road' in message and '7 classes' in message


def test_bad_folders(run, data, tmp_path, capsys, monkeypatch, nowhere):
    monkeypatch.setattr(kitti, 'URL', nowhere)
    assert 'options.json' in error_of(capsys, tmp_path)
    empty = tmp_path / 'empty'
    (empty / 'data_road/training/image_2').mkdir(parents=True)
    assert 'holds no training photographs' in error_of(capsys, run, '--data-dir', empty)
    unlabelled = tmp_path / 'unlabelled'
    shutil.copytree(data, unlabelled)
    labels = unlabelled / 'data_road/training/gt_image_2'
    for path in sorted(labels.iterdir())[1:]:
        path.unlink()
    assert 'have no road label' in error_of(capsys, run, '--data-dir', unlabelled)
    shutil.rmtree(labels)
    assert 'holds no road labels' in error_of(capsys, run, '--data-dir', unlabelled)
    stripped = copy_of(run, tmp_path / 'stripped')
    shutil.rmtree(stripped / 'checkpoints')
    assert 'no last checkpoint' in error_of(capsys, stripped)


def test_data_that_have_moved_are_asked_for_and_not_downloaded(run, tmp_path, capsys, monkeypatch,
                                                               nowhere):
    """As where the command is called from another folder than the training."""
    monkeypatch.setattr(kitti, 'URL', nowhere)
    moved = copy_of(run, tmp_path / 'moved', tmp_path / 'gone', data_dir='data')
    monkeypatch.chdir(tmp_path)
    for arguments in ((), ('--data-dir', 'tpyo')):
        message = error_of(capsys, moved, *arguments)
        assert (arguments[-1] if arguments else 'data') in message and '--data-dir' in message
        assert nowhere not in message
    assert [path.name for path in tmp_path.iterdir()] == ['moved']


def test_other_photographs_of_ones_own_are_scored_where_their_folder_is_named(
        run, data, tmp_path, capsys):
    other = shutil.copytree(data, tmp_path / 'other')
    for folder in ('image_2', 'gt_image_2'):
        for path in (other / 'data_road/training' / folder).iterdir():
            kind, *rest = path.name.split('_')
            path.rename(path.with_name('_'.join([kind, *rest[:-1], '9' + rest[-1][1:]])))
    copy = copy_of(run, tmp_path / 'run')       # held out: two, of val3, of which none is there
    assert evaluated(copy, '--data-dir', other, '--split', 'all') == 0
    assert 'was trained on' not in capsys.readouterr().err


def test_a_data_folder_without_the_photographs_is_told_and_nothing_is_downloaded(
        run, tmp_path, capsys, monkeypatch):
    """Such as the `data` of a fresh checkout."""
    monkeypatch.setattr(evaluate.catalogue, 'load', pytest.fail)
    copy = copy_of(run, tmp_path / 'run', tmp_path / 'gone', data_dir=str(tmp_path / 'data'))
    (tmp_path / 'data').mkdir()
    message = error_of(capsys, copy)
    assert 'name the folder that they are in with --data-dir' in message and 'none of the' in message


def test_another_folder_without_the_data_set_gets_none(run, tmp_path, capsys, monkeypatch, nowhere):
    monkeypatch.setattr(kitti, 'URL', nowhere)
    (tmp_path / 'empty').mkdir()
    assert 'empty holds none of data_road' in error_of(
        capsys, run, '--data-dir', tmp_path / 'empty')
    assert not list((tmp_path / 'empty').iterdir())


def test_no_scenes_are_drawn_where_those_of_other_classes_are(tmp_path):
    (tmp_path / 'data_road').mkdir()
    evaluate.catalogue.check_there('demo', tmp_path)
    evaluate.catalogue.check_there('demo', tmp_path, 2)
    with pytest.raises(InputError, match='holds none of scenes7'):
        evaluate.catalogue.check_there('demo', tmp_path, 7)


def test_from_another_folder_the_data_are_found_where_they_lay(run, data, tmp_path, monkeypatch):
    copy = copy_of(run, tmp_path / 'run', data, data_dir='data')
    (tmp_path / 'elsewhere/data').mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'elsewhere')
    assert evaluated(copy) == 0
    assert list((tmp_path / 'elsewhere').rglob('*')) == [tmp_path / 'elsewhere/data']


def test_a_test_scale_beyond_the_memory_is_refused(run, capsys, monkeypatch):
    monkeypatch.setattr(preflight, 'available_memory', lambda sess: 2**28 + 2**20)
    message = error_of(capsys, run, '--test-scale', '1,8')
    assert 'out of memory' in message and '--test-scale 8' in message


@pytest.mark.parametrize('argv', [
    ['--test-scale', '100'], ['--test-scale', '²'], ['--test-scale', 'inf'],
    ['--checkpoint', 'first'], ['--bach'], []])
def test_bad_command_lines(capsys, argv):
    with pytest.raises(SystemExit) as leaving:
        evaluated(*(['run', *argv] if argv else []))
    assert leaving.value.code == 2
    error, = capsys.readouterr().err.splitlines()
    assert error.startswith('error: ') and 'see python -m roadseg.evaluate --help' in error


# Submissions ----------------------------------------------------------------------------------

def test_submission_is_what_the_server_takes(quick, data, tmp_path):
    target = tmp_path / 'submission.zip'
    assert evaluated(quick, '--submission', target) == 0
    testing = data / 'data_road/testing'
    with zipfile.ZipFile(target) as archive, roadseg.load(quick) as model:
        assert sorted(archive.namelist()) == [
            'um_road_000000.png', 'umm_road_000000.png', 'uu_road_000000.png']
        for name in archive.namelist():
            found = imageio.imread(io.BytesIO(archive.read(name)))
            assert found.shape == (800, 400) and found.dtype == np.uint8
            stem = name.replace('_road_', '_')[:-4]
            probability = model.predict(read_image(testing / f'image_2/{stem}.png'))[..., 1]
            expected, _ = bev.to_bev(road.confidence(probability),
                                     bev.read_calibration(testing / f'calib/{stem}.txt'))
            assert found.min() < found.max()
            assert np.abs(np.int16(found) - expected).max() <= 1


def test_submission_names_missing_calibrations_and_writes_nothing(quick, data, tmp_path, capsys):
    copy = tmp_path / 'data'
    shutil.copytree(data, copy)
    (copy / 'data_road/testing/calib/umm_000000.txt').unlink()
    target = tmp_path / 'submission.zip'
    error = error_of(capsys, quick, '--data-dir', copy, '--submission', target)
    assert '1 of 3 are missing' in error and 'umm_000000' in error
    assert not target.exists()


@pytest.mark.parametrize('name', ['street.png', 'um_12b.png', 'um_²²².png', 'bike_000000.png'])
def test_submission_of_other_names_is_refused(quick, data, tmp_path, capsys, name):
    copy = tmp_path / 'data'
    shutil.copytree(data, copy)
    for kind, suffix in (('image_2', '.png'), ('calib', '.txt')):
        place = copy / 'data_road/testing' / kind
        (place / f'um_000000{suffix}').rename(place / (name[:-4] + suffix))
    error = error_of(capsys, quick, '--data-dir', copy, '--submission', tmp_path / 'a.zip')
    assert name in error and 'um_000012.png' in error


@pytest.mark.parametrize('target', ['there', 'there.zip', 'nowhere/a.zip', 'file/a.zip', 'file', '',
                                    'x' * 300 + '.zip', 'dangling.zip'])
def test_submission_that_cannot_be_written_is_refused_at_once(run, tmp_path, capsys, monkeypatch,
                                                               target):
    monkeypatch.setattr(evaluate, 'open_dataset', pytest.fail)
    for name in ('there', 'there.zip'):
        (tmp_path / name).mkdir()
    (tmp_path / 'file').write_text('')
    (tmp_path / 'dangling.zip').symlink_to(tmp_path / 'not/there')
    error = error_of(capsys, run, '--submission', os.path.join(tmp_path, target))
    assert str(tmp_path / target) in error
    assert 'cannot write' in error or 'is a link to' in error


def test_submission_of_a_data_set_without_a_server_is_refused(seven, run, tmp_path, capsys):
    error = error_of(capsys, seven, '--submission', tmp_path / 'a.zip')
    assert 'no server' in error and 'KITTI Road and Cityscapes' in error
    for more in (['--bev'], ['--split', 'all']):
        error = error_of(capsys, run, '--submission', tmp_path / 'a.zip', *more)
        assert 'leave --split and --bev out' in error
    assert 'cannot write' in error_of(capsys, run, '--submission', '')
    assert 'cannot write' in error_of(capsys, run, '--submission',
                                      tmp_path / ('x' * 300) / 'a.zip')
    assert '--submission takes one run' in error_of(capsys, run, run, '--submission', 'a.zip')


def test_a_kill_while_it_scores_leaves_no_scores_of_another_network(quick, tmp_path, monkeypatch):
    copy = copy_of(quick, tmp_path / 'run')

    def end(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate.score, 'score', end)
    assert (copy / 'evaluation.json').exists()
    assert evaluated(copy, '--test-scale', '2') == 130
    assert not (copy / 'evaluation.json').exists()
