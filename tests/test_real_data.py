"""What only the real data can show: `pytest -m slow`, with KITTI Road and VGG16 in `data/`."""
from pathlib import Path

import numpy as np
import pytest

import helper
import main
from roadseg import metrics, scoring
from roadseg.run_folder import read_json

DATA = Path(__file__).parents[1] / 'data'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / 'data_road/training').exists(),
                       reason=f'no KITTI Road in {DATA}; python main.py downloads it')]


@pytest.fixture(scope='module')
def split():
    return helper.split_pairs(helper.paired_paths(DATA / 'data_road/training'), 'val3')


def test_every_label_is_kittis_and_the_shares_are_as_published(split):
    training, validation = split
    assert (len(training), len(validation)) == (241, 48)
    counts = sum(np.bincount(helper.read_road_label(label).ravel(), minlength=256)
                 for _, label in training + validation)
    shares = counts / counts.sum()
    assert shares[[0, 1, helper.IGNORED]] == pytest.approx([0.8097, 0.1771, 0.0132], abs=1e-4)


def test_floor_that_needs_no_image(split):
    """The mean training mask of a category, taken for the confidence of each of its frames."""
    training, validation = split
    masks = {}
    for image, label in training:
        classes = helper.resize(helper.read_road_label(label), (375, 1242), 0)
        masks.setdefault(helper.category(image), []).append(classes == 1)
    means = {category: np.mean(stack, axis=0, dtype=np.float32)
             for category, stack in masks.items()}
    histograms = {}
    for image, label in validation:
        classes = helper.read_road_label(label)
        mean = helper.resize(means[helper.category(image)], classes.shape)
        histograms[image.name] = metrics.confidence_histograms(
            scoring.confidence(mean), classes == 1, classes != helper.IGNORED)
    urban = metrics.measures_by_category(histograms)['URBAN']
    assert urban['MaxF'] == pytest.approx(81.65, abs=0.5)


@pytest.mark.skipif(not (DATA / 'vgg').exists(),
                    reason=f'no VGG16 in {DATA}; see python -m roadseg.vgg16')
def test_a_short_training_beats_the_floor(tmp_path):
    arguments = ['--data-dir', DATA, '--runs-dir', tmp_path, '--image-size', '96x320',
                 '--epochs', '1', '--max-steps', '200']
    assert main.main([str(argument) for argument in arguments]) == 0
    run, = tmp_path.iterdir()
    assert read_json(run / 'evaluation.json')['scores']['URBAN']['MaxF'] > 85
    assert len(list((run / 'overlays').glob('*.png'))) == 290
