"""The batches that a network is trained on. No TensorFlow."""
import itertools
import sys
import threading
from functools import partial

import numpy as np
from tqdm import tqdm

from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError
from roadseg.images import check_image, orientation, read_image, seen_size
from roadseg.machine import free_memory, processors
from roadseg.scoring.score import check_names
from roadseg.threads import prepared_ahead
from roadseg.training.augment import GREY, distort

USUAL_SIZE = 192, 640       # of KITTI Road's photographs in training
UPRIGHT, LYING = (2, 3, 4), (5, 6, 7, 8)    # EXIF's numbers of what is stored turned
SQUEEZED = 1.25             # ratio of two aspects beyond which a network will notice


def read_pair(pair, read_label):
    """Reads a photograph and its label.

    Args:
        pair: (image, label) paths.
        read_label: function from a path to a uint8 ndarray (H, W) of class numbers.

    Returns:
        (photograph uint8 (H, W, 3), classes uint8 (H, W)).

    Raises:
        InputError: one is unreadable, or their sizes differ.
    """
    image, classes = read_image(pair[0]), read_label(pair[1])
    if image.shape[:2] != classes.shape:
        lies = image.shape[1::-1] == classes.shape and orientation(pair[0]) in LYING
        remedy = ('turn the label, as its EXIF note turns the photograph' if lies else
                  'make them of one size')
        raise InputError('photograph {} has {}x{} pixels and its label {} has {}x{}; {}'.format(
            pair[0], *image.shape[:2], pair[1], *classes.shape, remedy))
    return image, classes


def check(dataset, training, validation, batch_size, workers=1, ignored_rows=0):
    """Decodes all photographs and labels once, so that a bad one is found before the training.

    Args:
        dataset: `Dataset`.
        training, validation: lists of (image, label) paths.
        batch_size: N, of each worker.
        workers: how many there are.
        ignored_rows: of the labels to train on, the last ones.

    Returns:
        List of (H, W) of the photographs to train on.

    Raises:
        InputError: an unreadable photograph or label, none whose pixels are evaluated, a name too
            long for its pictures, fewer photographs than workers, or a batch size that is not
            between 1 and a worker's share of them.
    """
    if len(training) < workers > 1:
        raise InputError(f'the {len(training)} photographs to train on are too few for {workers} '
                         f'workers; start {max(len(training), 1)}')
    if not 1 <= batch_size <= len(training) // workers:
        of_each = f' of each of {workers} workers' if workers > 1 else ''
        raise InputError(f'--batch-size {batch_size}{of_each} is not between 1 and the '
                         f'{len(training) // workers} photographs to train on')

    check_names(validation)
    learned = ignoring_last_rows(dataset.read_label, ignored_rows)

    def look_at(job):
        files, read_label = job
        if read_label is None:
            return check_image(files)
        classes = read_pair(files, read_label)[1]
        present = np.bincount(classes.ravel(), minlength=256)[:IGNORED] > 0
        # of what lies on its side and is no square, a label of the other shape is an error
        height, width = classes.shape
        unsure = (*UPRIGHT, *LYING) if height == width else UPRIGHT
        turned = orientation(files[0]) in unsure and orientation(files[1]) == 1
        return present, classes.shape, turned

    files = [*((pair, learned) for pair in training),
             *((pair, dataset.read_label) for pair in validation),
             *((image, None) for image in dataset.tests)]
    threads = processors()
    # in threads, as Pillow lets go of the interpreter's lock
    looks = list(tqdm(prepared_ahead(look_at, files, threads, ahead=4 * threads),
                      'checking photographs', len(files), leave=False, disable=None))
    first = len(training)
    for use, seen in (('train on', looks[:first]),
                      ('validate on', looks[first:first + len(validation)])):
        if seen and not any(present.any() for present, *_ in seen):
            raise InputError(f'no pixel of the {len(seen)} labels to {use} is evaluated; '
                             'check the labels' + ', or --ignore-last-rows' * (ignored_rows > 0))
    present = np.any([present for present, *_ in looks[:first]], axis=0)
    absent = [name for name, found in zip(dataset.classes, present) if not found]
    if absent:
        print(f"warning: no pixel to train on is of the class {', '.join(absent)}, which will not "
              'be learned', file=sys.stderr)
    turned = [image for (image, _), (*_, is_so) in zip([*training, *validation], looks) if is_so]
    if turned:
        print(f'warning: {len(turned)} photographs are turned by an EXIF note, as {turned[0]} is, '
              'and their labels are not; if these were drawn on the pictures as they are stored, '
              'turn them likewise', file=sys.stderr)
    return [shape for _, shape, _ in looks[:first]]


def training_size(wanted, shapes, what='photographs to train on'):
    """The size at which photographs are seen in training. Warns where that squeezes some.

    Args:
        wanted: (H, W), or None for the photographs' own aspect and as many pixels as `USUAL_SIZE`.
        shapes: list of (H, W), of the photographs.
        what: these are, for the warning.

    Returns:
        (H, W).
    """
    height, width = wanted or seen_size(np.median(shapes, axis=0), USUAL_SIZE)
    aspects = [rows / columns * width / height for rows, columns in shapes]
    squeezed = sum(not 1 / SQUEEZED < aspect < SQUEEZED for aspect in aspects)
    if squeezed:
        print(f'warning: {squeezed} of {len(shapes)} {what} have another shape '
              f'than {height}x{width} by more than a quarter, and are squeezed into it; choose '
              'another --image-size, or cut them', file=sys.stderr)
    return height, width


def ignoring_last_rows(read_label, rows):
    """Makes a reader of labels whose last rows are not evaluated.

    Args:
        read_label: function from a path to a uint8 ndarray (H, W) of class numbers.
        rows: how many.

    Returns:
        Such a function.
    """
    def read(path):
        classes = read_label(path).copy()
        classes[max(len(classes) - rows, 0):] = IGNORED
        return classes

    return read if rows else read_label


class Cache:
    """Decoded photographs and labels, as many of them kept in memory as fit.

    Those beyond are decoded anew each time. All of it may be called from several threads.

    Args:
        room: bound of what is kept, in bytes.
    """

    def __init__(self, room):
        self._room, self._kept, self._lock = room, {}, threading.Lock()

    def read(self, pair, read_label):
        """Reads a photograph and its label, unless they are kept, see `read_pair`."""
        sample = self._kept.get(pair)
        if sample is None:
            sample = read_pair(pair, read_label)
            size = sum(array.nbytes for array in sample)
            with self._lock:
                if pair not in self._kept and size <= self._room:
                    self._kept[pair] = sample
                    self._room -= size
        return sample


def gen_batch_function(pairs, read_label, image_shape, *, augment=distort, seed=0, first_epoch=0,
                       cache=None, threads=None, order=None, worker=(0, 1)):
    """Makes a function that yields the shuffled batches of one epoch.

    Photographs stay in memory at their own size, so that an augmentation which zooms finds all
    their detail. They are prepared in threads, some batches ahead of the training step; each
    draws from a random stream of its own, so that batches are the same for any number of
    threads, and an epoch that goes on in its middle costs nothing. At the end of an epoch, the
    first ones of the next are under way.

    Args:
        pairs: list of (image, label) paths.
        read_label: function from a path to a uint8 ndarray (H, W) of class numbers.
        image_shape: (H, W) of the batches.
        augment: function of (rng, image uint8 (h, w, 3), classes uint8 (h, w), image_shape)
            that returns such a pair of the size (H, W).
        seed: order and augmentation of an epoch depend on this and the epoch's number alone.
        first_epoch: number of the epoch that the first call yields.
        cache: `Cache` of decoded photographs; None for one of four gigabytes.
        threads: how many prepare photographs; None for one per processor.
        order: function of a numpy Generator that returns the indices of an epoch's photographs;
            None for all of them, shuffled.
        worker: (index of this worker, number of workers). A step's photographs are those of all
            workers' batches; the first batch_size of them are the first worker's, and so on.

    Returns:
        `get_batches_fn(batch_size, first=0)`, a generator of (images uint8 [N, H, W, 3], classes
        uint8 [N, H, W]) from batch number `first` on. The last batch of an epoch is short where
        batch_size does not divide the number of photographs; where that leaves nothing for this
        worker, it is a grey image whose classes are all `IGNORED`.

    Raises:
        InputError: from `get_batches_fn`, unreadable files, and a batch size that is not between
            1 and the number of photographs.
    """
    cache = cache or Cache(4 * 10**9)
    epochs_begun, (number, workers) = first_epoch, worker
    nothing = (np.full((*image_shape, 3), GREY, np.uint8),
               np.full(image_shape, IGNORED, np.uint8))
    threads = threads or processors()
    under_way = None, None      # (number and batch size of the next epoch), what is prepared of it

    def steps_of(epoch, batch_size, first):
        """Lists of the indices that this worker's batches of an epoch are made of."""
        rng = np.random.default_rng([seed, epoch])
        indices = order(rng) if order else rng.permutation(len(pairs))
        of_step, skipped = batch_size * workers, batch_size * number
        return [indices[start:start + of_step][skipped:skipped + batch_size].tolist()
                for start in range(first * of_step, len(indices), of_step)]

    def without_end(steps, epoch, batch_size):
        """Yields (epoch, index) of an epoch's photographs, and of those after it."""
        while True:
            yield from ((epoch, index) for index in itertools.chain.from_iterable(steps))
            epoch += 1
            steps = steps_of(epoch, batch_size, 0)
            if not any(steps):      # nothing is this worker's
                return

    def prepare(epoch_and_index):
        epoch, index = epoch_and_index
        rng = np.random.default_rng([seed, epoch, 1 + index])   # with 0, it would be the order's
        return augment(rng, *cache.read(pairs[index], read_label), image_shape)

    def get_batches_fn(batch_size, first=0):
        nonlocal epochs_begun, under_way
        if not 1 <= batch_size <= len(pairs):
            raise InputError(f'batch size {batch_size} is not between 1 and the '
                             f'{len(pairs)} photographs to train on')
        epoch, epochs_begun = epochs_begun, epochs_begun + 1
        (begun, prepared), under_way = under_way, (None, None)
        steps = steps_of(epoch, batch_size, first)
        if begun != (epoch, batch_size) or first:
            prepared = prepared_ahead(prepare, without_end(steps, epoch, batch_size), threads,
                                      ahead=2 * batch_size + threads)

        def assemble(step):
            batch = list(itertools.islice(prepared, len(step))) or [nothing]
            return tuple(np.stack(arrays) for arrays in zip(*batch))

        # By a thread of its own: with all processors busy, the training step would wait for it.
        yield from prepared_ahead(assemble, steps, ahead=1)
        under_way = (epoch + 1, batch_size), prepared

    return get_batches_fn


def training_batches(lesson, options, cache, first_epoch, worker):
    """`gen_batch_function` of a `unlabelled.Lesson`, as the options of a training say."""
    return gen_batch_function(
        lesson.pairs, ignoring_last_rows(lesson.read_label, options.ignore_last_rows),
        options.image_size, seed=options.seed, first_epoch=first_epoch, cache=cache,
        augment=partial(distort, flip=options.flip, scale=options.scale, colour=options.colour),
        order=lesson.order, worker=worker)


def read_ahead(pairs, read_label, cache=None):
    """Yields photographs and labels, read in threads some frames early.

    Args:
        pairs: iterable of (image, label) paths.
        read_label: function from a path to a uint8 ndarray (H, W) of class numbers.
        cache: `Cache` of decoded photographs; None keeps none.

    Yields:
        (name, photograph uint8 (H, W, 3), classes uint8 (H, W)).

    Raises:
        InputError: see `read_pair`.
    """
    cache = cache or Cache(0)

    def read(pair):
        return pair[0].stem, *cache.read(pair, read_label)

    return prepared_ahead(read, pairs, processors(), ahead=processors())


def cache_bytes(cache_gb, sharing=1, needed=0):
    """Returns how much memory decoded photographs may take, in bytes.

    Args:
        cache_gb: gigabytes, or None for half of what training leaves of the system's memory.
        sharing: how many workers share that memory.
        needed: bytes of it that the network takes, of each worker.
    """
    if cache_gb is not None:
        return int(cache_gb * 1e9)
    return max((free_memory() or 8 * 10**9) // sharing - needed, 0) // 2
