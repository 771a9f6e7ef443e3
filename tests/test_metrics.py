"""Tests of roadseg.metrics, against hand-computed cases and a literal implementation."""
import time

import numpy as np
import pytest

from helper import InputError
from roadseg import metrics


def histograms(confidence, road, evaluated=None):
    """`confidence_histograms` of nested lists; everything is evaluated unless told."""
    road = np.array(road, bool)
    evaluated = np.ones_like(road) if evaluated is None else np.array(evaluated, bool)
    return metrics.confidence_histograms(np.array(confidence, np.uint8), road, evaluated)


def literal_measures(confidence, road, evaluated):
    """KITTI Road's measures from raw pixels, one threshold after the other, as described."""
    confidence, road = confidence[evaluated], road[evaluated]
    curve = []
    for threshold in range(256):
        positive = confidence >= threshold
        tp, fp = (positive & road).sum(), (positive & ~road).sum()
        precision, recall = tp / (tp + fp + 1e-10), tp / road.sum()
        if precision == 0 and recall == 0:
            continue
        f_score = 2 * precision * recall / (precision + recall + 1e-10)
        curve.append((f_score, precision, recall, fp / (~road).sum(),
                      (~positive & road).sum() / road.sum(), threshold))
    best = curve[0]
    for point in curve:
        if point[0] > best[0]:
            best = point
    total = 0
    for tenth in range(11):
        total += max([point[1] for point in curve if point[2] >= tenth / 10], default=0)
    positive = confidence >= 128
    tp, fp, fn = (positive & road).sum(), (positive & ~road).sum(), (~positive & road).sum()
    return {'MaxF': 100 * best[0], 'PRE': 100 * best[1], 'REC': 100 * best[2],
            'FPR': 100 * best[3], 'FNR': 100 * best[4], 'threshold': best[5],
            'AP': 100 * total / 11, 'IoU': 100 * tp / (tp + fp + fn),
            'F1': 200 * tp / (2 * tp + fp + fn)}


# --- confusion matrix

def test_confusion_matrix_has_truth_in_rows():
    truth = np.array([[0, 0, 1, 2, 2]])
    prediction = np.array([[0, 2, 2, 2, 0]])
    matrix = metrics.confusion_matrix(truth, prediction, 4)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, [[1, 0, 1, 0],
                                           [0, 0, 1, 0],
                                           [1, 0, 1, 0],
                                           [0, 0, 0, 0]])


@pytest.mark.parametrize('void', [-1, 3, 255])
def test_confusion_matrix_does_not_count_void(void):
    truth = np.array([[0, 1, 2, void, void]])
    prediction = np.array([[0, 1, 2, 0, 2]])
    np.testing.assert_array_equal(metrics.confusion_matrix(truth, prediction, 3), np.eye(3))


def test_confusion_matrix_of_many_classes_in_uint8():
    classes = np.arange(20, dtype=np.uint8).reshape(4, 5)
    np.testing.assert_array_equal(metrics.confusion_matrix(classes, classes, 20), np.eye(20))


def test_confusion_matrix_against_a_loop():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(-1, 5, (3, 5, 7)), rng.integers(0, 4, (3, 5, 7))
    expected = np.zeros((4, 4), int)
    for t, p in zip(truth.flat, prediction.flat):
        if 0 <= t < 4:
            expected[t, p] += 1
    np.testing.assert_array_equal(metrics.confusion_matrix(truth, prediction, 4), expected)


@pytest.mark.parametrize('truth, prediction, message', [
    (np.zeros((3, 5), int), np.zeros((5, 3), int), r'\(3, 5\), prediction \(5, 3\)'),
    (np.zeros((3, 5), int), np.full((3, 5), 2), r'15 of 15 predictions are outside 0 .. 1.* 2$'),
    (np.full((3, 5), 255), np.full((3, 5), -1), r'15 of 15 predictions .* -1$'),
    (np.zeros((3, 5), int), np.zeros((3, 5)), 'prediction is float64'),
    (np.zeros((3, 5)), np.zeros((3, 5), int), 'truth is float64'),
])
def test_confusion_matrix_refuses(truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion_matrix(truth, prediction, 2)


def test_iou_by_hand():
    matrix = np.array([[4, 1, 0, 0],   # 4 / (5 + 4 - 4)
                       [0, 2, 1, 0],   # 2 / (3 + 3 - 2)
                       [0, 0, 0, 0],   # only predicted: 0 / 1
                       [0, 0, 0, 0]])  # absent
    np.testing.assert_allclose(metrics.iou_per_class(matrix), [0.8, 0.5, 0, np.nan])
    assert metrics.mean_iou(matrix) == pytest.approx(1.3 / 3)
    assert metrics.pixel_accuracy(matrix) == 6 / 8


@pytest.mark.filterwarnings('error')
def test_scores_of_nothing_are_nan():
    matrix = np.zeros((3, 3), np.int64)
    assert np.isnan(metrics.iou_per_class(matrix)).all()
    assert np.isnan(metrics.mean_iou(matrix))
    assert np.isnan(metrics.pixel_accuracy(matrix))


# --- KITTI Road

def test_histograms_by_hand():
    counts = histograms([[0, 7, 7], [255, 7, 0]],
                        [[0, 0, 1], [1, 1, 1]],
                        [[1, 1, 1], [1, 1, 0]])
    expected = np.zeros((2, 256), int)
    expected[0, [0, 7]] = 1
    expected[1, 7], expected[1, 255] = 2, 1
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, expected)


def test_histograms_refuse_another_size():
    map_, label = np.zeros((3, 5), np.uint8), np.ones((4, 6), bool)
    with pytest.raises(InputError, match=r'\(3, 5\), label.*\(4, 6\)'):
        metrics.confidence_histograms(map_, label, label)


def test_histograms_refuse_another_dtype():
    mask = np.ones((3, 5), bool)
    with pytest.raises(ValueError, match='confidence is float32, expected uint8'):
        metrics.confidence_histograms(np.zeros((3, 5), np.float32), mask, mask)
    with pytest.raises(ValueError, match='road is uint8, expected bool'):
        metrics.confidence_histograms(np.zeros((3, 5), np.uint8), mask.astype(np.uint8), mask)


@pytest.mark.parametrize('seed', range(5))
def test_measures_against_literal_implementation(seed):
    rng = np.random.default_rng(seed)
    road, evaluated = rng.random((7, 11)) < 0.3, rng.random((7, 11)) < 0.9
    confidence = np.clip(rng.normal(90 + 70 * road, 60), 0, 255).astype(np.uint8)
    expected = literal_measures(confidence, road, evaluated)
    measures = metrics.kitti_measures(metrics.confidence_histograms(confidence, road, evaluated))
    assert measures == pytest.approx(expected, rel=1e-12)


ROAD = [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]  # 9 of 15


@pytest.mark.parametrize('confidence, expected', [
    # perfect: threshold 0 takes all, 1 is the first to take the road alone
    (255 * np.array(ROAD), dict(MaxF=100, AP=100, PRE=100, REC=100, FPR=0, FNR=0, threshold=1,
                                IoU=100, F1=100)),
    # empty, that is 0 everywhere: only threshold 0 has a positive, and takes all
    (np.zeros((3, 5)), dict(MaxF=75, AP=60, PRE=60, REC=100, FPR=100, FNR=0, threshold=0,
                            IoU=0, F1=0)),
    # constant: any threshold up to it takes all
    (np.full((3, 5), 200), dict(MaxF=75, AP=60, PRE=60, REC=100, FPR=100, FNR=0, threshold=0,
                                IoU=60, F1=75)),
    # inverted: the road is only found together with all else
    (255 - 255 * np.array(ROAD), dict(MaxF=75, AP=60, PRE=60, REC=100, FPR=100, FNR=0,
                                      threshold=0, IoU=0, F1=0)),
])
def test_measures_by_hand(confidence, expected):
    assert metrics.kitti_measures(histograms(confidence, ROAD)) == pytest.approx(expected)


def test_average_precision_and_counts_by_hand():
    # threshold     250  245  240   10    5
    # precision       1  1/2  2/3  3/4  1/2
    # recall        1/3  1/3  2/3    1    1
    counts = histograms([250, 240, 10, 245, 5, 5], [1, 1, 1, 0, 0, 0])
    measures = metrics.kitti_measures(counts)
    assert measures['AP'] == pytest.approx(100 * (4 * 1 + 7 * 3 / 4) / 11)
    assert measures['threshold'] == 6
    assert measures['MaxF'] == pytest.approx(100 * 6 / 7)
    assert measures['FPR'] == pytest.approx(100 / 3)
    assert measures['FNR'] == 0
    assert measures['IoU'] == pytest.approx(50)
    assert measures['F1'] == pytest.approx(200 / 3)


@pytest.mark.parametrize('value, iou', [(127, 0), (128, 100)])
def test_fixed_threshold_is_128(value, iou):
    assert metrics.kitti_measures(histograms([0, value], [0, 1]))['IoU'] == iou


def test_precision_and_recall_by_hand():
    precision, recall = metrics.precision_recall(histograms([0, 3, 3, 9], [0, 0, 1, 1]))
    np.testing.assert_allclose(precision[[0, 1, 3, 4, 9, 10, 255]], [.5, 2/3, 2/3, 1, 1, 0, 0])
    np.testing.assert_allclose(recall[[0, 1, 3, 4, 9, 10, 255]], [1, 1, 1, .5, .5, 0, 0])


def test_ignored_pixels_change_nothing():
    rng = np.random.default_rng(1)
    evaluated = rng.random((3, 5)) < 0.6
    road = np.array(ROAD, bool)
    confidence = rng.integers(0, 256, (3, 5), np.uint8)
    counts = metrics.confidence_histograms(confidence, road, evaluated)
    changed = np.where(evaluated, confidence, 255 - confidence)
    np.testing.assert_array_equal(
        counts, metrics.confidence_histograms(changed, road ^ ~evaluated, evaluated))
    assert counts.sum() == evaluated.sum()


def test_without_road_recall_is_undefined():
    with pytest.raises(ValueError, match='no road pixel among the 3'):
        metrics.kitti_measures(histograms([1, 2, 3], [0, 0, 0]))
    with pytest.raises(ValueError, match='no road pixel among the 0'):
        metrics.kitti_measures(np.zeros((2, 256), np.int64))


def test_measures_refuse_another_shape():
    with pytest.raises(ValueError, match=r'\(256, 2\), expected \(2, 256\)'):
        metrics.kitti_measures(np.ones((256, 2), np.int64))


@pytest.mark.filterwarnings('error')
def test_road_alone():
    measures = metrics.kitti_measures(histograms([1, 2, 3], [1, 1, 1]))
    assert (measures['FPR'], measures['threshold']) == (0, 0)
    assert measures['MaxF'] == pytest.approx(100)


def test_measures_are_pooled_not_averaged():
    images = {'um_000001.png': histograms([9, 9, 0, 0], [1, 1, 0, 0]),
              'um_000002.png': histograms([0, 9], [1, 0]),
              'uu_000003.png': histograms([9, 0, 0], [1, 0, 0])}
    measures = metrics.measures_by_category(images)
    assert list(measures) == ['um', 'uu', 'URBAN']
    first, second, third = images.values()
    assert measures['um'] == metrics.kitti_measures(first + second)
    assert measures['uu'] == metrics.kitti_measures(third)
    assert measures['URBAN'] == metrics.kitti_measures(first + second + third)
    # alone the two um images have 100 and 66.67; together 2 of 3 road pixels and 1 false alarm
    assert measures['um']['MaxF'] == pytest.approx(100 * 2 / 3)


@pytest.mark.parametrize('name, expected', [
    ('um_000012.png', 'um'), ('umm_road_000012.png', 'umm'), ('uu_000097.png', 'uu'),
    ('um_lane_000000.png', 'um'), ('data_road/training/image_2/umm_000003.png', 'umm')])
def test_category(name, expected):
    assert metrics.category(name) == expected


@pytest.mark.parametrize('name', ['000012.png', 'ummm_000012.png', 'road_um_000012.png', ''])
def test_category_refuses(name):
    with pytest.raises(InputError, match='belongs to no category.*um_, umm_, uu_'):
        metrics.category(name)


def test_table():
    um = dict(MaxF=95.254, AP=92, PRE=1, REC=2, FPR=3, FNR=4, IoU=100, F1=7, threshold=120, ms=82)
    urban = dict(um, MaxF=9.5)
    del urban['ms']
    assert metrics.format_table({'URBAN': urban, 'floor': {'MaxF': 81.65}, 'um': um}) == (
        '        MaxF     AP   PRE   REC   FPR   FNR     IoU     ms\n'
        'um     95.25  92.00  1.00  2.00  3.00  4.00  100.00  82.00\n'
        'URBAN   9.50  92.00  1.00  2.00  3.00  4.00  100.00      -\n'
        'floor  81.65      -     -     -     -     -       -      -')


def test_48_full_size_frames_take_under_two_seconds():
    rng = np.random.default_rng(2)
    confidence = rng.integers(0, 256, (375, 1242), np.uint8)
    road, evaluated = rng.random((375, 1242)) < 0.2, rng.random((375, 1242)) < 0.98
    start = time.perf_counter()
    metrics.measures_by_category({
        f'{group}_{number:06}.png': metrics.confidence_histograms(confidence, road, evaluated)
        for group in metrics.CATEGORIES for number in range(16)})
    assert time.perf_counter() - start < 2
