"""Median frequency balancing, by hand and on what can go wrong."""
from types import SimpleNamespace

import numpy as np
import pytest

from roadseg.errors import InputError
from roadseg.training.class_weights import find

NAMES = ('ground', 'road', 'sky', 'car')


def weights_of(labels, num_classes):
    """The weights by the labels of a data set."""
    dataset = SimpleNamespace(read_label=labels.__getitem__, classes=NAMES[:num_classes])
    return find('median', [('photograph', number) for number in range(len(labels))], dataset)


def test_weights_are_the_median_frequency_over_each():
    # Class 0: 6 of 10 pixels of both; class 1: 3 of 10; class 2: 1 of the 4 of the second.
    first = np.array([[0, 0, 0], [0, 1, 1]], np.uint8)
    second = np.array([[0, 0], [1, 2]], np.uint8)
    weights = weights_of([first, second], 3)
    assert weights.dtype == np.float32 and weights.shape == (3,)
    np.testing.assert_allclose(weights, [.3 / .6, 1, .3 / .25], rtol=1e-6)


def test_pixels_that_are_not_evaluated_do_not_count():
    label = np.array([[0, 1, 255, 255, 255, 255, 255]], np.uint8)
    np.testing.assert_allclose(weights_of([label], 2), [1, 1])


def test_a_class_that_never_occurs_gets_0():
    label = np.array([[0, 0, 0, 2]], np.uint8)
    weights = weights_of([label], 4)
    np.testing.assert_allclose(weights, [.5 / .75, 0, .5 / .25, 0], rtol=1e-6)


def test_one_value_everywhere():
    np.testing.assert_allclose(weights_of([np.ones((2, 3), np.uint8)], 2), [0, 1])


@pytest.mark.parametrize('arrays', [[], [np.full((2, 3), 255, np.uint8)]])
def test_nothing_evaluated_is_refused(arrays):
    with pytest.raises(InputError, match='no pixel'):
        weights_of(arrays, 2)


def test_no_weights_are_wanted():
    assert find('none', [], None) is None
