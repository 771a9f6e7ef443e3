"""Where a run's wrong pixels lie, on the photographs it has seen and on those held out.

    python benchmarks/errors.py RUN

Wrong at threshold 0.5, per 100 pixels of road: in the last rows, and above them by the distance
to the border of the road. Then, how often each of the last rows is labelled "no road" under
columns that are road.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import roadseg.quiet        # noqa: E402, F401, isort: skip; before TensorFlow
import numpy as np       # noqa: E402
from scipy.ndimage import distance_transform_edt        # noqa: E402
from tqdm import tqdm       # noqa: E402

from roadseg.commands import Parser, run_command        # noqa: E402
from roadseg.datasets.description import IGNORED        # noqa: E402
from roadseg.errors import InputError       # noqa: E402
from roadseg.model import load       # noqa: E402
from roadseg.run_data import open_dataset       # noqa: E402
from roadseg.scoring import road        # noqa: E402
from roadseg.training.pipeline import read_ahead     # noqa: E402

DISTANCES = (3, 6, 12, 24)      # pixels of the photograph
LAST_ROWS = 4
ROWS_ABOVE = 12                 # a column counts if this row from the bottom is road


def wrong_pixels(probability, classes):
    """Returns counts of wrong pixels in the last rows; above, by distance; and of road pixels."""
    is_road = classes == 1
    wrong = ((probability >= 0.5) != is_road) & (classes != IGNORED)
    distance = np.where(is_road, distance_transform_edt(is_road), distance_transform_edt(~is_road))
    bins = np.digitize(distance[:-LAST_ROWS][wrong[:-LAST_ROWS]], DISTANCES, right=True)
    above = np.bincount(bins, minlength=len(DISTANCES) + 1)
    return np.array([wrong[-LAST_ROWS:].sum(), *above, is_road.sum()])


def cut_rows(classes):
    """Of the columns with road, how many are "no road" in the last, the second last row, ..."""
    columns = classes[-ROWS_ABOVE] == 1
    return np.append((classes[:-LAST_ROWS - 1:-1, columns] == 0).sum(axis=1), columns.sum())


def command(argv=None):
    parser = Parser(prog='python benchmarks/errors.py', description=__doc__)
    parser.add_argument('run', metavar='RUN', help='folder runs/<date-time>')
    parser.add_argument('--data-dir', metavar='DIR',
                        help='holds the data set; by default where it lay in the training')
    args = parser.parse_args(argv)

    dataset, _, options = open_dataset(args.run, args.data_dir)
    if dataset.measures is not road:
        raise InputError(f'{args.run} is of {len(dataset.classes)} classes, expected a run of '
                         'road and not road')
    seen, held_out = dataset.split(options['split'] or dataset.default_split)
    print(f'              MaxF   wrong   last {LAST_ROWS} rows   above: '
          + ''.join(f'  <= {distance:2d} px' for distance in DISTANCES) + '  farther')
    bottom = []
    with load(args.run) as model:
        for name, pairs in (('trained on', seen), ('held out', held_out)):
            if not pairs:
                continue
            histograms, counts, cut = 0, [], []
            for _, photograph, classes in read_ahead(
                    tqdm(pairs, name, leave=False, disable=None), dataset.read_label):
                probability = model.network.probability(photograph)
                histograms += road.count(probability, classes)
                counts.append(wrong_pixels(probability, classes))
                cut.append(cut_rows(classes))
            *wrong, of_road = np.sum(counts, axis=0)
            last, *above = (100 * count / max(of_road, 1) for count in wrong)
            print(f"{name:10}  {road.measures(histograms).get('MaxF', float('nan')):6.2f}  "
                  f'{last + sum(above):6.2f}  {last:11.2f}          '
                  + ''.join(f'{share:10.2f}' for share in above))
            bottom.append((name, np.sum(cut, axis=0)))
    for name, (*rows, columns) in bottom:
        print(f'{name}: labelled "no road" in the last row, the one above it, ...: '
              + ', '.join(f'{100 * row / max(columns, 1):.0f} %' for row in rows))


if __name__ == '__main__':
    sys.exit(run_command(command))
