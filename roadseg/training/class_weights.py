"""Weights of the classes in the loss, so that rare ones are not given up. NumPy only."""
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from roadseg.errors import InputError


def class_frequencies(label_arrays, num_classes):
    """How much of the photographs in which it occurs each class makes up.

    Args:
        label_arrays: iterable of uint8 ndarrays of any shape, class numbers; what is not below
            `num_classes` is not evaluated.
        num_classes: C.

    Returns:
        float64 ndarray (C,), 0-1: pixels of the class by all evaluated pixels of the photographs
        in which it occurs; 0 for a class that does not occur.

    Raises:
        InputError: no pixel is evaluated.
    """
    pixels, of_photographs = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for label in label_arrays:
        counts = np.bincount(label.ravel(), minlength=num_classes)[:num_classes]
        pixels += counts
        of_photographs[counts > 0] += counts.sum()
    if not pixels.any():
        raise InputError('no pixel of the labels to train on is evaluated, so there is nothing to '
                         'learn; check the labels')
    return pixels / np.maximum(of_photographs, 1)


def warn_of_absent(frequencies, names):
    """Prints a warning that names the classes, of `names`, whose frequency is 0."""
    absent = [name for name, frequency in zip(names, frequencies) if frequency == 0]
    if absent:
        print(f"warning: no pixel to train on is of the class {', '.join(absent)}; it will not be "
              'learned', file=sys.stderr)


def median_frequency_weights(label_arrays, num_classes, names=None):
    """Median frequency balancing: the median of the classes' frequencies over each one's own.

    A class that does not occur gets the weight 0 and a warning.

    Source: Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels", ICCV 2015,
    section 6.3.2; used by Badrinarayanan, Kendall and Cipolla, "SegNet", PAMI 2017.

    Args:
        label_arrays, num_classes: see `class_frequencies`.
        names: of the classes, for the warning; by default their numbers.

    Returns:
        float32 ndarray (C,).

    Raises:
        InputError: see `class_frequencies`.
    """
    frequencies = class_frequencies(label_arrays, num_classes)
    warn_of_absent(frequencies, names or [str(number) for number in range(num_classes)])
    occurs = frequencies > 0
    weights = np.zeros(num_classes, np.float32)
    weights[occurs] = np.median(frequencies[occurs]) / frequencies[occurs]
    return weights


def find(mode, training, dataset):
    """The weights that --class-weights asks for.

    Args:
        mode: 'none' or 'median'.
        training: list of (image, label) paths.
        dataset: `Dataset`.

    Returns:
        float32 ndarray (C,), or None for 'none'.

    Raises:
        InputError: a label is unreadable, or none has an evaluated pixel.
    """
    if mode == 'none':
        return None
    with ThreadPoolExecutor() as pool:
        labels = pool.map(dataset.read_label, (label for _, label in training))
        return median_frequency_weights(labels, len(dataset.classes), dataset.classes)
