"""KITTI Road: fetching it, pairing its files, reading its labels, and what is told of a folder."""
import errno
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roadseg.datasets import catalogue, kitti
from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError
from test_download import CONTENT, no_proxy, serving     # noqa: F401


def write_png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


# Getting it -----------------------------------------------------------------------------------

@pytest.fixture
def counts(monkeypatch):
    """KITTI Road with 3 labelled photographs and 2 to test on."""
    monkeypatch.setattr(kitti, 'COUNTS', {
        what: (place, pattern, 2 if place.startswith('testing') else 3)
        for what, (place, pattern, _) in kitti.COUNTS.items()})


@pytest.fixture
def offline(monkeypatch, nowhere):
    monkeypatch.setattr(kitti, 'URL', nowhere)


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


def make_zip(path, files):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def files_below(folder):
    return [path for path in folder.rglob('*') if path.is_file()]


def test_data_that_are_there_are_found_without_network(tmp_path, counts, offline):
    write_members(tmp_path, members())
    assert kitti.fetch(tmp_path) == tmp_path / 'data_road'


def test_data_that_were_put_there_as_an_archive_are_unpacked(tmp_path, counts, offline):
    make_zip(tmp_path / 'data_road.zip', members())
    assert kitti.fetch(tmp_path) == tmp_path / 'data_road'
    assert len(files_below(tmp_path / 'data_road')) == 11


def test_data_are_downloaded_and_an_interrupted_download_goes_on(tmp_path, counts, monkeypatch):
    archive = make_zip(tmp_path / 'source.zip', members()).read_bytes()
    data = tmp_path / 'data'
    with serving(archive, cut=70_000) as server:
        monkeypatch.setattr(kitti, 'URL', server.url)
        with pytest.raises(InputError, match='broke off'):
            kitti.fetch(data)
        assert not (data / 'data_road').exists()
        assert kitti.fetch(data) == data / 'data_road'
        assert kitti.fetch(data) == data / 'data_road'      # once is enough
    assert [asked for asked, _ in server.asked] == [None, 'bytes=70000-']
    assert len(files_below(data / 'data_road')) == 11


def test_without_network_three_ways_on_are_named(tmp_path, offline):
    with pytest.raises(InputError) as caught:
        kitti.fetch(tmp_path)
    message = str(caught.value)
    for piece in (str(tmp_path), kitti.URL, 'by hand', 'data_road.zip', '--data-dir', '--demo'):
        assert piece in message
    assert '\n' not in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('lost', ['training/image_2', 'training/gt_image_2', 'testing/image_2'])
def test_a_missing_file_is_an_error_but_of_own_data_a_warning(tmp_path, counts, capsys, lost):
    name = 'um_road_000001.png' if 'gt' in lost else 'um_000001.png'
    files = members()
    del files[f'data_road/{lost}/{name}']
    write_members(tmp_path, files)
    expected = len([path for path in files if f'/{lost}/' in path and 'lane' not in path])
    with pytest.raises(InputError, match=f'{lost} holds {expected} .* published are {expected + 1}'):
        kitti.fetch(tmp_path)
    assert kitti.fetch(tmp_path, strict=False) == tmp_path / 'data_road'
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and warnings[0].startswith('warning: ') and lost in warnings[0]


def test_data_of_ones_own_need_photographs_to_train_on(tmp_path, counts):
    write_members(tmp_path, members(training=0))
    with pytest.raises(InputError, match='image_2 holds no training .*: .* like um_000012.png and '
                                         'um_road_000012.png'):
        kitti.fetch(tmp_path, strict=False)


def test_a_folder_that_is_data_road_itself_is_told_and_nothing_downloaded(tmp_path, offline):
    (tmp_path / 'training/gt_image_2').mkdir(parents=True)
    with pytest.raises(InputError, match='holds training/ itself, .* into .*data_road'):
        kitti.fetch(tmp_path)


def test_an_archive_is_unpacked_beside_another_data_set_of_kitti(tmp_path, counts, offline):
    (tmp_path / 'training/label_2').mkdir(parents=True)
    make_zip(tmp_path / 'data_road.zip', members())
    assert kitti.fetch(tmp_path) == tmp_path / 'data_road'


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, counts, monkeypatch):
    write_members(tmp_path, members())

    def refuse(folder):
        raise PermissionError(errno.EACCES, '')

    monkeypatch.setattr(kitti.os, 'listdir', refuse)
    with pytest.raises(InputError, match='cannot read .*image_2: permission denied; make it'):
        kitti.fetch(tmp_path)


def test_data_of_ones_own_need_no_test_photographs(tmp_path, counts, capsys):
    write_members(tmp_path, members(testing=0))
    assert kitti.fetch(tmp_path, strict=False) == tmp_path / 'data_road'
    assert 'testing/image_2 holds 0 test photographs' in capsys.readouterr().err


# Photographs and labels -----------------------------------------------------------------------

COLOURS = {(255, 0, 255): 1, (255, 0, 0): 0, (0, 0, 0): IGNORED, (0, 0, 255): IGNORED}


def touch(folder, images, labels):
    for place, names in (('image_2', images), ('gt_image_2', labels)):
        (folder / place).mkdir(parents=True)
        for name in names:
            (folder / place / name).touch()


def test_photographs_are_paired_with_road_labels_not_lane_labels(tmp_path):
    touch(tmp_path, ['umm_000001.png', 'um_000002.png'],
          ['um_lane_000002.png', 'um_road_000002.png', 'umm_road_000001.png'])
    assert [(image.name, label.name) for image, label in kitti.paired_paths(tmp_path)] == [
        ('um_000002.png', 'um_road_000002.png'), ('umm_000001.png', 'umm_road_000001.png')]


def test_photographs_without_label_are_counted_and_the_first_is_named(tmp_path):
    touch(tmp_path, [f'um_00000{number}.png' for number in range(5)],
          ['um_road_000000.png', 'um_lane_000001.png', 'um_road_000002.png'])
    with pytest.raises(InputError, match='3 of 5 photographs.*um_000001.png'):
        kitti.paired_paths(tmp_path)


def test_hidden_files_are_passed_over(tmp_path):
    """As macOS leaves beside each file on a disk of another system."""
    touch(tmp_path, ['um_000002.png', '._um_000002.png'],
          ['um_road_000002.png', '._um_road_000002.png'])
    assert [image.name for image, _ in kitti.paired_paths(tmp_path)] == ['um_000002.png']


def test_no_photograph_is_an_error(tmp_path):
    touch(tmp_path, [], ['um_road_000000.png'])
    with pytest.raises(InputError, match='no .png file in .*image_2'):
        kitti.paired_paths(tmp_path)


def test_the_four_colours_of_road_labels(tmp_path):
    path = write_png(tmp_path / 'label.png', [list(COLOURS), list(COLOURS)[::-1]])
    np.testing.assert_array_equal(kitti.read_road_label(path),
                                  [list(COLOURS.values()), list(COLOURS.values())[::-1]])
    assert kitti.read_road_label(path).dtype == np.uint8


def test_a_damaged_label_is_refused_and_not_read_as_another(tmp_path):
    path = write_png(tmp_path / 'label.png', [list(COLOURS)] * 40)
    whole = path.read_bytes()
    for place in range(whole.index(b'IDAT') + 6, len(whole) - 16):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1:])
        with pytest.raises(InputError, match='label.png is not a readable PNG file'):
            kitti.read_road_label(path)


@pytest.mark.parametrize('colour', [(0, 255, 0), (254, 0, 0), (255, 0, 128), (255, 255, 255)])
def test_a_foreign_colour_is_an_error_that_says_where(tmp_path, colour):
    label = np.full((5, 7, 3), (255, 0, 0), np.uint8)
    label[3, 4] = label[4, 1] = colour
    path = write_png(tmp_path / 'um_road_000007.png', label)
    with pytest.raises(InputError) as caught:
        kitti.read_road_label(path)
    assert f'{path} has the colour {colour} at row 3, column 4' in str(caught.value)


@pytest.mark.parametrize('name, expected', [
    ('um_000012.png', 'um'), ('umm_road_000012.png', 'umm'), ('uu_000097.png', 'uu'),
    ('um_lane_000000.png', 'um'), ('data_road/training/image_2/umm_000003.png', 'umm')])
def test_category(name, expected):
    assert kitti.category(name) == expected


@pytest.mark.parametrize('name', ['000012.png', 'ummm_000012.png', 'road_um_000012.png', ''])
def test_a_name_without_category_is_refused(name):
    with pytest.raises(InputError, match='belongs to no category.*um_, umm_, uu_'):
        kitti.category(name)


# Splits ---------------------------------------------------------------------------------------

def kitti_pairs():
    """KITTI Road's own numbering: 95 um, 96 umm and 98 uu frames."""
    return sorted((Path(f'image_2/{category}_{number:06d}.png'),
                   Path(f'gt_image_2/{category}_road_{number:06d}.png'))
                  for category, count in (('um', 95), ('umm', 96), ('uu', 98))
                  for number in range(count))


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """KITTI Road with its own names, and nothing in the files."""
    touch(tmp_path / 'data_road/training', *([path.name for path in paths]
                                             for paths in zip(*kitti_pairs())))
    touch(tmp_path / 'data_road/testing', [f'um_{number:06d}.png' for number in range(290)], [])
    return catalogue.load('kitti', tmp_path)


def names(pairs):
    return [image.stem for image, _ in pairs]


def test_description_of_the_published_data(dataset, capsys):
    assert capsys.readouterr().err == ''
    assert (dataset.name, dataset.title, dataset.classes) == ('kitti', 'KITTI Road',
                                                             ('not road', 'road'))
    assert (len(dataset.labelled), len(dataset.tests), dataset.road) == (289, 290, 1)
    assert dataset.default_split == 'val3' and dataset.group('umm_000003') == 'umm'
    assert list(dataset.groups) == ['um', 'umm', 'uu'] and dataset.pooled == 'URBAN'


def test_val3_holds_out_the_last_16_frames_of_each_category(dataset):
    training, validation = dataset.split('val3')
    assert (len(training), len(validation)) == (241, 48)
    assert sorted(training + validation) == dataset.labelled
    assert names(validation) == [f'um_{number:06d}' for number in range(79, 95)] + [
        f'umm_{number:06d}' for number in range(80, 96)] + [
        f'uu_{number:06d}' for number in range(82, 98)]


def test_search_holds_out_the_frames_before_val3_and_trains_on_neither(dataset):
    training, validation = dataset.split('search')
    others, val3 = dataset.split('val3')
    assert (len(training), len(validation)) == (193, 48)
    assert sorted(training + validation) == others
    for category in kitti.GROUPS:
        last, first = ([int(name[-6:]) for name in names(pairs)
                        if kitti.category(name) == category] for pairs in (validation, val3))
        assert max(last) + 1 == min(first) and len(last) == 16


def test_splits_that_are_typed_are_those_that_there_are(dataset):
    assert catalogue.DATASETS['kitti'].splits == tuple(kitti.SPLITS)
    for split in ('kfold:5:0', 'tail:0.2', 'none', *kitti.SPLITS):
        assert dataset.split(split)[0]
    with pytest.raises(InputError, match="'val4' is none of val3, search, kfold:K:I"):
        dataset.split('val4')


@pytest.mark.parametrize('split, wanted', [
    ('val3', lambda number: number < 79), ('val3', lambda number: 82 <= number < 95),
    ('search', lambda number: number >= 66)])
def test_a_split_that_leaves_a_side_empty_is_an_error(tmp_path, split, wanted):
    pairs = [pair for pair in kitti_pairs() if wanted(int(pair[0].stem[-6:]))]
    touch(tmp_path / 'data_road/training', *([path.name for path in paths]
                                             for paths in zip(*pairs)))
    few = catalogue.load('kitti', tmp_path, strict=False)
    with pytest.raises(InputError, match='choose another --split'):
        few.split(split)


@pytest.mark.parametrize('name', ['um_left', 'um_12b', 'um_²', 'um_' + '7' * 5000])
def test_a_published_split_of_photographs_that_are_not_numbered_is_an_input_error(name):
    pairs = [(Path(f'image_2/{name}.png'), Path(f'gt_image_2/{name}_road_.png'))]
    for split in ('val3', 'search'):
        with pytest.raises(InputError, match=f'{name[:9]}.*has no number'):
            kitti.SPLITS[split](pairs)


# Photographs of one's own ---------------------------------------------------------------------

@pytest.mark.parametrize('name', ['street', 'berlin_12b', '000012'])
def test_names_that_are_not_kittis_are_refused_at_once_with_the_way_on(tmp_path, name):
    """With and without a label that goes by KITTI's rule; not after the first epoch."""
    folder = tmp_path / 'data_road/training'
    first, _, rest = name.partition('_')
    for label in (f'{first}_road_{rest}.png', f'{name}.png'):
        data = tmp_path / label[:-4]
        touch(data / 'data_road/training', [f'{name}.png', 'um_000000.png'],
              [label, 'um_road_000000.png'])
        with pytest.raises(InputError, match=f'{name}.*--dataset folder') as caught:
            catalogue.load('kitti', data, strict=False)
        assert '\n' not in str(caught.value)
    assert not folder.exists()


@pytest.mark.parametrize('ending', ['.jpg', '.JPG', '.jpeg', '.PNG'])
@pytest.mark.parametrize('pngs', [0, 2])
def test_photographs_that_are_no_pngs_are_told_with_the_way_on(tmp_path, capsys, ending, pngs):
    folder = tmp_path / 'data_road/training'
    touch(folder, [f'um_{number:06d}.png' for number in range(pngs)] + ['um_000009' + ending],
          [f'um_road_{number:06d}.png' for number in (*range(pngs), 9)])
    for strict in (True, False):
        with pytest.raises(InputError, match=f'um_000009{ending}.*--dataset folder') as caught:
            catalogue.load('kitti', tmp_path, strict=strict)
        assert '\n' not in str(caught.value)


def test_other_numbers_of_classes_are_refused_before_anything_is_downloaded(tmp_path, offline):
    with pytest.raises(InputError, match='--classes 3: KITTI Road has 2'):
        catalogue.load('kitti', tmp_path, 3)


def test_names_that_are_no_text_are_refused(tmp_path):
    for place, name in (('image_2', b'um_\xff_000001.png'), ('gt_image_2', b'um_road_\xff_000001.png')):
        folder = tmp_path / 'data_road/training' / place
        folder.mkdir(parents=True)
        (folder / os.fsdecode(name)).touch()
    with pytest.raises(InputError, match=r'udcff.* has a line break, or what is no text, in its'):
        kitti.describe(tmp_path / 'data_road', 'kitti', 'KITTI Road')
