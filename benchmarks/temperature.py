"""Why KITTI's average precision says little between good networks, on the photographs held out.

    python benchmarks/temperature.py RUN [RUN ...] [--test-scale FACTOR[,FACTOR...]] [--flip-test]

The logit of road is divided by a temperature (Guo et al., "On Calibration of Modern Neural
Networks", 2017), which changes no order among the pixels: MaxF stays as it is, up to the 256
levels of confidence. AP is the mean of eleven precisions, of which the last is asked for at
recall 1. Where a single pixel of road lies in the lowest of the 256 levels, that takes every
pixel, and the last precision is the share of road.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import roadseg.quiet        # noqa: E402, F401, isort: skip; before TensorFlow
import numpy as np       # noqa: E402
from scipy.special import expit, logit      # noqa: E402
from tqdm import tqdm       # noqa: E402

from roadseg.commands import Parser, add_averaging, run_command       # noqa: E402
from roadseg.errors import InputError       # noqa: E402
from roadseg.model import load       # noqa: E402
from roadseg.run_data import open_dataset       # noqa: E402
from roadseg.scoring import road        # noqa: E402
from roadseg.training.pipeline import read_ahead     # noqa: E402

TEMPERATURES = (0.7, 1, 1.3, 1.5, 2, 3, 4)


def tempered(probability, temperature):
    """The probability of a logit divided by `temperature`: float32 (H, W), 0-1, as what it is of."""
    if temperature == 1:
        return probability
    # beside 1, float32 ends at 6e-8
    return expit(logit(np.clip(probability, 1e-30, 1 - 6e-8)) / temperature)


def counts(run, args):
    """Counts what each temperature makes of the photographs that a run has held out.

    Returns:
        dict from temperature to (histograms (2, 256), sum of cross entropy, pixels).

    Raises:
        InputError: the run is of other classes, or holds nothing out.
    """
    dataset, _, options = open_dataset(run, args.data_dir)
    if dataset.measures is not road:
        raise InputError(f'{run} is of {len(dataset.classes)} classes, expected a run of road '
                         'and not road')
    _, held_out = dataset.split(options['split'] or dataset.default_split)
    if not held_out:
        raise InputError(f'{run} holds no photograph out')
    found = {temperature: (0, 0.0, 0) for temperature in TEMPERATURES}
    with load(run, test_scale=args.test_scale, flip_test=args.flip_test) as model:
        for _, photograph, classes in read_ahead(
                tqdm(held_out, Path(run).name, leave=False, disable=None), dataset.read_label):
            probability = model.network.probability(photograph)
            for temperature, before in found.items():
                prediction = tempered(probability, temperature)
                found[temperature] = tuple(map(sum, zip(before, (
                    road.count(prediction, classes), *road.cross_entropy(prediction, classes)))))
    return found


def command(argv=None):
    parser = Parser(prog='python benchmarks/temperature.py', description=__doc__)
    parser.add_argument('runs', metavar='RUN', nargs='+', help='folder runs/<date-time>')
    add_averaging(parser)
    parser.add_argument('--data-dir', metavar='DIR',
                        help='holds the data set; by default where it lay in the training')
    args = parser.parse_args(argv)

    found = [counts(run, args) for run in args.runs]
    share = np.mean([of_run[1][0][1].sum() / of_run[1][0].sum() for of_run in found])
    print(f'share of road {100 * share:.2f} %: with the last precision at that, AP is at most '
          f'{100 * (10 + share) / 11:.2f}\n'
          'temperature   MaxF     AP   the first ten  the last   cross entropy')
    for temperature in TEMPERATURES:
        rows = []
        for of_run in found:
            histograms, loss, pixels = of_run[temperature]
            *ten, last = road.precisions_at_steps(*road.precision_recall(histograms))
            scores = road.measures(histograms)
            rows.append((scores['MaxF'], scores['AP'], 100 * np.mean(ten), 100 * last,
                         loss / pixels))
        print('{:11} {:6.2f} {:6.2f} {:15.2f} {:9.2f} {:15.4f}'.format(
            temperature, *np.mean(rows, axis=0)))


if __name__ == '__main__':
    sys.exit(run_command(command))
