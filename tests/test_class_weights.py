"""Median frequency balancing, by hand and on what can go wrong."""
from types import SimpleNamespace

import numpy as np
import pytest

from roadseg.errors import InputError
from roadseg.training.class_weights import find, median_frequency_weights


def test_weights_are_the_median_frequency_over_each():
    # Class 0: 6 of 10 pixels of both; class 1: 3 of 10; class 2: 1 of the 4 of the second.
    first = np.array([[0, 0, 0], [0, 1, 1]], np.uint8)
    second = np.array([[0, 0], [1, 2]], np.uint8)
    weights = median_frequency_weights(iter([first, second]), 3)
    assert weights.dtype == np.float32 and weights.shape == (3,)
    np.testing.assert_allclose(weights, [.3 / .6, 1, .3 / .25], rtol=1e-6)


def test_pixels_that_are_not_evaluated_do_not_count():
    label = np.array([[0, 1, 255, 255, 255, 255, 255]], np.uint8)
    np.testing.assert_allclose(median_frequency_weights([label], 2), [1, 1])


def test_a_class_that_never_occurs_gets_0_and_is_named(capsys):
    label = np.array([[0, 0, 0, 2]], np.uint8)
    weights = median_frequency_weights([label], 4, ('sky', 'pole', 'road', 'car'))
    np.testing.assert_allclose(weights, [.5 / .75, 0, .5 / .25, 0], rtol=1e-6)
    shown = capsys.readouterr().err
    assert shown.startswith('warning: ') and shown.count('\n') == 1
    assert 'pole, car' in shown
    median_frequency_weights([label], 3)
    assert 'class 1;' in capsys.readouterr().err


def test_one_value_everywhere(capsys):
    np.testing.assert_allclose(median_frequency_weights([np.ones((2, 3), np.uint8)], 2), [0, 1])
    assert 'class 0' in capsys.readouterr().err


@pytest.mark.parametrize('arrays', [[], [np.full((2, 3), 255, np.uint8)]])
def test_nothing_evaluated_is_refused(arrays):
    with pytest.raises(InputError, match='no pixel'):
        median_frequency_weights(arrays, 2)


def test_weights_of_a_data_set(capsys):
    labels = {'a': np.array([[0, 0, 1]], np.uint8), 'b': np.array([[1, 1, 255]], np.uint8)}
    dataset = SimpleNamespace(read_label=labels.get, classes=('ground', 'road', 'sky'))
    pairs = [('photograph', 'a'), ('photograph', 'b')]
    assert find('none', pairs, dataset) is None
    weights = find('median', pairs, dataset)
    np.testing.assert_array_equal(weights, median_frequency_weights(labels.values(), 3))
    assert 'class sky;' in capsys.readouterr().err
