"""Random changes keep photograph and label together, and can be repeated."""
import numpy as np
import pytest
from scipy import ndimage

from roadseg.datasets.description import IGNORED
from roadseg.images import resize
from roadseg.training import augment

SHAPE = (40, 64)
GREY = (124, 116, 104)


def generator(seed=0):
    return np.random.default_rng(seed)


def photograph():
    return generator(1).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def square():
    """A bright square on black, of class 1."""
    classes = np.zeros(SHAPE, np.uint8)
    classes[14:28, 20:44] = 1
    return np.repeat(255 * classes[..., np.newaxis], 3, axis=2), classes


@pytest.mark.parametrize('seed', range(5))
def test_scale_keeps_sizes_and_types(seed):
    image, classes = augment.random_scale(generator(seed), *square(), 0.5, SHAPE)
    assert image.shape == (*SHAPE, 3) and classes.shape == SHAPE
    assert image.dtype == classes.dtype == np.uint8


def test_scale_moves_photograph_and_label_alike():
    for seed in range(30):
        image, classes = augment.random_scale(generator(seed), *square(), 0.5, SHAPE)
        bright, road = (image > 127).all(axis=2), classes == 1
        assert road.any()
        assert (bright & road).sum() / (bright | road).sum() > 0.9


def test_scale_ignores_just_what_comes_in_from_outside():
    met = False
    for seed in range(30):
        image, classes = np.zeros((*SHAPE, 3), np.uint8), np.ones(SHAPE, np.uint8)
        image, classes = augment.random_scale(generator(seed), image, classes, 0.5, SHAPE)
        assert set(np.unique(classes)) <= {1, IGNORED}
        outside = classes == IGNORED
        # on the edge itself, the photograph is a mixture
        assert (image[ndimage.binary_erosion(outside, np.ones((3, 3)))] == GREY).all()
        assert not image[ndimage.binary_erosion(~outside, np.ones((3, 3)))].any()
        met |= outside.any()
    assert met


def test_scale_zooms_out_and_in_within_its_bounds():
    sizes = []
    for seed in range(200):
        _, classes = augment.random_scale(generator(seed), *square(), 0.5, SHAPE)
        rows, columns = np.nonzero(classes == 1)
        if classes[:, [0, -1]].max() != 1:      # the square is not cut off at the sides
            sizes.append((columns.max() + 1 - columns.min()) / 24)
    assert 1 / 1.25 - 0.05 <= min(sizes) < 0.9
    assert 1.3 < max(sizes) <= 1.5 + 0.05


def test_scale_keeps_the_lower_edge_where_it_is():
    for seed in range(30):
        image, classes = square()
        classes[-4:] = 1
        _, classes = augment.random_scale(generator(seed), image, classes, 0.5, SHAPE)
        inside = classes[-2:] != IGNORED        # zoomed out, there is an outside left and right
        assert inside.mean() > 0.7 and (classes[-2:][inside] == 1).all()


def test_scale_takes_flipped_views():
    image, classes = square()
    mirrored = augment.random_scale(generator(), image[:, ::-1], classes[:, ::-1], 0.5, SHAPE)
    copied = augment.random_scale(generator(), image[:, ::-1].copy(), classes[:, ::-1].copy(), 0.5,
                                  SHAPE)
    np.testing.assert_array_equal(mirrored[0], copied[0])
    np.testing.assert_array_equal(mirrored[1], copied[1])


def test_scale_gives_the_size_that_is_asked_for():
    for seed in range(5):
        image, classes = augment.random_scale(generator(seed), *square(), 0.5, (17, 31))
        assert image.shape == (17, 31, 3) and classes.shape == (17, 31)
        bright, road = (image > 127).all(axis=2), classes == 1
        assert (bright & road).sum() / (bright | road).sum() > 0.8


def test_zooming_in_shows_detail_that_the_training_size_has_not():
    """Stripes of one pixel are lost at half the size, and seen again when zoomed by two."""
    image = np.zeros((*SHAPE, 3), np.uint8)
    image[:, ::2] = 255
    half = (SHAPE[0] // 2, SHAPE[1] // 2)
    assert np.std(resize(image, half)[:, 2:-2]) < 5
    classes = np.zeros(SHAPE, np.uint8)
    sharpest = max(np.std(augment.random_scale(generator(seed), image, classes, 1.0, half)[0])
                   for seed in range(50))
    assert sharpest > 50


@pytest.mark.parametrize('options', [{}, {'scale': 0.4}, {'colour': 0.4}])
def test_distort_resizes(options):
    image, classes = augment.distort(generator(), photograph(), square()[1], (16, 24), **options)
    assert image.shape == (16, 24, 3) and classes.shape == (16, 24)
    assert image.dtype == classes.dtype == np.uint8


def test_colour_of_strength_0_changes_nothing():
    np.testing.assert_array_equal(augment.random_colour(generator(), photograph(), 0.0),
                                  photograph())


@pytest.mark.parametrize('seed', range(2))
def test_colour_of_a_vanishing_strength_changes_nothing(seed):
    """It rounds; cutting off the fraction would darken every photograph."""
    changed = augment.random_colour(generator(seed), photograph(), 1e-5)
    np.testing.assert_array_equal(changed, photograph())


def test_colour_changes_the_photograph_within_bounds():
    image, brightness = photograph() // 4 + 90, []
    for seed in range(50):
        changed = augment.random_colour(generator(seed), image, 0.3)
        assert changed.shape == image.shape and changed.dtype == np.uint8
        brightness.append(changed.mean() / image.mean())
    assert 0.6 < min(brightness) < 0.85
    assert 1.15 < max(brightness) < 1.4
    assert np.mean(brightness) == pytest.approx(1, abs=0.1)


def four_steps(rng, image, strength):
    """What `random_colour` does, one change after the other, in floating point."""
    brightness, saturation, contrast = rng.uniform(1 - strength, 1 + strength, 3)
    balance = rng.uniform(1 - strength / 4, 1 + strength / 4, 3)
    changed = image * (brightness * balance)
    grey = changed.mean(axis=2, keepdims=True)
    changed = grey + (changed - grey) * saturation
    mean = changed.mean()
    changed = np.rint(mean + (changed - mean) * contrast)
    return np.clip(changed, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('strength', [0.01, 0.3, 0.7, 1.0])
def test_colour_is_within_a_grey_level_of_its_four_steps(strength):
    images = [photograph(), photograph()[:7, :13] // 3, photograph()[:, ::-1] // 2 + 127,
              np.full((3, 5, 3), (0, 128, 255), np.uint8)]
    for image in images:
        for seed in range(25):
            found = augment.random_colour(generator(seed), image, strength)
            expected = four_steps(generator(seed), image, strength)
            assert abs(found.astype(int) - expected).max() <= 1
            assert (found != expected).mean() < 0.02    # of those that are half way


def test_colour_leaves_the_original_alone():
    image = photograph()
    augment.random_colour(generator(), image, 0.5)
    np.testing.assert_array_equal(image, photograph())


def test_distort_without_flip_scale_and_colour_changes_nothing():
    image, classes = augment.distort(generator(), photograph(), square()[1], SHAPE, flip=False)
    np.testing.assert_array_equal(image, photograph())
    np.testing.assert_array_equal(classes, square()[1])


@pytest.mark.parametrize('options', [{'flip': True}, {'flip': False, 'scale': 0.4},
                                     {'flip': False, 'colour': 0.4},
                                     {'flip': True, 'scale': 0.4, 'colour': 0.4}])
def test_distort_depends_on_its_generator_alone(options):
    def sequence(seed):
        rng = generator(seed)
        return [[array.tobytes() for array in
                 augment.distort(rng, photograph(), square()[1], SHAPE, **options)]
                for _ in range(4)]

    assert sequence(3) == sequence(3)
    assert sequence(3) != sequence(4)
    assert len({image for image, _ in sequence(3)}) > 1


def test_what_is_seen_outside_is_added_where_it_is_seen(monkeypatch):
    """On all sides, it would take gigabytes of a narrow photograph."""
    image, classes = np.zeros((1, 60_000, 3), np.uint8), np.zeros((1, 60_000), np.uint8)
    sizes, expand = [], augment.ImageOps.expand

    def noting(picture, *arguments):
        expanded = expand(picture, *arguments)
        sizes.append(expanded.size)
        return expanded

    monkeypatch.setattr(augment.ImageOps, 'expand', noting)
    for seed in range(9):
        augment.random_scale(np.random.default_rng(seed), image, classes, 0.3, (8, 16))
    assert len(sizes) > 4 and max(height for _, height in sizes) <= 3
