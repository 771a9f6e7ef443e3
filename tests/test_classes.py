"""Scores of any number of classes, against cases by hand and NumPy's and SciPy's own functions."""
import time
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from roadseg.datasets.description import IGNORED
from roadseg.images import resize
from roadseg.predict import look_at
from roadseg.scoring import classes as class_scores


# Confusion matrix -----------------------------------------------------------------------------

def test_confusion_matrix_has_truth_in_rows():
    truth = np.array([[0, 0, 1, 2, 2]])
    prediction = np.array([[0, 2, 2, 2, 0]])
    matrix = class_scores.confusion_matrix(truth, prediction, 4)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, [[1, 0, 1, 0],
                                           [0, 0, 1, 0],
                                           [1, 0, 1, 0],
                                           [0, 0, 0, 0]])


@pytest.mark.parametrize('void', [-1, 3, 255])
def test_confusion_matrix_does_not_count_void(void):
    truth = np.array([[0, 1, 2, void, void]])
    prediction = np.array([[0, 1, 2, 0, 2]])
    np.testing.assert_array_equal(class_scores.confusion_matrix(truth, prediction, 3), np.eye(3))


def test_confusion_matrix_of_many_classes_in_uint8():
    classes = np.arange(20, dtype=np.uint8).reshape(4, 5)
    np.testing.assert_array_equal(class_scores.confusion_matrix(classes, classes, 20), np.eye(20))


def test_confusion_matrix_against_a_loop():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(-1, 5, (3, 5, 7)), rng.integers(0, 4, (3, 5, 7))
    expected = np.zeros((4, 4), int)
    for t, p in zip(truth.flat, prediction.flat):
        if 0 <= t < 4:
            expected[t, p] += 1
    np.testing.assert_array_equal(class_scores.confusion_matrix(truth, prediction, 4), expected)


@pytest.mark.parametrize('truth, prediction, message', [
    (np.zeros((3, 5), int), np.zeros((5, 3), int), r'\(3, 5\), prediction \(5, 3\)'),
    (np.zeros((3, 5), int), np.full((3, 5), 2), r'15 of 15 predictions are outside 0 .. 1.* 2$'),
    (np.full((3, 5), 255), np.full((3, 5), -1), r'15 of 15 predictions .* -1$'),
    (np.zeros((3, 5), int), np.zeros((3, 5)), 'prediction is float64'),
    (np.zeros((3, 5)), np.zeros((3, 5), int), 'truth is float64'),
])
def test_confusion_matrix_refuses(truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        class_scores.confusion_matrix(truth, prediction, 2)


def test_iou_by_hand():
    matrix = np.array([[4, 1, 0, 0],   # 4 / (5 + 4 - 4)
                       [0, 2, 1, 0],   # 2 / (3 + 3 - 2)
                       [0, 0, 0, 0],   # only predicted: 0 / 1
                       [0, 0, 0, 0]])  # absent
    np.testing.assert_allclose(class_scores.iou_per_class(matrix), [0.8, 0.5, 0, np.nan])
    assert class_scores.mean_iou(matrix) == pytest.approx(1.3 / 3)
    assert class_scores.pixel_accuracy(matrix) == 6 / 8


@pytest.mark.filterwarnings('error')
def test_scores_of_nothing_are_nan():
    matrix = np.zeros((3, 3), np.int64)
    assert np.isnan(class_scores.iou_per_class(matrix)).all()
    assert np.isnan(class_scores.mean_iou(matrix))
    assert np.isnan(class_scores.pixel_accuracy(matrix))


def test_class_accuracy_is_the_mean_over_the_classes_that_occur():
    matrix = np.array([[4, 1, 0, 0],
                       [0, 2, 1, 0],
                       [0, 0, 0, 0],
                       [0, 0, 0, 0]])
    assert class_scores.class_accuracy(matrix) == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert np.isnan(class_scores.class_accuracy(0 * matrix))


# What the scoring asks for --------------------------------------------------------------------

@pytest.fixture
def scores():
    """Logits (5, 8, 4), smooth and of all classes."""
    return np.random.default_rng(0).normal(size=(5, 8, 4)).astype(np.float32)


def test_classes_are_those_of_the_highest_resized_probability(scores):
    photograph = np.zeros((13, 21, 3), np.uint8)
    network = SimpleNamespace(scores=lambda photograph: scores)
    found, numbers = class_scores.predict(network, photograph)
    probabilities = softmax(scores, axis=-1)
    planes = [resize(np.ascontiguousarray(plane), (13, 21))
              for plane in np.moveaxis(probabilities, -1, 0)]
    assert found is scores
    assert numbers.dtype == np.uint8
    np.testing.assert_array_equal(numbers, np.argmax(planes, axis=0))
    np.testing.assert_array_equal(class_scores.decide((found, numbers)), numbers)
    model = SimpleNamespace(palette=[(9 * number,) * 3 for number in range(4)], road=None,
                            classes='abcd')
    np.testing.assert_array_equal(look_at(photograph, probabilities, model)[1], numbers)


def test_of_equal_scores_the_first_class_is_taken():
    assert not class_scores.class_numbers(np.zeros((2, 3, 4), np.float32), (5, 7)).any()


def test_confidence_is_the_probability_of_the_class_taken(scores):
    confidence = class_scores.confidence((scores, None))
    expected = np.floor(256 * softmax(scores.astype(float), axis=-1).max(axis=-1))
    assert confidence.dtype == np.uint8 and abs(confidence - expected).max() <= 1
    sure = np.array([[[0, 1000, 0]]], np.float32)
    assert class_scores.confidence((sure, None)).tolist() == [[255]]


def test_cross_entropy_is_taken_at_the_networks_size(scores):
    truth = np.random.default_rng(1).integers(0, 4, (5, 8)).astype(np.uint8)
    truth[2, 3:] = IGNORED
    rows, columns = np.nonzero(truth != IGNORED)
    expected = -log_softmax(scores, axis=-1)[rows, columns, truth[rows, columns]].sum()
    large = truth.repeat(3, axis=0).repeat(2, axis=1)       # as the photograph's label is
    for label in (truth, large):
        loss, pixels = class_scores.cross_entropy((scores, None), label)
        assert loss == pytest.approx(expected, rel=1e-5) and pixels == 35
    assert class_scores.cross_entropy((scores, None), 0 * truth + IGNORED) == (0, 0)


def test_scores_of_the_photographs_own_size_are_not_resized(scores):
    numbers = class_scores.class_numbers(scores, scores.shape[:2])
    assert numbers.dtype == np.uint8
    np.testing.assert_array_equal(numbers, scores.argmax(axis=-1))


@pytest.mark.slow
def test_19_classes_at_1024x2048_take_under_a_second():
    rng = np.random.default_rng(2)
    scores = rng.random((1024, 2048, 19), np.float32)
    truth = rng.integers(0, 19, (1024, 2048), np.uint8)
    network = SimpleNamespace(scores=lambda photograph: scores)
    seconds = []
    for _ in range(3):
        began = time.process_time()
        prediction = class_scores.predict(network, np.zeros((1024, 2048, 3), np.uint8))
        class_scores.count(prediction, truth, 19)
        class_scores.cross_entropy(prediction, truth)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 1


def test_measures_have_the_classes_names_and_leave_out_what_does_not_exist():
    matrix = np.array([[4, 1, 0], [0, 3, 0], [0, 0, 0]])
    found = class_scores.measures(matrix, ('sky', 'road', 'car'), road=1)
    assert found == pytest.approx({
        'mIoU': 100 * (4 / 5 + 3 / 4) / 2, 'accuracy': 100 * 7 / 8,
        'class accuracy': 100 * (4 / 5 + 1) / 2, 'road IoU': 75, 'IoU sky': 80, 'IoU road': 75})
    assert set(class_scores.COLUMNS) <= set(found) and class_scores.BEST in found
    assert 'road IoU' not in class_scores.measures(matrix, ('sky', 'lake', 'car'))
    assert class_scores.measures(0 * matrix, ('sky', 'road', 'car'), road=1) == {}


def test_counts_are_confusion_matrices_that_the_page_can_draw():
    truth = np.array([[0, 1, IGNORED]], np.uint8)
    counts = class_scores.count((None, np.array([[0, 0, 1]], np.uint8)), truth, 2)
    np.testing.assert_array_equal(counts, [[1, 0], [1, 0]])
    assert class_scores.detail(counts) == {'confusion': [[1, 0], [1, 0]]}
