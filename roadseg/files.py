"""Files that are written whole or not at all, and read with errors that name them."""
import errno
import filecmp
import glob
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np

from roadseg.errors import InputError

JSON_LIMIT = 64 << 20       # bytes; the files of a run have a few thousand
STALE = 3600        # seconds after which a folder that was being made is a killed process's
_REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT): 'free some space, or write to another disk',
    (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP): 'move it away, or write elsewhere',
    (errno.ENAMETOOLONG,): 'choose a shorter one',
    (errno.EIO, errno.EFBIG): 'write to another disk'}
_REASONS = {
    errno.ENOSPC: 'no space left on the disk',
    errno.EDQUOT: 'the disk quota is used up',
    errno.EROFS: 'read-only file system',
    errno.EACCES: 'permission denied',
    errno.EPERM: 'operation not permitted',
    errno.ENOENT: 'no such file or folder',
    errno.EEXIST: 'something of that name is there already',
    errno.ENOTDIR: 'a file stands where a folder should',
    errno.EISDIR: 'a folder stands where a file should',
    errno.ENAMETOOLONG: 'the name is too long',
    errno.EIO: 'input/output error; the disk may be failing',
    errno.EFBIG: 'too large for the file system, or for the limit set on files',
}


# What went wrong ------------------------------------------------------------------------------

def describe_os_error(error):
    """Returns the reason of an `OSError` in a few words, such as 'permission denied'."""
    # The kinds that modules such as ssl and socket derive have numbers of their own.
    if error.errno in _REASONS and type(error).__module__ == 'builtins':
        return _REASONS[error.errno]
    reason = error.strerror or str(error) or type(error).__name__
    return ' '.join(str(reason).split())


def write_error(path, error, remedy=None):
    """Makes the `InputError` that says why a file or folder could not be written.

    Args:
        path: of what was to be written.
        error: the `OSError`.
        remedy: what to do, instead of what the reason suggests.

    Returns:
        `InputError`, to be raised.
    """
    if remedy is None:
        remedy = next((remedy for numbers, remedy in _REMEDIES.items() if error.errno in numbers),
                      'make its folder writable, or write elsewhere')
    return InputError(f'cannot write {path}: {describe_os_error(error)}; {remedy}')


def human_size(count):
    """Returns a number of bytes as people read it, such as '1.5 GB'; 1 kB is 1000 bytes."""
    for unit in ('bytes', 'kB', 'MB', 'GB', 'TB'):
        if count < 1000 or unit == 'TB':
            return f'{count:.3g} {unit}' if count < 1000 else f'{count:.0f} {unit}'
        count /= 1000


def free_space_check(folder, needed_bytes, what):
    """Checks that there is room before something is begun.

    Args:
        folder: where it will be written; it need not exist yet.
        needed_bytes: how much.
        what: what needs them, for the message, such as 'unpacking data_road.zip'.

    Raises:
        InputError: the disk has fewer bytes free.
    """
    folder = Path(folder).absolute()
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:         # what can't be measured is found out by writing
        return
    if usage.total and usage.free < needed_bytes:       # some network file systems say 0 of 0
        raise InputError(f'{what} needs {human_size(needed_bytes)}, and the disk of {folder} has '
                         f'{human_size(usage.free)} free; free some space, or use another disk')


def is_there(path):
    """Whether something of this name is there.

    Raises:
        InputError: a link is, and leads nowhere: its disk may not be mounted.
    """
    if os.path.islink(path) and not os.path.exists(path):
        raise InputError(f'{path} is a link to {os.readlink(path)}, which is not there; mount its '
                         'disk, or remove the link')
    return os.path.exists(path)


def check_file(path, remedy, limit=math.inf):
    """Checks that something is there to be read, and that reading it will come to an end.

    Opening a pipe waits until somebody writes into it, and a device may never end.

    Args:
        path: of the file.
        remedy: what to do otherwise, the end of the message.
        limit: of its size in bytes.

    Returns:
        Its size in bytes.

    Raises:
        InputError: it is missing, no regular file, or larger.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:      # ValueError: a NUL in the name
        reason = describe_os_error(error) if isinstance(error, OSError) else error
        raise InputError(f'cannot read {path}: {reason}; {remedy}') from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f'cannot read {path}: it is {_kind(status.st_mode)}; {remedy}')
    if status.st_size > limit:
        raise InputError(f'{path} has {human_size(status.st_size)}, expected at most '
                         f'{human_size(limit)}; is it another file?')
    return status.st_size


def differ(one, another):
    """Whether two files can be read, and differ in content."""
    try:
        return not filecmp.cmp(one, another, shallow=False)
    except (OSError, ValueError):       # ValueError: a NUL in the name
        return False


def _kind(mode):
    """What something that is no regular file is."""
    for test, name in ((stat.S_ISDIR, 'a folder'), (stat.S_ISFIFO, 'a pipe'),
                       (stat.S_ISSOCK, 'a socket')):
        if test(mode):
            return name
    return 'a device'


# Writing --------------------------------------------------------------------------------------

def write_whole(path, content, durable=True):
    """Writes a file beside its place and renames it, so that nobody ever sees half of it.

    Args:
        path: of the file; where it is a symbolic link, the file it points to is replaced.
        content: bytes, or text that becomes UTF-8.
        durable: whether to wait until the disk has it, so that a loss of power leaves the old
            file or the new one, and not an empty one; takes some milliseconds.

    Raises:
        InputError: the file can't be written, for instance because the disk is full. What
            stood there before still does.
    """
    content = content.encode() if isinstance(content, str) else content
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            # Renaming onto /dev/null would replace it, for someone who may.
            raise InputError(f'cannot write {path}: it is {_kind(path.stat().st_mode)}; name a '
                             'file')
        target = Path(os.path.realpath(path))
        part = part_of(target)
        try:
            part.write_bytes(content)
            move_into_place(part, target, durable)
        except BaseException:           # an interrupt by the user too
            with suppress(OSError):
                part.unlink()
            raise
    except OSError as error:
        raise write_error(path, error) from error


def temporary(make, **options):
    """Makes a temporary file or folder.

    Args:
        make: function of the module `tempfile`.
        options: its arguments.

    Returns:
        What it returns.

    Raises:
        InputError: there is no place for it, as on a full disk.
    """
    try:
        return make(**options)
    except OSError as error:
        raise InputError(f'no temporary file can be made: {describe_os_error(error)}; set TMPDIR '
                         'to a folder with room') from error


def part_of(path):
    """Where a file or folder is written first: a hidden name beside its own.

    It is drawn by chance, lest two processes, perhaps of two machines, write the same.
    """
    path = Path(path)
    return path.with_name(f'.{path.name[:40]}.{secrets.token_hex(6)}.part')


def delete(path):
    """Deletes a file, if it is there.

    Raises:
        InputError: it can't be deleted.
    """
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def file_checksum(path):
    """SHA-256 of a file, 64 hexadecimal digits.

    Raises:
        OSError: it can't be read.
    """
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def check_writable(path):
    """Checks, before the work of minutes, that a file or folder can be made.

    Raises:
        InputError: it can't.
    """
    path = Path(path)
    try:
        with suppress(FileNotFoundError):
            os.lstat(path)              # whose name may be too long
        while not os.path.isdir(path.parent):       # which will be made, too
            path = path.parent
            if os.path.lexists(path):
                raise NotADirectoryError(errno.ENOTDIR, '')
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise write_error(path, error) from error


def folders_in(folder):
    """The folders in a folder, and in those, but for hidden ones.

    Links are followed, though not in circles.

    Returns:
        Sorted list of paths; [] where the folder is not there.

    Raises:
        InputError: one can't be read.
    """
    def refuse(error):
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise InputError(f'cannot read the folder {error.filename}: '
                             f'{describe_os_error(error)}; make it readable, or name others')

    found = {os.path.realpath(folder): folder}
    for place, names, _ in os.walk(folder, onerror=refuse, followlinks=True):
        names[:] = [name for name in names if not name.startswith('.')
                    and os.path.realpath(Path(place, name)) not in found]       # links may be loops
        found.update({os.path.realpath(Path(place, name)): Path(place, name) for name in names})
    return sorted(list(found.values())[1:])


def make_folder(folder, parents=True):
    """Makes a folder where it is missing, and unless `parents` is false, those above it.

    Raises:
        InputError: it can't be made.
    """
    try:
        Path(folder).mkdir(parents=parents, exist_ok=True)
    except FileExistsError as error:
        raise write_error(folder, NotADirectoryError(errno.ENOTDIR, '')) from error
    except OSError as error:
        raise write_error(folder, error) from error


def check_free(out):
    """Checks, before the work of minutes, that a folder can be made.

    What was left of it by processes that were killed is deleted.

    Args:
        out: path.

    Raises:
        InputError: it is there already, or would have to be in a file; or its name is no text.
    """
    out = Path(out)
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        raise InputError(f'cannot write {ascii(str(out))}: its name is no UTF-8, which TensorFlow '
                         'wants; choose another') from error
    try:
        sweep(out)              # what was killed while it wrote
        if out.exists() or out.is_symlink():
            raise InputError(f'{out} is there already; move it away or choose another --out')
        nearest = next((parent for parent in out.absolute().parents if parent.exists()), None)
        if nearest and not nearest.is_dir():        # there is none on a drive that is not there
            raise InputError(f'cannot write {out}: {nearest} is a file; choose another --out')
    except OSError as error:        # too long a name, or a folder that may not be looked into
        raise write_error(out, error) from error


def sweep(target):
    """Deletes what processes that were killed an hour ago or earlier had begun for a target."""
    with suppress(OSError):         # too long a name, or a folder that may not be looked into
        for left in Path(target).parent.glob(f'.{glob.escape(Path(target).name[:40])}.*.part'):
            with suppress(OSError):     # it has just got its name
                if time.time() - left.stat().st_mtime > STALE:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def part_folder(target):
    """A hidden folder beside `target`, to be filled and then moved into its place.

    It is deleted if it is still there at the end, and so is what killed processes left an hour ago
    or earlier.

    Args:
        target: path; the folders above it are made where they are missing.

    Yields:
        Path of the folder, which is yet to be made.

    Raises:
        InputError: the folders above can't be made.
    """
    target = Path(target)
    make_folder(target.parent)
    sweep(target)
    part = part_of(target)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def move_into_place(part, path, durable=True):
    """Renames a finished file or folder, after the disk has it, so that power may fail.

    A rename can reach the disk before the content does, which leaves an empty file under the
    final name.

    Args:
        part: what was written.
        path: its final place, on the same disk; a file there is replaced.
        durable: whether to wait for the disk.

    Raises:
        OSError: it can't be renamed or the disk does not take it.
    """
    part, path = Path(part), Path(path)
    if durable:
        for inside in [*(part.rglob('*') if part.is_dir() else ()), part]:
            _sync(inside)
    os.replace(part, path)
    if durable:
        _sync(path.parent)


def _sync(path):
    """Waits until the disk has a file's content, or a folder's list of names, if it can tell."""
    is_folder = os.path.isdir(path)
    with suppress(OSError) if is_folder else nullcontext():
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# JSON -----------------------------------------------------------------------------------------

def write_json(path, content):
    """Writes JSON whole or not at all; NaN, which JSON does not have, is refused.

    Args:
        path: of the file.
        content: dict; NumPy's numbers and arrays become JSON's, paths become text.

    Raises:
        InputError: the file can't be written.
        ValueError: `content` holds NaN or an infinity.
    """
    write_whole(path, json.dumps(content, indent=2, allow_nan=False, default=_plain) + '\n')


def _plain(value):
    """What JSON writes for a kind of value it does not know."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)


def read_json(path, remedy='name the folder of a run, as training writes it into runs/'):
    """Reads a JSON file that holds an object.

    Args:
        path: of the file.
        remedy: what to do where there is no such file, the end of the message.

    Returns:
        dict. No number in it is NaN, infinite or beyond 64 bits, and no key stands twice.

    Raises:
        InputError: it is missing or damaged.
    """
    check_file(path, remedy, JSON_LIMIT)
    try:
        # Some editors put a mark of the encoding in front, which -sig skips.
        content = json.loads(Path(path).read_bytes().decode('utf-8-sig'), parse_int=_integer,
                             parse_float=_number, parse_constant=_number,
                             object_pairs_hook=_object)
    except OSError as error:
        raise InputError(f'cannot read {path}: {describe_os_error(error)}; {remedy}') from error
    except (ValueError, RecursionError) as error:
        reason = {UnicodeDecodeError: 'it is not UTF-8 text',
                  RecursionError: 'brackets within brackets too deep'}.get(type(error), error)
        raise InputError(f'{path} is not JSON: {reason}; take it from a backup, or make it '
                         'again') from error
    if not isinstance(content, dict):
        raise InputError(f'{path} holds a {type(content).__name__}, expected an object, '
                         '{...}, at its top')
    return content


def _integer(digits):
    """An integer of JSON; huge ones overflow where they are used."""
    if len(digits) > 20 or not -2**63 <= int(digits) < 2**63:
        raise ValueError(f'the number {digits[:20]}... has more than 64 bits')
    return int(digits)


def _number(text):
    """A number with a fraction or exponent, or one of the constants that Python knows."""
    if not np.isfinite(float(text)):
        raise ValueError(f'{text[:20]} is no finite number')
    return float(text)


def _object(pairs):
    """The dict of an object of JSON; of two values of a key, which one counts?"""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key '{twice[:40]}' stands twice")
    return content
