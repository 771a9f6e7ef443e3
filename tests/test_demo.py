"""The drawn scenes as a data set: KITTI's layout, and nothing of the user's replaced."""
import errno
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

from roadseg.commands import run_command
from roadseg.datasets import demo, drawing, folder, kitti
from roadseg.errors import InputError
from roadseg.files import move_into_place
from roadseg.images import read_image
from roadseg.scoring import bev, classes, road

SIZE = (94, 310)
FEW = dict(train=3, test=3, held_out=1, size=SIZE)


def numbers(folder, category):
    return sorted(int(path.stem.split('_')[-1]) for path in folder.glob(f'{category}_[0-9]*.png'))


def modified(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob('*.*')}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return demo.write_scenes(tmp_path_factory.mktemp('drawn'), train=12, test=6, held_out=1,
                             size=SIZE)


@pytest.fixture
def drawn(tmp_path):
    return demo.write_scenes(tmp_path, **FEW)


def test_layout_is_kittis(data):
    assert data.name == 'data_road'
    train, labels, test = (data / name for name in
                           ('training/image_2', 'training/gt_image_2', 'testing/image_2'))
    for category in drawing.CATEGORIES:
        assert len(numbers(train, category)) == 4
        assert numbers(test, category) == [0, 1]
    assert ({path.name.replace('_road_', '_') for path in labels.iterdir()}
            == {path.name for path in train.iterdir()})
    for place in (train, labels, test):
        for path in place.iterdir():
            with Image.open(path) as image:
                assert (image.mode, image.size) == ('RGB', SIZE[::-1])
    assert [path.name for path in data.parent.iterdir()] == ['data_road']


def test_description_is_kittis_of_two_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, 'SIZES', ((31, 97),) * 5)
    first = drawing.draw_scene(np.random.default_rng(0), 'um', (31, 97))
    monkeypatch.setattr(drawing, 'draw_scene', lambda *_: first)        # 96 take a while
    dataset = demo.load(tmp_path, 2)
    assert (dataset.name, dataset.title) == ('demo', 'drawn scenes')
    assert dataset.measures is road
    assert (len(dataset.labelled), len(dataset.tests)) == (84, 12)
    training, validation = dataset.split(dataset.default_split)
    assert (len(training), len(validation)) == (69, 15)
    assert set(np.unique(dataset.read_label(dataset.labelled[0][1]))) <= {0, 1, 255}


def test_seven_classes_are_a_folder_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, 'write_scenes', partial(demo.write_scenes, train=12, test=3,
                                                      held_out=1, size=(31, 97)))
    dataset = demo.load(tmp_path, 7)
    assert dataset.classes == drawing.CLASSES and dataset.palette == drawing.PALETTE
    assert (dataset.name, dataset.title, dataset.road) == ('demo', 'drawn scenes', 0)
    assert dataset.measures is classes
    assert (len(dataset.labelled), len(dataset.tests)) == (12, 3)
    training, validation = dataset.split(dataset.default_split)
    assert (len(training), len(validation)) == (9, 3)
    assert {dataset.group(image.stem) for image, _ in validation} == set(dataset.groups)
    image, label = validation[0]
    drawn = drawing.draw_scene(*of_seed(0, 'um', int(image.stem.split('_')[1])), (31, 97))
    assert (read_image(image) == drawn.image).all()
    assert (dataset.read_label(label) == drawn.classes).all()
    with Image.open(label) as mask:
        assert mask.mode == 'P' and tuple(mask.getpalette()[:3]) == drawing.PALETTE[0]
    own = folder.load(tmp_path / 'scenes7')
    assert own.classes == drawing.CLASSES and own.labelled == dataset.labelled
    # Both kinds lie in one folder.
    assert demo.write_scenes(tmp_path, **FEW).name == 'data_road'


def of_seed(seed, category, number):
    rng = np.random.default_rng([seed, 0, drawing.CATEGORIES.index(category), number])
    rng.choice(5, p=demo.SIZE_SHARES)       # the size
    return rng, category


@pytest.mark.parametrize('count', [3, 6, 8, 11])
def test_other_numbers_of_classes_are_refused(tmp_path, count):
    with pytest.raises(InputError, match=f'--classes {count}: .* 2, .* or 7: road, marking'):
        demo.load(tmp_path, count)
    assert not list(tmp_path.iterdir())


def test_numbers_fall_on_the_held_out_split(data):
    for category in drawing.CATEGORIES:
        found = numbers(data / 'training/image_2', category)
        assert found == list(range(found[0], found[0] + 4))
        assert [number in kitti.VAL3[category] for number in found] == [False] * 3 + [True]


@pytest.mark.parametrize('counts, message', [
    (dict(train=10, test=3, held_out=1), 'train is 10'),
    (dict(train=9, test=-3, held_out=1), 'test is -3'),
    (dict(train=9, test=3, held_out=4), '3 training scenes per category, 4 of them held out'),
    (dict(train=60, test=3, held_out=17), '0 to 16 held out'),
    (dict(train=300, test=3, held_out=5), '79 others')])
def test_impossible_numbers_are_refused(tmp_path, counts, message):
    with pytest.raises(InputError, match=message):
        demo.write_scenes(tmp_path, size=SIZE, **counts)
    assert not list(tmp_path.iterdir())


def test_sizes_are_kittis_unless_given(monkeypatch, tmp_path):
    monkeypatch.setattr(drawing, 'draw_scene', lambda rng, category, size: drawing.Scene(
        np.zeros(size + (3,), np.uint8), np.zeros(size + (3,), np.uint8), None, ''))
    data = demo.write_scenes(tmp_path, train=84, test=0)
    sizes = [Image.open(path).size for path in (data / 'training/image_2').iterdir()]
    assert 3 < len(set(sizes))
    assert {size[::-1] for size in sizes} <= set(demo.SIZES)
    assert sizes.count((1242, 375)) > 42


def test_seed_decides_the_pixels(data, tmp_path):
    settings = dict(train=3, test=0, held_out=1, size=SIZE)
    name = 'training/image_2/uu_000082.png'
    same, other = (demo.write_scenes(tmp_path / str(seed), seed=seed, **settings) / name
                   for seed in (0, 1))
    # Of the twelve scenes written before, uu_000082 is the one that was held out, too.
    assert same.read_bytes() == (data / name).read_bytes()
    assert same.read_bytes() != other.read_bytes()


# What lies there stays --------------------------------------------------------------------------

def test_complete_scenes_are_left_alone(drawn):
    (drawn / 'training/image_2/.DS_Store').write_bytes(b'')
    before = modified(drawn)
    assert demo.write_scenes(drawn.parent, **FEW) == drawn
    assert modified(drawn) == before


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / 'data_road').mkdir()
    assert (demo.write_scenes(tmp_path, **FEW) / 'scenes.json').exists()


@pytest.mark.parametrize('change, message', [
    (lambda folder: (folder / 'scenes.json').unlink(), 'data_road has no scenes.json'),
    (lambda folder: (folder / 'scenes.json').write_text('{'), 'scenes.json is not JSON'),
    (lambda folder: (folder / 'training/image_2/um_000079.png').unlink(),
     'lacks training/image_2/um_000079.png'),
    (lambda folder: (folder / 'training/image_2/um_000001.png').write_bytes(b'mine'),
     'holds, beside drawn scenes, training/image_2/um_000001.png'),
    (lambda folder: (folder / 'testing/image_2/my street.png').write_bytes(b'mine'),
     'my street.png')])
def test_what_was_changed_since_is_not_replaced(drawn, change, message):
    change(drawn)
    before = modified(drawn)
    with pytest.raises(InputError, match=message) as caught:
        demo.write_scenes(drawn.parent, **FEW)
    assert '\n' not in str(caught.value)
    assert modified(drawn) == before
    assert list(drawn.parent.iterdir()) == [drawn]


def test_scenes_of_other_settings_are_not_replaced(drawn):
    before = modified(drawn)
    with pytest.raises(InputError, match='drawn with train 3, expected 6'):
        demo.write_scenes(drawn.parent, **dict(FEW, train=6))
    assert modified(drawn) == before


def test_photographs_are_never_replaced(tmp_path):
    photograph = tmp_path / 'data_road/training/image_2/um_000000.png'
    photograph.parent.mkdir(parents=True)
    photograph.write_bytes(b'from KITTI')
    with pytest.raises(InputError, match='scenes.json'):
        demo.write_scenes(tmp_path, **FEW)
    assert photograph.read_bytes() == b'from KITTI'


@pytest.mark.parametrize('error, expected', [
    (OSError(errno.ENOSPC, 'No space left on device'), InputError),
    (KeyboardInterrupt(), KeyboardInterrupt)])
def test_interrupted_writing_leaves_no_folder(tmp_path, monkeypatch, error, expected):
    draw, drawn = drawing.draw_scene, []

    def breaks_at_the_fourth(*args):
        drawn.append(args)
        if len(drawn) == 4:
            raise error
        return draw(*args)

    with monkeypatch.context() as patch:
        patch.setattr(drawing, 'draw_scene', breaks_at_the_fourth)
        with pytest.raises(expected):
            demo.write_scenes(tmp_path, **dict(FEW, train=6))
    assert not list(tmp_path.iterdir())
    data = demo.write_scenes(tmp_path, **dict(FEW, train=6))
    assert len(list(data.glob('*/image_2/*.png'))) == 9


# The command ------------------------------------------------------------------------------------

@pytest.mark.parametrize('options, message', [
    (['--train', '10'], 'train is 10, expected a multiple of 3'),
    (['--train', '-3'], "'-3' is not a whole number"),
    (['--seed', '-1'], "'-1' is not a whole number"),
    (['--seed', '9' * 30], 'is not a whole number'),
    (['--seed', '²'], "'²' is not a whole number"),
    (['--held-out', '17'], 'held out'),
    (['--test', '2'], 'test is 2'),
    (['--classes', '3'], '--classes 3: the drawn scenes have 2'),
    (['--train', '300'], '79 others')])
def test_mistakes_are_one_line(tmp_path, capsys, options, message):
    try:
        code = run_command(demo.main, ['--out', str(tmp_path / 'new'), *options])
    except SystemExit as stop:
        code = stop.code
    shown = capsys.readouterr().err
    assert code == 2
    assert shown.startswith('error: ') and shown.count('\n') == 1 and message in shown
    assert not list(tmp_path.iterdir())


def test_a_folder_below_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    assert run_command(demo.main, ['--out', str(tmp_path / 'file/below')]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith('error: cannot write') and shown.count('\n') == 1


def test_the_command_draws(tmp_path):
    done = subprocess.run([sys.executable, '-m', 'roadseg.datasets.demo', '--out', tmp_path,
                           '--train', '0', '--test', '3', '--held-out', '0'],
                          capture_output=True, text=True, cwd=os.getcwd())
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout == f'0 scenes with labels and 3 without: {tmp_path}/data_road\n'


@pytest.fixture(scope='module')
def full_size(tmp_path_factory):
    return demo.write_scenes(tmp_path_factory.mktemp('full'), train=9, test=0, held_out=1)


@pytest.mark.parametrize('category', ['um', 'umm', 'uu'])
def test_calibration_shows_the_road_from_above(full_size, category):
    """Seen from above, a straight stretch of road is as wide near the camera as farther off."""
    widths = []
    for label in sorted((full_size / 'training/gt_image_2').glob(f'{category}_road_*.png')):
        name = label.name.replace('_road_', '_').replace('.png', '.txt')
        calibration = bev.read_calibration(full_size / 'training/calib' / name)
        seen, inside = bev.to_bev(kitti.read_road_label(label), calibration)
        on_road = (seen == 1) & inside
        widths += [on_road[760].sum() * 0.05, on_road[560].sum() * 0.05]     # at 8 and 18 m
    assert 3 < np.median(widths) <= 20
    if category == 'uu':            # narrower than the 20 m that are seen
        assert abs(np.median(widths[::2]) - np.median(widths[1::2])) < 1.5


def test_another_process_that_was_as_fast_is_no_error(tmp_path, monkeypatch):
    """As of two workers that draw the same scenes."""
    def too_late(part, target):
        move_into_place(part, target)
        raise OSError(errno.ENOTEMPTY, 'Directory not empty')

    monkeypatch.setattr(demo, 'move_into_place', too_late)
    folder = demo.write_scenes(tmp_path, train=3, test=0, held_out=1, size=(31, 97))
    assert len(list(folder.glob('training/image_2/*.png'))) == 3
