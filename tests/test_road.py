"""KITTI Road's measures, against cases by hand and a literal implementation."""
import numpy as np
import pytest

from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError
from roadseg.scoring import road as measures_of_road
from roadseg.scoring.road import confidence_histograms, kitti_measures, precision_recall


def histograms(confidence, road, evaluated=None):
    """`confidence_histograms` of nested lists; everything is evaluated unless told."""
    road = np.array(road, bool)
    evaluated = np.ones_like(road) if evaluated is None else np.array(evaluated, bool)
    return confidence_histograms(np.array(confidence, np.uint8), road, evaluated)


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
    for step in np.arange(0, 1.1, 0.1):
        total += max([point[1] for point in curve if point[2] >= step], default=0)
    positive = confidence >= 128
    tp, fp, fn = (positive & road).sum(), (positive & ~road).sum(), (~positive & road).sum()
    return {'MaxF': 100 * best[0], 'PRE': 100 * best[1], 'REC': 100 * best[2],
            'FPR': 100 * best[3], 'FNR': 100 * best[4], 'threshold': best[5],
            'AP': 100 * total / 11, 'IoU': 100 * tp / (tp + fp + fn),
            'F1': 200 * tp / (2 * tp + fp + fn)}


# Counting -------------------------------------------------------------------------------------

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
        confidence_histograms(map_, label, label)


def test_histograms_refuse_another_dtype():
    mask = np.ones((3, 5), bool)
    with pytest.raises(ValueError, match='confidence is float32, expected uint8'):
        confidence_histograms(np.zeros((3, 5), np.float32), mask, mask)
    with pytest.raises(ValueError, match='road is uint8, expected bool'):
        confidence_histograms(np.zeros((3, 5), np.uint8), mask.astype(np.uint8), mask)


# Measures -------------------------------------------------------------------------------------

@pytest.mark.parametrize('seed', range(5))
def test_measures_against_literal_implementation(seed):
    rng = np.random.default_rng(seed)
    road, evaluated = rng.random((7, 11)) < 0.3, rng.random((7, 11)) < 0.9
    confidence = np.clip(rng.normal(90 + 70 * road, 60), 0, 255).astype(np.uint8)
    expected = literal_measures(confidence, road, evaluated)
    measures = kitti_measures(confidence_histograms(confidence, road, evaluated))
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
    assert kitti_measures(histograms(confidence, ROAD)) == pytest.approx(expected)


def test_average_precision_and_counts_by_hand():
    # threshold     250  245  240   10    5
    # precision       1  1/2  2/3  3/4  1/2
    # recall        1/3  1/3  2/3    1    1
    counts = histograms([250, 240, 10, 245, 5, 5], [1, 1, 1, 0, 0, 0])
    measures = kitti_measures(counts)
    assert measures['AP'] == pytest.approx(100 * (4 * 1 + 7 * 3 / 4) / 11)
    assert measures['threshold'] == 6
    assert measures['MaxF'] == pytest.approx(100 * 6 / 7)
    assert measures['FPR'] == pytest.approx(100 / 3)
    assert measures['FNR'] == 0
    assert measures['IoU'] == pytest.approx(50)
    assert measures['F1'] == pytest.approx(200 / 3)


@pytest.mark.parametrize('reached, met', [(1, True), (2, True), (3, False), (4, True), (5, True),
                                          (6, False), (7, False), (8, True), (9, True)])
def test_steps_of_recall_are_those_of_the_benchmark(reached, met):
    """NumPy's 0.1 steps overshoot 0.3, 0.6 and 0.7, so that a recall of just that is below them.

    Of ten road pixels, so many are found without a false alarm; the others with twenty.
    """
    counts = histograms([200] * reached + [100] * (30 - reached), [1] * 10 + [0] * 20)
    steps = 1 + reached - (not met)         # of 11, at which precision is 1; then it is 1/3
    assert kitti_measures(counts)['AP'] == pytest.approx(100 * (steps + (11 - steps) / 3) / 11)


@pytest.mark.parametrize('value, iou', [(127, 0), (128, 100)])
def test_fixed_threshold_is_128(value, iou):
    assert kitti_measures(histograms([0, value], [0, 1]))['IoU'] == iou


def test_precision_and_recall_by_hand():
    precision, recall = precision_recall(histograms([0, 3, 3, 9], [0, 0, 1, 1]))
    np.testing.assert_allclose(precision[[0, 1, 3, 4, 9, 10, 255]], [.5, 2/3, 2/3, 1, 1, 0, 0])
    np.testing.assert_allclose(recall[[0, 1, 3, 4, 9, 10, 255]], [1, 1, 1, .5, .5, 0, 0])


def test_ignored_pixels_change_nothing():
    rng = np.random.default_rng(1)
    evaluated = rng.random((3, 5)) < 0.6
    road = np.array(ROAD, bool)
    confidence = rng.integers(0, 256, (3, 5), np.uint8)
    counts = confidence_histograms(confidence, road, evaluated)
    changed = np.where(evaluated, confidence, 255 - confidence)
    np.testing.assert_array_equal(
        counts, confidence_histograms(changed, road ^ ~evaluated, evaluated))
    assert counts.sum() == evaluated.sum()


def test_without_road_recall_is_undefined():
    with pytest.raises(ValueError, match='no road pixel among the 3'):
        kitti_measures(histograms([1, 2, 3], [0, 0, 0]))
    with pytest.raises(ValueError, match='no road pixel among the 0'):
        kitti_measures(np.zeros((2, 256), np.int64))


def test_measures_refuse_another_shape():
    with pytest.raises(ValueError, match=r'\(256, 2\), expected \(2, 256\)'):
        kitti_measures(np.ones((256, 2), np.int64))


@pytest.mark.filterwarnings('error')
def test_road_alone():
    measures = kitti_measures(histograms([1, 2, 3], [1, 1, 1]))
    assert (measures['FPR'], measures['threshold']) == (0, 0)
    assert measures['MaxF'] == pytest.approx(100)


# What the scoring asks for --------------------------------------------------------------------

def test_confidence_of_a_half_is_128_and_road_begins_there():
    probabilities = np.array([[0, 0.4999, 0.5, 1]])
    assert measures_of_road.confidence(probabilities).tolist() == [[0, 127, 128, 255]]
    assert measures_of_road.confidence(probabilities).dtype == np.uint8
    assert measures_of_road.decide(probabilities).tolist() == [[0, 0, 1, 1]]


def test_counts_leave_out_what_is_ignored():
    truth = np.array([[0, 1, 1, IGNORED]], np.uint8)
    counts = measures_of_road.count(np.array([[0.5, 0, 1, 1]]), truth)
    assert counts[0].nonzero()[0].tolist() == [128]
    assert counts[1].nonzero()[0].tolist() == [0, 255]
    assert counts.sum() == 3


def test_cross_entropy_by_hand():
    truth = np.array([[0, 1, 1, IGNORED]], np.uint8)
    for kind in (np.float32, np.float64):
        loss, pixels = measures_of_road.cross_entropy(np.array([[0.25, 0.5, 1, 0]], kind), truth)
        assert loss == pytest.approx(-np.log(0.75) - np.log(0.5), rel=1e-5) and pixels == 3
        worst, _ = measures_of_road.cross_entropy(np.array([[1, 0, 1, 0]], kind), truth)
        assert worst == pytest.approx(2 * np.log(1e7), rel=0.02)      # and not infinite
    assert measures_of_road.cross_entropy(np.ones((1, 4)), truth * 0 + IGNORED) == (0, 0)


def test_without_a_pixel_of_road_nothing_is_measured():
    nothing = histograms([1, 2, 3], [0, 0, 0])
    assert measures_of_road.measures(nothing) == measures_of_road.detail(nothing) == {}


def test_what_is_shown_exists():
    counts = histograms([9, 9, 0, 0], [1, 1, 0, 0])
    found = measures_of_road.measures(counts, ('not road', 'road'), 1)
    shown = {measures_of_road.BEST, *measures_of_road.COLUMNS, *measures_of_road.FRAME_COLUMNS,
             *measures_of_road.LOGGED}
    assert shown <= set(found)
    curve = measures_of_road.detail(counts)
    assert curve['precision'][5] == curve['recall'][9] == 100 and curve['recall'][10] == 0
    assert len(curve['precision']) == len(curve['recall']) == 256
