"""KITTI Road's measures of two classes, from histograms of the probability of road.

Integer counts add up over images: pool the counts first, compute scores once.
"""
import numpy as np

from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError

COLUMNS = ('MaxF', 'AP', 'PRE', 'REC', 'FPR', 'FNR', 'IoU')     # of the table
FRAME_COLUMNS = ('IoU', 'MaxF', 'FPR', 'FNR')                   # of one photograph
LOGGED = ('MaxF', 'AP', 'IoU', 'F1')                            # after each epoch
BEST = 'MaxF'                       # the score that picks the best epoch
HALF = 128                          # confidence 0.5 as 8 bits
EPSILON = 1e-10                     # the benchmark's guard against 0 / 0
RECALL_STEPS = np.arange(0, 1.1, 0.1)       # as the benchmark has them: 0.3, 0.6, 0.7 lie above


# What every module of measures has ------------------------------------------------------------

def predict(network, photograph):
    """Probability of road: uint8 (H, W, 3) -> float32 (H, W), 0-1."""
    return network.probability(photograph)


def confidence(prediction):
    """8-bit confidence map: float (H, W), 0-1 -> uint8 (H, W); 0.5 becomes 128."""
    return np.floor(np.minimum(prediction * 256, 255)).astype(np.uint8)


def decide(prediction):
    """Class numbers: float (H, W), 0-1 -> uint8 (H, W), road from 0.5 on."""
    return (prediction >= 0.5).astype(np.uint8)


def count(prediction, truth, num_classes=2):
    """Counts from which `measures` follow.

    Args:
        prediction: float ndarray (H, W), probability of road.
        truth: uint8 ndarray (H, W), 1 road, 0 not road, `IGNORED`.
        num_classes: 2.

    Returns:
        (2, 256) int64, see `confidence_histograms`.
    """
    return confidence_histograms(confidence(prediction), truth == 1, truth != IGNORED)


def cross_entropy(prediction, truth):
    """Sum of -log p(class) over the evaluated pixels, and their number.

    Args:
        prediction: float ndarray (H, W), probability of road. Below 1e-7, it counts as 1e-7.
        truth: uint8 ndarray (H, W), 1 road, 0 not road, `IGNORED`.

    Returns:
        (float, int).
    """
    right = np.abs(prediction - (truth != 1))[truth != IGNORED]     # p, or 1 - p
    return float(-np.log(np.maximum(right, 1e-7)).sum(dtype=np.float64)), right.size


def measures(histograms, classes=('not road', 'road'), road=1):
    """`kitti_measures`, where nothing exists without a pixel of road: then {}."""
    return kitti_measures(histograms) if histograms[1].any() else {}


def detail(histograms):
    """What the page draws: precision and recall at each of the 256 thresholds, in per cent."""
    if not histograms[1].any():
        return {}
    precision, recall = precision_recall(histograms)
    return {'precision': (100 * precision).round(3).tolist(),
            'recall': (100 * recall).round(3).tolist()}


# The measures ---------------------------------------------------------------------------------

def confidence_histograms(confidence, road, evaluated):
    """Histograms of an image's road confidence, for pixels off and on the true road.

    They hold all that KITTI Road's measures need, and those of several images may be added.

    Args:
        confidence: (H, W) uint8, 0 .. 255, road being 255.
        road: (H, W) bool, the true road: blue channel > 0 in KITTI's label.
        evaluated: (H, W) bool, pixels that count: red channel > 0 in KITTI's label.

    Returns:
        (2, 256) int64: row 0 not road, row 1 road; column v counts the pixels of confidence v.

    Raises:
        InputError: confidence map and label differ in size.
        ValueError: an array has another dtype.
    """
    if confidence.dtype != np.uint8:
        raise ValueError(f"confidence is {confidence.dtype}, expected uint8, 0 .. 255")
    for name, mask in (('road', road), ('evaluated', evaluated)):
        if mask.dtype != bool:
            raise ValueError(f"{name} is {mask.dtype}, expected bool")
        if mask.shape != confidence.shape:
            raise InputError(
                f"confidence map has shape {confidence.shape}, label ({name}) {mask.shape}; "
                "they must be equal: resize the confidence map to its label")
    bins = confidence + np.uint16(256) * road  # (H, W) uint16, 0 .. 511
    return np.bincount(bins[evaluated], minlength=512).reshape(2, 256)


def precision_recall(histograms):
    """Precision and recall at each threshold k = 0 .. 255, a pixel being taken as road iff v >= k.

    precision = TP / (TP + FP + 1e-10), recall = TP / P, P being the number of road pixels.
    Source: Fritsch, Kuehnl, Geiger, A New Performance Measure and Evaluation Benchmark for Road
    Detection Algorithms, ITSC 2013; 1e-10 as in the benchmark's evaluation.

    Args:
        histograms: (2, 256) int, from `confidence_histograms`, or a sum of such.

    Returns:
        precision and recall, each (256,) float64, 0 .. 1; both are 0 where there is no TP.

    Raises:
        ValueError: the shape is another, or there is no road pixel, hence no recall.
    """
    false_positives, true_positives = _positives(histograms)
    return (true_positives / (true_positives + false_positives + EPSILON),
            true_positives / true_positives[0])


def precisions_at_steps(precision, recall):
    """The largest precision where recall >= r, for r = 0, 0.1 .. 1; AP is their mean.

    Args:
        precision, recall: (256,) float64, from `precision_recall`.

    Returns:
        List of eleven floats, 0 .. 1.
    """
    # at threshold 0 recall is 1; the benchmark's last step is 1 exactly
    return [precision[recall >= r].max() for r in RECALL_STEPS]


def kitti_measures(histograms):
    """KITTI Road's measures, pooled over the pixels of all images in the histograms.

    MaxF is the maximum of 2 PRE REC / (PRE + REC + 1e-10) over the thresholds k = 0 .. 255; PRE,
    REC, FPR = FP / N and FNR = FN / P belong to the smallest k that reaches it. AP is the mean
    of `precisions_at_steps`.
    Source: as for `precision_recall`. The benchmark leaves out thresholds at which precision and
    recall are both 0; they win no maximum, so here they stay.

    Args:
        histograms: (2, 256) int, from `confidence_histograms`, or a sum of such.

    Returns:
        dict of floats in per cent: 'MaxF', 'AP', 'PRE', 'REC', 'FPR', 'FNR', and 'IoU' and 'F1' at
        the fixed threshold 0.5 (v >= 128). A perfect score is 100, of FPR and FNR 0. FPR is 0 when
        all pixels are road. 'threshold' is the int k, 0 .. 255, at which MaxF is reached.

    Raises:
        ValueError: the shape is another, or there is no road pixel, hence no recall.
    """
    false_positives, true_positives = _positives(histograms)
    precision, recall = precision_recall(histograms)
    road, not_road = true_positives[0], false_positives[0]  # at threshold 0 all is positive

    f_score = 2 * precision * recall / (precision + recall + EPSILON)
    best = int(f_score.argmax())
    average_precision = np.mean(precisions_at_steps(precision, recall))

    hits, false_alarms = true_positives[HALF], false_positives[HALF]
    shares = {
        'MaxF': f_score[best],
        'AP': average_precision,
        'PRE': precision[best],
        'REC': recall[best],
        'FPR': false_positives[best] / max(not_road, 1),
        'FNR': (road - true_positives[best]) / road,
        'IoU': hits / (road + false_alarms),
        'F1': 2 * hits / (road + hits + false_alarms),
    }
    return {**{name: 100 * float(share) for name, share in shares.items()}, 'threshold': best}


def _positives(histograms):
    """False and true positives at each threshold: (2, 256) int, from (2, 256) int histograms."""
    if histograms.shape != (2, 256):
        raise ValueError(f"histograms have shape {histograms.shape}, expected (2, 256): pixels "
                         "off and on the road, by confidence")
    if not histograms[1].any():
        raise ValueError(f"no road pixel among the {histograms.sum()} evaluated ones, so recall "
                         "is undefined: check the labels, or pool more images")
    return histograms[:, ::-1].cumsum(axis=1)[:, ::-1]
