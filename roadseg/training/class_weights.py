"""Weights of the classes in the loss, so that rare ones are not given up. NumPy only."""
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from roadseg.errors import InputError
from roadseg.machine import processors


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
    with ThreadPoolExecutor(processors()) as pool:      # Pillow lets go of the interpreter's lock
        counts = pool.map(lambda pair: _count(dataset.read_label(pair[1]), len(dataset.classes)),
                          pairs)
        return median_frequency_weights(counts, len(dataset.classes))


def median_frequency_weights(counts, num_classes):
    """Median frequency balancing: the median of the classes' frequencies over each one's own.

    A class's frequency is the number of its pixels divided by that of all evaluated pixels of the
    photographs in which it occurs. A class that does not occur has none, and the weight 0.

    Source: Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels", ICCV 2015,
    section 6.3.2; used by Badrinarayanan, Kendall and Cipolla, "SegNet", PAMI 2017.

    Args:
        counts: iterable of int64 ndarrays (C,), the evaluated pixels of each photograph by class.
        num_classes: C.

    Returns:
        float32 ndarray (C,).

    Raises:
        InputError: no pixel is evaluated.
    """
    pixels, of_photographs = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for count in counts:
        pixels += count
        of_photographs[count > 0] += count.sum()
    if not pixels.any():
        raise InputError('no pixel of the labels to train on is evaluated, so there is nothing to '
                         'learn; check the labels')
    occurs = pixels > 0
    frequencies = pixels[occurs] / of_photographs[occurs]
    weights = np.zeros(num_classes, np.float32)
    weights[occurs] = np.median(frequencies) / frequencies
    return weights


def _count(label, num_classes):
    """Evaluated pixels of a label by class: uint8 of any shape -> int64 (C,)."""
    return np.bincount(label.ravel(), minlength=num_classes)[:num_classes]
