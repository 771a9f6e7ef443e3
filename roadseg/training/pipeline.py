"""The batches that a network is trained on. NumPy and Pillow only."""
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from tqdm import tqdm

from roadseg.errors import InputError
from roadseg.images import check_image, read_image, resize_pair
from roadseg.training.augment import random_flip


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
        raise InputError('photograph {} has {}x{} pixels and its label {} has {}x{}'.format(
            pair[0], *image.shape[:2], pair[1], *classes.shape))
    return image, classes


def check(dataset, training, validation, batch_size):
    """Decodes all photographs and labels once, so that a bad one is found before the training.

    Args:
        dataset: `Dataset`.
        training, validation: lists of (image, label) paths.
        batch_size: N.

    Raises:
        InputError: an unreadable photograph or label, or a batch size that is not between 1 and
            the number of photographs to train on.
    """
    if not 1 <= batch_size <= len(training):
        raise InputError(f'--batch-size {batch_size} is not between 1 and the {len(training)} '
                         'photographs to train on')
    with ThreadPoolExecutor() as pool:          # Pillow lets go of the interpreter's lock
        for check_one, paths in ((partial(read_pair, read_label=dataset.read_label), validation),
                                 (check_image, dataset.tests)):
            deque(pool.map(check_one, paths), maxlen=0)


def gen_batch_function(pairs, read_label, image_shape, *, augment=random_flip, seed=0,
                       first_epoch=0):
    """Makes a function that yields the shuffled batches of one epoch.

    Photographs are decoded once, here, and kept as uint8 at their own size, so that an
    augmentation which zooms finds all their detail. Batches are prepared in a thread, a few
    ahead of the training step.

    Args:
        pairs: list of (image, label) paths.
        read_label: function from a path to a uint8 ndarray (H, W) of class numbers.
        image_shape: (H, W) of the batches.
        augment: function of (rng, image uint8 (h, w, 3), classes uint8 (h, w)) that returns
            such a pair of any size, resized to (H, W) then. None changes nothing.
        seed: order and augmentation of an epoch depend on this and the epoch's number alone.
        first_epoch: number of the epoch that the first call yields.

    Returns:
        `get_batches_fn(batch_size)`, a generator of (images uint8 [N, H, W, 3], classes uint8
        [N, H, W]). The last batch of an epoch is short where batch_size does not divide the
        number of photographs.

    Raises:
        InputError: unreadable files; from `get_batches_fn`, a batch size that is not between 1
            and the number of photographs.
    """
    with ThreadPoolExecutor() as pool:          # Pillow lets go of the interpreter's lock
        read = pool.map(lambda pair: read_pair(pair, read_label), pairs)
        samples = list(tqdm(read, 'reading photographs', len(pairs), leave=False,
                            disable=None))
    epochs_begun = first_epoch

    def batch(indices, rng):
        chosen = [samples[index] for index in indices]
        if augment is not None:
            chosen = [augment(rng, *sample) for sample in chosen]
        chosen = [sample if sample[1].shape == tuple(image_shape)
                  else resize_pair(*sample, image_shape) for sample in chosen]
        return tuple(np.stack(arrays) for arrays in zip(*chosen))

    def get_batches_fn(batch_size):
        nonlocal epochs_begun
        if not 1 <= batch_size <= len(samples):
            raise InputError(f'batch size {batch_size} is not between 1 and the '
                             f'{len(samples)} photographs to train on')
        rng = np.random.default_rng([seed, epochs_begun])
        epochs_begun += 1
        order = rng.permutation(len(samples))
        return prepared_ahead(lambda start: batch(order[start:start + batch_size], rng),
                              range(0, len(samples), batch_size))

    return get_batches_fn


def prepared_ahead(make, arguments, ahead=4):
    """Yields `make(argument)` in order, computed in a thread up to `ahead` items early."""
    with ThreadPoolExecutor(1) as thread:
        pending = deque()
        for argument in arguments:
            pending.append(thread.submit(make, argument))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
