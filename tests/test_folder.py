"""A folder of one's own: photographs and masks of the same name, and classes.json."""
import json
import os

import numpy as np
import pytest
from PIL import Image

from roadseg.datasets import folder, kitti
from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError
from roadseg.images import read_image
from roadseg.scoring import classes, road

MASK = np.array([[0, 1, 1, 0], [1, 1, 0, 255], [0, 0, 1, 1]], np.uint8)
BLACK_AND_WHITE = np.array([[0, 255, 255, 0], [255, 255, 0, 0], [0, 0, 255, 255]], np.uint8)
THREE = {'names': ['ground', 'road', 'path'],
         'colours': [[90, 60, 30], [128, 64, 128], [240, 200, 0]]}


def fill(place, masks=(MASK,) * 5, settings=None):
    """Writes photographs of 4x3 and masks, by name where `masks` is a dict."""
    masks = masks if isinstance(masks, dict) else {f'street {number}': mask
                                                   for number, mask in enumerate(masks, 1)}
    for name in ('images', 'masks'):
        (place / name).mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        Image.new('RGB', (4, 3), (9, 9, 9)).save(place / 'images' / f'{name}.jpg')
        mask = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        mask.save(place / 'masks' / f'{name}.png')
    if settings is not None:
        text = settings if isinstance(settings, str) else json.dumps(settings)
        (place / 'classes.json').write_text(text)
    return place


def read_all(dataset):
    return [dataset.read_label(label) for _, label in dataset.labelled]


# What is there ----------------------------------------------------------------------------------

def test_two_classes_are_not_road_and_road(tmp_path):
    dataset = folder.load(fill(tmp_path / 'My road'))
    assert (dataset.name, dataset.title) == ('folder', 'My road')
    assert (dataset.classes, dataset.palette) == (kitti.CLASSES, kitti.PALETTE)
    assert dataset.road == 1 and dataset.measures is road
    assert len(dataset.labelled) == 5 and dataset.tests == []
    label = dataset.read_label(dataset.labelled[0][1])
    assert label.dtype == np.uint8 and (label == MASK).all()
    assert dataset.group('street 1') is None and dataset.groups == {}


def test_the_last_fifth_is_held_out(tmp_path):
    dataset = folder.load(fill(tmp_path, [MASK] * 10))
    assert dataset.default_split == 'tail:0.2'
    training, validation = dataset.split(dataset.default_split)
    assert [image.stem for image, _ in validation] == ['street 9', 'street 10']
    assert len(training) == 8
    assert len(dataset.split('kfold:5:1')[1]) == 2
    assert dataset.split('none') == (dataset.labelled, [])
    with pytest.raises(InputError, match="split 'val3' is none of kfold"):
        dataset.split('val3')


def test_too_few_to_hold_one_out_is_an_error(tmp_path):
    dataset = folder.load(fill(tmp_path, [MASK]))
    with pytest.raises(InputError, match='1 of 1 photographs to train on and 0 to validate'):
        dataset.split(dataset.default_split)


def test_photographs_of_any_ending_and_case(tmp_path):
    fill(tmp_path, {})
    for number, ending in enumerate(('png', 'PNG', 'jpg', 'JPG', 'jpeg', 'Jpeg', 'bmp', 'TIF')):
        Image.new('RGB', (4, 3)).save(tmp_path / 'images' / f'{number}.{ending}')
        mask = tmp_path / 'masks' / f"{number}.{'png' if number else 'PNG'}"
        Image.fromarray(MASK).save(mask, 'PNG')
    dataset = folder.load(tmp_path)
    assert len(dataset.labelled) == 8
    assert all(read_image(image).shape == (3, 4, 3) for image, _ in dataset.labelled)
    assert all((label == MASK).all() for label in read_all(dataset))


def test_photographs_without_a_mask_are_tests(tmp_path):
    fill(tmp_path)
    for place, name in (('test', 'a.jpg'), ('unlabelled', 'b.PNG'), ('unlabelled', 'b.txt')):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / name).write_bytes(b'')
    assert folder.load(tmp_path).tests == [tmp_path / 'test/a.jpg', tmp_path / 'unlabelled/b.PNG']


def test_photographs_without_a_mask_have_different_names(tmp_path):
    """Otherwise, the overlay of one would replace that of the other."""
    fill(tmp_path)
    for place, name in (('test', 'a.jpg'), ('unlabelled', 'a.PNG')):
        (tmp_path / place).mkdir()
        (tmp_path / place / name).write_bytes(b'')
    with pytest.raises(InputError, match='test/a.jpg and .*unlabelled/a.PNG have the same name'):
        folder.load(tmp_path)


@pytest.mark.parametrize('name', ['[x]', 'a*', 'what?', 'Straße 7', '道'])
def test_odd_names_of_folder_and_files(tmp_path, name):
    dataset = folder.load(fill(tmp_path / name, {name: MASK, name + '2': MASK}))
    assert dataset.title == name
    assert [image.stem for image, _ in dataset.labelled] == [name, name + '2']
    assert all((label == MASK).all() for label in read_all(dataset))


# Black and white --------------------------------------------------------------------------------

@pytest.mark.parametrize('masks', [
    [BLACK_AND_WHITE] * 2, [Image.fromarray(BLACK_AND_WHITE > 0)] * 2,
    [Image.fromarray(np.stack([BLACK_AND_WHITE] * 3, 2))] * 2,
    [0 * BLACK_AND_WHITE, BLACK_AND_WHITE]], ids=['L', '1', 'RGB', 'black first'])
def test_white_is_road(tmp_path, masks):
    dataset = folder.load(fill(tmp_path, masks))
    assert (read_all(dataset)[-1] == BLACK_AND_WHITE // 255).all()
    assert dataset.measures is road


def test_white_all_over_is_road_all_over(tmp_path):
    dataset = folder.load(fill(tmp_path, [np.full((3, 4), 255, np.uint8)] * 2))
    assert all((label == 1).all() for label in read_all(dataset))


def test_black_all_over_is_no_road(tmp_path):
    dataset = folder.load(fill(tmp_path, [np.zeros((3, 4), np.uint8)] * 2))
    assert all((label == 0).all() for label in read_all(dataset))


def test_numbers_among_black_and_white_are_refused(tmp_path):
    dataset = folder.load(fill(tmp_path, [BLACK_AND_WHITE, MASK]))
    with pytest.raises(InputError, match='value 1 at row 0, column 1; expected 0 or 255, black '
                                         'or white, as in street 1.png'):
        read_all(dataset)


def test_an_ignored_value_that_is_said_makes_white_ignored(tmp_path):
    dataset = folder.load(fill(tmp_path, [BLACK_AND_WHITE] * 2,
                               {'names': ['ground', 'road'], 'ignored': 255}))
    assert (read_all(dataset)[0] == BLACK_AND_WHITE).all()      # IGNORED is 255, too


def test_white_is_not_a_class_among_three(tmp_path):
    dataset = folder.load(fill(tmp_path, [BLACK_AND_WHITE] * 2, THREE))
    assert (read_all(dataset)[0] == BLACK_AND_WHITE).all()


# classes.json -----------------------------------------------------------------------------------

def test_names_colours_and_the_ignored_value(tmp_path):
    mask = np.array([[0, 1, 2, 9]], np.uint8)
    dataset = folder.load(fill(tmp_path, [mask] * 2, {**THREE, 'ignored': 9}))
    assert dataset.classes == ('ground', 'road', 'path')
    assert dataset.palette == ((90, 60, 30), (128, 64, 128), (240, 200, 0))
    assert dataset.road == 1 and dataset.measures is classes
    assert read_all(dataset)[0].tolist() == [[0, 1, 2, IGNORED]]


def test_nothing_is_ignored_where_it_says_so(tmp_path):
    dataset = folder.load(fill(tmp_path, [MASK] * 2, {**THREE, 'ignored': None}))
    with pytest.raises(InputError, match='value 255 at row 1, column 3; expected 0 to 2$'):
        read_all(dataset)


def test_a_byte_order_mark_is_no_harm(tmp_path):
    assert folder.load(fill(tmp_path, settings='\ufeff' + json.dumps(THREE))).road == 1


def test_the_first_of_two_classes_may_be_road(tmp_path):
    settings = {'names': ['tar', 'rest'], 'colours': [[1, 2, 3], [4, 5, 6]], 'road': 'tar'}
    dataset = folder.load(fill(tmp_path, settings=settings))
    # KITTI's measures want road to be class 1.
    assert dataset.classes == ('rest', 'tar') and dataset.palette == ((4, 5, 6), (1, 2, 3))
    assert dataset.road == 1 and dataset.measures is road
    assert (read_all(dataset)[0] == np.where(MASK == 255, 255, 1 - MASK % 255)).all()
    black = folder.load(fill(tmp_path / 'other', [BLACK_AND_WHITE] * 2, settings))
    assert (read_all(black)[0] == 1 - BLACK_AND_WHITE // 255).all()


def test_two_classes_of_which_none_is_road(tmp_path):
    dataset = folder.load(fill(tmp_path, settings={'names': ['sea', 'land'], 'road': None}))
    assert dataset.road is None and dataset.measures is classes


def test_which_of_many_is_road(tmp_path):
    assert folder.load(fill(tmp_path, settings={**THREE, 'road': 'path'})).road == 2
    fill(tmp_path, settings={'names': ['a', 'b', 'c']})
    assert folder.load(tmp_path).road is None


def test_classes_without_names(tmp_path):
    dataset = folder.load(fill(tmp_path, [np.array([[0, 5, 255]], np.uint8)] * 2), 6)
    assert len(dataset.classes) == len(set(dataset.classes)) == len(set(dataset.palette)) == 6
    assert dataset.measures is classes and dataset.road is None
    assert read_all(dataset)[0].tolist() == [[0, 5, 255]]


@pytest.mark.parametrize('settings, message', [
    ('', 'not JSON'), ('{', 'not JSON'), ('[1]', 'holds a list'), ('{"names": ["a"}', 'not JSON'),
    ('{}', "expected 'names'"),
    ({'colors': []}, 'the keys colors; expected'),
    ({**THREE, 'color': 1}, 'the keys names, colours, color; expected'),
    ({'names': 'ab'}, "'names' is 'ab', expected a list of 2 to 253 names"),
    ({'names': []}, 'list of 2'), ({'names': ['a']}, 'list of 2'), ({'names': None}, 'list of 2'),
    ({'names': [str(n) for n in range(254)]}, 'list of 2 to 253'),
    ({'names': ['a', 1]}, "'names' is '1', expected text"),
    ({'names': ['a', ' ']}, 'expected text'), ({'names': ['a', 'b\nc']}, 'expected text'),
    ({'names': ['a', 'b' * 61]}, 'expected text'), ({'names': ['a', ['b']]}, 'expected text'),
    ({'names': ['a', 'b', 'a']}, "'names' is 'a', expected each name once"),
    ({**THREE, 'colours': [[1, 2, 3]]}, "'colours' is .* list of 3 colours"),
    ({**THREE, 'colours': 'red'}, 'list of 3 colours'),
    ({**THREE, 'colours': [[1, 2, 3], [1, 2, 256], [0, 0, 0]]}, r"'\[1, 2, 256\]', expected red"),
    ({**THREE, 'colours': [[1, 2, 3], [1, 2], [0, 0, 0]]}, 'expected red'),
    ({**THREE, 'colours': [[1, 2, 3], [1, 2, -1], [0, 0, 0]]}, 'expected red'),
    ({**THREE, 'colours': [[1, 2, 3], [1, 2, True], [0, 0, 0]]}, 'expected red'),
    ({**THREE, 'colours': [[1, 2, 3], [1, 2, .5], [0, 0, 0]]}, 'expected red'),
    ({**THREE, 'colours': [[1, 2, 3], '#fff', [0, 0, 0]]}, 'expected red'),
    ({**THREE, 'ignored': 2}, "'ignored' is '2', expected null or a whole number from 3 to 255"),
    ({**THREE, 'ignored': 256}, 'from 3 to 255'), ({**THREE, 'ignored': True}, 'from 3 to 255'),
    ({**THREE, 'ignored': '255'}, 'from 3 to 255'), ({**THREE, 'ignored': -1}, 'from 3 to 255'),
    ({**THREE, 'road': 'Road'}, "'road' is 'Road', expected null or one of the names"),
    ({**THREE, 'road': 1}, 'one of the names'), ({**THREE, 'road': ['road']}, 'one of the names')])
def test_a_wrong_classes_json_is_one_line(tmp_path, settings, message):
    fill(tmp_path, settings=settings)
    with pytest.raises(InputError, match=message) as caught:
        folder.load(tmp_path)
    assert str(tmp_path / 'classes.json') in str(caught.value)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path),
                                  lambda path: os.symlink('gone', path)])
def test_a_classes_json_that_is_no_file(tmp_path, make):
    make(fill(tmp_path) / 'classes.json')
    with pytest.raises(InputError, match='classes.json'):
        folder.load(tmp_path)


def test_another_number_of_classes_than_named(tmp_path):
    fill(tmp_path, settings=THREE)
    assert len(folder.load(tmp_path, 3).classes) == 3
    with pytest.raises(InputError, match='names 3 classes, --classes is 2'):
        folder.load(tmp_path, 2)


@pytest.mark.parametrize('count', [1, 254])
def test_impossible_numbers_of_classes(tmp_path, count):
    with pytest.raises(InputError, match=f'--classes {count}: a folder has 2 to 253'):
        folder.load(fill(tmp_path), count)


def test_photographs_in_folders_below_are_told(tmp_path, capsys):
    fill(tmp_path)
    for place in ('images/city', 'images/.hidden', 'test/city/deep', 'unlabelled/empty'):
        (tmp_path / place).mkdir(parents=True)
    folder.load(tmp_path)
    assert capsys.readouterr().err == ''
    for place in ('images/city', 'images/.hidden', 'test/city/deep'):
        (tmp_path / place / 'a.jpg').touch()
    folder.load(tmp_path)
    assert [line.split(' are not read')[0] for line in capsys.readouterr().err.splitlines()] == [
        f'warning: the photographs in the folders of {tmp_path}/{name}'
        for name in ('images', 'test')]


# What is not there ------------------------------------------------------------------------------

def test_a_folder_laid_out_differently(tmp_path):
    (tmp_path / 'data_road').mkdir()
    with pytest.raises(InputError, match='images is no folder: expected images.*holds data_road'):
        folder.load(tmp_path)
    (tmp_path / 'images').mkdir()
    with pytest.raises(InputError, match='masks is no folder'):
        folder.load(tmp_path)
    (tmp_path / 'masks').mkdir()
    with pytest.raises(InputError, match='images holds no photograph .*holds nothing'):
        folder.load(tmp_path)
    (tmp_path / 'images/a.heic').write_bytes(b'')
    with pytest.raises(InputError, match='images holds a.heic'):
        folder.load(tmp_path)
    (tmp_path / 'images/a.jpg').write_bytes(b'')
    (tmp_path / 'masks/a.jpg').write_bytes(b'')
    with pytest.raises(InputError, match='masks holds no .png file: .*JPEG changes.*holds a.jpg'):
        folder.load(tmp_path)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(InputError, match='gone: no such file'):
        folder.load(tmp_path / 'gone')
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    with pytest.raises(InputError, match='loop'):
        folder.load(tmp_path / 'loop')


def test_masks_of_a_photograph_with_two_endings(tmp_path):
    fill(tmp_path)
    Image.new('RGB', (4, 3)).save(tmp_path / 'images/street 1.PNG', 'PNG')
    with pytest.raises(InputError, match='both street 1.PNG and street 1.jpg'):
        folder.load(tmp_path)


def test_what_does_not_pair_up(tmp_path):
    fill(tmp_path)
    (tmp_path / 'masks/street 2.png').unlink()
    with pytest.raises(InputError, match='1 of 5 photographs have no label .* street 2.jpg'):
        folder.load(tmp_path)


def test_black_and_white_of_a_palette_go_by_their_colours(tmp_path):
    """Programs number them as they like: Pillow gives white the 0."""
    grey = Image.fromarray(BLACK_AND_WHITE).convert('RGB')
    masks = [grey.quantize(2), Image.new('RGB', (4, 3), 'white').quantize(2),
             grey.convert('P', palette=Image.Palette.ADAPTIVE, colors=2)]
    assert masks[0].getpalette()[:3] == [255, 255, 255]
    labels = read_all(folder.load(fill(tmp_path, masks)))
    for label, white in zip(labels, (BLACK_AND_WHITE, np.full((3, 4), 255), BLACK_AND_WHITE)):
        assert (label == (white > 0)).all()


def test_other_palettes_stay_numbers(tmp_path):
    masks = []
    for colours in ([255, 0, 0, 0, 255, 0], [0, 0, 0, 1, 1, 1]):
        masks.append(Image.fromarray(np.where(MASK == 255, 0, MASK)).convert('P'))
        masks[-1].putpalette(colours)
    for label in read_all(folder.load(fill(tmp_path, masks))):
        assert (label == np.where(MASK == 255, 0, MASK)).all()


@pytest.mark.parametrize('rest', [[0] * 762, [grey for grey in range(2, 256) for _ in range(3)]])
def test_numbers_of_a_palette_that_begins_black_and_white_stay_numbers(tmp_path, rest):
    """255 is not evaluated, in whatever colour; also where the first mask has none."""
    masks = [Image.fromarray(mask).convert('P') for mask in (np.where(MASK == 255, 0, MASK), MASK)]
    for mask in masks:
        mask.putpalette([0, 0, 0, 255, 255, 255, *rest])
    for order in (masks, masks[::-1]):
        labels = read_all(folder.load(fill(tmp_path, order)))
        assert sum((label == IGNORED).sum() for label in labels) == (MASK == 255).sum()


def test_a_black_mask_of_a_palette_whose_first_colour_is_white(tmp_path):
    masks = [Image.fromarray(np.uint8(array)).convert('P') for array in
             (1 - BLACK_AND_WHITE // 255, np.ones((3, 4)))]
    for mask in masks:
        mask.putpalette([255, 255, 255, 0, 0, 0])
    for order, counts in ((masks, [6, 0]), (masks[::-1], [0, 6])):
        labels = read_all(folder.load(fill(tmp_path, order)))
        assert [int((label == 1).sum()) for label in labels] == counts


def test_white_after_many_black_masks_is_road(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, 'LOOKED_AT', 2)
    masks = [np.zeros_like(MASK)] * 3 + [BLACK_AND_WHITE]
    assert (read_all(folder.load(fill(tmp_path, masks)))[-1] == (BLACK_AND_WHITE > 0)).all()


def test_numbers_beside_black_and_white_are_told(tmp_path):
    """Otherwise white would silently be "not evaluated"."""
    numbers = np.where(MASK == 255, 0, MASK)
    masks = [np.zeros_like(MASK), numbers, BLACK_AND_WHITE]
    with pytest.raises(InputError, match='street 3.png is black and white, and .*street 2.png has '
                                         'class numbers'):
        folder.load(fill(tmp_path, masks))
    no_road = np.where(MASK == 255, MASK, 0)        # a mask of numbers, as the last one shows
    label = read_all(folder.load(fill(tmp_path, [numbers, no_road, MASK])))[1]
    assert (label == np.where(MASK == 255, IGNORED, 0)).all()


def test_a_mask_in_colours(tmp_path):
    fill(tmp_path, [Image.new('RGB', (4, 3), (128, 64, 128))] * 2)
    with pytest.raises(InputError, match=r'street 1.png has colours, such as \(128, 64, 128\)'):
        folder.load(tmp_path)


def test_a_value_that_is_no_class(tmp_path):
    mask = MASK.copy()
    mask[2, 1] = 2
    dataset = folder.load(fill(tmp_path, [MASK, mask]))
    with pytest.raises(InputError, match='street 2.png has the value 2 at row 2, column 1; '
                                         'expected 0 to 1, or 255 where it is not evaluated; '
                                         'name the number of classes by --classes, or '):
        read_all(dataset)


def test_links_in_a_loop_are_an_error_when_read(tmp_path):
    fill(tmp_path)
    for name in ('images/street 9.jpg', 'masks/street 9.png'):
        (tmp_path / name).symlink_to(tmp_path / name)
    dataset = folder.load(tmp_path)
    for read, path in zip((read_image, dataset.read_label), dataset.labelled[-1]):
        with pytest.raises(InputError, match='street 9'):
            read(path)
