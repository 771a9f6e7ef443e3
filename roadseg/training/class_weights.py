"""Weights of the classes in the loss, so that rare ones are not given up. NumPy only."""
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from roadseg.errors import InputError


def find(kind, pairs, dataset):
    """The weights that an option asks for.

    Args:
        kind: 'none' or 'median', see `median_frequency_weights`.
        pairs: list of (image, label) paths to train on.
        dataset: `Dataset`.

    Returns:
        float32 ndarray (C,); None for 'none'.

    Raises:
        InputError: a label is unreadable, or no pixel is evaluated.
    """
    if kind == 'none':
        return None
    with ThreadPoolExecutor() as pool:          # Pillow lets go of the interpreter's lock
        counts = pool.map(lambda pair: _count(dataset.read_label(pair[1]), len(dataset.classes)),
                          pairs)
        return _median_over_each(_frequencies(counts, len(dataset.classes)), dataset.classes)


def median_frequency_weights(label_arrays, num_classes, names=None):
    """Median frequency balancing: the median of the classes' frequencies over each one's own.

    A class's frequency is the number of its pixels divided by that of all evaluated pixels of the
    photographs in which it occurs. A class that does not occur has none; its weight is 0, and a
    warning names it.

    Source: Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels", ICCV 2015,
    section 6.3.2; used by Badrinarayanan, Kendall and Cipolla, "SegNet", PAMI 2017.

    Args:
        label_arrays: iterable of uint8 ndarrays of any shape, class numbers; what is not below
            `num_classes` is not evaluated.
        num_classes: C.
        names: of the classes, for the warning; by default their numbers.

    Returns:
        float32 ndarray (C,).

    Raises:
        InputError: no pixel is evaluated.
    """
    counts = (_count(label, num_classes) for label in label_arrays)
    return _median_over_each(_frequencies(counts, num_classes), names or range(num_classes))


def _count(label, num_classes):
    """Evaluated pixels of a label by class: int64 (C,)."""
    return np.bincount(label.ravel(), minlength=num_classes)[:num_classes]


def _frequencies(counts, num_classes):
    """Frequency of each class from the counts of each label: float64 (C,), 0 where it is none."""
    pixels, of_photographs = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for count in counts:
        pixels += count
        of_photographs[count > 0] += count.sum()
    if not pixels.any():
        raise InputError('no pixel of the labels to train on is evaluated, so there is nothing to '
                         'learn; check the labels')
    return pixels / np.maximum(of_photographs, 1)


def _median_over_each(frequencies, names):
    """Weights from frequencies, float32 (C,); warns of classes that do not occur."""
    occurs = frequencies > 0
    if not occurs.all():
        absent = ', '.join(str(name) for name, found in zip(names, occurs) if not found)
        print(f'warning: no pixel to train on is of the class {absent}; its weight is 0, and it '
              'will not be learned', file=sys.stderr)
    weights = np.zeros(len(frequencies), np.float32)
    weights[occurs] = np.median(frequencies[occurs]) / frequencies[occurs]
    return weights
