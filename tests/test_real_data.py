"""What only the real data can show: `pytest -m slow`, with KITTI Road and VGG16's weights in `data/`."""
from pathlib import Path

import numpy as np
import pytest

import main
from roadseg.commands import run_command
from roadseg.datasets import catalogue
from roadseg.datasets.description import IGNORED
from roadseg.files import read_json
from roadseg.images import resize
from roadseg.networks import vgg16
from roadseg.scoring import road, score

DATA = Path(__file__).parents[1] / 'data'
WEIGHTS = DATA / 'vgg16_imagenet_notop.npz'         # the 13 convolutions, see `vgg16`

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / 'data_road/training').exists(),
                       reason=f'no KITTI Road in {DATA}; python main.py downloads it')]


@pytest.fixture(scope='module')
def dataset():
    return catalogue.load('kitti', DATA)


def test_every_label_is_kittis_and_the_shares_are_as_published(dataset):
    training, validation = dataset.split('val3')
    assert (len(training), len(validation)) == (241, 48)
    counts = sum(np.bincount(dataset.read_label(label).ravel(), minlength=256)
                 for _, label in training + validation)
    shares = counts / counts.sum()
    assert shares[[0, 1, IGNORED]] == pytest.approx([0.8097, 0.1771, 0.0132], abs=1e-4)


def test_floor_that_needs_no_image(dataset):
    """The mean training mask of a category, taken for the confidence of each of its frames."""
    training, validation = dataset.split('val3')
    masks = {}
    for image, label in training:
        classes = resize(dataset.read_label(label), (375, 1242), 0)
        masks.setdefault(dataset.group(image.stem), []).append(classes == 1)
    means = {category: np.mean(stack, axis=0, dtype=np.float32)
             for category, stack in masks.items()}
    counts = {}
    for image, label in validation:
        classes = dataset.read_label(label)
        mean = resize(means[dataset.group(image.stem)], classes.shape)
        counts[image.stem] = road.count(mean, classes)
    urban = score.measures_by_group(counts, dataset)['URBAN']
    assert urban['MaxF'] == pytest.approx(81.65, abs=0.5)


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f'no {WEIGHTS}')
def test_a_short_training_beats_the_floor(tmp_path):
    """From the file of weights on, as an encoder that lies in data/ may be of earlier code."""
    assert run_command(vgg16.main, ['--weights', str(WEIGHTS), '--out', str(tmp_path / 'vgg'),
                                    '--context']) == 0
    arguments = ['--data-dir', DATA, '--encoder', tmp_path / 'vgg', '--runs-dir', tmp_path / 'runs',
                 '--image-size', '96x320', '--epochs', '1', '--max-steps', '200']
    assert run_command(main.main, [str(argument) for argument in arguments]) == 0
    run, = (path for path in (tmp_path / 'runs').iterdir() if path.is_dir())
    assert read_json(run / 'evaluation.json')['scores']['URBAN']['MaxF'] > 85
    assert len(list((run / 'overlays').glob('*.png'))) == 290
