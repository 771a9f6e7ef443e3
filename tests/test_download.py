"""Downloads from a local server that does what servers do, and archives of all kinds."""
import os
import re
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from roadseg.datasets import download as module
from roadseg.datasets.download import Unavailable, discard, download, extract
from roadseg.errors import InputError
from roadseg.files import read_json, write_json

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
CHANGED = CONTENT[::-1]
ETAG = {'ETag': '"one"'}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')


@contextmanager
def serving(content=CONTENT, headers=None, ranges=True, heeds=True, cut=None, status=None,
            length=True, chunked=False, during=None):
    """Serves `content` at a local URL.

    What is yielded has the `url`, the list `asked` of (Range, If-Range) of each request, and
    the attributes of the server that a test may change between two requests.

    Args:
        headers: of the answer, such as an ETag.
        ranges: whether the server understands the header Range.
        heeds: whether it understands If-Range.
        cut: break off the first answer after so many bytes.
        status: error to answer with instead.
        length: whether it tells the length.
        chunked: whether it sends in chunks.
        during: function called after `cut` bytes of the first answer, before it ends.
    """
    server = SimpleNamespace(content=content, headers=ETAG if headers is None else headers,
                             status=status, asked=[])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1' if chunked else 'HTTP/1.0'

        def do_GET(self):
            wanted, mark = self.headers.get('Range'), self.headers.get('If-Range')
            server.asked.append((wanted, mark))
            if server.status:
                return self.send_error(server.status)
            if self.path == '/moved':
                self.send_response(302)
                self.send_header('Location', '/data.zip')
                return self.end_headers()
            fresh = not heeds or mark in server.headers.values()
            start = int(wanted[6:-1]) if wanted and ranges and fresh else 0
            if start and start >= len(server.content):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            for name, value in server.headers.items():
                self.send_header(name, value)
            if chunked:
                self.send_header('Transfer-Encoding', 'chunked')
            elif length:
                self.send_header('Content-Length', str(len(server.content) - start))
            if start:
                self.send_header('Content-Range', f'bytes {start}-{len(server.content) - 1}/'
                                                  f'{len(server.content)}')
            self.end_headers()
            first = len(server.asked) == 1
            rest = server.content[start:cut if first else None]
            if chunked:
                self.wfile.write(b'%x\r\n%s\r\n' % (len(rest), rest))
                if not (first and cut):
                    self.wfile.write(b'0\r\n\r\n')
                self.close_connection = True
            else:
                self.wfile.write(rest)
            if first and during:
                during()

        def log_message(self, *args):
            pass

    listener = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.url = f'http://127.0.0.1:{listener.server_port}/data.zip'
    thread = threading.Thread(target=listener.serve_forever, kwargs={'poll_interval': 0.02})
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Downloading ----------------------------------------------------------------------------------

def test_download_brings_the_whole_file(tmp_path):
    with serving() as server:
        download(server.url, tmp_path / 'new/data.zip')
    assert (tmp_path / 'new/data.zip').read_bytes() == CONTENT
    assert names(tmp_path / 'new') == ['data.zip']


@pytest.mark.parametrize('headers', [ETAG, {'Last-Modified': 'Tue, 01 Mar 2022 10:00:00 GMT'},
                                     {'ETag': 'W/"weak"', 'Last-Modified': 'Tue, 01 Mar 2022'}])
def test_download_goes_on_after_a_cut_connection(tmp_path, headers):
    path = tmp_path / 'data.zip'
    with serving(headers=headers, cut=120_000) as server:
        with pytest.raises(InputError, match='broke off after 120000 of 300000 bytes; the '
                                             'same command goes on from there'):
            download(server.url, path)
        assert names(tmp_path) == ['data.zip.part', 'data.zip.part.json']
        download(server.url, path)
    mark = list(headers.values())[-1]
    assert server.asked == [(None, None), ('bytes=120000-', mark)]
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ['data.zip']


def test_download_goes_on_through_a_redirection(tmp_path):
    path = tmp_path / 'data.zip'
    with serving() as server:
        url = server.url.replace('data.zip', 'moved')
        (tmp_path / 'data.zip.part').write_bytes(CONTENT[:7])
        write_json(tmp_path / 'data.zip.part.json', {'url': url, 'version': ETAG['ETag'],
                                                     'length': len(CONTENT)})
        download(url, path)
    assert server.asked == [('bytes=7-', '"one"')] * 2
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize('heeds', [True, False])
@pytest.mark.parametrize('changed', [CHANGED, CHANGED[:-1000]])
def test_a_file_that_changed_meanwhile_is_never_spliced(tmp_path, heeds, changed):
    path = tmp_path / 'data.zip'
    with serving(heeds=heeds, cut=120_000) as server:
        with pytest.raises(InputError, match='broke off'):
            download(server.url, path)
        server.content, server.headers = changed, {'ETag': '"two"'}
        download(server.url, path)
    assert path.read_bytes() == changed
    assert names(tmp_path) == ['data.zip']


def test_a_change_that_only_the_length_tells_is_noticed(tmp_path):
    path = tmp_path / 'data.zip'
    with serving(heeds=False, cut=120_000) as server:
        with pytest.raises(InputError, match='broke off'):
            download(server.url, path)
        server.content, server.headers = CHANGED[:-1000], {}
        download(server.url, path)
    assert path.read_bytes() == CHANGED[:-1000]


@pytest.mark.parametrize('headers', [{}, {'ETag': 'W/"weak"'}])
def test_without_a_mark_of_the_version_nothing_is_kept_and_the_message_says_so(tmp_path, headers):
    with serving(headers=headers, cut=120_000) as server:
        with pytest.raises(InputError, match='120000 of 300000 bytes; the same '
                                             'command begins it anew'):
            download(server.url, tmp_path / 'data.zip')
        assert not names(tmp_path)
        download(server.url, tmp_path / 'data.zip')
    assert server.asked == [(None, None)] * 2
    assert (tmp_path / 'data.zip').read_bytes() == CONTENT


@pytest.mark.parametrize('note', [
    None, '{"url": ', '[]', '{"version": "\\"one\\"", "length": 300000}',
    '{"url": "URL", "version": "\\"one\\"", "length": "300000"}',
    '{"url": "URL", "version": "a\\nb", "length": 300000}', '{"url": "URL", "version": 1}',
    '{"url": "http://127.0.0.1/other.zip", "version": "\\"one\\"", "length": 300000}'])
def test_a_part_of_unknown_origin_is_not_gone_on_from(tmp_path, note):
    (tmp_path / 'data.zip.part').write_bytes(b'older, half of it')
    with serving() as server:
        if note:
            (tmp_path / 'data.zip.part.json').write_text(note.replace('URL', server.url))
        download(server.url, tmp_path / 'data.zip')
    assert server.asked == [(None, None)]
    assert (tmp_path / 'data.zip').read_bytes() == CONTENT
    assert names(tmp_path) == ['data.zip']


def left_behind(folder, server, content):
    """What a download of `server.url` that was killed leaves."""
    (folder / 'data.zip.part').write_bytes(content)
    write_json(folder / 'data.zip.part.json', {'url': server.url, 'version': ETAG['ETag'],
                                               'length': len(CONTENT)})


def test_download_begins_anew_where_the_server_knows_no_ranges(tmp_path):
    with serving(ranges=False) as server:
        left_behind(tmp_path, server, CONTENT[:50])
        download(server.url, tmp_path / 'data.zip')
    assert server.asked == [('bytes=50-', '"one"')]
    assert (tmp_path / 'data.zip').read_bytes() == CONTENT


def test_download_begins_anew_where_more_than_the_file_lies_there(tmp_path):
    with serving() as server:
        left_behind(tmp_path, server, bytes(len(CONTENT) + 5))
        download(server.url, tmp_path / 'data.zip')
    assert (tmp_path / 'data.zip').read_bytes() == CONTENT


def test_download_that_was_killed_before_the_rename_is_whole(tmp_path):
    with serving() as server:
        left_behind(tmp_path, server, CONTENT)
        download(server.url, tmp_path / 'data.zip')
    assert not server.asked
    assert (tmp_path / 'data.zip').read_bytes() == CONTENT
    assert names(tmp_path) == ['data.zip']


@pytest.mark.parametrize('how', [{'length': False}, {'chunked': True}])
def test_download_takes_a_file_of_unknown_length(tmp_path, how):
    with serving(**how) as server:
        download(server.url, tmp_path / 'data.zip')
    assert (tmp_path / 'data.zip').read_bytes() == CONTENT
    assert names(tmp_path) == ['data.zip']


def test_a_cut_within_chunks_is_noticed_and_gone_on_from(tmp_path):
    with serving(chunked=True, cut=120_000) as server:
        with pytest.raises(InputError, match='of unknown bytes .*the same command goes on'):
            download(server.url, tmp_path / 'data.zip')
        download(server.url, tmp_path / 'data.zip')
    assert len(server.asked) == 2
    assert (tmp_path / 'data.zip').read_bytes() == CONTENT


@pytest.mark.parametrize('status', [403, 404, 416, 500, 503])
def test_download_reports_what_the_server_says(tmp_path, status):
    with serving(status=status) as server:
        with pytest.raises(Unavailable, match=f'{server.url}.*{status}'):
            download(server.url, tmp_path / 'data.zip')
    assert not names(tmp_path)


@pytest.mark.parametrize('status', [404, 500])
def test_what_has_come_survives_a_server_that_says_no(tmp_path, status):
    with serving(cut=120_000) as server:
        with pytest.raises(InputError, match='broke off'):
            download(server.url, tmp_path / 'data.zip')
        server.status = status
        with pytest.raises(Unavailable, match=str(status)):
            download(server.url, tmp_path / 'data.zip')
        server.status = None
        download(server.url, tmp_path / 'data.zip')
    assert server.asked[-1] == ('bytes=120000-', '"one"')
    assert (tmp_path / 'data.zip').read_bytes() == CONTENT


def test_a_web_page_is_not_taken_for_the_file(tmp_path):
    with serving(b'<html>Please log in</html>',
                 {'Content-Type': 'text/html; charset=utf-8'}) as server:
        with pytest.raises(Unavailable, match='answers with a web page'):
            download(server.url, tmp_path / 'data.zip')
    assert not names(tmp_path)


def test_download_reports_that_nobody_answers(tmp_path, nowhere):
    with pytest.raises(Unavailable, match=f'could not download {nowhere}: .*refused'):
        download(nowhere, tmp_path / 'data.zip')
    assert not names(tmp_path)


@pytest.mark.parametrize('url', ['http://a..b/x.zip', 'http:///x.zip', 'http://[bad/x.zip'])
def test_download_reports_a_host_that_cannot_be(tmp_path, monkeypatch, url):
    monkeypatch.setenv('no_proxy', '*')
    with pytest.raises(Unavailable, match='could not download .*: .') as caught:
        download(url, tmp_path / 'data.zip')
    assert '\n' not in str(caught.value)
    assert not names(tmp_path)


@contextmanager
def answering(answer, wait=0):
    """A server that answers one request with these bytes, and closes after `wait` seconds."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        done = threading.Event()

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)
                done.wait(wait)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f'http://127.0.0.1:{listener.getsockname()[1]}/data.zip'
        done.set()
        thread.join()


@pytest.mark.parametrize('answer', [
    b'SSH-2.0-OpenSSH\r\n', b'', b'HTTP/1.1 200', b'HTTP/1.0 204 No Content\r\n\r\n',
    b'HTTP/1.0 200 OK\r\nContent-Length: 0\r\nETag: "x"\r\n\r\n',
    b'HTTP/1.0 302 Found\r\nLocation: http://[bad/\r\n\r\n',
    b'HTTP/1.0 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n'])
def test_download_reports_an_answer_that_is_no_file(tmp_path, answer):
    with answering(answer) as url:
        with pytest.raises(Unavailable, match=f'could not download {url}: .') as caught:
            download(url, tmp_path / 'data.zip')
    assert '\n' not in str(caught.value)
    assert not names(tmp_path)


@pytest.mark.parametrize('answer, kind, seconds', [
    (b'', Unavailable, 0.2),
    (b'HTTP/1.0 200 OK\r\nContent-Length: 9\r\nETag: "one"\r\n\r\nhalf', InputError, 2)])
def test_a_server_that_falls_silent_is_given_up(tmp_path, monkeypatch, answer, kind, seconds):
    monkeypatch.setattr(module, 'TIMEOUT', seconds)
    with answering(answer, wait=10) as url:
        with pytest.raises(InputError, match='timed out') as caught:
            download(url, tmp_path / 'data.zip')
    assert type(caught.value) is kind
    assert not (tmp_path / 'data.zip').exists()


def test_download_interrupted_by_the_user_says_truthfully_how_to_go_on(tmp_path, capsys):
    gone = threading.Event()

    path, part = tmp_path / 'data.zip', tmp_path / 'data.zip.part'

    def interrupt():
        while part.stat().st_size < module._BLOCK:
            gone.wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        gone.wait(10)

    for headers, words in ((ETAG, 'goes on from there'), ({}, 'begins it anew')):
        gone.clear()
        with serving(headers=headers, cut=module._BLOCK, during=interrupt) as server:
            server.content = bytes(range(256)) * 6000
            with pytest.raises(KeyboardInterrupt):
                download(server.url, path)
            gone.set()
            assert re.fullmatch(f'data.zip is not whole yet; the same command {words}\n',
                                capsys.readouterr().err)
            assert not path.exists()
            assert part.exists() == bool(headers)
            download(server.url, path)
        assert path.read_bytes() == server.content
        path.unlink()


def test_a_file_larger_than_the_disk_is_not_begun(tmp_path):
    answer = b'HTTP/1.0 200 OK\r\nContent-Length: %d\r\nETag: "x"\r\n\r\n' % 10**18
    with answering(answer) as url:
        with pytest.raises(InputError, match='downloading data.zip needs 1e.06 TB|1000000 TB'):
            download(url, tmp_path / 'data.zip')
    assert not names(tmp_path)


def limited(code, folder):
    """Runs Python in a process whose files may have 100 kB, which strikes like a full disk."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    code = ('from roadseg.errors import InputError\n'
            'from roadseg.datasets.download import download, extract\n'
            f'try:\n    {code}\nexcept InputError as error:\n    print(error)')
    environment = {**os.environ, 'PYTHONPATH': str(Path(module.__file__).parents[2])}
    return subprocess.run([sys.executable, '-c', code], env=environment, cwd=folder,
                          preexec_fn=limit, capture_output=True, text=True, check=True).stdout


def test_a_disk_that_fills_up_while_downloading_is_one_line_and_gets_its_space_back(tmp_path):
    with serving() as server:
        answer = limited(f'download({server.url!r}, "data.zip")', tmp_path)
    assert re.fullmatch('cannot write data.zip: too large .*free some space.* deleted\n', answer)
    assert not names(tmp_path)


def test_download_in_the_place_of_a_folder_says_so_before_it_begins(tmp_path):
    (tmp_path / 'data.zip').mkdir()
    with serving() as server:
        with pytest.raises(InputError, match='data.zip: it is a folder'):
            download(server.url, tmp_path / 'data.zip')
    assert not server.asked


def test_download_below_a_file_says_so(tmp_path):
    (tmp_path / 'data').write_text('no folder')
    with serving() as server:
        with pytest.raises(InputError, match='cannot write .*.part: something of that name'):
            download(server.url, tmp_path / 'data/data.zip')


def test_two_processes_do_not_write_the_same_part(tmp_path):
    pytest.importorskip('fcntl')
    second = []

    def meanwhile():
        with pytest.raises(InputError, match='another process is writing .*data.zip.part'):
            download(server.url, tmp_path / 'data.zip')
        second.append('refused')

    with serving(during=meanwhile) as server:
        download(server.url, tmp_path / 'data.zip')
    assert second == ['refused']
    assert (tmp_path / 'data.zip').read_bytes() == CONTENT


def test_discard_deletes_what_is_left(tmp_path):
    with serving(cut=120_000) as server:
        with pytest.raises(InputError, match='broke off'):
            download(server.url, tmp_path / 'data.zip')
    assert read_json(tmp_path / 'data.zip.part.json') == {
        'url': server.url, 'version': '"one"', 'length': 300_000}
    discard(tmp_path / 'data.zip')
    discard(tmp_path / 'data.zip')
    assert not names(tmp_path)


# Unpacking ------------------------------------------------------------------------------------

def make_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    """Writes an archive of members {name or ZipInfo: content}."""
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def below(folder):
    """All files below a folder, with their content."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob('*') if path.is_file()}


def refused(archive, match, top='top'):
    """Checks that an archive is refused on one line and that nothing else is left."""
    before = below(archive.parent)
    with pytest.raises(InputError, match=match) as caught:
        extract(archive, top)
    assert '\n' not in str(caught.value) and str(archive) in str(caught.value)
    assert below(archive.parent) == before
    assert not archive.with_name(top + '.part').exists()


def test_extract_unpacks_the_folder_beside_the_archive(tmp_path):
    archive = make_zip(tmp_path / 'x.zip', {'top/': b'', 'top/a/b.txt': b'1', 'top/c.txt': b'2',
                                            'readme': b'3', 'top/empty/': b''})
    extract(archive, 'top')
    assert below(tmp_path / 'top') == {'a/b.txt': b'1', 'c.txt': b'2'}
    assert (tmp_path / 'top/empty').is_dir()
    assert names(tmp_path) == ['top', 'x.zip']


def test_extract_fills_an_empty_folder_and_takes_backslashes_for_slashes(tmp_path):
    (tmp_path / 'top').mkdir()
    extract(make_zip(tmp_path / 'x.zip', {'top\\a\\': b'', 'top\\a\\b.txt': b'1'}), 'top')
    assert below(tmp_path / 'top') == {'a/b.txt': b'1'}


def test_extract_clears_away_what_an_interrupted_run_left(tmp_path):
    (tmp_path / 'top.part/top').mkdir(parents=True)
    (tmp_path / 'top.part/top/old').write_bytes(b'0')
    extract(make_zip(tmp_path / 'x.zip', {'top/new': b'1'}), 'top')
    assert below(tmp_path / 'top') == {'new': b'1'}
    assert names(tmp_path) == ['top', 'x.zip']


def truncate(content):
    return content[:-200_000]


def damage(content):
    """Spoils a member; the archive's directory stays whole."""
    return content[:1000] + bytes(400) + content[1400:]


def lost_start(content):
    """The directory points to places before the archive's start."""
    return content[250_000:]


@pytest.mark.parametrize('spoil, cause', [
    (truncate, 'damaged or was cut off'), (damage, 'damaged or was cut off'),
    (lost_start, 'no zip archive'), (lambda content: b'', 'no zip archive'),
    (lambda content: b'\x1f\x8b tar.gz', 'no zip archive'),
    (lambda content: b'\n <html>Not found</html>', 'a web page')])
def test_extract_of_a_spoilt_archive_leaves_nothing(tmp_path, spoil, cause):
    archive = make_zip(tmp_path / 'x.zip', {'top/a': b'first', 'top/b': CONTENT})
    archive.write_bytes(spoil(archive.read_bytes()))
    refused(archive, f'x.zip could not be unpacked: .*{cause}.*delete it')


@pytest.mark.parametrize('member', ['../evil', 'top/../../evil', '/evil', 'top\\..\\..\\evil',
                                    'C:\\evil', 'c:evil'])
def test_extract_writes_nothing_outside(tmp_path, member):
    folder = tmp_path / 'data'
    folder.mkdir()
    refused(make_zip(folder / 'x.zip', {'top/good': b'1', member: b'2'}), 'outside')
    assert names(tmp_path) == ['data'] and not Path('/evil').exists()


def unix(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


@pytest.mark.parametrize('mode', [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_extract_refuses_links_and_devices(tmp_path, mode):
    archive = make_zip(tmp_path / 'x.zip', {'top/a': b'1', unix('top/b', mode | 0o777): b'/etc'})
    refused(archive, "holds 'top/b', which is a link or a device")


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('members, match', [
    ({zipfile.ZipInfo('top/a'): b'1', zipfile.ZipInfo('top/./a'): b'2'}, "holds 'top/./a' twice"),
    ({zipfile.ZipInfo('top/a'): b'1', zipfile.ZipInfo('top/a/b'): b'2'}, 'below a file'),
    ({zipfile.ZipInfo('top/a/b\nc'): b'1', zipfile.ZipInfo('top/a'): b'2'}, 'below a file'),
    ({zipfile.ZipInfo('top/a/'): b'', zipfile.ZipInfo('top/a'): b'2'}, "holds 'top/a' twice"),
    ({'top': b'1'}, 'holds no folder top/'), ({'other/a': b'1'}, 'holds no folder top/'),
    ({}, 'holds no folder top/')])
def test_extract_refuses_names_that_contradict_each_other(tmp_path, members, match):
    refused(make_zip(tmp_path / 'x.zip', members), match)


@pytest.mark.parametrize('compression, name', [(zipfile.ZIP_BZIP2, 'BZip2'),
                                               (zipfile.ZIP_LZMA, 'LZMA')])
def test_extract_names_a_compression_that_is_not_supported(tmp_path, compression, name):
    archive = make_zip(tmp_path / 'x.zip', {'top/a': b'1'}, compression)
    refused(archive, f"'top/a' is packed with {name}.*unpack it in {tmp_path} with another")


def patch_entry(path, offset, layout, value):
    """Overwrites a field of an archive's only entry, in its header and in the directory.

    Args:
        offset: of the field in the header; it lies 2 bytes further in the directory's entry.
        layout: of the field, as `struct` has it.
    """
    content = bytearray(path.read_bytes())
    for start in (content.index(b'PK\3\4') + offset, content.index(b'PK\1\2') + offset + 2):
        struct.pack_into(layout, content, start, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize('offset, value, match', [
    (8, 9, 'packed with Deflate64'), (8, 93, 'packed with Zstandard'), (8, 42, 'compression 42'),
    (6, 0x1, 'packed with a password'), (4, 99, 'zip file version 9.9.*another program')])
def test_extract_names_what_python_does_not_unpack(tmp_path, offset, value, match):
    archive = make_zip(tmp_path / 'x.zip', {'top/a': b'1'})
    refused(patch_entry(archive, offset, '<H', value), match)


def test_an_archive_larger_than_the_disk_is_not_begun(tmp_path):
    """Two members that declare 4 GB each, many times."""
    archive = make_zip(tmp_path / 'x.zip', {f'top/{number}': b'1' for number in range(3000)})
    content = bytearray(archive.read_bytes())
    for match in re.finditer(b'PK\1\2', bytes(content)):
        struct.pack_into('<L', content, match.start() + 24, 2**32 - 2)
    archive.write_bytes(content)
    assert 3000 * 2**32 > 10**13        # more than a disk for which these tests are run
    refused(archive, 'unpacking .*x.zip needs 12.9 TB, and the disk of .* free')


def test_a_member_larger_than_it_declares_is_not_written_beyond_that(tmp_path):
    archive = make_zip(tmp_path / 'x.zip', {'top/a': bytes(5_000_000)})
    refused(patch_entry(archive, 22, '<L', 10), 'damaged')


def test_a_disk_that_fills_up_while_unpacking_does_not_blame_the_archive(tmp_path):
    archive = make_zip(tmp_path / 'x.zip', {'top/a': b'1', 'top/b': CONTENT})
    before = archive.read_bytes()
    answer = limited('extract("x.zip", "top")', tmp_path)
    assert re.fullmatch('cannot write top: too large for .*\n', answer)
    assert 'delete' not in answer
    assert names(tmp_path) == ['x.zip'] and archive.read_bytes() == before


@pytest.mark.parametrize('make', [lambda path: path.write_text('file'),
                                  lambda path: path.symlink_to('nowhere'),
                                  lambda path: (path.mkdir(), (path / 'mine').write_text('1'))])
def test_extract_replaces_nothing(tmp_path, make):
    make(tmp_path / 'top')
    archive = make_zip(tmp_path / 'x.zip', {'top/a': b'1'})
    refused(archive, 'top is there already; move it away')
    assert (tmp_path / 'top').is_symlink() or (tmp_path / 'top').exists()


@pytest.mark.parametrize('make, match', [
    (lambda path: None, 'no such file'), (lambda path: path.mkdir(), 'it is a folder'),
    (os.mkfifo, 'it is a pipe')])
def test_extract_of_what_is_no_file_says_so(tmp_path, make, match):
    make(tmp_path / 'x.zip')
    with pytest.raises(InputError, match=f'cannot read {tmp_path}/x.zip: {match}'):
        extract(tmp_path / 'x.zip', 'top')


def test_two_processes_do_not_unpack_the_same_archive(tmp_path):
    fcntl = pytest.importorskip('fcntl')
    archive = make_zip(tmp_path / 'x.zip', {'top/a': b'1'})
    with archive.open('rb') as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused(archive, 'another process is unpacking')
    extract(archive, 'top')
    assert below(tmp_path / 'top') == {'a': b'1'}


def test_on_windows_a_whole_download_is_closed_before_it_is_renamed(tmp_path, monkeypatch):
    """Which renames no open file."""
    opened, move = [], module.move_into_place

    def watched(part, path):
        assert opened[0].closed
        move(part, path)

    monkeypatch.setattr(module, 'fcntl', None)
    monkeypatch.setattr(module, '_transfer', lambda url, file, part: (
        opened.append(file), file.write(b'all of it')))
    monkeypatch.setattr(module, 'move_into_place', watched)
    module.download('http://127.0.0.1/file.zip', tmp_path / 'file.zip')
    assert (tmp_path / 'file.zip').read_bytes() == b'all of it'


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs pipes')
def test_a_pipe_in_the_place_of_the_part_is_told(tmp_path):
    os.mkfifo(tmp_path / 'data.zip.part')
    with pytest.raises(InputError, match='data.zip.part: it is a pipe; move it away'):
        download('http://localhost/data.zip', tmp_path / 'data.zip')


@pytest.mark.parametrize('answer, message', [
    (b'HTTP/1.0 206 Partial Content\r\nContent-Range: bytes 5-9/10\r\n\r\nhello',
     'the server answers with status 206'),
    (b'HTTP/1.0 200 OK\r\nContent-Length: ' + b'9' * 5000 + b'\r\n\r\n', None)])
def test_answers_that_nobody_asked_for(tmp_path, answer, message):
    with answering(answer) as url, pytest.raises((InputError, Unavailable), match=message):
        download(url, tmp_path / 'data.zip')
    assert not (tmp_path / 'data.zip').exists()
