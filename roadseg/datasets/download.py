"""Getting archives from the network and unpacking them, so that an interruption costs little.

    data/data_road.zip.part         what has come so far
    data/data_road.zip.part.json    of which version of the file, by the server's own mark

Both are there only while a download is under way or was interrupted.
"""
import errno
import http.client
import os
import re
import shutil
import stat
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from roadseg.errors import InputError
from roadseg.files import (check_file, describe_os_error, free_space_check, move_into_place,
                           read_json, write_error, write_json)

try:
    import fcntl
except ImportError:         # Windows
    fcntl = None

TIMEOUT = 30                # seconds without a byte after which the network is given up
_BLOCK = 1 << 20            # bytes read at once
_CLUSTER = 4096             # bytes; a file takes a multiple of that on most disks
_COMPRESSIONS = {9: 'Deflate64', 12: 'BZip2', 14: 'LZMA', 93: 'Zstandard', 95: 'XZ', 98: 'PPMd',
                 99: 'AES encryption'}      # PKWARE's APPNOTE.TXT, 4.4.5
_ENCRYPTED = 0x1            # a member's flag, 4.4.4 there
_BY_HAND = 'unpack it in {} with another program, such as 7-Zip'


class Unavailable(InputError):
    """The network or the server does not give the file, so that another source may be tried.

    Not of a transfer that broke off, or of a full disk: there the same command helps.
    """


# Downloading ----------------------------------------------------------------------------------

def download(url, path):
    """Downloads a file, going on where an earlier try stopped if it is the same file still.

    The server's mark of the version (ETag or Last-Modified) is kept beside what has come, and
    sent as If-Range (RFC 9110, 13.1.5): where the file has changed meanwhile, or where there
    is no such mark, the download begins anew, so that two versions are never spliced.

    Args:
        url: where it is.
        path: where it shall be; it appears there when it is whole.

    Raises:
        Unavailable: the network or the server says no.
        InputError: the transfer broke off, or the file can't be written.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise InputError(f'cannot download to {path}: it is a folder; move it away')
    part = path.with_name(path.name + '.part')
    with _opened(part) as file:
        try:
            _transfer(url, file, part)
            if fcntl is None:       # Windows has no lock to keep, and renames no open file
                file.close()
            move_into_place(part, path)
        except KeyboardInterrupt:
            print(f'{path.name} is not whole yet; {_way_on(part)}', file=sys.stderr)
            raise
        except OSError as error:        # those of the network became InputErrors
            discard(path)
            raise write_error(path, error, 'free some space, or write to another disk; what had '
                              'come was deleted') from error
        finally:
            if not _can_go_on(part):
                discard(path)


def discard(path):
    """Deletes what an interrupted download of `path` left, where it is not wanted any longer."""
    part = Path(path).with_name(Path(path).name + '.part')
    for left in part, _note(part):
        with suppress(OSError):
            left.unlink()


def _note(part):
    """The path of the note from where a part has come."""
    return part.with_name(part.name + '.json')


@contextmanager
def _opened(part):
    """Opens the partial file for appending, for this process alone."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(part):
            check_file(part, 'move it away')        # opening a pipe would wait
        file = part.open('ab', buffering=0)     # lest closing fails again on a full disk
    except OSError as error:
        raise write_error(part, error) from error
    with file:
        # Whoever waited for the lock may hold a file that was finished and renamed meanwhile.
        if not _lock(file) or not part.exists() or not os.path.samestat(
                os.fstat(file.fileno()), part.stat()):
            raise InputError(f'another process is writing {part}; wait until it is done')
        yield file


def _lock(file):
    """Whether an open file is this process's alone from now on, until it is closed."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:         # a file system without locks
            pass
    return True


def _can_go_on(part):
    """Whether there is something to go on from, and known of which version it is."""
    return _note(part).exists() and part.exists() and part.stat().st_size > 0


def _way_on(part):
    """What the same command will do after an interruption."""
    return f"the same command {'goes on from there' if _can_go_on(part) else 'begins it anew'}"


def _transfer(url, file, part):
    """Appends to `file` until it is whole, see `download`."""
    known = _read_note(part, url)
    done = part.stat().st_size if known else 0
    if done and done == known.get('length'):        # killed just before it was renamed
        return
    rest = _rest(url, known, done) if done else None
    with rest or _get(url) as response:
        if rest and response.status == 206:
            total = known.get('length')
        else:
            if response.status != 200:
                raise Unavailable(f'could not download {url}: the server answers with status '
                                  f'{response.status}, expected 200')
            if response.headers.get_content_type() == 'text/html':
                raise Unavailable(f'could not download {url}: it answers with a web page, perhaps '
                                  'of a proxy or to log in; open it in a browser')
            done, total = 0, _length(response)
            _note(part).unlink(missing_ok=True)
            file.truncate(0)
        free_space_check(part.parent, (total or 0) - done, f'downloading {part.stem}')
        if response.status == 200 and _version(response):
            write_json(_note(part), {'url': url, 'version': _version(response), 'length': total})
        with tqdm(total=total, initial=done, unit='B', unit_scale=True, desc=part.stem,
                  disable=None) as bar:
            while block := _read(response, url, done, total, part):
                rest = memoryview(block)
                while rest:
                    rest = rest[file.write(rest):]
                done += len(block)
                bar.update(len(block))
    if total is not None and done != total:
        raise _broken_off(url, done, total, part)
    if not done:
        raise Unavailable(f'could not download {url}: the answer is empty')


def _read_note(part, url):
    """What is known of the version of which a part has come; {} where that is of no use."""
    try:
        known = read_json(_note(part))
    except InputError:
        return {}
    version = known.get('version')
    usable = (isinstance(version, str) and version.isascii() and version.isprintable()
              and isinstance(known.get('length'), (int, type(None))))
    return known if usable and known.get('url') == url else {}


def _get(url, headers=None):
    """Asks the server.

    Returns:
        The response, at its first byte; None where a range was asked for that is not there.

    Raises:
        Unavailable: the network or the server says no.
    """
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}),
                                      timeout=TIMEOUT)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # ValueError: a server that redirects to what is no URL
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            if headers and error.code == 416:
                return None
        raise Unavailable(f'could not download {url}: {_network_reason(error)}') from error


def _rest(url, known, done):
    """Asks for what is missing of a file.

    Returns:
        The response: 206 with the rest, or 200 with all of a file that changed; None where
        the server gives neither.
    """
    response = _get(url, {'Range': f'bytes={done}-', 'If-Range': known['version']})
    if response is None or response.status != 206:
        return response
    found = re.fullmatch(r'bytes (\d+)-\d+/(\d+|\*)', response.headers['Content-Range'] or '')
    if (found and int(found[1]) == done
            and found[2] in ('*', str(known.get('length') or found[2]))
            and _version(response) in (None, known['version'])):
        return response
    response.close()            # it does not heed If-Range
    return None


def _version(response):
    """The server's mark of a file's version for If-Range, which takes no weak ETag; or None."""
    etag = response.headers['ETag'] or ''
    return etag if etag.startswith('"') else response.headers['Last-Modified']


def _length(response):
    """The length of a whole answer in bytes, None where the server does not tell."""
    length = response.headers['Content-Length'] or ''
    return int(length) if length.isdecimal() and len(length) < 20 else None


def _read(response, url, done, total, part):
    """Reads the next bytes, b'' at the end."""
    try:
        return response.read1(_BLOCK)       # what has come, lest the rest of a block be lost
    except (OSError, http.client.HTTPException) as error:
        raise _broken_off(url, done, total, part, f' ({_network_reason(error)})') from error


def _broken_off(url, done, total, part, reason=''):
    """The error of a transfer that ended too early."""
    return InputError(f"the download of {url} broke off after {done} of {total or 'unknown'} "
                      f'bytes{reason}; {_way_on(part)}')


def _network_reason(error):
    """Why the network or the server said no, on one line."""
    if isinstance(error, http.client.HTTPException):
        return f'no proper answer ({type(error).__name__})'
    if not isinstance(error, urllib.error.HTTPError):
        error = getattr(error, 'reason', error)         # which may be text
    return describe_os_error(error) if isinstance(error, OSError) else str(error)


# Unpacking ------------------------------------------------------------------------------------

def extract(archive, top):
    """Unpacks the folder `top` of a zip archive beside the archive, all of it or nothing.

    Args:
        archive: path of the archive.
        top: name of the folder; what else is in the archive stays there.

    Raises:
        InputError: the archive is damaged, is no zip, is packed in a way that Python does not
            read, holds no `top` or what does not belong into a data set (links, names that
            lead outside, a name twice); there is no room; `top` is there already.
    """
    archive = Path(archive)
    folder, part = archive.with_name(top), archive.with_name(top + '.part')
    check_file(archive, 'it should be a zip archive')
    with _reading(archive):
        file = archive.open('rb')
    with file:
        if not _lock(file):
            raise InputError(f'another process is unpacking {archive}; wait until it is done')
        with _reading(archive):
            opened = zipfile.ZipFile(file)
        folders, files = _members(opened, archive, top)
        try:
            if folder.is_symlink() or folder.is_file() or (folder.exists()
                                                           and any(folder.iterdir())):
                raise InputError(f'{archive} could not be unpacked: {folder} is there already; '
                                 'move it away')
            _remove(part)
            try:
                _unpack(opened, folders, files, part, archive)
                move_into_place(part / top, folder)
            finally:
                _remove(part)
        except OSError as error:
            raise write_error(folder, error) from error


@contextmanager
def _reading(archive):
    """Turns what `zipfile` raises about an archive into an `InputError`."""
    try:
        yield
    except NotImplementedError as error:
        raise InputError(f'{archive} could not be unpacked: {error}; '
                         f'{_BY_HAND.format(archive.parent)}') from error
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
        # EINVAL: `zipfile` followed the archive to a place before its start.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise InputError(f'cannot read {archive}: {describe_os_error(error)}') from error
        raise InputError(f'{archive} could not be unpacked: {_damage(archive, error)}; delete it '
                         'and run again') from error


def _remove(part):
    """Deletes what this or an earlier, killed, run unpacked half."""
    with suppress(FileNotFoundError):
        shutil.rmtree(part)


def _damage(archive, error):
    """What is wrong with an archive that `zipfile` can't read."""
    with archive.open('rb') as file:
        start = file.read(1024).lstrip()
    if start.startswith(b'<'):
        return 'it is a web page, perhaps of a proxy or to log in, and no archive'
    if not start.startswith(b'PK'):
        return 'it is no zip archive'
    return f'it is damaged or was cut off ({error})'


def _members(opened, archive, top):
    """The files and folders below `top`, checked.

    Returns:
        (set of the folders' paths, dict {path of a file: ZipInfo}), the paths PurePosixPath.

    Raises:
        InputError: see `extract`.
    """
    def refuse(found):
        return InputError(f'{archive} could not be unpacked: it holds {found}; is it the right '
                          'archive?')

    folders, files = set(), {}
    for info in opened.infolist():
        name = info.filename.replace('\\', '/')
        path = PurePosixPath(name)
        if path.is_absolute() or '..' in path.parts or re.match('[A-Za-z]:', name):
            raise refuse(f'{name!r}, which would be written outside its folder')
        if path.parts[:1] != (top,):
            continue
        is_folder = name.endswith('/')          # `info.is_dir` does not know backslashes
        if path in files or (path in folders and not is_folder):
            raise refuse(f'{name!r} twice')
        kind = stat.S_IFMT(info.external_attr >> 16)        # where it was packed on Unix
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refuse(f'{name!r}, which is a link or a device')
        packed = 'a password' if info.flag_bits & _ENCRYPTED else _COMPRESSIONS.get(
            info.compress_type, f'compression {info.compress_type}')
        if packed == 'a password' or info.compress_type not in (zipfile.ZIP_STORED,
                                                                zipfile.ZIP_DEFLATED):
            raise InputError(f'{archive} could not be unpacked: {name!r} is packed with {packed}, '
                             f'which is not supported; {_BY_HAND.format(archive.parent)}')
        if is_folder:
            folders.add(path)
        else:
            files[path] = info
    if not folders and not files or PurePosixPath(top) in files:
        raise InputError(f'{archive} holds no folder {top}/; is it another archive?')
    for path in [*folders, *files]:
        if not files.keys().isdisjoint(path.parents):
            raise refuse(f'{str(path)!r} below a file of that name')
    return folders, files


def _unpack(opened, folders, files, part, archive):
    """Writes folders and files, see `_members`, below the folder `part`.

    Raises:
        InputError: there is no room, or the archive is damaged. Of a member no more is written
            than the size it declares, for which room was found.
        OSError: a file can't be written.
    """
    sizes = [info.file_size for info in files.values()]
    free_space_check(part.parent, sum(-(-size // _CLUSTER) * _CLUSTER for size in sizes),
                     f'unpacking {archive}')
    with tqdm(total=sum(sizes), unit='B', unit_scale=True, desc=f'unpacking {archive.name}',
              disable=None) as bar:
        for path in folders:
            (part / path).mkdir(parents=True, exist_ok=True)
        for path, info in files.items():
            target = part / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with _reading(archive):
                source = opened.open(info)
            with source, target.open('xb') as file:
                while block := _read_member(source, archive):
                    file.write(block)
                    bar.update(len(block))


def _read_member(source, archive):
    """Reads the next bytes of a member, b'' at the end."""
    with _reading(archive):
        return source.read(_BLOCK)
