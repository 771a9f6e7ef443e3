"""Getting the data, reading it, splitting it, and predicting; the network is a local server."""
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import helper
from helper import IGNORED, InputError

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


@contextmanager
def serving(content=CONTENT, ranges=True, cut=None, status=None, length=True):
    """Serves `content` at a local URL.

    Args:
        ranges: whether the server understands the header Range.
        cut: break off the first answer after so many bytes.
        status: error to answer with instead.
        length: whether it tells the length.
    """
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get('Range'))
            if status:
                return self.send_error(status)
            start = int(asked[-1][6:-1]) if asked[-1] and ranges else 0
            if start and start >= len(content):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            if length:
                self.send_header('Content-Length', str(len(content) - start))
            if start:
                self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/'
                                                  f'{len(content)}')
            self.end_headers()
            self.wfile.write(content[start:cut if len(asked) == 1 else None])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02})
    thread.start()
    try:
        yield SimpleNamespace(url=f'http://127.0.0.1:{server.server_port}/data.zip', asked=asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')


def test_helper_works_without_tensorflow():
    code = 'import sys, helper; sys.exit("tensorflow" in sys.modules)'
    folder = Path(helper.__file__).parent
    assert subprocess.run([sys.executable, '-c', code], cwd=folder, check=False).returncode == 0


# download -------------------------------------------------------------------------------------

def test_download_brings_the_whole_file(tmp_path):
    with serving() as server:
        helper.download(server.url, tmp_path / 'new/data.zip')
    assert (tmp_path / 'new/data.zip').read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['data.zip']


def test_download_goes_on_after_a_cut_connection(tmp_path):
    path = tmp_path / 'data.zip'
    with serving(cut=120_000) as server:
        with pytest.raises(InputError, match='broke off after 120000 of 300000 bytes'):
            helper.download(server.url, path)
        assert not path.exists()
        helper.download(server.url, path)
    assert server.asked == [None, 'bytes=120000-']
    assert path.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [path]


def test_download_begins_anew_where_the_server_knows_no_ranges(tmp_path):
    path = tmp_path / 'data.zip'
    (tmp_path / 'data.zip.part').write_bytes(b'older, half of it')
    with serving(ranges=False) as server:
        helper.download(server.url, path)
    assert server.asked == ['bytes=17-']
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize('surplus', [0, 5])
def test_download_begins_anew_where_as_much_or_more_lies_there(tmp_path, surplus):
    path = tmp_path / 'data.zip'
    (tmp_path / 'data.zip.part').write_bytes(bytes(len(CONTENT) + surplus))
    with serving() as server:
        helper.download(server.url, path)
    assert path.read_bytes() == CONTENT


def test_download_takes_a_file_of_unknown_length(tmp_path):
    with serving(length=False) as server:
        helper.download(server.url, tmp_path / 'data.zip')
    assert (tmp_path / 'data.zip').read_bytes() == CONTENT


@pytest.mark.parametrize('status', [403, 404, 503])
def test_download_reports_what_the_server_says(tmp_path, status):
    with serving(status=status) as server:
        with pytest.raises(InputError, match=f'{server.url}.*{status}'):
            helper.download(server.url, tmp_path / 'data.zip')
    assert not list(tmp_path.iterdir())


def test_download_reports_that_nobody_answers(tmp_path, nowhere):
    with pytest.raises(InputError, match=f'could not download {nowhere}: .*refused'):
        helper.download(nowhere, tmp_path / 'data.zip')
    assert not list(tmp_path.iterdir())


def test_download_reports_an_answer_that_is_not_http(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as listener:
        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b'SSH-2.0-OpenSSH\r\n')

        thread = threading.Thread(target=answer)
        thread.start()
        url = f'http://127.0.0.1:{listener.getsockname()[1]}/data.zip'
        with pytest.raises(InputError, match='could not download'):
            helper.download(url, tmp_path / 'data.zip')
        thread.join()
    assert not (tmp_path / 'data.zip').exists()


def test_download_interrupted_by_the_user_leaves_nothing_under_the_final_name(tmp_path,
                                                                             monkeypatch):
    class Interrupting:
        def __init__(self, *args, **kwargs):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *args):
            return False

        def update(self, amount):
            raise KeyboardInterrupt

    path = tmp_path / 'data.zip'
    with serving() as server:
        with monkeypatch.context() as patch:
            patch.setattr(helper, 'tqdm', Interrupting)
            with pytest.raises(KeyboardInterrupt):
                helper.download(server.url, path)
        assert not path.exists()
        helper.download(server.url, path)
    assert path.read_bytes() == CONTENT


# extract --------------------------------------------------------------------------------------

def make_zip(path, members):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def below(folder):
    """All files below a folder, with their content."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob('*') if path.is_file()}


def test_extract_unpacks_the_folder_beside_the_archive(tmp_path):
    archive = make_zip(tmp_path / 'x.zip', {'top/a/b.txt': b'1', 'top/c.txt': b'2',
                                            'readme': b'3'})
    helper.extract(archive, 'top')
    assert below(tmp_path / 'top') == {'a/b.txt': b'1', 'c.txt': b'2'}
    assert sorted(path.name for path in tmp_path.iterdir()) == ['top', 'x.zip']


def test_extract_clears_away_what_an_interrupted_run_left(tmp_path):
    (tmp_path / 'top.part/top').mkdir(parents=True)
    (tmp_path / 'top.part/top/old').write_bytes(b'0')
    helper.extract(make_zip(tmp_path / 'x.zip', {'top/new': b'1'}), 'top')
    assert below(tmp_path / 'top') == {'new': b'1'}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200_000])


def damage(path):
    """Spoils a member; the archive's directory stays whole."""
    content = bytearray(path.read_bytes())
    content[1000:1400] = bytes(400)
    path.write_bytes(content)


def no_zip(path):
    path.write_bytes(b'<html>Not found</html>')


@pytest.mark.parametrize('spoil', [truncate, damage, no_zip])
def test_extract_of_a_spoilt_archive_leaves_nothing(tmp_path, spoil):
    archive = make_zip(tmp_path / 'x.zip', {'top/a': b'first', 'top/b': CONTENT})
    spoil(archive)
    with pytest.raises(InputError, match='x.zip could not be unpacked.*delete it'):
        helper.extract(archive, 'top')
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize('member', ['../evil', 'top/../../evil', '/evil', 'top\\..\\..\\evil'])
def test_extract_writes_nothing_outside(tmp_path, member):
    folder = tmp_path / 'data'
    folder.mkdir()
    archive = make_zip(folder / 'x.zip', {'top/good': b'1', member: b'2'})
    with pytest.raises(InputError, match='outside'):
        helper.extract(archive, 'top')
    assert list(below(tmp_path)) == ['data/x.zip']
    assert not Path('/evil').exists()


def test_extract_of_another_archive_names_the_folder_it_lacks(tmp_path):
    archive = make_zip(tmp_path / 'x.zip', {'other/a': b'1'})
    with pytest.raises(InputError, match='holds no folder top/'):
        helper.extract(archive, 'top')
    assert list(tmp_path.iterdir()) == [archive]


# The data set ---------------------------------------------------------------------------------

@pytest.fixture
def counts(monkeypatch):
    """KITTI Road with 3 labelled photographs and 2 to test on."""
    monkeypatch.setattr(helper, 'KITTI_COUNTS', {
        what: (place, pattern, 2 if place.startswith('testing') else 3)
        for what, (place, pattern, _) in helper.KITTI_COUNTS.items()})


def members(training=3, testing=2):
    """Members of a small data_road.zip."""
    result = {}
    for number in range(training):
        result[f'data_road/training/image_2/um_{number:06d}.png'] = CONTENT[:50_000]
        result[f'data_road/training/gt_image_2/um_road_{number:06d}.png'] = b'label'
        result[f'data_road/training/gt_image_2/um_lane_{number:06d}.png'] = b'lane'
    for number in range(testing):
        result[f'data_road/testing/image_2/um_{number:06d}.png'] = b'test'
    return result


def write_members(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_kitti_that_is_there_is_found_without_network(tmp_path, counts, monkeypatch, nowhere):
    monkeypatch.setattr(helper, 'KITTI_URL', nowhere)
    write_members(tmp_path, members())
    assert helper.maybe_download_kitti(tmp_path) == tmp_path / 'data_road'


def test_kitti_that_was_put_there_as_an_archive_is_unpacked(tmp_path, counts, monkeypatch, nowhere):
    monkeypatch.setattr(helper, 'KITTI_URL', nowhere)
    make_zip(tmp_path / 'data_road.zip', members())
    assert helper.maybe_download_kitti(tmp_path) == tmp_path / 'data_road'
    assert len(below(tmp_path / 'data_road')) == 11


def test_kitti_is_downloaded_and_an_interrupted_download_goes_on(tmp_path, counts, monkeypatch):
    archive = make_zip(tmp_path / 'source.zip', members()).read_bytes()
    data = tmp_path / 'data'
    with serving(archive, cut=70_000) as server:
        monkeypatch.setattr(helper, 'KITTI_URL', server.url)
        with pytest.raises(InputError, match='broke off'):
            helper.maybe_download_kitti(data)
        assert not (data / 'data_road').exists()
        assert helper.maybe_download_kitti(data) == data / 'data_road'
        assert helper.maybe_download_kitti(data) == data / 'data_road'      # once is enough
    assert server.asked == [None, 'bytes=70000-']
    assert len(below(data / 'data_road')) == 11


def test_kitti_without_network_names_three_ways_on(tmp_path, monkeypatch, nowhere):
    monkeypatch.setattr(helper, 'KITTI_URL', nowhere)
    with pytest.raises(InputError) as caught:
        helper.maybe_download_kitti(tmp_path)
    message = str(caught.value)
    for piece in (str(tmp_path), nowhere, 'by hand', 'data_road.zip', '--data-dir', '--demo'):
        assert piece in message
    assert '\n' not in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('lost', ['training/image_2', 'training/gt_image_2', 'testing/image_2'])
def test_kitti_with_a_file_missing_is_an_error_but_own_data_get_a_warning(tmp_path, counts, capsys,
                                                                         lost):
    name = 'um_road_000001.png' if 'gt' in lost else 'um_000001.png'
    files = members()
    del files[f'data_road/{lost}/{name}']
    write_members(tmp_path, files)
    expected = len([path for path in files if f'/{lost}/' in path and 'lane' not in path])
    with pytest.raises(InputError, match=f'{lost} holds {expected} .* has {expected + 1}'):
        helper.maybe_download_kitti(tmp_path)
    assert helper.maybe_download_kitti(tmp_path, strict=False) == tmp_path / 'data_road'
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and warnings[0].startswith('warning: ') and lost in warnings[0]


def test_kitti_with_an_empty_folder_is_an_error_for_own_data_too(tmp_path, counts):
    write_members(tmp_path, members(testing=0))
    with pytest.raises(InputError, match='testing/image_2 holds 0 test photographs'):
        helper.maybe_download_kitti(tmp_path, strict=False)


# VGG16 ----------------------------------------------------------------------------------------

def zipped_vgg(path, tiny_vgg):
    return make_zip(path, {f'vgg/{name}': content for name, content in below(tiny_vgg).items()})


def test_vgg_that_is_there_is_taken(tmp_path, no_network):
    (tmp_path / 'vgg').mkdir()
    assert helper.maybe_download_pretrained_vgg(tmp_path) == tmp_path / 'vgg'


def test_vgg_that_was_put_there_as_an_archive_is_unpacked(tmp_path, no_network, tiny_vgg):
    zipped_vgg(tmp_path / 'vgg.zip', tiny_vgg)
    assert helper.maybe_download_pretrained_vgg(tmp_path) == tmp_path / 'vgg'
    assert below(tmp_path / 'vgg') == below(tiny_vgg)


def test_vgg_is_downloaded_before_keras_is_asked(tmp_path, no_network, monkeypatch, tiny_vgg):
    archive = zipped_vgg(tmp_path / 'source.zip', tiny_vgg).read_bytes()
    with serving(archive) as server:
        monkeypatch.setattr(helper, 'VGG_URL', server.url)
        folder = helper.maybe_download_pretrained_vgg(tmp_path / 'data')
    assert folder == tmp_path / 'data/vgg'
    assert below(folder) == below(tiny_vgg)


def test_vgg_comes_from_keras_where_the_archive_is_gone(tmp_path, no_network, monkeypatch, capsys):
    from roadseg import vgg16
    asked = []

    def read_keras(weights):
        asked.append(weights)
        return vgg16.random_weights(64, 2, 1)

    monkeypatch.setattr(vgg16, 'read_keras', read_keras)
    folder = helper.maybe_download_pretrained_vgg(tmp_path)
    assert asked == ['imagenet']
    assert folder == tmp_path / 'vgg' and (folder / 'saved_model.pb').exists()
    assert 'Keras' in capsys.readouterr().err


def test_vgg_from_nowhere_names_three_ways_on(tmp_path, no_network):
    with pytest.raises(InputError) as caught:
        helper.maybe_download_pretrained_vgg(tmp_path)
    message = str(caught.value)
    for piece in (helper.VGG_URL, 'no Keras weights either', 'vgg.zip', 'roadseg.vgg16', '--demo',
                  str(tmp_path)):
        assert piece in message
    assert '\n' not in message
    assert not list(tmp_path.iterdir())


def test_vgg_in_a_damaged_archive_is_an_error(tmp_path, no_network):
    (tmp_path / 'vgg.zip').write_bytes(b'PK')
    with pytest.raises(InputError, match='vgg.zip could not be unpacked'):
        helper.maybe_download_pretrained_vgg(tmp_path)


# Photographs and labels -----------------------------------------------------------------------

COLOURS = {(255, 0, 255): 1, (255, 0, 0): 0, (0, 0, 0): IGNORED, (0, 0, 255): IGNORED}


def write_png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def touch(folder, images, labels):
    for place, names in (('image_2', images), ('gt_image_2', labels)):
        (folder / place).mkdir(parents=True)
        for name in names:
            (folder / place / name).touch()


def test_photographs_are_paired_with_road_labels_not_lane_labels(tmp_path):
    touch(tmp_path, ['umm_000001.png', 'um_000002.png'],
          ['um_lane_000002.png', 'um_road_000002.png', 'umm_road_000001.png'])
    assert [(image.name, label.name) for image, label in helper.paired_paths(tmp_path)] == [
        ('um_000002.png', 'um_road_000002.png'), ('umm_000001.png', 'umm_road_000001.png')]


def test_photographs_without_label_are_counted_and_the_first_is_named(tmp_path):
    touch(tmp_path, [f'um_00000{number}.png' for number in range(5)],
          ['um_road_000000.png', 'um_lane_000001.png', 'um_road_000002.png'])
    with pytest.raises(InputError, match='3 of 5 photographs.*um_000001.png'):
        helper.paired_paths(tmp_path)


def test_no_photograph_is_an_error(tmp_path):
    touch(tmp_path, [], ['um_road_000000.png'])
    with pytest.raises(InputError, match='no .png file in .*image_2'):
        helper.paired_paths(tmp_path)


def test_the_four_colours_of_kittis_road_labels(tmp_path):
    path = write_png(tmp_path / 'label.png', [list(COLOURS), list(COLOURS)[::-1]])
    np.testing.assert_array_equal(helper.read_road_label(path),
                                  [list(COLOURS.values()), list(COLOURS.values())[::-1]])
    assert helper.read_road_label(path).dtype == np.uint8


@pytest.mark.parametrize('colour', [(0, 255, 0), (254, 0, 0), (255, 0, 128), (255, 255, 255)])
def test_a_foreign_colour_is_an_error_that_says_where(tmp_path, colour):
    label = np.full((5, 7, 3), (255, 0, 0), np.uint8)
    label[3, 4] = label[4, 1] = colour
    path = write_png(tmp_path / 'um_road_000007.png', label)
    with pytest.raises(InputError) as caught:
        helper.read_road_label(path)
    assert f'{path} has the colour {colour} at row 3, column 4' in str(caught.value)


@pytest.mark.parametrize('spoil', [lambda content: content[:len(content) // 2],
                                   lambda content: b'', lambda content: b'<html>'])
def test_an_unreadable_image_is_named(tmp_path, spoil):
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3))
    path = write_png(tmp_path / 'um_000007.png', noise)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match='um_000007.png is not a readable image'):
        helper.read_image(path)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(InputError, match='um_000007.png'):
        helper.read_image(tmp_path / 'um_000007.png')


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P'])
def test_images_of_other_modes_become_rgb(tmp_path, mode):
    picture = Image.fromarray(np.full((4, 6, 3), 102, np.uint8)).convert(mode)
    picture.save(tmp_path / 'x.png')
    image = helper.read_image(tmp_path / 'x.png')
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8
    assert (image == 102).all()


def test_photograph_and_label_of_different_sizes_are_an_error_with_both(tmp_path):
    pair = (write_png(tmp_path / 'a.png', np.zeros((5, 8, 3))),
            write_png(tmp_path / 'b.png', np.zeros((6, 7, 3))))
    with pytest.raises(InputError, match='a.png has 5x8 pixels.*b.png has 6x7'):
        helper.read_pair(pair)


def test_resizing_a_label_invents_no_class(tmp_path):
    """Road beside 'ignored' (255): in between lie 250 classes that do not exist."""
    label = np.zeros((40, 64, 3), np.uint8)
    label[:, 20:] = (255, 0, 255)
    label[11:, 37:] = (255, 0, 0)
    photograph = np.zeros((40, 64, 3), np.uint8)
    photograph[:, 20:] = 200
    pair = (write_png(tmp_path / 'a.png', photograph), write_png(tmp_path / 'b.png', label))
    image, classes = helper.resize_pair(*helper.read_pair(pair), (13, 21))
    assert image.shape == (13, 21, 3) and classes.shape == (13, 21)
    assert image.dtype == classes.dtype == np.uint8
    assert set(np.unique(classes)) == {0, 1, IGNORED}
    assert len(np.unique(image)) > 2    # whereas the photograph is interpolated
    assert (classes[:, :6] == IGNORED).all() and (classes[:3, 8:] == 1).all()
    assert (classes[5:, 14:] == 0).all()


def test_reading_keeps_size_and_pixels(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (5, 8, 3))
    pair = (write_png(tmp_path / 'a.png', noise),
            write_png(tmp_path / 'b.png', np.full((5, 8, 3), (255, 0, 255))))
    image, classes = helper.read_pair(pair)
    np.testing.assert_array_equal(image, noise)
    np.testing.assert_array_equal(classes, np.ones((5, 8)))


# Splits ---------------------------------------------------------------------------------------

def kitti_pairs():
    """KITTI Road's own numbering: 95 um, 96 umm and 98 uu frames."""
    return sorted((Path(f'image_2/{category}_{number:06d}.png'),
                   Path(f'gt_image_2/{category}_road_{number:06d}.png'))
                  for category, count in (('um', 95), ('umm', 96), ('uu', 98))
                  for number in range(count))


def test_val3_holds_out_the_last_16_frames_of_each_category():
    training, validation = helper.split_pairs(kitti_pairs(), 'val3')
    assert (len(training), len(validation)) == (241, 48)
    assert sorted(training + validation) == kitti_pairs()
    names = [image.stem for image, _ in validation]
    assert names == [f'um_{number:06d}' for number in range(79, 95)] + [
        f'umm_{number:06d}' for number in range(80, 96)] + [
        f'uu_{number:06d}' for number in range(82, 98)]


def test_search_holds_out_the_frames_before_val3_and_trains_on_neither():
    training, validation = helper.split_pairs(kitti_pairs(), 'search')
    others, val3 = helper.split_pairs(kitti_pairs(), 'val3')
    assert (len(training), len(validation)) == (193, 48)
    assert sorted(training + validation) == others
    for category in helper.VAL3:
        last, first = ([int(image.stem[-6:]) for image, _ in pairs
                        if helper.category(image) == category] for pairs in (validation, val3))
        assert max(last) + 1 == min(first) and len(last) == 16


@pytest.mark.parametrize('folds', [2, 5, 7])
def test_kfold_partitions_into_contiguous_runs_of_each_category(folds):
    held_out = []
    for fold in range(folds):
        training, validation = helper.split_pairs(kitti_pairs(), f'kfold:{folds}:{fold}')
        assert sorted(training + validation) == kitti_pairs()
        assert training == sorted(training) and validation == sorted(validation)
        for category, count in (('um', 95), ('umm', 96), ('uu', 98)):
            numbers = [int(image.stem[-6:]) for image, _ in validation
                       if helper.category(image) == category]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            assert count // folds <= len(numbers) <= -(-count // folds)
        held_out += validation
    assert sorted(held_out) == kitti_pairs()


def test_split_none_holds_nothing_out():
    assert helper.split_pairs(kitti_pairs(), 'none') == (kitti_pairs(), [])


@pytest.mark.parametrize('split', ['val4', '', 'kfold', 'kfold:5', 'kfold:5:5', 'kfold:0:0',
                                   'kfold:5:-1', 'kfold:a:b', 'kfold:5:1:2'])
def test_an_unknown_split_is_an_error_that_names_those_there_are(split):
    with pytest.raises(InputError, match=f"'{split}'.*val3.*kfold:K:I.*none"):
        helper.split_pairs(kitti_pairs(), split)


@pytest.mark.parametrize('split, wanted', [
    ('kfold:1:0', lambda number: True), ('val3', lambda number: number < 79),
    ('val3', lambda number: 82 <= number < 95), ('search', lambda number: number >= 66)])
def test_a_split_that_leaves_a_side_empty_is_an_error(split, wanted):
    pairs = [pair for pair in kitti_pairs() if wanted(int(pair[0].stem[-6:]))]
    with pytest.raises(InputError, match='choose another --split'):
        helper.split_pairs(pairs, split)


@pytest.mark.parametrize('name', ['street', 'um_left', 'berlin_12b'])
def test_val3_of_photographs_that_are_not_numbered_is_an_input_error(name):
    pairs = [(Path(f'image_2/{name}.png'), Path(f'gt_image_2/{name}_road_.png'))]
    with pytest.raises(InputError, match=name):
        helper.split_pairs(pairs, 'val3')


# Batches --------------------------------------------------------------------------------------

def test_prepared_ahead_keeps_the_order():
    def slow_at_first(number):
        time.sleep(0.02 if number == 0 else 0)
        return number * 10

    assert list(helper.prepared_ahead(slow_at_first, range(9))) == list(range(0, 90, 10))
    assert list(helper.prepared_ahead(slow_at_first, [])) == []


def test_prepared_ahead_works_ahead_but_not_without_bound():
    made = []
    items = helper.prepared_ahead(lambda number: made.append(number) or number, range(100), ahead=4)
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2, 3, 4]
    items.close()
    assert len(made) == 5


def test_prepared_ahead_passes_errors_on_and_ends_its_thread():
    before = threading.active_count()
    items = helper.prepared_ahead(lambda number: 1 // (3 - number), range(9))
    assert [next(items) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(items)
    assert threading.active_count() == before


def test_prepared_ahead_ends_its_thread_when_it_is_closed_early():
    before = threading.active_count()
    items = helper.prepared_ahead(lambda number: number, range(100))
    next(items)
    assert threading.active_count() == before + 1
    items.close()
    assert threading.active_count() == before


def test_labels_of_other_kinds_and_more_classes_can_be_read(tmp_path):
    """A reader of one's own gives class numbers; one-hot labels follow `num_classes`."""
    pair = (write_png(tmp_path / 'a.png', np.zeros((4, 6, 3))), tmp_path / 'b')
    wanted = np.arange(24, dtype=np.uint8).reshape(4, 6) % 4
    wanted[2, 3] = IGNORED
    batches = helper.gen_batch_function(None, (4, 6), pairs=[pair], num_classes=4, augment=None,
                                        read_label=lambda path: wanted)
    (_, labels), = batches(1)
    assert labels.shape == (1, 4, 6, 4)
    np.testing.assert_array_equal(labels[0].argmax(axis=-1)[wanted != IGNORED],
                                  wanted[wanted != IGNORED])
    assert labels.sum() == 23


def test_an_unreadable_photograph_is_reported_before_training_begins(tmp_path):
    good = write_png(tmp_path / 'a.png', np.full((4, 6, 3), (255, 0, 0)))
    (tmp_path / 'b.png').write_bytes(b'no')
    with pytest.raises(InputError, match='b.png'):
        helper.gen_batch_function(None, (4, 6), pairs=[(good, good), (tmp_path / 'b.png', good)])


# Prediction and overlays ----------------------------------------------------------------------

class FakeSession:
    """Stands for a session: logits of road are `network(image)`, those of the rest zero."""

    def __init__(self, network):
        self.network, self.feeds = network, []

    def run(self, fetch, feed_dict):
        self.feeds.append(feed_dict)
        road = np.float32(self.network(feed_dict['image'][0].astype(np.float32)))
        return np.stack([np.zeros_like(road), road], axis=-1).reshape(-1, 2)


def probability(network, photograph, image_shape, **options):
    sess = FakeSession(network)
    return helper.road_probability(sess, 'logits', 'keep_prob', 'image', photograph, image_shape,
                                   **options), sess


def test_probability_of_constant_logits_is_that_everywhere():
    road, sess = probability(lambda image: np.full(image.shape[:2], 1.5),
                             np.zeros((13, 22, 3), np.uint8), (4, 10))
    assert road.shape == (13, 22) and road.dtype == np.float32
    np.testing.assert_allclose(road, 1 / (1 + np.exp(-1.5)), rtol=1e-6)
    feed, = sess.feeds
    assert feed['image'].shape == (1, 4, 10, 3) and feed['keep_prob'] == 1


def test_probability_keeps_rows_and_columns_apart():
    photograph = np.zeros((12, 30, 3), np.uint8)
    photograph[:4] = 255
    road, _ = probability(lambda image: (image[..., 0] - 128) / 8, photograph, (6, 10))
    assert (road[:3] > 0.9).all() and (road[6:] < 0.1).all()


def test_probability_with_flip_is_the_mean_over_both_views():
    """Where the network always answers 'left', the mean with the mirrored answer is one half."""
    def left(image):
        return np.where(np.arange(image.shape[1]) < image.shape[1] // 2, 50.0,
                        -50.0) * np.ones(image.shape[:2])

    photograph = np.zeros((8, 20, 3), np.uint8)
    once, _ = probability(left, photograph, (4, 10))
    both, sess = probability(left, photograph, (4, 10), flip=True)
    assert once[:, :8].min() > 0.99 and once[:, 12:].max() < 0.01
    np.testing.assert_allclose(both, 0.5, atol=1e-6)
    assert len(sess.feeds) == 2


def test_probability_at_several_scales_is_their_mean():
    """A network that answers by the width that it is shown."""
    photograph = np.zeros((20, 50, 3), np.uint8)
    road, sess = probability(lambda image: np.full(image.shape[:2], image.shape[1] / 40),
                             photograph, (16, 40), scales=(1, 1.4, 2))
    assert [feed['image'].shape[1:3] for feed in sess.feeds] == [(16, 40), (24, 56), (32, 80)]
    expected = np.mean([1 / (1 + np.exp(-width / 40)) for width in (40, 56, 80)])
    assert road.shape == (20, 50) and road.dtype == np.float32
    np.testing.assert_allclose(road, expected, rtol=1e-6)


@pytest.mark.parametrize('size, scale, expected', [
    ((75, 101), 1, (75, 101)), ((192, 640), 1.3, (248, 832)), ((10, 20), 0.1, (8, 8))])
def test_scaled_size(size, scale, expected):
    assert helper.scaled_size(size, scale) == expected


def test_probability_with_flip_of_a_fair_network_is_that_without():
    photograph = np.random.default_rng(0).integers(0, 256, (4, 10, 3), dtype=np.uint8)

    def red(image):
        return (image[..., 0] - 128) / 64

    once, _ = probability(red, photograph, (4, 10))
    both, _ = probability(red, photograph, (4, 10), flip=True)
    np.testing.assert_allclose(both, once, atol=1e-6)


def test_overlay_paints_the_road_only_and_leaves_the_photograph_alone():
    photograph = np.full((2, 3, 3), (100, 50, 30), np.uint8)
    road = np.array([[True, False, False], [False, False, True]])
    painted = helper.overlay(photograph, road)
    assert painted.dtype == np.uint8
    assert (painted[road] == (50, 152, 15)).all()
    assert (painted[~road] == (100, 50, 30)).all()
    assert (photograph == (100, 50, 30)).all()


def test_two_runs_within_a_second_get_folders_of_their_own(tmp_path):
    folders = [helper.new_run_folder(tmp_path / 'runs') for _ in range(3)]
    assert len(set(folders)) == 3
    assert sorted((tmp_path / 'runs').iterdir()) == sorted(folders)


def test_a_runs_folder_that_is_a_file_is_an_input_error(tmp_path):
    (tmp_path / 'runs').write_text('not a folder')
    with pytest.raises(InputError, match='runs'):
        helper.new_run_folder(tmp_path / 'runs')


def test_an_image_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_png(tmp_path / 'a.png', np.zeros((4, 6, 3)))
    before = path.read_bytes()

    def full_disk(uri, *args, **kwargs):
        Path(uri).write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(helper.imageio, 'imwrite', full_disk)
        with pytest.raises((OSError, InputError)):
            helper.write_image(path, np.ones((4, 6, 3), np.uint8))
    assert path.read_bytes() == before
    helper.write_image(path, np.ones((4, 6, 3), np.uint8))
    assert (np.asarray(Image.open(path)) == 1).all()
