"""Scores of segmentations: confusion matrix and what follows from it, and KITTI Road measures.

Both work on integer counts, which add up over images: pool the counts first, compute scores once.
"""
import numpy as np

from helper import VAL3, InputError, category

CATEGORIES = tuple(VAL3)          # KITTI Road: marked two-way, marked multi-lane, unmarked
POOLED = 'URBAN'                  # KITTI Road's name for all three together
COLUMNS = ('MaxF', 'AP', 'PRE', 'REC', 'FPR', 'FNR', 'IoU')
HALF = 128                        # confidence 0.5 as 8 bits
EPSILON = 1e-10                   # the benchmark's guard against 0 / 0


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


def kitti_measures(histograms):
    """KITTI Road's measures, pooled over the pixels of all images in the histograms.

    MaxF is the maximum of 2 PRE REC / (PRE + REC + 1e-10) over the thresholds k = 0 .. 255; PRE,
    REC, FPR = FP / N and FNR = FN / P belong to the smallest k that reaches it. AP is the mean,
    over r = 0, 0.1 .. 1, of the largest precision where recall >= r.
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
    # at threshold 0 recall is 1, so no r is without a precision
    average_precision = np.mean([precision[recall >= r].max() for r in np.arange(11) / 10])

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


def measures_by_category(histograms):
    """KITTI Road's measures of each category, and of all images as URBAN.

    Args:
        histograms: dict {file name: (2, 256) int from `confidence_histograms`}.

    Returns:
        dict {'um', 'umm', 'uu', 'URBAN': dict from `kitti_measures`}, without categories that have
        no file.

    Raises:
        InputError: a file name starts with no category.
        ValueError: a category has no road pixel.
    """
    pooled = {}
    for name, counts in histograms.items():
        for group in (category(name), POOLED):
            pooled[group] = pooled.get(group, 0) + counts
    return {group: kitti_measures(pooled[group])
            for group in (*CATEGORIES, POOLED) if group in pooled}


def format_table(rows):
    """Aligned text table of measures: um, umm, uu, URBAN, then other rows as they come.

    Args:
        rows: dict {row name: dict of numbers, as from `kitti_measures`}. Keys that `kitti_measures`
            does not know, such as 'ms', become further columns; a missing number shows as '-'.

    Returns:
        str of one line per row, a header first; numbers have two decimals.
    """
    names = [*(name for name in (*CATEGORIES, POOLED) if name in rows),
             *(name for name in rows if name not in (*CATEGORIES, POOLED))]
    not_further = {*COLUMNS, 'F1', 'threshold'}
    further = dict.fromkeys(key for name in names for key in rows[name] if key not in not_further)
    columns = [*COLUMNS, *further]
    lines = [['', *columns]]
    for name in names:
        lines.append([name, *(f'{rows[name][column]:.2f}' if column in rows[name] else '-'
                              for column in columns)])
    widths = [max(map(len, cells)) for cells in zip(*lines)]
    return '\n'.join(
        '  '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines)


def _positives(histograms):
    """False and true positives at each threshold: (2, 256) int, from (2, 256) int histograms."""
    if histograms.shape != (2, 256):
        raise ValueError(f"histograms have shape {histograms.shape}, expected (2, 256): pixels "
                         "off and on the road, by confidence")
    if not histograms[1].any():
        raise ValueError(f"no road pixel among the {histograms.sum()} evaluated ones, so recall "
                         "is undefined: check the labels, or pool more images")
    return histograms[:, ::-1].cumsum(axis=1)[:, ::-1]
