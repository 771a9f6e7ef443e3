"""Scores of any number of classes, from a confusion matrix.

Matrices of several images add up: pool them first, compute scores once.
"""
import numpy as np
from PIL import Image

from roadseg.datasets.description import IGNORED
from roadseg.images import resize

COLUMNS = ('mIoU', 'accuracy', 'class accuracy', 'road IoU')    # of the table
FRAME_COLUMNS = ('mIoU', 'accuracy', 'road IoU')                # of one photograph
LOGGED = COLUMNS                                                # after each epoch
BEST = 'mIoU'                       # the score that picks the best epoch


# What every module of measures has ------------------------------------------------------------

def predict(network, photograph):
    """Scores at the size of the network and class numbers at that of the photograph.

    The numbers are those of the highest probability, resized, as `roadseg.predict` paints them.

    Args:
        network: `inference.Network`.
        photograph: uint8 ndarray (H, W, 3).

    Returns:
        (float32 ndarray (h, w, C), logits or logarithms of probabilities; uint8 ndarray (H, W)).
    """
    from scipy.special import softmax       # only here, as it takes time
    scores = network.scores(photograph)
    size = photograph.shape[:2]
    # where nothing is resized, the highest score is that of the highest probability
    compared = scores if scores.shape[:2] == size else softmax(scores, axis=-1)
    return scores, class_numbers(compared, size)


def class_numbers(scores, image_shape):
    """Class of the highest score at each pixel, the scores resized bilinearly.

    Args:
        scores: float32 ndarray (h, w, C).
        image_shape: (H, W).

    Returns:
        uint8 ndarray (H, W).
    """
    if scores.shape[:2] == tuple(image_shape):
        return scores.argmax(axis=-1).astype(np.uint8)
    best = resize(np.ascontiguousarray(scores[..., 0]), image_shape).copy()
    numbers = np.zeros(image_shape, np.uint8)
    for number in range(1, scores.shape[-1]):       # one plane at a time: memory of two
        plane = resize(np.ascontiguousarray(scores[..., number]), image_shape)
        higher = plane > best
        numbers[higher] = number
        np.copyto(best, plane, where=higher)
    return numbers


def confidence(prediction):
    """Probability of the class that is taken, as 8 bits: uint8 (h, w)."""
    scores = prediction[0]
    spread = np.exp(scores - scores.max(axis=-1, keepdims=True)).sum(axis=-1)
    return np.floor(np.minimum(256 / spread, 255)).astype(np.uint8)


def decide(prediction):
    """Class numbers, uint8 (H, W)."""
    return prediction[1]


def count(prediction, truth, num_classes):
    """Confusion matrix, (C, C) int64, of what `predict` returns and uint8 (H, W) classes."""
    return confusion_matrix(truth, prediction[1], num_classes)


def cross_entropy(prediction, truth):
    """Sum of -log p(class) over the evaluated pixels at the network's size, and their number.

    Args:
        prediction: of `predict`.
        truth: uint8 ndarray (H, W) of class numbers and `IGNORED`.

    Returns:
        (float, int).
    """
    scores = prediction[0]
    truth = resize(truth, scores.shape[:2], Image.Resampling.NEAREST)
    loss, pixels = 0.0, 0
    for row in range(0, len(truth), 16):        # so many rows fit into a processor's cache
        some, of_some = scores[row:row + 16], truth[row:row + 16]
        evaluated = of_some != IGNORED
        some, of_some = some[evaluated], of_some[evaluated]
        some = some - some.max(axis=1, keepdims=True)
        right = some[np.arange(len(of_some)), of_some]
        loss += float((np.log(np.exp(some).sum(axis=1)) - right).sum(dtype=np.float64))
        pixels += len(of_some)
    return loss, pixels


def measures(matrix, classes, road=None):
    """Scores of a confusion matrix, in per cent; those that don't exist are left out.

    Args:
        matrix: (C, C) int, from `confusion_matrix`.
        classes: names of the C classes.
        road: number of the class that is road.

    Returns:
        dict of floats: 'mIoU'; 'accuracy', the share of pixels that are right; 'class accuracy',
        the mean over the classes of the share of their pixels that are right; 'road IoU'; and
        'IoU NAME' of every class.
    """
    iou = iou_per_class(matrix)
    found = {'mIoU': mean_iou(matrix), 'accuracy': pixel_accuracy(matrix),
             'class accuracy': class_accuracy(matrix),
             'road IoU': iou[road] if road is not None else np.nan,
             **{f'IoU {name}': value for name, value in zip(classes, iou)}}
    return {name: 100 * float(value) for name, value in found.items() if np.isfinite(value)}


def detail(matrix):
    """What the page draws: the confusion matrix, rows truth, columns prediction, in pixels."""
    return {'confusion': matrix.tolist()}


# The measures ---------------------------------------------------------------------------------

def confusion_matrix(truth, prediction, num_classes):
    """Counts pixels by true and predicted class.

    Args:
        truth: integer array of any shape; what lies outside 0 .. C-1 (-1, or 255) is not counted.
        prediction: integer array of the same shape, 0 .. C-1 everywhere, counted or not.
        num_classes: C.

    Returns:
        (C, C) int64, rows truth, columns prediction. Matrices of several images may be added.

    Raises:
        ValueError: the shapes differ, an array is not of integers, or a prediction is no class.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, prediction {prediction.shape}; "
                         "they must be equal")
    for name, array in (('truth', truth), ('prediction', prediction)):
        if array.dtype.kind not in 'biu':
            raise ValueError(f"{name} is {array.dtype}, expected integers: class numbers")
    outside = prediction[(prediction < 0) | (prediction >= num_classes)]
    if outside.size:
        raise ValueError(f"{outside.size} of {prediction.size} predictions are outside "
                         f"0 .. {num_classes - 1}, the first being {outside[0]}")
    counted = (truth >= 0) & (truth < num_classes)
    # int64 before the product: class numbers often come as uint8, which would wrap
    pairs = (truth[counted].astype(np.int64) * num_classes
             + prediction[counted].astype(np.int64))
    return np.bincount(pairs, minlength=num_classes ** 2).reshape(num_classes, num_classes)


def iou_per_class(matrix):
    """Intersection over union of each class, TP / (TP + FP + FN).

    Source: Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2015, section 4.

    Args:
        matrix: (C, C) int, from `confusion_matrix`.

    Returns:
        (C,) float64, 0 .. 1, a perfect score being 1. NaN for a class that is neither in the truth
        nor predicted; a class that is only predicted scores 0.
    """
    intersection = np.diagonal(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - intersection
    return np.divide(intersection, union, out=np.full(len(matrix), np.nan), where=union > 0)


def mean_iou(matrix):
    """Mean of `iou_per_class` over the classes that have one; NaN if none has.

    Args:
        matrix: (C, C) int, from `confusion_matrix`.

    Returns:
        float, 0 .. 1, a perfect score being 1.
    """
    iou = iou_per_class(matrix)
    return float(np.nanmean(iou)) if matrix.any() else float('nan')


def pixel_accuracy(matrix):
    """Share of the counted pixels that have their true class; NaN if none is counted.

    Args:
        matrix: (C, C) int, from `confusion_matrix`.

    Returns:
        float, 0 .. 1, a perfect score being 1.
    """
    return float(np.trace(matrix) / matrix.sum()) if matrix.any() else float('nan')


def class_accuracy(matrix):
    """Mean, over the classes that occur in the truth, of the share of their pixels found.

    Source: Badrinarayanan, Kendall and Cipolla, "SegNet", PAMI 2017, section 4.

    Args:
        matrix: (C, C) int, from `confusion_matrix`.

    Returns:
        float, 0 .. 1, a perfect score being 1; NaN if no pixel is counted.
    """
    pixels = matrix.sum(axis=1)
    occurs = pixels > 0
    return float((np.diagonal(matrix)[occurs] / pixels[occurs]).mean()) if occurs.any() else np.nan
