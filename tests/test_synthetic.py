"""Drawn scenes: KITTI's layout and colours, and labels that fit the pictures."""
import json

import numpy as np
import pytest
from PIL import Image

from helper import VAL3, InputError, read_road_label
from roadseg import bev, synthetic

SIZE = (94, 310)


def scene(category, seed, size=SIZE):
    return synthetic.draw_scene(np.random.default_rng(seed), category, size)[:2]


def is_colour(label, colour):
    return (label == colour).all(axis=2)


def numbers(folder, category):
    return sorted(int(path.stem.split('_')[-1]) for path in folder.glob(f'{category}_[0-9]*.png'))


def modified(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob('*.*')}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return synthetic.write_kitti(tmp_path_factory.mktemp('drawn'), train=12, test=6, held_out=1,
                                 size=SIZE)


@pytest.mark.parametrize('category', synthetic.CATEGORIES)
@pytest.mark.parametrize('seed', range(6))
def test_labels_have_kittis_colours_and_a_plausible_road(category, seed):
    image, label = scene(category, seed)
    assert image.shape == label.shape == SIZE + (3,)
    assert image.dtype == label.dtype == np.uint8
    road, other, unknown = (is_colour(label, colour) for colour in
                            (synthetic.MAGENTA, synthetic.RED, synthetic.BLACK))
    assert (road | other | unknown).all()
    assert .05 < road.mean() < .45
    assert .0 < unknown.mean() < .05
    horizon = int(.445 * SIZE[0])
    assert other[:horizon].all()
    assert road[-1].any()


def test_a_vehicle_hides_the_road(monkeypatch):
    # The same scene twice, once without its vehicles: every pixel they take is not road.
    place = synthetic._place_things

    def without_vehicles(*args):
        return [thing for thing in place(*args) if thing.kind not in ('vehicle', 'oncoming')]

    def with_one_ahead(rng, road, view):
        lane = min((lane for lane, _ in road.lanes), key=lambda lane: abs(lane + view.shift))
        return without_vehicles(rng, road, view) + [
            synthetic._Thing('vehicle', lane, 9., 0., 0., 5)]

    monkeypatch.setattr(synthetic, '_place_things', without_vehicles)
    _, empty = scene('um', 3)
    monkeypatch.setattr(synthetic, '_place_things', with_one_ahead)
    _, taken = scene('um', 3)
    road_before, road_after = (is_colour(label, synthetic.MAGENTA) for label in (empty, taken))
    assert not (road_after & ~road_before).any()
    hidden = road_before & is_colour(taken, synthetic.RED)
    # At 9 m a car is 1.7 m / 9 m * focal length = 34 pixels wide; some of it is above the road.
    assert hidden.sum() > 200
    assert (is_colour(taken, synthetic.BLACK) & road_before).any()


@pytest.mark.parametrize('category, marked', [('um', True), ('umm', True), ('uu', False)])
def test_marks_are_where_the_category_has_them(category, marked):
    for seed in range(5):
        image, label = scene(category, seed, (188, 620))
        road = is_colour(label, synthetic.MAGENTA)
        road[:len(road) * 6 // 10] = False     # far away, a pale kerb shares pixels with the road
        road &= np.roll(road, 2, 1) & np.roll(road, -2, 1)
        bright = (image[road].mean(axis=1) > 160).mean()     # tar is below, in sunlight too
        assert (bright > .002) if marked else (bright < .001), (seed, bright)


def test_a_scene_is_a_function_of_its_seed():
    for category in synthetic.CATEGORIES:
        first, again, other = (scene(category, seed) for seed in (4, 4, 5))
        assert all((a == b).all() for a, b in zip(first, again))
        assert (first[0] != other[0]).any() and (first[1] != other[1]).any()


def test_the_category_must_exist():
    with pytest.raises(ValueError, match="'um_lane'.*um, umm, uu"):
        scene('um_lane', 0)


def test_layout_is_kittis(data):
    assert data.name == 'data_road'
    train, labels, test = (data / name for name in
                           ('training/image_2', 'training/gt_image_2', 'testing/image_2'))
    for category in synthetic.CATEGORIES:
        assert len(numbers(train, category)) == 4
        assert numbers(test, category) == [0, 1]
    assert ({path.name.replace('_road_', '_') for path in labels.iterdir()}
            == {path.name for path in train.iterdir()})
    for folder in (train, labels, test):
        for path in folder.iterdir():
            with Image.open(path) as image:
                assert (image.mode, image.size) == ('RGB', SIZE[::-1])
    assert [path.name for path in data.parent.iterdir()] == ['data_road']


def test_numbers_fall_on_the_held_out_split(data):
    for category in synthetic.CATEGORIES:
        found = numbers(data / 'training/image_2', category)
        assert found == list(range(found[0], found[0] + 4))
        assert [number in VAL3[category] for number in found] == [False] * 3 + [True]
    scenes = synthetic._scenes(train=84, test=12, held_out=5)
    for category in synthetic.CATEGORIES:
        found = [number for use, of, number in scenes if (use, of) == ('training', category)]
        assert len(found) == 28
        assert sum(number in VAL3[category] for number in found) == 5


@pytest.mark.parametrize('numbers, message', [
    (dict(train=10, test=3, held_out=1), 'train is 10'),
    (dict(train=9, test=-3, held_out=1), 'test is -3'),
    (dict(train=9, test=3, held_out=4), '3 training scenes per category, 4 of them held out'),
    (dict(train=60, test=3, held_out=17), '0 to 16 held out'),
    (dict(train=300, test=3, held_out=5), '79 others')])
def test_impossible_numbers_are_refused(tmp_path, numbers, message):
    with pytest.raises(ValueError, match=message):
        synthetic.write_kitti(tmp_path, size=SIZE, **numbers)
    assert not list(tmp_path.iterdir())


def test_sizes_are_kittis_unless_given(monkeypatch, tmp_path):
    monkeypatch.setattr(synthetic, 'draw_scene', lambda rng, category, size: (
        np.zeros(size + (3,), np.uint8), np.zeros(size + (3,), np.uint8), ''))
    data = synthetic.write_kitti(tmp_path, train=84, test=0)
    sizes = [Image.open(path).size for path in (data / 'training/image_2').iterdir()]
    assert 3 < len(set(sizes))
    assert {size[::-1] for size in sizes} <= set(synthetic.KITTI_SIZES)
    assert sizes.count((1242, 375)) > 42


def test_seed_decides_the_pixels(data, tmp_path):
    settings = dict(train=3, test=0, held_out=1, size=SIZE)
    name = 'training/image_2/uu_000082.png'
    same, other = (synthetic.write_kitti(tmp_path / str(seed), seed=seed, **settings) / name
                   for seed in (0, 1))
    # Of the twelve scenes written before, uu_000082 is the one that was held out, too.
    assert same.read_bytes() == (data / name).read_bytes()
    assert same.read_bytes() != other.read_bytes()


def test_complete_scenes_are_left_alone_and_others_drawn_again(tmp_path):
    settings = dict(train=3, test=3, held_out=1, size=SIZE)
    data = synthetic.write_kitti(tmp_path, **settings)
    before = modified(data)
    synthetic.write_kitti(tmp_path, **settings)
    assert modified(data) == before

    (data / 'training/image_2/um_000079.png').unlink()
    synthetic.write_kitti(tmp_path, **settings)
    assert (data / 'training/image_2/um_000079.png').exists()

    synthetic.write_kitti(tmp_path, **dict(settings, train=6))
    assert len(list((data / 'training/image_2').iterdir())) == 6
    assert json.loads((data / 'scenes.json').read_text())['train'] == 6


def test_photographs_are_never_replaced(tmp_path):
    photograph = tmp_path / 'data_road/training/image_2/um_000000.png'
    photograph.parent.mkdir(parents=True)
    photograph.write_bytes(b'from KITTI')
    with pytest.raises(InputError, match='scenes.json'):
        synthetic.write_kitti(tmp_path, train=3, test=0, held_out=1, size=SIZE)
    assert photograph.read_bytes() == b'from KITTI'


def test_interrupted_writing_leaves_no_folder(tmp_path, monkeypatch):
    draw, drawn = synthetic.draw_scene, []

    def breaks_at_the_fourth(*args):
        drawn.append(args)
        if len(drawn) == 4:
            raise OSError("disk full")
        return draw(*args)

    settings = dict(train=6, test=3, held_out=1, size=SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, 'draw_scene', breaks_at_the_fourth)
        with pytest.raises(OSError, match="disk full"):
            synthetic.write_kitti(tmp_path, **settings)
    assert not list(tmp_path.iterdir())
    data = synthetic.write_kitti(tmp_path, **settings)
    assert len(list(data.glob('*/image_2/*.png'))) == 9


@pytest.mark.parametrize('category', ['um', 'umm', 'uu'])
def test_calibration_shows_the_road_from_above(tmp_path, category):
    """Seen from above, a straight stretch of road is as wide near the camera as farther off."""
    data = synthetic.write_kitti(tmp_path, train=9, test=0, held_out=1)
    widths = []
    for label in sorted((data / 'training/gt_image_2').glob(f'{category}_road_*.png')):
        calibration = bev.read_calibration(
            data / 'training/calib' / label.name.replace('_road_', '_').replace('.png', '.txt'))
        classes, inside = bev.to_bev(read_road_label(label), calibration)
        road = (classes == 1) & inside
        widths += [road[760].sum() * 0.05, road[560].sum() * 0.05]     # at 8 and 18 m
    assert 3 < np.median(widths) <= 20
    if category == 'uu':            # narrower than the 20 m that are seen
        assert abs(np.median(widths[::2]) - np.median(widths[1::2])) < 1.5
