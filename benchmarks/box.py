"""Scores the network in the box, a run or an export as a user would use it: each photograph whole.

    python benchmarks/box.py [RUN or EXPORT] [--data-dir data] [--runtime RUNTIME]

KITTI's val3, MaxF with and without the labels' last rows, which end early there; CamVid's test
frames, the IoU of road, and how much of the road in the last rows is found.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import roadseg.quiet        # noqa: E402, F401, isort: skip; before TensorFlow
from tqdm import tqdm       # noqa: E402

from roadseg import runtimes        # noqa: E402
from roadseg.box import LAST_ROWS       # noqa: E402
from roadseg.commands import Parser, run_command        # noqa: E402
from roadseg.datasets import camvid, kitti      # noqa: E402
from roadseg.errors import InputError       # noqa: E402
from roadseg.model import load       # noqa: E402
from roadseg.scoring import road        # noqa: E402
from roadseg.training.pipeline import read_ahead     # noqa: E402


def command(argv=None):
    parser = Parser(prog='python benchmarks/box.py', description=__doc__)
    parser.add_argument('source', metavar='RUN or EXPORT', nargs='?',
                        help='by default the network in the box')
    parser.add_argument('--data-dir', default='data', metavar='DIR',
                        help='holds KITTI Road and CamVid')
    parser.add_argument('--runtime', choices=('auto', *runtimes.MODULES), default='auto',
                        help='what an export runs on')
    args = parser.parse_args(argv)
    streets, towns = kitti.load(args.data_dir), camvid.load(args.data_dir, 2)

    with load(args.source, args.runtime) as model:
        if model.road is None or len(model.classes) != 2:
            raise InputError(f'{args.source} is of {len(model.classes)} classes, expected road '
                             'and not road')

        def seen(dataset, pairs):
            for _, photograph, truth in read_ahead(tqdm(pairs, dataset.title, leave=False,
                                                        disable=None), dataset.read_label):
                yield model.predict(photograph)[..., model.road], truth

        whole = cut = towns_whole = towns_last = 0
        for probability, truth in seen(streets, streets.split('val3')[1]):
            whole += road.count(probability, truth)
            cut += road.count(probability[:-LAST_ROWS], truth[:-LAST_ROWS])
        for probability, truth in seen(towns, towns.split('test')[1]):
            towns_whole += road.count(probability, truth)
            towns_last += road.count(probability[-LAST_ROWS:], truth[-LAST_ROWS:])
    _, recall = road.precision_recall(towns_last)
    print(f"KITTI val3: MaxF {road.measures(whole)['MaxF']:.2f}, without the last {LAST_ROWS} rows "
          f"{road.measures(cut)['MaxF']:.2f}\n"
          f"CamVid test: IoU of road {road.measures(towns_whole)['IoU']:.2f}, found in the last "
          f'{LAST_ROWS} rows {100 * recall[road.HALF]:.1f} %')


if __name__ == '__main__':
    sys.exit(run_command(command))
