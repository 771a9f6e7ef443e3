"""Checkpoints: whole, of this run, of finite weights, and kept as long as they are needed."""
import json
import os
import re
import resource
import shutil
import tempfile
import subprocess
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from conftest import small_disk
from roadseg.errors import InputError
from roadseg.files import write_json
from roadseg.tf_paths import literal
from roadseg.training import checkpoints, preflight
from roadseg.training.held_out import Stopped
from roadseg.training.recorder import Recorder
from roadseg.training.run_folder import Progress, write_log

ODD_NAMES = ('a[1]', 'a*b', 'a?b', 'a\\b', 'a[!b]*?', 'it\'s "so"', 'a b', 'a\nb',
             'Straße 日本', '%s{}$', '-r')


class Tiny:
    """A run folder, and a session with one variable and a global step."""

    def __init__(self, run, sess, shape):
        self.run, self.sess = run, sess
        self.variable = tf.get_variable('decoder/kernel', shape)
        step = tf.train.get_or_create_global_step()
        self.assign_step = step.assign(tf.placeholder(tf.int64, [], 'new_step'))
        self.value = tf.placeholder(tf.float32, shape, 'value')
        self.assign = self.variable.assign(self.value)
        self.saver = checkpoints.make_saver()
        self.progress = Progress()
        sess.run([self.variable.initializer, step.initializer])

    def set(self, value):
        self.sess.run(self.assign, {self.value: np.full(self.variable.shape, value)})

    def at(self, step, value=None):
        """Sets the global step, and fills the variable with the step or a value."""
        self.set(step if value is None else value)
        self.sess.run(self.assign_step, {'new_step:0': step})

    def save(self, step, value=None, epoch=0, **progress):
        """Saves a checkpoint, see `at`."""
        self.at(step, value)
        return checkpoints.save(self.sess, self.saver, self.run,
                                Progress(epoch=epoch, step=step, **progress))

    def restore(self):
        """Returns (name of the checkpoint, progress, value of the variable)."""
        self.set(-1)
        path, progress = checkpoints.restore(self.sess, self.saver, self.run)
        return path.name, progress, float(self.sess.run(self.variable).flat[0])

    def log(self, *scores, column='val_maxf'):
        """Writes a log of epochs of 10 steps with these scores."""
        write_log(self.run, [{'epoch': epoch, 'step': 10 * epoch, 'loss': 1.0, column: score}
                             for epoch, score in enumerate(scores, 1)])

    def names(self):
        return sorted(path.name for path in (self.run / 'checkpoints').iterdir())


def make_run(folder, run_id='5eed', best='val_maxf'):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / 'options.json', {'id': run_id, 'options': {'epochs': 5},
                                         'data': {'best': best}})
    return folder


@contextmanager
def tiny_run(run, shape=(2, 3)):
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        tiny = Tiny(run, sess, shape)
        graph.finalize()
        yield tiny


@pytest.fixture
def tiny(tmp_path):
    with tiny_run(make_run(tmp_path / 'run')) as made:
        yield made


def load(run, which='last'):
    """Returns (name of the checkpoint, value) of a run opened as `evaluate` opens one."""
    with tf.Graph().as_default(), tf.Session() as sess:
        path = checkpoints.load(sess, run, which)
        [kernel] = [variable for variable in tf.global_variables() if variable.shape.ndims]
        return path.name, float(sess.run(kernel).flat[0])


# Saving and restoring -------------------------------------------------------------------------

def test_what_was_saved_is_restored(tiny):
    progress = Progress(epoch=2, step=25, epoch_steps=5, epoch_loss=1.25, seconds=3.5,
                        row={'epoch': 2, 'step': 25, 'loss': 0.25})
    path = tiny.save(**vars(progress))
    assert path == tiny.run / 'checkpoints/step-000025'
    assert tiny.restore() == ('step-000025', progress, 25)
    assert load(tiny.run) == ('step-000025', 25)


@pytest.mark.parametrize('name', ODD_NAMES)
def test_any_name_of_the_run_folder_will_do(tmp_path, capsys, name):
    with tiny_run(make_run(tmp_path / name / 'run')) as tiny:
        tiny.save(10)
        tiny.save(20)
        assert tiny.restore()[0] == 'step-000020'
        assert load(tiny.run) == ('step-000020', 20)
        assert tiny.names() == ['step-000010', 'step-000020']
    assert capsys.readouterr().err == ''


def test_no_link_is_left_behind_of_an_odd_name(tmp_path, monkeypatch):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'temporary'))
    (tmp_path / 'temporary').mkdir()
    with tiny_run(make_run(tmp_path / 'a[b]')) as tiny:
        tiny.save(10)
        tiny.restore()
    assert not list((tmp_path / 'temporary').iterdir())
    assert (tmp_path / 'a[b]/checkpoints/step-000010/model.index').exists()


def test_no_link_is_made_for_the_backslashes_of_windows(monkeypatch):
    """Where links want rights that few users have."""
    def refuse(*arguments, **options):
        raise OSError('no right to make links')

    monkeypatch.setattr(Path, 'symlink_to', refuse)
    name = PureWindowsPath(r'data\demo\vgg')
    monkeypatch.setattr('roadseg.tf_paths.Path', lambda path: path)
    with literal(name) as folder:
        assert folder is name


def test_run_folder_whose_name_is_no_utf8_is_read(tiny, tmp_path):
    """TensorFlow wants UTF-8; a network is used all the same, from a link."""
    tiny.save(10)
    odd = tmp_path / 'odd\udcff'
    try:
        shutil.copytree(tiny.run, odd)
    except OSError:
        pytest.skip('the file system takes no such name')
    assert load(odd) == ('step-000010', 10)


def test_run_folder_that_was_moved_or_is_a_link(tiny, tmp_path):
    tiny.save(10)
    tiny.run = tiny.run.rename(tmp_path / 'moved')
    assert tiny.restore()[0] == 'step-000010'
    (tmp_path / 'link').symlink_to(tiny.run)
    tiny.run = tmp_path / 'link'
    assert tiny.restore()[0] == 'step-000010'
    tiny.save(20)
    assert load(tmp_path / 'moved') == ('step-000020', 20)


def test_relative_path(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.save(10)
    tiny.run = Path('run')
    tiny.save(20)
    assert tiny.restore()[0] == 'step-000020' and load('run')[0] == 'step-000020'


# What is kept ---------------------------------------------------------------------------------

def test_the_last_two_and_the_best_are_kept(tiny):
    scores = [50.0, 90.0, 60.0, 70.0, 80.0]
    for epoch in range(1, 6):
        tiny.save(10 * epoch, epoch=epoch)      # saved first, then scored
        tiny.log(*scores[:epoch])
    assert tiny.names() == ['step-000020', 'step-000040', 'step-000050']
    assert checkpoints.best_step(tiny.run) == 20
    assert load(tiny.run, 'best') == ('step-000020', 20)


def test_the_best_is_that_of_the_data_sets_own_measure(tmp_path):
    with tiny_run(make_run(tmp_path, best='val_miou')) as tiny:
        for epoch in range(1, 5):
            tiny.save(10 * epoch)
            tiny.log(*[40.0, 10.0, 20.0, 30.0][:epoch], column='val_miou')
        assert tiny.names() == ['step-000010', 'step-000030', 'step-000040']


def test_an_epoch_without_a_score_is_not_the_best(tiny):
    for step in (10, 20, 30, 40):
        tiny.save(step)
        tiny.log(*[10.0, '', 'nan', 5.0][:step // 10])
    assert checkpoints.best_step(tiny.run) == 10
    tiny.log('', '')
    assert checkpoints.best_step(tiny.run) is None


def test_an_epoch_that_no_checkpoint_has_reached_is_not_the_best(tiny):
    """Its checkpoint is being written while it is scored; a kill may leave none of it."""
    tiny.save(10)
    tiny.save(20)
    tiny.log(60.0, 50.0, 90.0)
    assert checkpoints.best_step(tiny.run) == 10
    assert load(tiny.run, 'best') == ('step-000010', 10)
    tiny.save(25)       # and what is the best for now is kept
    assert tiny.names() == ['step-000010', 'step-000020', 'step-000025']
    tiny.save(30)
    assert checkpoints.best_step(tiny.run) == 30
    assert tiny.names() == ['step-000025', 'step-000030']


def test_checkpoints_are_ordered_by_their_number(tiny):
    for step in (999_990, 1_000_000, 1_000_010, 12_000_000):
        tiny.save(step)
        assert tiny.restore()[0] == f'step-{step}'
    assert tiny.names() == ['step-1000010', 'step-12000000']


def test_the_best_survives_saves_within_an_epoch(tiny):
    tiny.save(10)
    tiny.log(90.0)
    for step in (13, 16, 19):
        tiny.save(step)
    assert tiny.names() == ['step-000010', 'step-000016', 'step-000019']


def test_edited_log_costs_no_checkpoint(tiny, capsys):
    for step in (10, 20, 30):
        tiny.save(step)
        (tiny.run / 'log.csv').write_text('epoch,step,loss\n1,x,1\n')
    assert len(tiny.names()) == 3
    assert "log.csv, line 2: step is 'x'" in capsys.readouterr().err


def test_a_full_disk_is_not_taken_for_a_lack_of_memory(tiny, monkeypatch):
    """TensorFlow has one error for both."""
    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, 'model.data: No space left on device')

    tiny.at(10)
    monkeypatch.setattr(checkpoints, '_saved_tensors', full)
    with pytest.raises(InputError, match='cannot write .*step-000010: no space left on the disk'):
        with preflight.advising(preflight.Cost(1000, 1.0, 2 ** 30, 2 ** 20), 4, 2 ** 32):
            checkpoints.save(tiny.sess, tiny.saver, tiny.run, Progress(step=10))


def test_other_things_in_the_folder_are_left_alone(tiny):
    for name in ('step-abc', 'step-', 'notes', 'step-000010 copy'):
        (tiny.run / 'checkpoints' / name).mkdir(parents=True)
    for step in (10, 20, 30):
        tiny.save(step)
    assert tiny.names() == ['notes', 'step-', 'step-000010 copy', 'step-000020', 'step-000030',
                            'step-abc']
    assert [path.name for path in checkpoints.saved(tiny.run)] == ['step-000020', 'step-000030']


# Kills ----------------------------------------------------------------------------------------

def test_what_kills_left_behind_is_swept(tiny):
    for left in ('step-000005.part', 'step-000010.old.part'):
        (tiny.run / 'checkpoints' / left).mkdir(parents=True)
    tiny.save(10)
    assert tiny.names() == ['step-000010']


def test_saving_a_step_again_never_leaves_it_without_a_checkpoint(tiny, monkeypatch):
    """Before each change of a name, there is a whole checkpoint that can be restored."""
    import roadseg.files
    tiny.save(10, value=1)
    seen, rename, replace = [], Path.rename, os.replace

    def watch(change):
        def changed(*arguments):
            seen.append(load(tiny.run)[1])
            return change(*arguments)
        return changed

    monkeypatch.setattr(Path, 'rename', watch(rename))
    monkeypatch.setattr(roadseg.files.os, 'replace', watch(replace))
    tiny.save(10, value=2)
    monkeypatch.undo()
    assert len(seen) >= 3 and seen[0] == 1 and seen[-1] == 2
    assert load(tiny.run) == ('step-000010', 2) and tiny.names() == ['step-000010']


def test_kill_between_the_two_names_of_a_step(tiny):
    path = tiny.save(10, value=1)
    path.rename(path.with_name('step-000010.old'))
    assert tiny.restore() == ('step-000010.old', Progress(step=10), 1)
    assert load(tiny.run) == ('step-000010.old', 1)
    tiny.save(10, value=2)
    assert tiny.names() == ['step-000010'] and load(tiny.run)[1] == 2


def test_second_ctrl_c_while_saving_leaves_nothing_half(tiny, monkeypatch):
    tiny.save(10)

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, 'write_json', interrupted)     # the variables are written
    with pytest.raises(KeyboardInterrupt):
        tiny.save(20)
    assert tiny.names() == ['step-000010']


def test_content_is_on_the_disk_before_the_name(tiny, monkeypatch):
    import roadseg.files
    synced, fsync, replace = set(), os.fsync, os.replace

    def watched_sync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def watched_replace(part, path):
        inodes = {file.stat().st_ino for file in [Path(part), *Path(part).rglob('*')]}
        assert inodes <= synced, f'{path} gets its name before its content is on the disk'
        replace(part, path)

    monkeypatch.setattr(roadseg.files.os, 'fsync', watched_sync)
    monkeypatch.setattr(roadseg.files.os, 'replace', watched_replace)
    path = tiny.save(10)
    assert {file.stat().st_ino for file in path.iterdir()} <= synced


# Damage ---------------------------------------------------------------------------------------

def edit(path, **changes):
    """Changes progress.json, and its checksum accordingly unless that is among the changes."""
    content = json.loads((path / 'progress.json').read_text())
    content |= changes
    if 'checksum' not in changes:
        del content['checksum']
        content['checksum'] = checkpoints._checksum(content)
    (path / 'progress.json').write_text(json.dumps(content))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xff
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


DATA = 'model.data-00000-of-00001'
DAMAGES = {
    **{f'{what.__name__} {file}': lambda path, other, what=what, file=file: what(path / file)
       for what in (flip, cut, Path.unlink)
       for file in (DATA, 'model.index', 'model.meta', 'progress.json')},
    'emptied': lambda path, other: [file.unlink() for file in path.iterdir()],
    'folder for a file': lambda path, other: ((path / 'model.index').unlink(),
                                              (path / 'model.index').mkdir()),
    'data of another': lambda path, other: shutil.copy(other / DATA, path / DATA),
    'variables of another': lambda path, other: [
        shutil.copy(other / name, path / name) for name in (DATA, 'model.index')],
    'progress of another': lambda path, other: shutil.copy(other / 'progress.json', path),
    'epoch edited': lambda path, other: edit(path, epoch=3, checksum='0'),
    'run of another': lambda path, other: edit(path, run='cafe'),
    'no checksum': lambda path, other: (path / 'progress.json').write_text(
        '{"epoch": 1, "step": 20}'),
    'another step': lambda path, other: edit(path, step=30),
    'negative': lambda path, other: edit(path, epoch_steps=-1),
    'text for a number': lambda path, other: edit(path, epoch='1'),
    'truth for a number': lambda path, other: edit(path, epoch_steps=True),
    'null': lambda path, other: edit(path, seconds=None),
    'row of text': lambda path, other: edit(path, row='1,2,3'),
    'files of text': lambda path, other: edit(path, files='model.index'),
    'no files': lambda path, other: edit(path, files=None),
    'deeply nested': lambda path, other: (path / 'progress.json').write_text('[' * 99_999),
    'a list': lambda path, other: (path / 'progress.json').write_text('[1, 2]'),
    'huge number': lambda path, other: (path / 'progress.json').write_text(
        '{"step": 1' + '0' * 9999 + '}'),
    'not UTF-8': lambda path, other: (path / 'progress.json').write_bytes(b'\xff\xfe\x00'),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(tiny, tmp_path, capsys, damage):
    with tiny_run(make_run(tmp_path / 'other', 'cafe')) as stranger:
        other = stranger.save(20, value=-2)
    tiny.save(10)
    last = tiny.save(20)
    DAMAGES[damage](last, other)
    assert load(tiny.run) == ('step-000010', 10)
    damaged, taken = capsys.readouterr().err.splitlines()
    assert damaged.startswith(f'warning: the checkpoint {last} is damaged: ')
    assert taken.endswith('step-000010 is taken instead')
    assert tiny.restore() == ('step-000010', Progress(step=10), 10)
    tiny.save(15)       # those of later steps, which were damaged, do not count among the last two
    assert tiny.names() == ['step-000010', 'step-000015']


def test_lack_of_memory_is_no_damage(tiny, monkeypatch, capsys):
    """Else the newest checkpoint would be passed over, and deleted later."""
    for step in (10, 20):
        tiny.save(step)
    tried = []

    def full(sess, saver, path, progress):
        tried.append(path.name)
        raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating')

    monkeypatch.setattr(checkpoints, '_restore', full)
    with pytest.raises(InputError, match='out of memory while .*step-000020'):
        tiny.restore()
    assert tried == ['step-000020'] and 'damaged' not in capsys.readouterr().err


def test_no_whole_checkpoint(tiny):
    tiny.save(10)
    cut(tiny.save(20) / DATA)
    cut(tiny.run / 'checkpoints/step-000010' / DATA)
    for attempt in (tiny.restore, lambda: load(tiny.run)):
        with pytest.raises(InputError, match='no whole checkpoint in .*checkpoints'):
            attempt()


@pytest.mark.parametrize('damage, reason', [
    (lambda data: data.unlink(), 'its files cannot be read'), (cut, 'its files cannot be read'),
    (lambda data: data.with_name('model.meta').unlink(), 'no such file or folder: .*model.meta')])
def test_the_reason_is_given_in_a_few_words(tiny, capsys, damage, reason):
    damage(tiny.save(10) / DATA)
    with pytest.raises(InputError):
        load(tiny.run)
    assert re.search(f'damaged: {reason}', error := capsys.readouterr().err), error


@pytest.mark.parametrize('best', [[1], {'a': 1}, None, 7])
def test_a_best_measure_that_is_none(tmp_path, best):
    with tiny_run(make_run(tmp_path / 'run', best=best)) as made:
        made.save(10, epoch=1)
        made.log(90)
        with pytest.raises(InputError, match='no best checkpoint'):
            load(made.run, 'best')


@pytest.mark.parametrize('which', ['last', 'best'])
def test_no_checkpoint(tiny, which):
    with pytest.raises(InputError, match='no last checkpoint in .*checkpoints'):
        tiny.restore()
    (tiny.run / 'checkpoints').touch()
    with pytest.raises(InputError, match=f'no {which} checkpoint in .*checkpoints'):
        load(tiny.run, which)


def test_checkpoint_of_a_version_that_notes_more(tiny):
    edit(tiny.save(20, epoch=2), workers=4)
    assert tiny.restore() == ('step-000020', Progress(epoch=2, step=20), 20)


@pytest.mark.parametrize('shape, kind, message', [
    ((2, 5), tf.float32, r'kernel has the shape \[2, 3\] there, \[2, 5\] here'),
    ((2, 3), tf.float64, 'kernel has the type float32 there, float64 here')])
def test_checkpoint_of_another_network(tiny, shape, kind, message):
    tiny.save(10)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.get_variable('decoder/kernel', shape, kind)
        with pytest.raises(InputError, match='step-000010 is of another network.*' + message):
            checkpoints.restore(sess, checkpoints.make_saver(), tiny.run)


def test_checkpoint_without_a_variable(tiny):
    tiny.save(10)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.get_variable('another', [3])
        with pytest.raises(InputError, match='of another network.*another has the shape None'):
            checkpoints.restore(sess, checkpoints.make_saver(), tiny.run)


# Divergence -----------------------------------------------------------------------------------

@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_not_saved(tiny, value):
    tiny.save(10)
    with pytest.raises(InputError, match='diverged: after step 20.* decoder/kernel; try a lower '
                                         '--learning-rate; the last checkpoint is '
                                         '.*step-000010$'), checkpoints.naming_last(tiny.run):
        tiny.save(20, value=value)
    assert tiny.names() == ['step-000010'] and tiny.restore()[0] == 'step-000010'


def test_a_run_that_was_removed_is_not_made_again(tiny):
    shutil.rmtree(tiny.run)
    with pytest.raises(InputError, match='cannot write .*no such file or folder'):
        tiny.save(10)
    assert not tiny.run.exists()


# The disk -------------------------------------------------------------------------------------

def test_full_disk_leaves_the_checkpoint_before(tmp_path):
    with small_disk(tmp_path / 'disk', '400k') as disk, \
            tiny_run(make_run(disk / 'run'), shape=[50_000]) as tiny:       # 200 kB
        first = tiny.save(10)
        with pytest.raises(InputError) as caught, checkpoints.naming_last(tiny.run):
            tiny.save(20)
        assert str(caught.value) == (
            f'cannot write {first.with_name("step-000020")}: no space left on the disk; free some '
            f'space, or write to another disk; the last checkpoint is {first}')
        assert tiny.names() == ['step-000010'] and tiny.restore()[2] == 10
        with pytest.raises(InputError, match='no space left'):
            tiny.save(10, value=5)          # the same step again
        assert tiny.names() == ['step-000010'] and tiny.restore()[2] == 10


def test_disk_that_fills_up_byte_by_byte(tmp_path):
    """Wherever in a checkpoint the space ends, the error is one line, the one before is left."""
    with small_disk(tmp_path / 'disk', '2m') as disk, \
            tiny_run(make_run(disk / 'run'), shape=[50_000]) as tiny:
        tiny.save(10)
        size = sum(file.stat().st_size for file in disk.rglob('*') if file.is_file())
        failed = 0
        for room in range(0, size + 60_000, 20_480):
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            (disk / 'filler').write_bytes(bytes(max(free - room, 0)))
            try:
                tiny.save(20)
                break
            except InputError as error:
                assert 'no space left on the disk' in str(error) and '\n' not in str(error)
                failed += 1
            assert tiny.names() == ['step-000010']
            (disk / 'filler').unlink()
            assert tiny.restore()[2] == 10
        assert failed > 5 and tiny.names() == ['step-000010', 'step-000020']


def test_file_that_grows_beyond_a_limit(tiny):
    """The limit on the size of files that a shell can set."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with tiny_run(tiny.run, shape=[50_000]) as large:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            with pytest.raises(InputError, match='step-000010: too large for the file system, or '
                                                 'for the limit set on files; '):
                large.save(10)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert large.names() == []


def test_folder_that_is_read_only(tmp_path):
    with small_disk(tmp_path / 'disk', '1m') as disk, \
            tiny_run(make_run(disk / 'run')) as tiny:
        tiny.save(10)
        subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
        with pytest.raises(InputError, match='cannot write .*step-000020: read-only file system'):
            tiny.save(20)
        assert load(tiny.run) == ('step-000010', 10)        # reading needs no right to write


# Beside the training --------------------------------------------------------------------------

@pytest.fixture
def held(monkeypatch):
    """An event that the thread waits for before it writes anything."""
    event, write = threading.Event(), checkpoints._write

    def held_write(*arguments):
        assert event.wait(60)
        return write(*arguments)

    monkeypatch.setattr(checkpoints, '_write', held_write)
    return event


def begin(tiny, writer, step):
    """Begins to write a checkpoint of a step, with the variable filled with the step."""
    tiny.at(step)
    tiny.progress.step = step
    writer.save(tiny.progress)


def test_what_is_written_beside_the_training_is_what_was_when_it_began(tiny, held):
    with checkpoints.writing(tiny.sess, tiny.saver, tiny.run) as writer:
        tiny.progress.row = {'epoch': 1, 'step': 10}
        begin(tiny, writer, 10)
        tiny.at(11)             # the training goes on
        tiny.progress.step, tiny.progress.row = 11, None
        assert checkpoints.saved(tiny.run) == []
        held.set()
    assert tiny.restore() == ('step-000010', Progress(step=10, row={'epoch': 1, 'step': 10}), 10)
    assert load(tiny.run) == ('step-000010', 10)


def test_each_checkpoint_written_beside_the_training_is_whole(tiny):
    with checkpoints.writing(tiny.sess, tiny.saver, tiny.run) as writer:
        for step in (10, 20, 30):
            begin(tiny, writer, step)
        writer.wait()
        assert tiny.names() == ['step-000020', 'step-000030'] and writer.seconds > 0
    assert load(tiny.run) == ('step-000030', 30)
    cut(tiny.run / 'checkpoints/step-000030/model.meta')
    assert load(tiny.run) == ('step-000020', 20)


def test_a_slow_disk_does_not_hold_the_training_up(tiny, held):
    with checkpoints.writing(tiny.sess, tiny.saver, tiny.run) as writer:
        recorder = SimpleNamespace(writer=writer, saved_at=-1e9, save=pytest.fail,
                                   options=SimpleNamespace(save_minutes=1))
        begin(tiny, writer, 10)
        Recorder.after_step(recorder)       # the first is being written, and the next is due
        held.set()
        writer.wait()
        saved = []
        recorder.save = lambda: saved.append(True)
        Recorder.after_step(recorder)
        assert saved == [True]


def test_an_epoch_does_not_wait_for_the_checkpoint_of_the_one_before(tiny, held):
    """On a fast GPU an epoch takes a second, and two gigabytes on a disk take ten."""
    with checkpoints.writing(tiny.sess, tiny.saver, tiny.run) as writer:
        saved, options = [], SimpleNamespace(validate_every=1, epochs=3, max_steps=None)
        recorder = SimpleNamespace(writer=writer, options=options, record=lambda row: None,
                                   progress=SimpleNamespace(row=None),
                                   save=lambda: saved.append(recorder.progress.row['epoch']))
        recorder.is_due = partial(Recorder.is_due, recorder)
        recorder.farewell = lambda: 'farewell'
        recorder.is_last = partial(Recorder.is_last, recorder)
        begin(tiny, writer, 10)
        for epoch in (1, 2, 3):
            Recorder.after_epoch(recorder, {'epoch': epoch, 'step': 10 * epoch})
        assert saved == [3]         # which a training never ends without

        def stopped(row):
            with Recorder.saying_farewell(recorder):
                raise Stopped

        recorder.record = stopped       # while it is scored
        with pytest.raises(KeyboardInterrupt, match='farewell'):
            Recorder.after_epoch(recorder, {'epoch': 2, 'step': 20})
        assert saved.pop() == 2         # with the row, which a resumption then scores
        recorder.record = lambda row: None
        held.set()
        writer.wait()
        Recorder.after_epoch(recorder, {'epoch': 2, 'step': 20})
        assert saved == [3, 2]


def test_the_best_of_those_with_a_checkpoint_is_kept(tiny):
    tiny.save(10)
    tiny.log(70.0, 90.0)        # the second has none
    tiny.save(30)
    tiny.log(70.0, 90.0, 60.0)
    assert checkpoints.best_step(tiny.run) == 10
    tiny.save(40)
    tiny.save(50)
    assert tiny.names() == ['step-000010', 'step-000040', 'step-000050']


def test_one_checkpoint_is_written_at_a_time(tiny, held):
    """There is no second copy in memory before the first is on the disk."""
    with checkpoints.writing(tiny.sess, tiny.saver, tiny.run) as writer:
        begin(tiny, writer, 10)
        timer = threading.Timer(0.2, held.set)
        timer.start()
        tiny.at(20)
        tiny.progress.step = 20
        with pytest.MonkeyPatch.context() as patch:
            copy, seen = checkpoints._copy, []
            patch.setattr(checkpoints, '_copy', lambda *arguments: (
                seen.extend(tiny.names()), copy(*arguments))[1])
            writer.save(tiny.progress)
        assert seen == ['step-000010']
    assert tiny.names() == ['step-000010', 'step-000020']


def test_diverged_weights_are_found_before_they_are_written(tiny):
    with pytest.raises(InputError, match='diverged: after step 10.* decoder/kernel'), \
            checkpoints.writing(tiny.sess, tiny.saver, tiny.run) as writer:
        tiny.progress.step = 10
        tiny.set(np.nan)
        writer.save(tiny.progress)
        pytest.fail('not reached')
    assert not (tiny.run / 'checkpoints').exists()


@pytest.mark.parametrize('ends', [KeyboardInterrupt('stopped'), InputError('the loss became nan')])
def test_whatever_ends_the_training_waits_for_the_checkpoint(tiny, held, ends):
    with pytest.raises(type(ends), match=str(ends)) as caught:
        with checkpoints.writing(tiny.sess, tiny.saver, tiny.run) as writer:
            begin(tiny, writer, 10)
            threading.Timer(0.2, held.set).start()
            raise ends
    assert tiny.names() == ['step-000010']
    if isinstance(ends, InputError):
        assert str(caught.value).endswith(f'; the last checkpoint is {tiny.run}/checkpoints/'
                                          'step-000010')


def test_a_full_disk_is_told_at_the_next_opportunity(tmp_path, capsys):
    """When asked, before the next checkpoint, at the end; beside another error, on stderr."""
    with small_disk(tmp_path / 'disk', '400k') as disk, \
            tiny_run(make_run(disk / 'run'), shape=[50_000]) as tiny:       # 200 kB
        first, message = tiny.save(10), 'cannot write .*step-000020: no space left on the disk; '

        def fails(then, error=InputError, match=message + '.*; the last checkpoint is .*000010$'):
            with pytest.raises(error, match=match):
                with checkpoints.writing(tiny.sess, tiny.saver, tiny.run) as writer:
                    begin(tiny, writer, 20)
                    then(writer)
            assert tiny.names() == ['step-000010']

        def ask_until_it_is_told(writer):
            while True:
                writer.check()

        fails(ask_until_it_is_told)
        fails(lambda writer: writer.wait())
        fails(lambda writer: begin(tiny, writer, 21))
        fails(lambda writer: None)
        assert capsys.readouterr().err == ''

        def interrupt(writer):
            raise KeyboardInterrupt('stopped')

        fails(interrupt, KeyboardInterrupt, 'stopped')
        error = capsys.readouterr().err
        assert error.startswith('warning: cannot write ') and error.count('\n') == 1
        assert checkpoints.saved(tiny.run) == [first] and tiny.restore()[2] == 10


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tiny, tmp_path, monkeypatch):
    """The file of the variables is there, its name is not."""
    tiny.save(10)
    folder, move = tiny.run / 'checkpoints', checkpoints.move_into_place

    def noting(part, path):
        shutil.copytree(folder, tmp_path / 'then')
        move(part, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, 'move_into_place', noting)
        with checkpoints.writing(tiny.sess, tiny.saver, tiny.run) as writer:
            begin(tiny, writer, 20)
    shutil.rmtree(folder)
    (tmp_path / 'then').rename(folder)          # what a kill would have left
    assert tiny.names() == ['step-000010', 'step-000020.part']
    assert tiny.restore() == ('step-000010', Progress(step=10), 10)
    with checkpoints.writing(tiny.sess, tiny.saver, tiny.run) as writer:
        begin(tiny, writer, 20)
    assert tiny.names() == ['step-000010', 'step-000020']


def test_a_temporary_folder_with_brackets_too_is_told(tiny, tmp_path, monkeypatch):
    tiny.save(10)
    odd, temporary = tmp_path / 'a[b]', tmp_path / 'c[d]'
    shutil.copytree(tiny.run, odd)
    temporary.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(temporary))
    with pytest.raises(InputError, match='set TMPDIR to another'):
        load(odd)
    assert not list(temporary.iterdir())


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs pipes')
def test_a_pipe_within_what_tensorflow_reads_is_told(tmp_path):
    (tmp_path / 'vgg/variables').mkdir(parents=True)
    os.mkfifo(tmp_path / 'vgg/variables/variables.index')
    with pytest.raises(InputError, match='variables.index: it is a pipe; move it away'), \
            literal(tmp_path / 'vgg'):
        pass
