"""Files are written whole or not at all, and what is read is checked."""
import errno
import json
import os
import resource
import signal
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from roadseg import files
from roadseg.errors import InputError
from roadseg.files import (check_file, describe_os_error, free_space_check, human_size,
                           make_folder, move_into_place, part_folder, read_json, write_error,
                           write_json, write_whole)

ROOT = Path(files.__file__).parents[1]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# What went wrong ------------------------------------------------------------------------------

@pytest.mark.parametrize('error, expected', [
    (OSError(errno.ENOSPC, 'No space left on device'), 'no space left on the disk'),
    (PermissionError(errno.EACCES, 'Permission denied', 'x'), 'permission denied'),
    (OSError(errno.EROFS, 'Read-only file system'), 'read-only file system'),
    (OSError(errno.EMFILE, 'Too many open files'), 'Too many open files'),
    (OSError('image file is\ntruncated'), 'image file is truncated'),
    (TimeoutError(), 'TimeoutError')])
def test_reasons_are_a_few_words(error, expected):
    assert describe_os_error(error) == expected


def test_numbers_of_other_kinds_are_not_taken_for_those_of_files():
    """A certificate that is refused has the number 1, which is EPERM for a file."""
    error = ssl.SSLCertVerificationError(1, 'certificate verify failed')
    assert describe_os_error(error) == 'certificate verify failed'


@pytest.mark.parametrize('number, advice', [
    (errno.ENOSPC, 'free some space'), (errno.EDQUOT, 'free some space'),
    (errno.EACCES, 'make its folder writable'), (errno.ELOOP, 'move it away'),
    (errno.EISDIR, 'move it away'), (errno.ENAMETOOLONG, 'shorter'),
    (errno.EIO, 'another disk')])
def test_the_advice_follows_the_reason(number, advice):
    error = write_error('a/b.json', OSError(number, ''))
    assert isinstance(error, InputError)
    assert str(error).startswith('cannot write a/b.json: ') and advice in str(error)
    assert str(write_error('a', OSError(number, ''), 'do this')).endswith('; do this')


@pytest.mark.parametrize('count, expected', [
    (0, '0 bytes'), (999, '999 bytes'), (1000, '1 kB'), (470_000_000, '470 MB'),
    (1_536_000_000, '1.54 GB'), (10**18, '1000000 TB')])
def test_human_size(count, expected):
    assert human_size(count) == expected


def test_free_space_is_measured_where_the_folder_will_be(tmp_path):
    folder = tmp_path / 'new/deeper'
    free_space_check(folder, 1, 'unpacking x.zip')
    with pytest.raises(InputError, match=f'unpacking x.zip needs 1000000 TB, and the disk of '
                                         f'{tmp_path} has .*B free; free some space'):
        free_space_check(folder, 10**18, 'unpacking x.zip')
    assert not names(tmp_path)


# Writing --------------------------------------------------------------------------------------

def test_a_file_system_that_cannot_sync_folders_will_do(tmp_path, monkeypatch):
    fsync = os.fsync

    def of_files(descriptor):
        if os.path.isdir(f'/proc/self/fd/{descriptor}'):
            raise OSError(errno.EINVAL, 'Invalid argument')
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', of_files)
    (tmp_path / 'part').mkdir()
    (tmp_path / 'part/a.txt').write_text('a')
    move_into_place(tmp_path / 'part', tmp_path / 'whole')
    assert (tmp_path / 'whole/a.txt').read_text() == 'a'


@pytest.mark.parametrize('durable', [True, False])
def test_write_whole_replaces_what_was_there(tmp_path, durable):
    path = tmp_path / 'a.txt'
    for content in ('first, and longer', 'zwölf', b'\0\xff'):
        write_whole(path, content, durable)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(tmp_path) == ['a.txt']


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / 'a').write_text('')
    write_whole(tmp_path / 'b', '')
    assert stat.S_IMODE((tmp_path / 'a').stat().st_mode) == stat.S_IMODE(
        (tmp_path / 'b').stat().st_mode)


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / 'there').mkdir()
    (tmp_path / 'a.txt').symlink_to('there/b.txt')
    for content in ('new', 'newer'):
        write_whole(tmp_path / 'a.txt', content)
        assert (tmp_path / 'there/b.txt').read_text() == content
    assert (tmp_path / 'a.txt').is_symlink() and names(tmp_path / 'there') == ['b.txt']


@pytest.mark.parametrize('name', ['x' * 250 + '.json', 'ü' * 100])
def test_long_names_have_room_for_the_temporary_one(tmp_path, name):
    write_whole(tmp_path / name, 'content')
    assert names(tmp_path) == [name]


@pytest.mark.parametrize('make, kind', [(Path.mkdir, 'a folder'), (os.mkfifo, 'a pipe'),
                                        (lambda path: path.symlink_to('/dev/null'), 'a device')])
def test_only_a_file_is_replaced(tmp_path, make, kind):
    path = tmp_path / 'a'
    make(path)
    mode = path.stat().st_mode
    with pytest.raises(InputError, match=f'cannot write {path}: it is {kind}; name a file'):
        write_whole(path, 'content')
    assert path.stat().st_mode == mode and names(tmp_path) == ['a']


def test_write_whole_into_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match='cannot write .*a.txt: no such file or folder; .'):
        write_whole(tmp_path / 'new/a.txt', 'content')
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot write .*a.txt: a file stands where a folder'):
        write_whole(tmp_path / 'file/a.txt', 'content')
    with pytest.raises(InputError, match='cannot write .*: the name is too long'):
        write_whole(tmp_path / ('x' * 256), 'content')
    assert names(tmp_path) == ['file']


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    """In a process whose files may have 1000 bytes, which strikes like a full disk."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    (tmp_path / 'a.txt').write_text('old')
    code = ('from roadseg.errors import InputError\nfrom roadseg.files import write_whole\n'
            'try:\n    write_whole("a.txt", "x" * 5000)\nexcept InputError as error:\n'
            '    print(error)')
    answer = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, preexec_fn=limit,
                            env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True,
                            text=True, check=True).stdout
    assert answer.startswith('cannot write a.txt: too large for') and answer.count('\n') == 1
    assert names(tmp_path) == ['a.txt'] and (tmp_path / 'a.txt').read_text() == 'old'


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path):
    """Ctrl-C again and again while a file is written again and again."""
    code = ('import itertools, sys\nfrom roadseg.files import write_whole\n'
            'print("ready", flush=True)\n'
            'for number in itertools.count():\n'
            '    write_whole("a.txt", str(number % 10) * 3_000_000, durable=False)')
    for _ in range(3):
        with subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL,
                              env={**os.environ, 'PYTHONPATH': str(ROOT)}) as process:
            process.stdout.readline()
            while not (tmp_path / 'a.txt').exists():
                pass
            process.send_signal(signal.SIGINT)
        assert names(tmp_path) == ['a.txt']
        content = (tmp_path / 'a.txt').read_text()
        assert content == content[0] * 3_000_000


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path):
    path = tmp_path / 'a.txt'

    def write(letter):
        for _ in range(20):
            write_whole(path, letter * 50_000, durable=False)

    threads = [threading.Thread(target=write, args=letter) for letter in 'abc']
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = path.read_text()
    assert content in [letter * 50_000 for letter in 'abc'] and names(tmp_path) == ['a.txt']


def synced(action):
    """What reaches the disk, in order: ('fsync', path) and ('rename', from, to).

    The system's own calls are listened to, as a loss of power can't be tried.
    """
    events, fsync, replace = [], os.fsync, os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'fsync', lambda descriptor: (
            events.append(('fsync', os.readlink(f'/proc/self/fd/{descriptor}'))),
            fsync(descriptor)))
        patch.setattr(os, 'replace', lambda source, target: (
            events.append(('rename', str(source), str(target))), replace(source, target)))
        action()
    return events


@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='needs /proc')
def test_content_reaches_the_disk_before_its_name(tmp_path):
    path = tmp_path / 'a.txt'
    first, rename, last = synced(lambda: write_whole(path, 'content'))
    assert first == ('fsync', rename[1]) and rename[2] == str(path)
    assert last == ('fsync', str(tmp_path))
    assert [event[0] for event in synced(lambda: write_whole(path, 'x', durable=False))] == [
        'rename']


@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='needs /proc')
def test_all_of_a_folder_reaches_the_disk_before_its_name(tmp_path):
    part = tmp_path / 'step.part'
    (part / 'deeper').mkdir(parents=True)
    (part / 'a').write_text('1')
    (part / 'deeper/b').write_text('2')
    events = synced(lambda: move_into_place(part, tmp_path / 'step'))
    assert {event[1] for event in events[:-2]} == {
        str(path) for path in (part, part / 'a', part / 'deeper', part / 'deeper/b')}
    assert events[-2:] == [('rename', str(part), str(tmp_path / 'step')),
                           ('fsync', str(tmp_path))]
    assert (tmp_path / 'step/deeper/b').read_text() == '2'


def test_a_folder_in_the_making_is_hidden_and_never_left(tmp_path):
    """And those that killed processes left are swept after an hour, a busy one's not."""
    left, busy, other = (tmp_path / name for name in (
        '.a[b].12ab.part', '.a[b].34cd.part', '.ab.56ef.part'))
    for path, age in ((left, 4000), (busy, 10), (other, 4000)):
        path.mkdir()
        os.utime(path, (time.time() - age,) * 2)
    for outcome in (None, OSError(errno.ENOSPC, ''), KeyboardInterrupt()):
        with suppress(OSError, KeyboardInterrupt), part_folder(tmp_path / 'a[b]') as part, \
                part_folder(tmp_path / 'a[b]') as at_once:
            assert part.parent == tmp_path and part.name[0] == '.' and part != at_once
            part.mkdir()
            (part / 'half').write_text('written')
            if outcome:
                raise outcome
            move_into_place(part, tmp_path / 'a[b]')
        assert set(tmp_path.iterdir()) == {tmp_path / 'a[b]', busy, other}
    with part_folder(tmp_path / 'missing/yet') as part:
        part.mkdir()


@pytest.mark.parametrize('spoil', [Path.touch, lambda path: path.symlink_to('nowhere')])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, spoil):
    make_folder(tmp_path / 'a/b')
    make_folder(tmp_path / 'a/b')
    spoil(tmp_path / 'c')
    for path, reason in ((tmp_path / 'c', 'a file stands where a folder should'),
                         (tmp_path / 'c/d', ''), (tmp_path / ('e' * 300), 'the name is too long')):
        with pytest.raises(InputError, match=f'^cannot write {path}: {reason}'):
            make_folder(path)


# Reading --------------------------------------------------------------------------------------

NO_FILES = [
    (lambda path: None, 'no such file'), (Path.mkdir, 'it is a folder'),
    (os.mkfifo, 'it is a pipe'), (lambda path: path.symlink_to('/dev/zero'), 'it is a device'),
    (lambda path: path.symlink_to('nowhere'), 'no such file')]


@pytest.mark.parametrize('make, reason', NO_FILES)
def test_what_is_no_file_is_named_and_does_not_hang(tmp_path, make, reason):
    path = tmp_path / 'options.json'
    make(path)
    with pytest.raises(InputError, match=f'cannot read {path}: {reason}.*; do this'):
        check_file(path, 'do this')
    with pytest.raises(InputError, match=f'cannot read {path}: {reason}.*; name the folder'):
        read_json(path)


def test_check_file_returns_the_size(tmp_path):
    (tmp_path / 'a').write_bytes(b'12345')
    assert check_file(tmp_path / 'a', '') == 5
    with pytest.raises(InputError, match='cannot read .*null'):
        check_file('a\0b', 'do this')


def test_json_comes_back_as_it_was_written(tmp_path):
    content = {'a': [1, 2.5, None, True, -2**63], 'ü': {'b': 'c'}, 'd': 1e-300}
    write_json(tmp_path / 'a.json', content)
    assert read_json(tmp_path / 'a.json') == content
    assert (tmp_path / 'a.json').read_text().endswith('}\n')


def test_numpy_and_paths_become_json(tmp_path):
    write_json(tmp_path / 'a.json', {'a': np.float32(0.5), 'b': np.int64(7), 'c': Path('x/y'),
                                     'd': np.arange(3, dtype=np.uint8), 'e': np.bool_(True)})
    assert read_json(tmp_path / 'a.json') == {'a': 0.5, 'b': 7, 'c': 'x/y', 'd': [0, 1, 2],
                                              'e': True}


@pytest.mark.parametrize('value', [float('nan'), float('inf'), np.float32('nan')])
def test_nan_is_not_written(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / 'a.json', {'a': value})
    assert not names(tmp_path)


def test_a_mark_of_the_encoding_is_skipped(tmp_path):
    """Editors on Windows put one in front."""
    (tmp_path / 'a.json').write_text('{"a": "ü"}', encoding='utf-8-sig')
    assert read_json(tmp_path / 'a.json') == {'a': 'ü'}


@pytest.mark.parametrize('content, cause', [
    ('', 'is not JSON'), ('{"a": ', 'is not JSON'), ('{"a": 1,}', 'is not JSON'),
    ("{'a': 1}", 'is not JSON'), ('{"a": 1} {"b": 2}', 'is not JSON'),
    ('[1]', 'holds a list, expected an object'), ('7', 'holds a int'),
    ('null', 'holds a NoneType'),
    ('{"a": NaN}', 'NaN is no finite number'), ('{"a": -Infinity}', '-Infinity is no finite'),
    ('{"a": 1e999}', '1e999 is no finite'), ('{"a": %s}' % ('9' * 5000), 'more than 64 bits'),
    ('{"a": 9223372036854775808}', 'more than 64 bits'), ('{"a": 1, "a": 2}', "'a' stands twice"),
    ('{"b": {"a": 1, "c": 3, "a": 1}}', "'a' stands twice"),
    ('[' * 100_000, 'brackets within brackets'), ('{"a":' * 100_000, 'brackets within brackets'),
    ('{"a": "ü"}'.encode('latin-1'), 'not UTF-8'), ('{"a": 1}'.encode('utf-16'), 'not UTF-8'),
    (b'\0' * 50, 'is not JSON'), (b'\x89PNG\r\n', 'not UTF-8')])
def test_json_that_was_spoilt_is_one_line(tmp_path, content, cause):
    path = tmp_path / 'options.json'
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        read_json(path)
    message = str(caught.value)
    assert str(path) in message and cause in message
    assert '\n' not in message and len(message) < 300 + len(str(path))


def test_a_file_far_too_large_is_not_read(tmp_path):
    with (tmp_path / 'a.json').open('wb') as file:
        file.truncate(files.JSON_LIMIT + 1)
    with pytest.raises(InputError, match='a.json has 67.1 MB, expected at most 67.1 MB'):
        read_json(tmp_path / 'a.json')


def test_json_whole_is_what_any_other_reader_takes(tmp_path):
    write_json(tmp_path / 'a.json', {'a': 'ü', 'b': '\udcff'})
    assert json.loads((tmp_path / 'a.json').read_bytes()) == {'a': 'ü', 'b': '\udcff'}


# Temporary files ------------------------------------------------------------------------------

def test_no_place_for_temporary_files_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, 'tempdir', None)
    monkeypatch.setattr(tempfile, '_candidate_tempdir_list', lambda: [str(tmp_path / 'nowhere')])
    for make in (tempfile.TemporaryFile, tempfile.TemporaryDirectory, tempfile.mkdtemp):
        with pytest.raises(InputError, match='^no temporary file can be made: .*; set TMPDIR'):
            files.temporary(make, prefix='x')


def test_what_killed_processes_left_is_swept(tmp_path):
    for name, age in (('old', 4000), ('new', 10)):
        for path in (tmp_path / f'.a.mp4.{name}1.part', tmp_path / f'.a.mp4.{name}2.part/inside'):
            path.parent.mkdir(exist_ok=True)
            path.touch()
            os.utime(tmp_path / path.relative_to(tmp_path).parts[0], (time.time() - age,) * 2)
    (tmp_path / '.b.mp4.old.part').touch()
    os.utime(tmp_path / '.b.mp4.old.part', (1, 1))
    files.sweep(tmp_path / 'a.mp4')
    assert names(tmp_path) == ['.a.mp4.new1.part', '.a.mp4.new2.part', '.b.mp4.old.part']


def test_a_link_to_a_disk_that_is_not_mounted_is_told(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'disk')
    assert not files.is_there(tmp_path / 'disk')
    with pytest.raises(InputError, match='link is a link to .*disk, which is not there'):
        files.is_there(tmp_path / 'link')
    (tmp_path / 'disk').mkdir()
    assert files.is_there(tmp_path / 'link')


def test_a_key_that_stands_twice_among_many_is_found_at_once(tmp_path):
    keys = [*range(100_000), 99_999]
    (tmp_path / 'a.json').write_text('{' + ', '.join(f'"{key}": 0' for key in keys) + '}')
    with pytest.raises(InputError, match="the key '99999' stands twice"):
        read_json(tmp_path / 'a.json')
