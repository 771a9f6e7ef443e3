"""Batches: what they hold, that nothing but the seed decides it, and what they cost."""
import threading
import time
import tracemalloc
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError
from roadseg.images import orientation, read_image, resize_pair, seen_size
from roadseg.threads import prepared_ahead
from roadseg.training import augment, pipeline
from roadseg.training.pipeline import Cache, gen_batch_function, read_ahead, read_pair

COUNT, SIZE, SHAPE = 7, (24, 40), (9, 14)
CLASSES = ('sky', 'road', 'car')


def read_label(path):
    """Class numbers of a grey PNG."""
    return read_image(path)[..., 0]


def write_pairs(folder, count=COUNT, size=SIZE):
    """Photographs of noise and labels of three classes, partly ignored."""
    rng, result = np.random.default_rng(0), []
    for number in range(count):
        image, label = folder / f'{number}.png', folder / f'{number}_label.png'
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(image)
        Image.fromarray(rng.choice(np.uint8([0, 1, 2, IGNORED]), size)).save(label)
        result.append((image, label))
    return result


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp('pairs'))


def batches_of(pairs, **options):
    return gen_batch_function(pairs, read_label, SHAPE, **options)


def content(batches):
    return [[array.tobytes() for array in batch] for batch in batches]


# Reading --------------------------------------------------------------------------------------

def test_reading_keeps_size_and_pixels(pairs):
    image, classes = read_pair(pairs[3], read_label)
    np.testing.assert_array_equal(image, Image.open(pairs[3][0]))
    np.testing.assert_array_equal(classes, Image.open(pairs[3][1]))


def test_photograph_and_label_of_different_sizes_are_an_error_with_both(tmp_path):
    for name, size in (('a.png', (5, 8, 3)), ('b.png', (6, 7))):
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / name)
    with pytest.raises(InputError, match='a.png has 5x8 pixels.*b.png has 6x7'):
        read_pair((tmp_path / 'a.png', tmp_path / 'b.png'), read_label)


def test_a_photograph_turned_by_its_exif_note_beside_a_label_that_is_not(tmp_path, capsys):
    note = Image.Exif()
    label = tmp_path / 'label.png'
    Image.fromarray(np.zeros((9, 12), np.uint8)).save(label)
    for number in (3, 6):
        note[0x0112] = number
        Image.new('RGB', (12, 9)).save(tmp_path / f'{number}.jpg', exif=note)
    dataset = SimpleNamespace(read_label=read_label, tests=[], classes=CLASSES)
    pipeline.check(dataset, [(tmp_path / '3.jpg', label)], [], 1)
    assert '1 photographs are turned by an EXIF note, as ' in capsys.readouterr().err
    with pytest.raises(InputError, match='12x9 .* has 9x12; turn the label, as its EXIF note'):
        pipeline.check(dataset, [(tmp_path / '6.jpg', label)], [], 1)
    Image.fromarray(np.zeros((12, 9), np.uint8)).save(label)        # drawn as it is shown
    pipeline.check(dataset, [(tmp_path / '6.jpg', label)], [], 1)
    assert 'EXIF' not in capsys.readouterr().err


def test_looking_for_an_exif_note_decodes_no_png(tmp_path, monkeypatch):
    Image.new('RGB', (12, 9)).save(tmp_path / 'a.png')
    monkeypatch.setattr(Image.Image, 'load', None)
    assert orientation(tmp_path / 'a.png') == 1
    with pytest.raises(InputError, match='cannot read .*b.png'):        # it has just gone
        orientation(tmp_path / 'b.png')


def test_an_unreadable_photograph_is_reported_by_name(pairs, tmp_path):
    (tmp_path / 'b.png').write_bytes(b'no')
    get_batches_fn = batches_of([*pairs, (tmp_path / 'b.png', pairs[0][1])])
    with pytest.raises(InputError, match='b.png'):
        list(get_batches_fn(2))


# Batches --------------------------------------------------------------------------------------

def test_batches_have_the_documented_shapes_and_types(pairs):
    batches = list(batches_of(pairs)(3))
    assert [images.shape for images, _ in batches] == [(3, *SHAPE, 3), (3, *SHAPE, 3),
                                                       (1, *SHAPE, 3)]
    assert [classes.shape for _, classes in batches] == [(3, *SHAPE), (3, *SHAPE), (1, *SHAPE)]
    assert {array.dtype for batch in batches for array in batch} == {np.dtype(np.uint8)}


def test_augmentation_is_told_a_photograph_at_its_own_size(pairs):
    """Without a change, batches are the photographs, resized."""
    def plain(rng, image, classes, image_shape):
        assert image.shape == (*SIZE, 3) and classes.shape == SIZE
        return resize_pair(image, classes, image_shape)

    expected = {resize_pair(*read_pair(pair, read_label), SHAPE)[0].tobytes() for pair in pairs}
    (images, classes), = batches_of(pairs, augment=plain)(COUNT)
    assert {image.tobytes() for image in images} == expected
    assert set(np.unique(classes)) == {0, 1, 2, IGNORED}


@pytest.mark.parametrize('options', [
    {'threads': 2}, {'threads': 7}, {'cache': Cache(0)}, {'cache': Cache(10_000)},
    {'threads': 3, 'cache': Cache(5_000)}])
def test_batches_are_the_same_for_any_number_of_threads_and_any_cache(pairs, options):
    changes = partial(augment.distort, scale=0.4, colour=0.4)
    one = batches_of(pairs, augment=changes, threads=1, seed=3)
    other = batches_of(pairs, augment=changes, seed=3, **options)
    for _ in range(3):
        assert content(one(2)) == content(other(2))


def test_an_epoch_entered_in_its_middle_is_the_tail_of_the_whole(pairs):
    changes = partial(augment.distort, scale=0.4, colour=0.4)
    for first in range(5):
        whole = batches_of(pairs, augment=changes, first_epoch=4)
        entered = batches_of(pairs, augment=changes, first_epoch=4)
        assert content(entered(2, first)) == content(whole(2))[first:]
        assert content(entered(2)) == content(whole(2))     # and the next epoch is whole again


def test_batches_entered_in_the_middle_prepare_nothing_of_what_came_before(pairs):
    prepared = []

    def noting(rng, image, classes, image_shape):
        prepared.append(image)
        return image, classes

    function = batches_of(pairs, augment=noting, threads=1, order=lambda rng: np.arange(COUNT))
    assert len(list(function(2, 3))) == 1
    for found, expected in zip(prepared[:3], (COUNT - 1, 0, 1)):    # then, the next epoch begins
        np.testing.assert_array_equal(found, read_pair(pairs[expected], read_label)[0])


def test_epochs_depend_on_seed_and_number_alone(pairs):
    function = batches_of(pairs, seed=5)
    first, second = content(function(2)), content(function(2))
    assert first != second
    assert content(batches_of(pairs, seed=5, first_epoch=1)(2)) == second
    assert content(batches_of(pairs, seed=6)(2)) != first


def test_each_photograph_draws_from_a_stream_of_its_own(pairs):
    """And a new one in each epoch."""
    drawn = []

    def noting(rng, image, classes, image_shape):
        drawn.append(rng.random())
        return image, classes

    function = batches_of(pairs, augment=noting)
    for _ in range(2):
        list(function(3))
    drawn = drawn[:]
    assert len(set(drawn)) == len(drawn) >= 2 * COUNT


@pytest.mark.parametrize('batch_size', [0, -1, COUNT + 1])
def test_a_batch_size_that_does_not_fit_the_data_is_an_error(pairs, batch_size):
    with pytest.raises(InputError, match=f'{batch_size} is not between 1 and the {COUNT}'):
        list(batches_of(pairs)(batch_size))


# Memory ---------------------------------------------------------------------------------------

def test_the_cache_keeps_what_fits_and_reads_the_rest_anew(pairs):
    read = []

    def noting(path):
        read.append(path)
        return read_label(path)

    size = SIZE[0] * SIZE[1] * 4
    cache = Cache(3 * size + size // 2)
    for _ in range(2):
        for pair in pairs:
            np.testing.assert_array_equal(cache.read(pair, noting)[1], read_label(pair[1]))
    assert read == [label for _, label in pairs] + [label for _, label in pairs[3:]]


def test_photographs_to_train_on_and_held_out_share_a_cache(pairs):
    """Each is decoded once; where there is no room for all, those that came last, anew."""
    read = []

    def noting(path):
        read.append(path)
        return read_label(path)

    held_out, size = pairs[5:], SIZE[0] * SIZE[1] * 4
    for room, decoded in ((COUNT, COUNT), (COUNT - 1, COUNT + 2)):
        read.clear()
        cache = Cache(room * size)
        function = gen_batch_function(pairs[:5], noting, SHAPE, cache=cache, threads=1)
        for _ in range(3):
            assert len(list(function(5))) == 1
            for (image, label), (name, photograph, classes) in zip(
                    held_out, read_ahead(held_out, noting, cache), strict=True):
                assert name == image.stem
                np.testing.assert_array_equal(photograph, read_image(image))
                np.testing.assert_array_equal(classes, read_label(label))
        assert len(read) == decoded


@pytest.mark.parametrize('kept', [0, 10])
def test_memory_stays_flat_where_the_cache_is_small(tmp_path, kept):
    """Forty photographs of 40 kB: what is kept, and some more, but not all 1.6 MB."""
    size, count = 100 * 100 * 4, 40
    pairs = write_pairs(tmp_path, count, (100, 100))
    function = batches_of(pairs, cache=Cache(kept * size), threads=2)

    def peak():
        tracemalloc.start()
        for _ in range(2):
            for _ in function(1):
                pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    list(function(1))       # imports, and Pillow's own caches
    before = kept * size    # already there, and not traced
    assert before + peak() < (kept + 15) * size


@pytest.mark.parametrize('gigabytes, expected', [(0.0, 0), (1.5, 1_500_000_000)])
def test_cache_bytes(gigabytes, expected):
    assert pipeline.cache_bytes(gigabytes) == expected


def test_by_default_half_of_what_training_leaves_is_for_the_caches(monkeypatch):
    assert 2 ** 20 < pipeline.cache_bytes(None) < 2 ** 45
    monkeypatch.setattr(pipeline, 'free_memory', lambda: 60)
    assert (pipeline.cache_bytes(None), pipeline.cache_bytes(None, sharing=3)) == (30, 10)
    assert [pipeline.cache_bytes(None, needed=needed) for needed in (40, 80)] == [10, 0]
    assert pipeline.cache_bytes(None, 2, 12) == 9 and pipeline.cache_bytes(2., needed=40) == 2e9


# Working ahead --------------------------------------------------------------------------------

@pytest.mark.parametrize('threads', [1, 4])
def test_prepared_ahead_keeps_the_order(threads):
    def slow_at_first(number):
        time.sleep(0.02 if number == 0 else 0)
        return number * 10

    assert list(prepared_ahead(slow_at_first, range(9), threads)) == list(range(0, 90, 10))
    assert list(prepared_ahead(slow_at_first, [], threads)) == []


def test_prepared_ahead_works_ahead_but_not_without_bound():
    made = []
    items = prepared_ahead(lambda number: made.append(number) or number, range(100), ahead=4)
    assert next(items) == 0
    deadline = time.monotonic() + 60
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2, 3, 4]
    items.close()
    assert len(made) == 5


def test_prepared_ahead_passes_errors_on_and_ends_its_threads():
    before = threading.active_count()
    items = prepared_ahead(lambda number: 1 // (3 - number), range(9), threads=3)
    assert [next(items) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(items)
    assert threading.active_count() == before


def test_prepared_ahead_ends_its_threads_when_it_is_closed_early():
    before = threading.active_count()
    items = prepared_ahead(lambda number: number, range(100), threads=2)
    next(items)
    assert before < threading.active_count() <= before + 2
    items.close()
    assert threading.active_count() == before


def test_prepared_ahead_prepares_in_several_threads_at_once():
    meeting = threading.Barrier(3, timeout=60)
    assert list(prepared_ahead(lambda number: meeting.wait() < 3, range(3), threads=3)) == [
        True] * 3


@pytest.mark.parametrize('batch_size', [1, 3, COUNT])
def test_the_next_epoch_is_under_way_before_it_is_asked_for(pairs, batch_size):
    """But not without bound; and it is what it would have been."""
    prepared, ahead = [], 2 * batch_size + 2

    def noting(rng, image, classes, image_shape):
        prepared.append(image)
        return augment.distort(rng, image, classes, image_shape)

    function = batches_of(pairs, augment=noting, threads=2)
    list(function(batch_size))
    deadline = time.monotonic() + 60
    while len(prepared) < COUNT + ahead and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(prepared) == COUNT + ahead
    assert content(function(batch_size)) == content(batches_of(pairs, first_epoch=1)(batch_size))


@pytest.mark.parametrize('leave', [
    lambda function: next(function(2)),
    lambda function: list(function(3)),
    lambda function: list(function(2, 2)),
    lambda function: list(function(2, 4))])     # no batch is left
def test_an_epoch_is_the_same_however_the_one_before_was_left(pairs, leave):
    function = batches_of(pairs, threads=3)
    leave(function)
    for epoch in (1, 2):
        assert content(function(2)) == content(batches_of(pairs, first_epoch=epoch)(2))
    leave(function)
    assert content(function(2)) == content(batches_of(pairs, first_epoch=4)(2))


def test_a_photograph_of_the_next_epoch_that_became_unreadable_is_an_error_of_that(tmp_path):
    pairs = write_pairs(tmp_path, 8)
    function = batches_of(pairs, cache=Cache(0), order=lambda rng: np.arange(8), threads=1)
    batches = function(1)
    next(batches)
    pairs[0][0].write_bytes(b'no')
    assert len(list(batches)) == 7
    with pytest.raises(InputError, match='0.png'):
        next(function(1))


def test_threads_end_with_the_function(pairs):
    before = threading.active_count()
    function = batches_of(pairs, threads=2)
    list(function(2))
    assert threading.active_count() > before
    del function
    assert threading.active_count() == before


# What is checked before -----------------------------------------------------------------------

def test_bad_photographs_and_labels_are_found_before_training_begins(pairs, tmp_path):
    (image, label), bad = pairs[0], tmp_path / 'bad.png'
    bad.write_bytes(image.read_bytes()[:-500])

    def check(training=pairs[:5], validation=pairs[5:], tests=(image,), workers=1, ignored=0):
        dataset = SimpleNamespace(read_label=read_label, tests=list(tests), classes=CLASSES)
        return pipeline.check(dataset, training, validation, 5, workers, ignored)

    assert check() == check(ignored=SIZE[0] - 1) == 5 * [SIZE]
    with pytest.raises(InputError, match='5 labels to train on is .* labels, or --ignore-last'):
        check(ignored=99)
    with pytest.raises(InputError, match='x.png is too long for those of its pictures: .* 239 b'):
        check(validation=[(tmp_path / f"{240 * 'x'}.png", label)])
    for spoilt in ((bad, label), (image, bad)):
        for options in ({'training': [*pairs[:5], spoilt]}, {'validation': [*pairs[5:], spoilt]}):
            with pytest.raises(InputError, match='bad.png'):
                check(**options)
    with pytest.raises(InputError, match='bad.png'):
        check(tests=(image, bad))
    Image.new('L', SIZE[::-1], IGNORED).save(tmp_path / 'void.png')
    void = [(image, tmp_path / 'void.png')]
    with pytest.raises(InputError, match='^no pixel of the 6 labels to train on is evaluated'):
        check(training=6 * void)
    with pytest.raises(InputError, match='^no pixel of the 1 labels to validate on is evaluated'):
        check(validation=void)
    check(training=pairs[:4] + void, validation=[])
    with pytest.raises(InputError, match='--batch-size 5 is not between 1 and the 4'):
        check(training=pairs[:4])
    with pytest.raises(InputError, match='^the 3 photographs to train on are too few for 4 w.* 3$'):
        check(training=pairs[:3], workers=4)
    with pytest.raises(InputError, match='size 5 of each of 2 workers is not between 1 and the 3'):
        check(training=pairs, validation=[], workers=2)


@pytest.mark.parametrize('wanted, shapes, size, squeezed', [
    (None, 3 * [(375, 1242)], (192, 640), 0), (None, 3 * [(3024, 4032)], (304, 408), 0),
    (None, [(640, 480), (480, 640), (480, 640)], (304, 408), 1),
    ((64, 96), [(100, 150), (100, 180), (100, 190), (100, 119)], (64, 96), 2)])
def test_own_photographs_are_seen_in_training_as_in_prediction(wanted, shapes, size, squeezed,
                                                               capsys):
    assert pipeline.training_size(wanted, shapes) == size
    error = capsys.readouterr().err
    assert error == '' if not squeezed else error.startswith(
        f'warning: {squeezed} of {len(shapes)} photographs')
    if wanted is None:
        assert seen_size(shapes[-1], size) == size


def test_a_class_that_no_label_has_is_named(pairs, tmp_path, capsys):
    Image.new('L', SIZE[::-1], 2).save(tmp_path / 'two.png')
    labels = [(image, tmp_path / 'two.png') for image, _ in pairs]
    dataset = SimpleNamespace(read_label=lambda path: np.array(Image.open(path)), tests=[],
                              classes=('sky', 'pole', 'road', 'car'))
    pipeline.check(dataset, labels, [], 1)
    assert capsys.readouterr().err == (
        'warning: no pixel to train on is of the class sky, pole, car, which will not be learned\n')


def test_last_rows_are_not_learned_from():
    label = np.arange(12, dtype=np.uint8).reshape(4, 3)
    read = pipeline.ignoring_last_rows(lambda path: label, 3)
    assert read('x').tolist() == [[0, 1, 2]] + 3 * [3 * [IGNORED]] and label[3, 2] == 11
    assert (pipeline.ignoring_last_rows(lambda path: label, 5)('x') == IGNORED).all()
    assert pipeline.ignoring_last_rows(read, 0) is read


def test_the_first_bad_photograph_ends_the_search(pairs, tmp_path):
    """It does not wait until thousands more have been decoded."""
    read = []

    def noting(path):
        read.append(path)
        return read_label(path)

    with pytest.raises(InputError, match='nothing.png'):
        pipeline.check(SimpleNamespace(read_label=noting, tests=[], classes=CLASSES),
                       [(tmp_path / 'nothing.png', pairs[0][1])] + 200 * pairs, [], 1)
    assert len(read) < 100
