"""The folder of a run: made at once, locked, and checked against what a resumed run finds."""
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from roadseg import signals
from roadseg.errors import InputError
from roadseg.files import write_json
from roadseg.scoring import road
from roadseg.training import options as training_options
from roadseg.training import run_folder
from roadseg.training.run_folder import read_log

ROOT = Path(__file__).parents[1]


def start(code):
    """Runs Python in another process, which has said its first line when this returns."""
    process = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.first = process.stdout.readline()
    return process


# Making it ------------------------------------------------------------------------------------

def test_new_run_has_all_its_content_at_once(tmp_path):
    seen = []

    def fill(folder):
        (folder / 'options.json').write_text('{}')
        seen.extend(path.name for path in (tmp_path / 'runs').glob('[!.]*'))

    folder = run_folder.new_run_folder(tmp_path / 'runs', fill)
    assert seen == [] and list((tmp_path / 'runs').iterdir()) == [folder]
    assert [path.name for path in folder.iterdir()] == ['options.json']


@pytest.mark.parametrize('failure', [InputError('full'), KeyboardInterrupt(), OSError(28, 'full')])
def test_run_that_cannot_be_made_leaves_nothing(tmp_path, failure):
    def fill(folder):
        (folder / 'options.json').write_text('{}')
        raise failure

    expected = InputError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        run_folder.new_run_folder(tmp_path, fill)
    assert not list(tmp_path.iterdir())


def test_what_killed_processes_left_is_swept_after_an_hour(tmp_path):
    for name, age in (('.run.old.part', 4000), ('.run.new.part', 10)):
        (tmp_path / name / 'checkpoints').mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    folder = run_folder.new_run_folder(tmp_path, lambda folder: None)
    assert {path.name for path in tmp_path.iterdir()} == {'.run.new.part', folder.name}


def test_two_runs_of_a_second_and_names_that_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.time, 'strftime', lambda form: 'now')
    (tmp_path / 'now').write_text('a file')
    folders = [run_folder.new_run_folder(tmp_path, lambda new: (new / 'options.json').touch())
               for _ in range(2)]
    assert [folder.name for folder in folders] == ['now-2', 'now-3']
    assert run_folder.new_folder(tmp_path).name == 'now-4'


def test_runs_folder_that_is_a_file(tmp_path):
    (tmp_path / 'runs').touch()
    with pytest.raises(InputError, match='cannot write .*runs'):
        run_folder.new_run_folder(tmp_path / 'runs', lambda folder: None)


# The lock -------------------------------------------------------------------------------------

HOLD = """
from roadseg.training.run_folder import locked
with locked({run!r}):
    print('locked', flush=True)
    input()
"""


@pytest.mark.parametrize('name', ['run', 'a[1]*?\n\\', 'link'])
def test_run_is_locked_until_its_process_ends(tmp_path, name):
    (tmp_path / 'run').mkdir()
    if name == 'link':
        (tmp_path / name).symlink_to('run')
    run = tmp_path / name
    run.mkdir(exist_ok=True)
    process = subprocess.Popen([sys.executable, '-c', HOLD.format(run=str(run))], cwd=ROOT,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(InputError) as caught, run_folder.locked(run.resolve()):
        pass
    assert str(caught.value).startswith(f'{run.resolve()} is being trained by another process; ')
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with run_folder.locked(run):
        pass
    with run_folder.locked(run):        # and let go of at the end
        pass


def test_nothing_to_lock():
    with run_folder.locked(None):
        pass


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP,
                                    errno.ENOTSUP])
def test_disk_without_locks_is_a_warning(tmp_path, monkeypatch, capsys, number):
    fcntl = pytest.importorskip('fcntl')

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, 'flock', refuse)
    with run_folder.locked(tmp_path):
        pass
    assert capsys.readouterr().err.count('knows no locks') == 1


def test_folder_that_cannot_be_locked(tmp_path):
    (tmp_path / '.lock').mkdir()
    with pytest.raises(InputError, match=r'cannot write .*\.lock: .*folder'):
        with run_folder.locked(tmp_path):
            pass


# Signals --------------------------------------------------------------------------------------

WAIT = """
import signal, sys, time
from roadseg.commands import run_command
from roadseg import signals
def command(argv):
    with signals.as_ctrl_c():
        {body}
print('ready', flush=True) if {ready} else None
sys.exit(run_command(command))
"""
AT_ONCE = "print('ready', flush=True); time.sleep(30)"
STOPPING = """
        with signals.stopping() as stopped:
            print('ready', flush=True)
            for step in range(3000):
                time.sleep(.01)
                if stopped():
                    raise KeyboardInterrupt('saved')
"""
TWICE = """
        with signals.stopping() as stopped:
            print('ready', flush=True)
            while not stopped():
                time.sleep(.01)
            time.sleep(.3)      # in which a second request would end it at once
            raise KeyboardInterrupt('saved')
"""
UNWINDING = """
        try:
            print('ready', flush=True)
            time.sleep(30)
        finally:
            time.sleep(.3)      # where a second request would stop it
            print('cleared up', file=sys.stderr)
"""
DEAF = """
        with signals.stopping() as stopped:
            print('ready', flush=True)
            time.sleep(30)
"""


def test_what_clears_up_is_not_stopped_by_the_same_request():
    process = start(WAIT.format(body=UNWINDING, ready=False))
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and error.splitlines() == ['cleared up', 'stopped']


@pytest.mark.parametrize('number', signals.STOPPING)
@pytest.mark.parametrize('body, count, message', [
    (AT_ONCE, 1, 'stopped'), (STOPPING, 1, 'saved'), (DEAF, 2, 'stopped')])
def test_signals_end_a_command_as_ctrl_c_does(number, body, count, message):
    process = start(WAIT.format(body=body, ready=False))
    process.send_signal(number)
    if count == 2:
        # On a busy machine the first may be heard late.
        assert any('once more' in line for line in iter(process.stderr.readline, ''))
        time.sleep(signals.ONE_REQUEST + .2)
        process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and error.splitlines()[-1] == message
    assert 'Traceback' not in error


def test_one_request_that_comes_in_two_ways_is_one():
    """To all processes of a group, and handed on by the one that started them."""
    process = start(WAIT.format(body=TWICE, ready=False))
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert error.splitlines()[-1] == 'saved' and error.count('stopping after this step') == 1


def test_signal_that_is_ignored_stays_so():
    """As with `nohup`: the terminal is closed, and the run goes on."""
    process = start("""
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from roadseg import signals
with signals.as_ctrl_c(), signals.stopping() as stopped:
    os.kill(os.getpid(), signal.SIGHUP)
    print('stopped' if stopped() else 'goes on')
""")
    assert process.first == 'goes on\n', process.communicate()


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in signals.STOPPING]
    with signals.as_ctrl_c(), signals.stopping() as stopped:
        assert not stopped()
    assert [signal.getsignal(number) for number in signals.STOPPING] == before


# options.json ---------------------------------------------------------------------------------

@pytest.mark.parametrize('content, message', [
    ('{"options": [1]}', "'options' is a list, expected an object"),
    ('{"options": {"epochs": 5}, "data": "kitti"}', "'data' is a str, expected an object"),
    ('{"options": {"epochs": 5}, "model": null}', "'model' is a NoneType, expected an object"),
    ('{"data": {}}', "has no 'options'"),
    ('[' * 99_999, 'is not JSON'),
    ('{"options": {"epochs": 5}', 'is not JSON'),
    ('', 'is not JSON'),
])
def test_damaged_options_are_one_line(tmp_path, content, message):
    (tmp_path / 'options.json').write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        run_folder.read_options(tmp_path)
    assert str(tmp_path / 'options.json') in str(caught.value) and '\n' not in str(caught.value)


def test_classes_that_would_share_a_column_of_the_log_get_numbers():
    assert run_folder.class_columns(('sky', 'Road', 'road', 'a b', 'a_b')) == [
        'val_iou_sky', 'val_iou_road_1', 'val_iou_road_2', 'val_iou_a_b_3', 'val_iou_a_b_4']
    assert run_folder.class_columns(('a b', 'a_b', 'a b 0')) == [
        'val_iou_a_b_0_', 'val_iou_a_b_1', 'val_iou_a_b_0']


def test_folder_without_options(tmp_path):
    with pytest.raises(InputError, match='options.json: no such file or folder; name the folder'):
        run_folder.read_options(tmp_path)


@pytest.mark.parametrize('missing, expected', [
    ('encoder', None), ('classes', None), ('class_weights', 'none'), ('save_minutes', 10.0),
    ('flip_test', False)])
def test_a_run_that_is_older_than_an_option_goes_on_with_its_default(tmp_path, missing, expected):
    saved = vars(training_options.parse_args(['--dataset', 'camvid', '--score-channels', '7']))
    del saved[missing]
    write_json(tmp_path / 'options.json', {'options': saved})
    assert getattr(training_options.parse_args(['--resume', str(tmp_path)]), missing) == expected


def test_software_of_other_wheels_and_of_a_zip_file(monkeypatch):
    def missing(_):
        raise run_folder.PackageNotFoundError

    monkeypatch.setattr(run_folder, 'version', missing)
    monkeypatch.setattr(subprocess, 'run', lambda *_, **__: SimpleNamespace(returncode=128,
                                                                          stdout=''))
    software = run_folder.describe_software()
    assert software['versions']['tensorflow'] is None
    assert software['commit'] is None and software['uncommitted_changes'] is None


def test_software_is_described():
    described = run_folder.describe_software()
    assert described['versions'].keys() >= {'python', 'tensorflow', 'numpy'}


# What it was trained on -----------------------------------------------------------------------

NAMES = [f'um_{number:06d}' for number in range(7)]


class World:
    """A run that was started, and data and encoder to go on with."""

    interrupt = None

    def __init__(self, folder):
        self.data, self.encoder = folder / 'data', folder / 'encoder'
        self.encoder.mkdir()
        (self.encoder / 'saved_model.pb').write_bytes(b'graph')
        self.training, self.validation, self.tests = NAMES[:4], NAMES[4:], ['a', 'b']
        self.classes = ('not road', 'road')
        options = SimpleNamespace(resume=None, runs_dir=folder / 'runs', data_dir=self.data,
                                  unlabelled='more')
        dataset, training, validation = self.found()
        setting = SimpleNamespace(hardware=SimpleNamespace(name='CPU'), dataset=dataset,
                                  training=training, validation=validation, encoder=self.encoder)
        with run_folder.start_run(
                options, setting, SimpleNamespace(parameters=5, gflop_per_image=1.5),
                lambda new: (new / 'checkpoints').mkdir()) as self.run:
            if self.interrupt:
                raise self.interrupt

    def found(self):
        dataset = SimpleNamespace(
            title='KITTI Road', classes=self.classes, palette=((255, 0, 0), (0, 255, 0)), road=1,
            measures=road, tests=self.tests)
        return (dataset, *([(Path(self.data) / 'image_2' / f'{name}.png', None) for name in names]
                           for names in (self.training, self.validation)))

    def check(self):
        run_folder.check_same(self.run, self.data, *self.found(), self.encoder)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_run_says_what_made_it(world):
    made = run_folder.read_run(world.run)
    assert made['data'] == {
        'folder': str(world.data), 'unlabelled': os.path.abspath('more'),
        'title': 'KITTI Road', 'classes': ['not road', 'road'],
        'palette': [[255, 0, 0], [0, 255, 0]], 'road': 1, 'best': 'val_maxf', 'training': 4,
        'validation': 3, 'testing': 2}
    assert made['model']['encoder'] == str(world.encoder)
    assert made['model']['encoder_sha256'] == run_folder.checksum(world.encoder)
    assert len(made['id']) == 16
    assert json.loads((world.run / 'photographs.json').read_text())['validation'] == [
        'image_2/um_000004.png', 'image_2/um_000005.png', 'image_2/um_000006.png']


@pytest.mark.parametrize('interrupt, message', [
    (KeyboardInterrupt(), r"stopped; go on with python main.py --resume '/.*/a b/runs/2.*'"),
    (KeyboardInterrupt('saved'), 'saved')])
def test_interrupted_run_says_how_to_go_on(tmp_path, monkeypatch, interrupt, message):
    (tmp_path / 'a b').mkdir()
    monkeypatch.setattr(World, 'interrupt', interrupt)
    with pytest.raises(KeyboardInterrupt, match=f'^{message}$'):
        World(tmp_path / 'a b')


def test_the_same_goes_on(world, tmp_path, capsys):
    world.check()
    world.data = tmp_path / 'elsewhere'
    world.run = world.run.rename(tmp_path / 'moved')
    world.check()
    run_folder.check_same(None, world.data, *world.found(), world.encoder)
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('use, names, message', [
    ('training', NAMES[:3], r'training: 1 of 4 missing, the first being image_2/um_000003.png\)'),
    ('training', [*NAMES[:4], 'x'], r'training: 1 of 5 new, the first being image_2/x.png\)'),
    ('training', ['y', 'x', *NAMES[2:4]], 'training: 2 of 4 missing, the first being image_2/'
                                          'um_000000.png, 2 of 4 new, the first being image_2/x'),
    ('validation', NAMES[:4:-1] + NAMES[4:5], 'validation: in another order'),
    ('validation', [], 'validation: 3 of 3 missing')])
def test_other_photographs_are_refused(world, use, names, message):
    setattr(world, use, names)
    with pytest.raises(InputError, match='was started with other photographs .*' + message):
        world.check()


def test_other_test_photographs_are_a_warning(world, capsys):
    world.tests = ['a', 'b', 'c']
    world.check()
    assert 'warning: there are 3 test photographs, there were 2 when' in capsys.readouterr().err


def test_other_classes_are_refused(world):
    world.classes = ('ground', 'road')
    with pytest.raises(InputError, match='the classes not road, road, found ground, road; put'):
        world.check()


@pytest.mark.parametrize('change', [
    lambda folder: (folder / 'saved_model.pb').write_bytes(b'another graph'),
    lambda folder: (folder / 'saved_model.pb').rename(folder / 'x.pb'),
    lambda folder: (folder / 'variables').write_bytes(b'')])
def test_another_encoder_is_refused(world, change):
    change(world.encoder)
    with pytest.raises(InputError, match='from another encoder: .*encoder has the checksum'):
        world.check()


def test_fingerprint_of_an_encoder_does_not_matter(world):
    for name in ('fingerprint.pb', '.DS_Store', 'Thumbs.db'):
        (world.encoder / name).write_bytes(b'drawn by chance, or by a file manager')
    world.check()


def test_run_without_its_list_of_photographs(world):
    (world.run / 'photographs.json').unlink()
    with pytest.raises(InputError, match='has no photographs.json; take the file from a backup'):
        world.check()


@pytest.mark.parametrize('content, message', [
    ('{"training": "x"}', "photographs.json: 'training' is no list of names"),
    ('{"training": [[]], "validation": null}', "photographs.json: 'training' is no list of names"),
    ('[]', 'photographs.json holds a list')])
def test_edited_photographs_are_one_line(world, content, message):
    (world.run / 'photographs.json').write_text(content)
    with pytest.raises(InputError, match=message):
        world.check()


@pytest.mark.parametrize('classes', [3, 'road', [], [['a'] * 500], {'a': 1}])
def test_edited_classes_are_one_line(world, classes):
    made = json.loads((world.run / 'options.json').read_text())
    made['data']['classes'] = classes
    write_json(world.run / 'options.json', made)
    with pytest.raises(InputError, match='found not road, road') as caught:
        world.check()
    assert len(str(caught.value)) < 400


def test_what_a_kill_left_in_a_run_is_swept(tmp_path):
    left = [tmp_path / name for name in ('.log.csv.ab.part', 'overlays/.a.png.cd.part',
                                         'checkpoints/step-000003.part/model')]
    kept = [tmp_path / name for name in ('log.csv', 'overlays/a.png', 'exports/.onnx.ef.part',
                                         'checkpoints/step-000003/model')]
    for path in (*left, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run_folder._sweep(tmp_path)
    assert not any(path.exists() for path in left) and all(path.exists() for path in kept)
    assert not left[2].parent.exists()


# log.csv --------------------------------------------------------------------------------------

def test_log_is_read_as_it_was_written(tmp_path):
    assert run_folder.read_log(tmp_path) == []
    columns = run_folder.log_columns(['MaxF', 'road IoU'])
    assert columns[-3:] == ('val_loss', 'val_maxf', 'val_road_iou')
    run_folder.write_log(tmp_path, [
        {'epoch': 1, 'step': 5, 'loss': 0.25, 'val_maxf': float('nan'), 'val_road_iou': None},
        {'epoch': '2', 'step': '10', 'val_earlier_measure': '3.5', 'val_loss': float('inf')}],
        columns)
    rows = run_folder.read_log(tmp_path)
    assert [(row['epoch'], row['step'], row['loss'], row['val_maxf'], row['val_road_iou'],
             row['val_loss'], row['val_earlier_measure']) for row in rows] == [
        ('1', '5', '0.25', '', '', '', ''), ('2', '10', '', '', '', '', '3.5')]
    run_folder.write_log(tmp_path, rows, columns)
    assert run_folder.read_log(tmp_path) == rows
    log = tmp_path / 'log.csv'
    log.write_bytes(b'\xef\xbb\xbf' + log.read_bytes())        # as spreadsheets save it
    assert run_folder.read_log(tmp_path) == rows


@pytest.mark.parametrize('content, message', [
    ('', "has no column 'epoch'"),
    ('epoch;step;loss\n1;5;1\n', "has no column 'epoch'"),
    ('epoch,step,loss\n1,x,1\n', "line 2: step is 'x', expected a whole number"),
    ('epoch,step,loss\n1,5,1\n-2,5,1\n', "line 3: epoch is '-2', expected a whole number"),
    ('epoch,step,loss\n1.5,5,1\n', "line 2: epoch is '1.5', expected a whole number"),
    ('epoch,step,loss\n²,5,1\n', "line 2: epoch is '²', expected a whole number"),
    ('epoch,step,loss\n1,' + '9' * 5000 + ',1', 'line 2: step is .*expected a whole number'),
    ('epoch,step,loss\n1,5,low\n', "line 2: loss is 'low', expected a number"),
    ('epoch,step,loss\n1\n', 'line 2: 1 values in 3 columns'),
    ('epoch,step,loss\n1,5,6,7\n', 'line 2: 4 values in 3 columns'),
    ('epoch,step\n1,5\n', "has no column 'loss'"),
    ('epoch,step\n1,"5' + 'x' * 200_000, 'is no table'),
    (b'epoch,step\n\xff,1\n', 'is no table'),
])
def test_damaged_log_is_one_line(tmp_path, content, message):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / 'log.csv').write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        run_folder.read_log(tmp_path)
    assert str(tmp_path / 'log.csv') in str(caught.value) and '\n' not in str(caught.value)
    assert 'take it from a backup, or delete it' in str(caught.value)


def test_log_that_is_no_file(tmp_path):
    (tmp_path / 'log.csv').mkdir()
    with pytest.raises(InputError, match='log.csv: it is a folder'):
        run_folder.read_log(tmp_path)
    (tmp_path / 'log.csv').rmdir()
    (tmp_path / 'log.csv').symlink_to('nowhere')
    with pytest.raises(InputError, match='log.csv: no such file'):
        run_folder.read_log(tmp_path)


def test_a_log_far_too_large_is_not_read(tmp_path):
    with (tmp_path / 'log.csv').open('wb') as file:
        file.truncate(2 ** 40)
    with pytest.raises(InputError, match='log.csv has 1.1 TB, expected at most'):
        read_log(tmp_path)
