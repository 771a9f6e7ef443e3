"""A run that is killed, stopped or robbed of a checkpoint goes on as if nothing had been.

Most runs are made in this process; those that are killed, in processes of their own.
"""
import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
from conftest import save_tiny_vgg, small_disk
from roadseg.commands import run_command
from roadseg.datasets import demo
from roadseg.images import write_image
from roadseg.training import checkpoints, device, recorder, tensorboard
from roadseg.training.run_folder import read_log, read_options, write_log

ROOT = Path(__file__).parents[1]
COMPARED = ('epoch', 'step', 'loss', 'learning_rate', 'val_loss', 'val_maxf', 'val_iou')
OPTIONS = ('--image-size', '32x96', '--epochs', '2', '--batch-size', '2', '--precision', 'float32',
           '--learning-rate', '1e-3', '--seed', '3', '--warmup', '5')
# An epoch has 11 steps: 21 photographs, 2 at a time.


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A tiny data set and a tiny VGG16."""
    folder = tmp_path_factory.mktemp('data')
    demo.write_scenes(folder, train=24, test=3, held_out=1, size=(47, 155))
    save_tiny_vgg(folder / 'vgg', fc_width=16)
    return folder


def command(*arguments):
    """Returns the exit code of `python main.py`, run in this process."""
    return run_command(main.main, [str(argument) for argument in arguments])


def train(data, runs, *options):
    """Trains; returns (exit code, run folder, None where there is none)."""
    code = command('--data-dir', data, '--runs-dir', runs, *OPTIONS, *options)
    return code, next(iter(runs_in(runs)), None)


def runs_in(runs):
    """Paths of the run folders in a folder."""
    return [path.parent for path in Path(runs).glob('[!.]*/options.json')]


def log_of(run):
    with open(run / 'log.csv', newline='') as file:
        return [[float(row[column]) for column in COMPARED] for row in csv.DictReader(file)]


def assert_like(run, whole, resume=True):
    """Goes on with a run, which must end as the uninterrupted one did."""
    if resume:
        assert command('--resume', run) == 0
    np.testing.assert_allclose(log_of(run), log_of(whole), rtol=1e-3)
    assert checkpoints.best_step(run) in map(checkpoints.step_of, checkpoints.saved(run))
    assert checkpoints.saved(run)[-1].name == 'step-000022'
    assert (run / 'evaluation.json').exists() and (run / 'index.html').exists()
    assert len(list((run / 'overlays').glob('*.png'))) == 3
    assert not [path for path in run.rglob('*') if path.suffix in ('.part', '.old')]


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of it, to be spoilt."""
    return shutil.copytree(whole, tmp_path / 'run')


def without_last_epoch(run):
    """What a run looks like that was killed before the end of its last epoch."""
    shutil.rmtree(run / 'checkpoints/step-000022')
    for name in ('overlays', 'validation', 'tensorboard'):
        shutil.rmtree(run / name)
    return run


# Kills ----------------------------------------------------------------------------------------

# `python main.py` that is killed when a function is called for the nth time, and a file is there.
KILLED = """
import glob, os, signal, sys, time
import main
from roadseg.training import {module}
original, calls = {module}.{name}, []
def killed(*arguments, **options):
    calls.append(arguments)
    if len(calls) == {nth}:
        while not glob.glob({file!r}):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)
{module}.{name} = killed
main.main(sys.argv[1:])
"""


@contextmanager
def killed(data, runs, module, name, nth, file):
    """Within it, a run goes on in another process; afterwards it was killed there."""
    process = subprocess.Popen(
        [sys.executable, '-c', KILLED.format(module=module, name=name, nth=nth, file=str(file)),
         '--data-dir', data, '--runs-dir', runs, *OPTIONS],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    yield
    output, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, output


def interrupting(monkeypatch, module, name, nth, number):
    """Sends a signal to this process when a function is called for the nth time."""
    original, calls = getattr(module, name), []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == nth:
            os.kill(os.getpid(), number)
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, interrupted)


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """An uninterrupted run."""
    code, run = train(data, tmp_path_factory.mktemp('whole'))
    assert code == 0
    return run


@pytest.mark.slow
def test_run_that_is_ended_again_and_again_ends_like_the_uninterrupted_one(
        data, tmp_path, capsys, monkeypatch, request):
    # Killed while the checkpoint of the first epoch is written, and its row is in the log already;
    # the checkpoint of the start is left.
    with killed(data, tmp_path / 'runs', 'checkpoints', 'move_into_place', nth=2,
                file=tmp_path / 'runs/*/log.csv'):
        whole = request.getfixturevalue('whole')        # there is a second processor
    [run] = runs_in(tmp_path / 'runs')
    assert {path.name for path in (run / 'checkpoints').iterdir()} == {
        'step-000000', 'step-000011.part'}
    assert len(read_log(run)) == 1 and checkpoints.best_step(run) is None

    # Within the second epoch.
    with monkeypatch.context() as patch:
        interrupting(patch, recorder.Recorder, 'after_step', 14, signal.SIGTERM)
        assert command('--resume', run) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        f'stopped; saved {run}/checkpoints/step-000015; go on with python main.py --resume {run}')
    assert [path.name for path in checkpoints.saved(run)] == ['step-000011', 'step-000015']
    assert len(read_log(run)) == 1

    # While the second epoch is saved: it is not scored any more, and not logged.
    with monkeypatch.context() as patch:
        interrupting(patch, recorder.Recorder, 'save', 1, signal.SIGINT)
        assert command('--resume', run) == 130
    assert len(read_log(run)) == 1
    assert checkpoints.saved(run)[-1].name == 'step-000022'
    assert_like(run, whole)


def test_signal_before_the_training_leaves_no_run(data, tmp_path, monkeypatch):
    interrupting(monkeypatch, main.preflight, 'estimate', 1, signal.SIGTERM)
    assert train(data, tmp_path, '--train', 'decoder') == (130, None)


@pytest.mark.slow
def test_minutes_between_checkpoints_the_lock_and_a_signal_in_the_last_step(
        data, tmp_path, monkeypatch):
    """A clock that goes on by a quarter of an hour with every look at it."""
    ticks, others, after_step = iter(range(0, 10**6, 900)), [], recorder.Recorder.after_step
    try_lock = ('import sys; from roadseg.training.run_folder import locked\n'
                'with locked(sys.argv[1]): pass')

    def watched(self):
        self.writer.wait()      # a step does not wait for a slow disk
        after_step(self)
        if not others:
            others.append(subprocess.run([sys.executable, '-c', try_lock, self.folder], cwd=ROOT,
                                         capture_output=True, text=True, check=False))
        if self.progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(recorder.time, 'monotonic', lambda: next(ticks))
    monkeypatch.setattr(recorder.Recorder, 'after_step', watched)
    code, run = train(data, tmp_path, '--save-minutes', '10', '--max-steps', '4')
    monkeypatch.undo()
    assert code == 130 and 'is being trained by another process' in others[0].stderr
    assert [path.name for path in checkpoints.saved(run)] == ['step-000003', 'step-000004']
    assert read_log(run) == []
    assert command('--resume', run) == 0
    assert [(row['epoch'], row['step']) for row in read_log(run)] == [('1', '4')]


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(4))
def test_run_that_is_killed_at_random_ends_like_the_uninterrupted_one(data, whole, tmp_path, seed):
    """Five kills, each within a second of the training's beginning, and then the end."""
    rng, arguments = random.Random(seed), ['--data-dir', data, '--runs-dir', tmp_path, *OPTIONS,
                                           '--save-minutes', '0.01']
    for kill in range(6):
        process = subprocess.Popen([sys.executable, 'main.py', *arguments], cwd=ROOT,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2'})
        if kill < 5:
            lines = ['']
            while not lines[-1].startswith('run folder: ') and process.poll() is None:
                lines.append(process.stdout.readline())
            time.sleep(rng.random())
            process.kill()
            output = ''.join(lines) + process.communicate()[0]
            assert process.returncode in (-signal.SIGKILL, 0), output
            [run] = runs_in(tmp_path)
            arguments = ['--resume', run]
            print(kill, process.returncode, [path.name for path in checkpoints.saved(run)],
                  [path.name for path in run.rglob('*.part')], len(read_log(run)))
        else:
            output, _ = process.communicate()
            assert process.returncode == 0, output
    assert_like(run, whole, resume=False)


# Lost and damaged files -----------------------------------------------------------------------

def test_epochs_that_were_logged_but_not_saved_are_run_again(
        copy, whole, data, tmp_path, capsys):
    """In folders that were moved, with names that are patterns, and through a link.

    The best of what is left is kept, not the best of a log that is ahead of the checkpoints. What
    stands in the way of TensorBoard's events costs a warning.
    """
    rows = read_log(copy)
    rows[-1]['val_maxf'] = '100'
    write_log(copy, rows)
    run = without_last_epoch(copy).rename(tmp_path / 'a[1]*?\\ \'"ü')
    (run / 'tensorboard').touch()
    (run / '.log.csv.0123.part').touch()        # of the kill
    (tmp_path / 'link').symlink_to(run)
    moved = shutil.copytree(data, tmp_path / 'data[2]')
    assert command('--resume', tmp_path / 'link', '--data-dir', moved) == 0
    assert capsys.readouterr().err.count('warning: no more events for TensorBoard') == 1
    assert_like(run, whole, resume=False)


@pytest.mark.slow
def test_run_of_float16_goes_on_where_there_is_none_and_back_again(data, whole, tmp_path,
                                                                   monkeypatch):
    """As on a GPU whose driver is missing for a while: its checkpoints keep their loss scale."""
    def steps(count, *arguments):
        options = ['--data-dir', data, '--runs-dir', tmp_path, *OPTIONS, '--precision', 'float16']
        arguments = arguments or options
        interrupting(monkeypatch, recorder.Recorder, 'after_step', count, signal.SIGTERM)
        assert command(*arguments) == 130
        monkeypatch.undo()
        run = next(path for path in tmp_path.glob('[!.]*') if path.is_dir())
        assert 'current_loss_scale' in saved_by(run)
        return run

    def saved_by(run):
        last = str(checkpoints.saved(run)[-1] / 'model')
        return tf.train.load_checkpoint(last).get_variable_to_shape_map()

    def with_gpu():
        monkeypatch.setattr(device, 'supported', lambda precision, xla, _: (precision, xla, []))

    with_gpu()
    run = steps(3)
    assert read_options(run)['precision'] == 'float16'
    monkeypatch.setattr(device, 'native_bfloat16', lambda: False)      # which would round
    steps(3, '--resume', run)
    with_gpu()
    assert_like(run, whole)
    assert 'current_loss_scale' not in saved_by(whole)


@pytest.mark.parametrize('spoil, message', [
    (lambda run: (run / 'options.json').unlink(), 'options.json: no such file or folder'),
    (lambda run: (run / 'options.json').write_text(
        (run / 'options.json').read_text().replace('"epochs": 2', '"epochs": "many"')),
     "options.json: epochs is 'many', which --epochs cannot be"),
    (lambda run: (run / 'options.json').write_text('[' * 99_999), 'options.json is not JSON'),
    (lambda run: (run / 'log.csv').write_text('epoch,step,loss\n1,x,1\n'),
     "log.csv, line 2: step is 'x'"),
    (lambda run: shutil.rmtree(run), 'run'),
])
def test_spoilt_run_is_one_line(copy, capsys, spoil, message):
    spoil(copy)
    assert command('--resume', copy) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ') and str(copy) in error and message in error


def test_contradicting_options_are_named(whole, capsys):
    assert command('--resume', whole, '--epochs', '7') == 2
    assert '--epochs is 7, was 2' in capsys.readouterr().err


def test_agreeing_options_are_taken(whole):
    options = main.parse_args(['--resume', str(whole), '--epochs', '2'])
    assert options.image_size == (32, 96) and options.resume == whole
    assert options.seed == read_options(whole)['seed'] == 3


# Other data, other encoder, other processes ---------------------------------------------------

def test_run_goes_on_with_its_own_photographs_only(whole, data, tmp_path, capsys):
    other = shutil.copytree(data, tmp_path / 'data')
    for kind in ('image_2/um', 'gt_image_2/um_road'):
        (other / f'data_road/training/{kind}_000074.png').unlink()
    assert command('--resume', whole, '--data-dir', other) == 2
    assert ('training: 1 of 21 missing, the first being data_road/training/image_2/um_000074.png'
            in capsys.readouterr().err)


def test_run_goes_on_with_its_own_encoder_only(whole, data, tmp_path, capsys):
    other = shutil.copytree(data, tmp_path / 'data')
    shutil.rmtree(other / 'vgg')
    save_tiny_vgg(other / 'vgg', fc_width=17)
    assert command('--resume', whole, '--data-dir', other) == 2
    assert f'from another encoder: {other}/vgg has the checksum' in capsys.readouterr().err


def test_second_process_on_a_run_is_refused(whole, capsys):
    code = ('import sys; from roadseg.training.run_folder import locked\n'
            'with locked(sys.argv[1]): print(flush=True); input()')
    with subprocess.Popen([sys.executable, '-c', code, whole], cwd=ROOT, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert command('--resume', whole) == 2
        process.kill()
    assert capsys.readouterr().err == (f'error: {whole} is being trained by another process; wait '
                                       'until it has ended, or stop it\n')
    assert len(checkpoints.saved(whole)) >= 2


# What goes wrong on the way -------------------------------------------------------------------

def test_held_out_photographs_without_road_cost_nothing(data, tmp_path, capsys):
    other = shutil.copytree(data, tmp_path / 'data')
    for path in (other / 'data_road/training/gt_image_2').glob('*.png'):
        if path.stem.split('_')[-1] in ('000079', '000080', '000082'):
            write_image(path, np.full((47, 155, 3), (255, 0, 0), np.uint8))
    code, run = train(other, tmp_path / 'runs', '--max-steps', '2', '--train', 'decoder')
    assert code == 0, capsys.readouterr().err
    [row] = read_log(run)
    assert row['val_maxf'] == row['val_iou'] == '' and float(row['val_loss']) > 0
    assert 'MaxF -, ' in capsys.readouterr().out
    assert [path.name for path in checkpoints.saved(run)] == ['step-000000', 'step-000002']


def test_diverged_training_keeps_the_last_good_checkpoint(data, tmp_path, capsys):
    code, run = train(data, tmp_path, '--learning-rate', '10', '--clip-norm', '1e6', '--warmup',
                      '0', '--decoder-rate', '1000', '--average-decay', '0')
    error = capsys.readouterr().err.splitlines()[-1]
    [last] = checkpoints.saved(run)[-1:]
    assert code == 2 and error.startswith('error: ') and 'try a lower --learning-rate' in error
    assert re.search('the loss became (nan|inf) in epoch .*, step|diverged: after step', error)
    assert error.endswith(f'; the last checkpoint is {last}')
    with tf.Graph().as_default(), tf.Session() as sess:
        assert checkpoints.load(sess, run) == last
        assert all(np.isfinite(value).all() for value in sess.run(tf.global_variables()))


@pytest.mark.slow
def test_full_disk_while_training(data, whole, tmp_path, capsys):
    with small_disk(tmp_path / 'disk', '5m') as disk:
        code, run = train(data, disk)
        error = capsys.readouterr().err.splitlines()[-1]
        assert code == 2 and error.startswith('error: cannot write ') and (
            'no space left on the disk' in error)
        assert error.endswith(f'; the last checkpoint is {checkpoints.saved(run)[-1]}')
        subprocess.run(['mount', '-o', 'remount,size=60m', disk], check=True)
        assert_like(run, whole)


@pytest.mark.slow
def test_disk_that_is_full_at_the_start(data, tmp_path, capsys):
    with small_disk(tmp_path / 'disk', '600k') as disk:
        code, run = train(data, disk)
        assert code == 2 and not list(disk.iterdir())
        assert 'no space left on the disk' in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_events_on_a_full_disk_cost_a_warning(copy, whole, tmp_path, capsys):
    run = without_last_epoch(copy)
    with small_disk(tmp_path / 'disk', '1m') as disk:
        (run / 'tensorboard').symlink_to(disk)
        path, = (whole / 'tensorboard').iterdir()
        graph = list(tf.train.summary_iterator(str(path)))[1].ByteSize()
        with open(disk / 'filler', 'wb') as file:       # room for the graph, not for a panel
            file.write(bytes(2 ** 20 - graph - 10_000))
        assert_like(run, whole)
    (run / 'tensorboard').unlink()
    error = capsys.readouterr().err
    assert error.count('no more events for TensorBoard') == 1 and 'no space left' in error
    assert 'Traceback' not in error


def test_folder_that_is_read_only(whole, tmp_path, capsys):
    with small_disk(tmp_path / 'disk', '60m') as disk:
        run = shutil.copytree(whole, disk / 'run')
        subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
        assert command('--resume', run) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            f'error: cannot write {run}/.lock: read-only file system; make its folder writable, '
            'or write elsewhere')


# TensorBoard ----------------------------------------------------------------------------------

def test_events_are_as_tensorboard_reads_them(whole):
    [path] = (whole / 'tensorboard').iterdir()
    events = list(tf.train.summary_iterator(str(path)))
    assert events[0].file_version == 'brain.Event:2'
    graph = tf.GraphDef.FromString(events[1].graph_def)
    assert 'global_step' in {node.name for node in graph.node}
    scalars = {(value.tag, event.step): value.simple_value for event in events
               for value in event.summary.value if value.HasField('simple_value')}
    for row in read_log(whole):
        assert np.isclose(scalars['val_maxf', int(row['step'])], float(row['val_maxf']))
    assert {event.step for event in events for value in event.summary.value
            if value.HasField('image')} == {11, 22}


def test_events_of_a_resumed_run_replace_those_after_its_checkpoint(tmp_path):
    file = tensorboard.EventFile(tmp_path, tf.Graph(), 22)
    file.flush()
    [path] = tmp_path.iterdir()
    start = list(tf.train.summary_iterator(str(path)))[-1]
    assert start.step == 23 and start.session_log.status == tf.SessionLog.START


def test_events_of_a_resumed_run_are_read_after_the_earlier_ones_whatever_the_clock_says(
        tmp_path, monkeypatch):
    for now in (2e9, 1e9, 1e9):
        monkeypatch.setattr(tensorboard.time, 'time', lambda now=now: now)
        tensorboard.EventFile(tmp_path, tf.Graph(), 22)
    names = sorted(path.name.split('.')[3] for path in tmp_path.iterdir())
    assert names == ['2000000000', '2000000001', '2000000002']
