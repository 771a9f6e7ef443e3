"""A run that is killed, stopped or robbed of a checkpoint goes on as if nothing had happened."""
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
from helper import InputError
from roadseg import checkpoints, synthetic, vgg16
from roadseg.run_folder import Progress, read_options, write_log

ROOT = Path(__file__).parents[1]
COMPARED = ('epoch', 'step', 'loss', 'learning_rate', 'val_loss', 'val_maxf', 'val_iou')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A tiny data set and a tiny VGG16."""
    folder = tmp_path_factory.mktemp('data')
    synthetic.write_kitti(folder, train=24, test=3, held_out=1, size=(47, 155))
    vgg16.save(vgg16.random_weights(width_divisor=32, fc_width=16, fc_kernel=3),
               vgg16.torch_input, folder / 'vgg')
    return folder


def start(*arguments):
    return subprocess.Popen([sys.executable, 'main.py', *map(str, arguments)], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2'})


OPTIONS = ('--image-size', '32x96', '--epochs', '5', '--batch-size', '2', '--precision', 'float32',
           '--learning-rate', '1e-3', '--seed', '3', '--warmup', '5')


def finish(process):
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def log_of(run):
    with open(run / 'log.csv', newline='') as file:
        return [[float(row[column]) for column in COMPARED] for row in csv.DictReader(file)]


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(0.005)


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """An uninterrupted run."""
    runs = tmp_path_factory.mktemp('whole')
    code, output = finish(start('--data-dir', data, '--runs-dir', runs, *OPTIONS))
    assert code == 0, output
    return next(runs.iterdir())


def interrupted(data, runs, number):
    """Starts a run, and sends it a signal at a random moment after its first epoch."""
    process = start('--data-dir', data, '--runs-dir', runs, *OPTIONS)
    wait_for(lambda: list(runs.glob('*/checkpoints/step-000011')) or process.poll() is not None)
    time.sleep(random.random() * 0.4)
    process.send_signal(number)
    return next(runs.iterdir()), *finish(process)


def test_killed_and_resumed_run_ends_with_the_same_log(data, whole, tmp_path):
    run, code, output = interrupted(data, tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL, output
    code, output = finish(start('--resume', run))
    assert code == 0, output
    assert len(log_of(run)) == 5
    np.testing.assert_allclose(log_of(run), log_of(whole), rtol=1e-3)
    assert (run / 'index.html').exists() and len(list((run / 'overlays').glob('*.png'))) == 3


def test_ctrl_c_saves_and_the_resumed_run_ends_with_the_same_log(data, whole, tmp_path):
    run, code, output = interrupted(data, tmp_path, signal.SIGINT)
    if code == 0:
        pytest.skip('the run was over before the signal came')
    assert code == 130 and f'--resume {run}' in output and 'Traceback' not in output
    code, output = finish(start('--resume', run))
    assert code == 0, output
    np.testing.assert_allclose(log_of(run), log_of(whole), rtol=1e-3)


def test_epochs_that_were_logged_but_not_saved_are_run_again(data, whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / 'run')
    shutil.rmtree(checkpoints.saved(run)[-1])
    code, output = finish(start('--resume', run))
    assert code == 0, output
    np.testing.assert_allclose(log_of(run), log_of(whole), rtol=1e-3)


@pytest.mark.parametrize('damage', ['flip', 'truncate', 'remove'])
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(whole, tmp_path, capsys, damage):
    run = shutil.copytree(whole, tmp_path / 'run')
    before, last = checkpoints.saved(run)[-2:]
    file = last / 'model.data-00000-of-00001'
    content = bytearray(file.read_bytes())
    if damage == 'flip':
        content[len(content) // 2] ^= 0xff
        file.write_bytes(content)
    elif damage == 'truncate':
        file.write_bytes(content[:len(content) // 2])
    else:
        (last / 'model.index').unlink()
    with tf.Graph().as_default(), tf.Session() as sess:
        assert checkpoints.load(sess, run) == before
    assert last.name in capsys.readouterr().err


def test_no_whole_checkpoint_is_an_error(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / 'run')
    for path in checkpoints.saved(run):
        (path / 'progress.json').write_text('{"epoch": 1')
    with tf.Graph().as_default(), tf.Session() as sess:
        with pytest.raises(InputError, match='no whole checkpoint'):
            checkpoints.load(sess, run)


def test_checkpoint_of_another_network_is_an_error(whole):
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.get_variable('another', [3])
        with pytest.raises(InputError, match='another network'):
            checkpoints.restore(sess, tf.train.Saver(), whole)


def test_checkpoint_of_another_class_count_is_an_error(whole):
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.get_variable('decoder/upsample32/kernel', [16, 16, 5, 32])
        with pytest.raises(InputError, match=r'another network.*upsample32/kernel.* 2, .* 5, '):
            checkpoints.restore(sess, tf.train.Saver(), whole)


def test_the_last_two_checkpoints_and_the_best_are_kept(tmp_path):
    scores = [50.0, 90.0, 60.0, 70.0, 80.0]
    with tf.Graph().as_default(), tf.Session() as sess:
        variable = tf.get_variable('variable', [2])
        saver, rows = tf.train.Saver(), []
        sess.run(variable.initializer)
        for epoch, score in enumerate(scores, 1):
            rows.append({'epoch': epoch, 'step': 10 * epoch, 'loss': 1.0, 'val_maxf': score})
            write_log(tmp_path, rows)
            checkpoints.save(sess, saver, tmp_path, Progress(epoch, 10 * epoch))
    assert [path.name for path in checkpoints.saved(tmp_path)] == [
        'step-000020', 'step-000040', 'step-000050']
    assert checkpoints.best_step(tmp_path) == 20


def test_full_disk_leaves_the_checkpoint_before(tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=300k', 'tmpfs', str(disk)],
                             capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip('a small file system cannot be mounted here: '
                    + mounted.stderr.decode().strip())
    try:
        with tf.Graph().as_default(), tf.Session() as sess:
            variable = tf.get_variable('variable', [40000])     # 160 kB
            saver = tf.train.Saver()
            sess.run(variable.initializer)
            first = checkpoints.save(sess, saver, disk, Progress(1, 10))
            saved = sess.run(variable)
            sess.run(variable.assign(variable * 2))
            with pytest.raises(InputError, match='step-000010 is untouched'):
                checkpoints.save(sess, saver, disk, Progress(2, 20))
            assert list((disk / 'checkpoints').iterdir()) == [first]
            assert checkpoints.restore(sess, saver, disk) == (first, Progress(1, 10))
            np.testing.assert_array_equal(sess.run(variable), saved)
    finally:
        subprocess.run(['umount', str(disk)], check=True)


def test_contradicting_options_are_named(whole):
    with pytest.raises(InputError, match=r'--epochs is 7, was 5.*--image-size is \(64, 96\)'):
        main.parse_args(['--resume', str(whole), '--epochs', '7', '--image-size', '64x96'])


def test_agreeing_options_are_taken(whole):
    options = main.parse_args(['--resume', str(whole), '--epochs', '5'])
    assert options.image_size == (32, 96) and options.resume == whole
    assert options.seed == read_options(whole)['seed'] == 3


@pytest.mark.parametrize('files', [[], ['options.json']])
def test_folder_that_is_no_run(tmp_path, capsys, whole, files):
    for name in files:
        shutil.copy(whole / name, tmp_path)
    assert main.main(['--resume', str(tmp_path)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ') and str(tmp_path) in error
