"""Drawn scenes: labels that fit the pictures, and pictures that stay what they are."""
import zlib

import numpy as np
import pytest

from roadseg.datasets import drawing
from roadseg.datasets.description import IGNORED

SIZE = (94, 310)


def scene(category, seed, size=SIZE):
    drawn = drawing.draw_scene(np.random.default_rng(seed), category, size)
    return drawn.image, drawn.label


def is_colour(label, colour):
    return (label == colour).all(axis=2)


# Checksums of picture and of label of seed 0 to 2, as drawn when the demo's scores were measured.
CHECKSUMS = {
    'um': [(2795229823, 1966949282), (1980246854, 2362802709), (670924281, 4281335160)],
    'umm': [(2636754007, 2732595734), (4117749558, 2828469774), (2012713481, 595939233)],
    'uu': [(2922186856, 3973108210), (1423381342, 2899280042), (753484495, 3125356346)]}


@pytest.mark.parametrize('category', drawing.CATEGORIES)
def test_pictures_and_labels_are_the_ones_the_scores_were_measured_on(category):
    found = [tuple(zlib.crc32(array.tobytes()) for array in scene(category, seed))
             for seed in range(3)]
    assert found == CHECKSUMS[category]


@pytest.mark.parametrize('category', drawing.CATEGORIES)
@pytest.mark.parametrize('seed', range(6))
def test_labels_have_kittis_colours_and_a_plausible_road(category, seed):
    image, label = scene(category, seed)
    assert image.shape == label.shape == SIZE + (3,)
    assert image.dtype == label.dtype == np.uint8
    road, other, unknown = (is_colour(label, colour) for colour in
                            (drawing.MAGENTA, drawing.RED, drawing.BLACK))
    assert (road | other | unknown).all()
    assert .05 < road.mean() < .45
    assert .0 < unknown.mean() < .05
    horizon = int(.445 * SIZE[0])
    assert other[:horizon].all()
    assert road[-1].any()


def test_a_vehicle_hides_the_road(monkeypatch):
    # The same scene twice, once without its vehicles: every pixel they take is not road.
    place = drawing._place_things

    def without_vehicles(*args):
        return [thing for thing in place(*args) if thing.kind not in ('vehicle', 'oncoming')]

    def with_one_ahead(rng, road, view):
        lane = min((lane for lane, _ in road.lanes), key=lambda lane: abs(lane + view.shift))
        return without_vehicles(rng, road, view) + [
            drawing._Thing('vehicle', lane, 9., 0., 0., 5)]

    monkeypatch.setattr(drawing, '_place_things', without_vehicles)
    _, empty = scene('um', 3)
    monkeypatch.setattr(drawing, '_place_things', with_one_ahead)
    _, taken = scene('um', 3)
    road_before, road_after = (is_colour(label, drawing.MAGENTA) for label in (empty, taken))
    assert not (road_after & ~road_before).any()
    hidden = road_before & is_colour(taken, drawing.RED)
    # At 9 m a car is 1.7 m / 9 m * focal length = 34 pixels wide; some of it is above the road.
    assert hidden.sum() > 200
    assert (is_colour(taken, drawing.BLACK) & road_before).any()


@pytest.mark.parametrize('category, marked', [('um', True), ('umm', True), ('uu', False)])
def test_marks_are_where_the_category_has_them(category, marked):
    for seed in range(5):
        image, label = scene(category, seed, (188, 620))
        road = is_colour(label, drawing.MAGENTA)
        road[:len(road) * 6 // 10] = False     # far away, a pale kerb shares pixels with the road
        road &= np.roll(road, 2, 1) & np.roll(road, -2, 1)
        bright = (image[road].mean(axis=1) > 160).mean()     # tar is below, in sunlight too
        assert (bright > .002) if marked else (bright < .001), (seed, bright)


def test_a_scene_is_a_function_of_its_seed():
    for category in drawing.CATEGORIES:
        first, again, other = (scene(category, seed) for seed in (4, 4, 5))
        assert all((a == b).all() for a, b in zip(first, again))
        assert (first[0] != other[0]).any() and (first[1] != other[1]).any()


def test_the_category_must_exist():
    with pytest.raises(ValueError, match="'um_lane'.*um, umm, uu"):
        scene('um_lane', 0)


# Seven classes --------------------------------------------------------------------------------

@pytest.mark.parametrize('category', drawing.CATEGORIES)
def test_both_labels_have_the_same_road(category):
    for seed in range(4):
        drawn = drawing.draw_scene(np.random.default_rng(seed), category, SIZE)
        assert drawn.classes.shape == SIZE and drawn.classes.dtype == np.uint8
        road = np.isin(drawn.classes, (drawing.ROAD, drawing.MARKING))
        assert (road == is_colour(drawn.label, drawing.MAGENTA)).all()
        left_out = is_colour(drawn.label, drawing.BLACK)
        assert (drawn.classes[left_out] == IGNORED).all()
        posts = (drawn.classes == IGNORED) & ~left_out
        assert posts.mean() < .03
        assert drawn.classes[drawn.classes != IGNORED].max() < len(drawing.CLASSES)


def test_every_class_is_drawn_where_it_belongs():
    pixels, rows = np.zeros(7), np.zeros(7)
    for category in drawing.CATEGORIES:
        for seed in range(3):
            classes = drawing.draw_scene(np.random.default_rng(seed), category, SIZE).classes
            for number in range(7):
                found = np.argwhere(classes == number)
                pixels[number] += len(found)
                rows[number] += found[:, 0].sum()
    assert (pixels / pixels.sum() > [.1, .002, .05, .05, .02, .02, .005]).all(), pixels
    middle = dict(zip(drawing.CLASSES, rows / pixels / SIZE[0]))
    assert middle['sky'] < .35 < middle['building'] < middle['vehicle'] < middle['road']


def test_markings_are_bright_and_sky_is_above_the_horizon():
    drawn = drawing.draw_scene(np.random.default_rng(1), 'um', (188, 620))
    near = np.arange(188)[:, None] > 120
    brightness = drawn.image.mean(axis=2)
    marked = brightness[(drawn.classes == drawing.MARKING) & near]
    bare = brightness[(drawn.classes == drawing.ROAD) & near]
    assert np.median(marked) > np.percentile(bare, 95) + 20
    assert not (drawn.classes[int(.49 * 188):] == drawing.SKY).any()


def test_a_vehicle_is_where_the_picture_changes_with_it(monkeypatch):
    place = drawing._place_things

    def one_ahead(rng, road, view, kinds=('vehicle',)):
        lane = min((lane for lane, _ in road.lanes), key=lambda lane: abs(lane + view.shift))
        others = [thing for thing in place(rng, road, view)
                  if thing.kind not in ('vehicle', 'oncoming')]
        return others + [drawing._Thing(kind, lane, 9., 0., 0., 5) for kind in kinds]

    monkeypatch.setattr(drawing, '_place_things', one_ahead)
    taken = drawing.draw_scene(np.random.default_rng(3), 'um', SIZE)
    monkeypatch.setattr(drawing, '_place_things',
                        lambda *args: one_ahead(*args, kinds=()))
    empty = drawing.draw_scene(np.random.default_rng(3), 'um', SIZE)
    vehicle = taken.classes == drawing.VEHICLE
    assert vehicle.sum() > 400
    assert not (empty.classes == drawing.VEHICLE).any()
    other = taken.classes != empty.classes
    assert (other == (vehicle | (taken.classes == IGNORED) & (empty.classes != IGNORED))).all()
