"""Where a run's wrong pixels lie, on the photographs it has seen and on those held out.

    python benchmarks/errors.py RUN

Wrong at threshold 0.5, per 100 pixels of road: in the last rows, and above them by the distance
to the border of the road. Then, how often each of the last rows is labelled "no road" under
columns that are road.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf
from scipy.ndimage import distance_transform_edt
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

import helper       # noqa: E402
from roadseg import checkpoints, evaluate, metrics, scoring     # noqa: E402
from roadseg.run_folder import read_options     # noqa: E402

DISTANCES = (3, 6, 12, 24)      # pixels of the photograph
LAST_ROWS = 4
ROWS_ABOVE = 12                 # a column counts if this row from the bottom is road


def wrong_pixels(probability, classes):
    """Returns counts of wrong pixels in the last rows; above, by distance; and of road pixels."""
    road = classes == 1
    wrong = ((probability >= 0.5) != road) & (classes != helper.IGNORED)
    distance = np.where(road, distance_transform_edt(road), distance_transform_edt(~road))
    bins = np.digitize(distance[:-LAST_ROWS][wrong[:-LAST_ROWS]], DISTANCES, right=True)
    above = np.bincount(bins, minlength=len(DISTANCES) + 1)
    return np.array([wrong[-LAST_ROWS:].sum(), *above, road.sum()])


def cut_rows(classes):
    """Of the columns with road, how many are "no road" in the last, the second last row, ..."""
    columns = classes[-ROWS_ABOVE] == 1
    return np.append((classes[:-LAST_ROWS - 1:-1, columns] == 0).sum(axis=1), columns.sum())


def command():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('run', metavar='RUN')
    parser.add_argument('--data-dir', help='holds data_road/ (default: as in the training)')
    args = parser.parse_args()

    options = read_options(args.run)
    folder = Path(args.data_dir or options['data_dir']) / 'data_road/training'
    seen, held_out = helper.split_pairs(helper.paired_paths(folder), options['split'])
    print(f'              MaxF   wrong   last {LAST_ROWS} rows   above: '
          + ''.join(f'  <= {distance:2d} px' for distance in DISTANCES) + '  farther')
    bottom = []
    with tf.Graph().as_default(), tf.Session(
            config=checkpoints.session_config(options['precision'])) as sess:
        _, network = evaluate.open_network(sess, args.run, options, 'last')
        with scoring.averaged_weights(sess):
            for name, pairs in (('trained on', seen), ('held out', held_out)):
                histograms, counts, cut = {}, [], []
                for stem, photograph, classes in tqdm(scoring.read_samples(pairs), name,
                                                      len(pairs), leave=False, disable=None):
                    probability = network.look(photograph)
                    histograms[stem] = metrics.confidence_histograms(
                        scoring.confidence(probability), classes == 1, classes != helper.IGNORED)
                    counts.append(wrong_pixels(probability, classes))
                    cut.append(cut_rows(classes))
                *wrong, road = np.sum(counts, axis=0)
                maxf = metrics.measures_by_category(histograms)[metrics.POOLED]['MaxF']
                last, *above = (100 * count / road for count in wrong)
                print(f'{name:10}  {maxf:6.2f}  {last + sum(above):6.2f}  {last:11.2f}          '
                      + ''.join(f'{share:10.2f}' for share in above))
                bottom.append((name, np.sum(cut, axis=0)))
    for name, (*rows, columns) in bottom:
        print(f'{name}: labelled "no road" in the last row, the one above it, ...: '
              + ', '.join(f'{100 * row / columns:.0f} %' for row in rows))


if __name__ == '__main__':
    command()
