"""Scores a trained run with the measures of its data set: of KITTI Road, KITTI's own.

    python -m roadseg.evaluate RUN [RUN ...] [--split SPLIT] [--bev] [--checkpoint last|best]
                              [--flip-test] [--test-scale FACTOR[,FACTOR...]]
    python -m roadseg.evaluate RUN --submission FILE.zip

Prints the table, and writes `evaluation.json`, the pictures and the page of the run anew. Several
runs on the same photographs, as with several seeds, give mean and sample standard deviation. Runs
trained with `--split kfold:K:0`, `kfold:K:1` and so on are pooled with `--split kfold:K`: every
photograph is then scored by the network that has not seen it.
"""
if __name__ == '__main__':      # before the imports, which take seconds
    from roadseg.signals import stop_at_once
    stop_at_once()
import io
import os
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
import imageio.v3 as imageio
import numpy as np
from tqdm import tqdm

from roadseg.commands import Parser, add_averaging, named_folder, run_command, typed
from roadseg.datasets import catalogue, cityscapes
from roadseg.errors import InputError
from roadseg.files import check_writable, delete, differ, is_there, write_json, write_whole
from roadseg.images import read_image
from roadseg.model import load
from roadseg.run_data import open_dataset
from roadseg.scoring import bev, page, road, score
from roadseg.threads import prepared_ahead
from roadseg.training import checkpoints
from roadseg.training.options import complete
from roadseg.training.pipeline import read_ahead
from roadseg.training.run_folder import read_log, read_options
from roadseg.training.start_from import learned_from

COMPARED = ('dataset', 'classes', 'model', 'encoder', 'image_size', 'epochs', 'batch_size')


def opened(run, args):
    """Opens a run as the command asks: namespace with `checkpoint`, `test_scale`, `flip_test`."""
    return load(run, checkpoint=args.checkpoint, test_scale=args.test_scale,
                flip_test=args.flip_test)


def frames_of(split, trained_split, dataset, run, data_dir):
    """The labelled photographs of a split.

    Args:
        split: one of the data set, 'all' or 'kfold:K'; None for the one that the run held out.
        trained_split: that of the run.
        dataset: `Dataset`.
        run: folder.
        data_dir: where the data set lies.

    Returns:
        (name of the split, list of (image, label) paths, how many of these the run has learned
        from).

    Raises:
        InputError: another split, or the run was not trained for this one; a file of it is
            damaged.
    """
    if split is None:
        split = 'all' if trained_split == 'none' else trained_split
    if split.startswith('kfold:') and split.count(':') == 1:
        dataset.split(f'{split}:0')     # raises, where K is no number of folds
        if not trained_split.startswith(split + ':'):
            raise InputError(f'{run} was trained with --split {trained_split}; {split} takes '
                             f'runs trained with --split {split}:0, {split}:1 and so on')
        split = trained_split
    chosen = dataset.labelled if split == 'all' else dataset.split(split)[1]
    if not chosen:
        raise InputError(f'--split {split} holds no photograph out; name another, or all')
    score.check_names(chosen)
    # By what the run noted, as its split is another one where photographs have come since.
    seen = len(learned_from(run, data_dir, chosen))
    if seen:
        print(f'warning: {run} was trained on {seen} of these {len(chosen)} photographs; '
              'their score says little about new ones', file=sys.stderr)
    return split, chosen, seen


def read_calibrations(images, dataset):
    """Reads the calibration of those photographs that have one in `calib/`, and says how many.

    Args:
        images: paths in `image_2/`.
        dataset: `Dataset` of theirs.

    Returns:
        dict from name to `bev.Calibration`.

    Raises:
        InputError: none has one, one is malformed, or the measures are not those of road.
    """
    if dataset.measures is not road:
        raise InputError("the bird's-eye view is scored for road and not road alone; "
                         f'{dataset.title} has {len(dataset.classes)} classes, leave --bev out')
    paths = {image.stem: image.parents[1] / 'calib' / f'{image.stem}.txt' for image in images}
    missing = [path for path in paths.values() if not os.path.exists(path)]
    if len(missing) == len(paths):
        raise InputError(f'none of {len(paths)} photographs has a calibration: {missing[0]} and '
                         f"so on are missing; KITTI's data_road.zip has them all, and other data "
                         "sets have no bird's-eye view")
    if missing:
        print(f"warning: bird's-eye view without {len(missing)} of {len(paths)} photographs, "
              f'whose calibration is missing, the first being {missing[0]}', file=sys.stderr)
    return {name: bev.read_calibration(path) for name, path in paths.items()
            if os.path.exists(path)}


class Task(NamedTuple):
    """What it takes to score a run."""
    run: Path
    dataset: object         # `Dataset`
    split: str              # name
    pairs: list             # (image, label) paths
    seen: int               # how many of them the run has learned from
    calibrations: dict      # from name to `bev.Calibration`, or None


def prepare(run, args):
    """Finds what it takes to score a run, before the minutes that scoring takes.

    Args:
        run: folder.
        args: namespace of the command.

    Returns:
        `Task`.

    Raises:
        InputError: no run, no checkpoint, no labelled photograph, a damaged log.
    """
    dataset, folder, options = open_dataset(run, args.data_dir)
    split, pairs, seen = frames_of(args.split, options['split'] or dataset.default_split, dataset,
                                   run, folder)
    calibrations = None
    if args.bev:
        calibrations = read_calibrations([image for image, _ in pairs], dataset)
    checkpoints.candidates(run, args.checkpoint)
    read_log(run)        # which the page shows
    return Task(Path(run), dataset, split, pairs, seen, calibrations)


def evaluate(task, args):
    """Scores a run, and writes `evaluation.json`, pictures and page.

    Args:
        task: `Task`.
        args: namespace of the command.

    Returns:
        What `score.score` returns.

    Raises:
        InputError: no whole checkpoint, or an unreadable photograph or label.
    """
    run, dataset, split, pairs, seen, calibrations = task
    with opened(run, args) as model:
        samples = read_ahead(tqdm(pairs, 'scoring', leave=False, disable=None),
                             dataset.read_label)
        # Of scores and pictures, a kill leaves those of one network, or no scores.
        delete(run / 'evaluation.json')
        result = score.score(model.network, dataset, samples, run / 'validation', calibrations)
        content = score.summary(result, dataset, model.name, split, model.network)
    write_json(run / 'evaluation.json', {**content, 'seen': seen})
    page.write_page(run)
    return result


def check_comparable(runs):
    """Refuses runs of different data sets, and names the options in which the runs differ."""
    if len({os.path.realpath(run) for run in runs}) < len(runs):
        raise InputError('a run is named twice, which would say that runs agree; name it once')
    options = [complete(read_options(run), run) for run in runs]
    for name in COMPARED:
        values = [of_run[name] for of_run in options]
        if name == 'classes':       # the data set's own may be given, or not
            values = [value or catalogue.DATASETS[of_run['dataset']].classes
                      for value, of_run in zip(values, options)]
        if any(value != values[0] for value in values):
            what = '; '.join(f'{run}: {typed(value)}' for run, value in zip(runs, values))
            if name in ('dataset', 'classes'):
                raise InputError(f'runs of several data sets make no mean: --{name} is {what}')
            print(f"warning: the runs differ in --{name.replace('_', '-')}: {what}",
                  file=sys.stderr)


def check_together(tasks):
    """Refuses runs whose photographs or classes make no common table.

    Args:
        tasks: list of `Task`.

    Raises:
        InputError: they don't.
    """
    if len({task.dataset.classes for task in tasks}) > 1:
        raise InputError('the runs know different classes; score them one by one')
    known = {}
    for image in (image for task in tasks for image, _ in task.pairs):
        other = known.setdefault(image.stem, image)
        if other != image and differ(other, image):
            raise InputError(f'{other} and {image} are different photographs of the same name; '
                             'score the runs one by one')
    score.are_pooled([{image.stem for image, _ in task.pairs} for task in tasks])


def write_submission(run, args):
    """Writes what the server of the data set takes, zipped.

    KITTI's takes bird's-eye-view confidence maps, 800x400 8-bit PNGs named `um_road_000000.png`
    and so on; that of Cityscapes takes PNGs of label ids, of the photographs' size and name.

    Args:
        run: folder.
        args: namespace of the command; `submission` is the path of the archive.

    Returns:
        Number of files in it.

    Raises:
        InputError: photographs or calibrations are missing, or the data set has no server.
    """
    target = Path(args.submission)
    if (target.suffix.lower() != '.zip' or is_there(target) and not os.path.isfile(target)
            or not os.path.isdir(target.parent)):
        raise InputError(f'cannot write {target}: name a .zip file in a folder that is there')
    check_writable(target)
    dataset, folder, _ = open_dataset(run, args.data_dir)
    if dataset.server is None:
        raise InputError(f'{dataset.title} has no server that takes submissions; --submission is '
                         'for KITTI Road and Cityscapes')
    if not dataset.tests:
        raise InputError(f'{dataset.title} has no test photographs in {folder}')
    encode = {'kitti': kitti_encoder, 'cityscapes': cityscapes_encoder}[dataset.server](dataset)
    archive = io.BytesIO()
    with opened(run, args) as model, zipfile.ZipFile(archive, 'w') as members:
        def look(image):
            name, picture = encode(image, dataset.measures.predict(model.network,
                                                                  read_image(image)))
            return name, imageio.imwrite('<bytes>', picture, extension='.png')

        shown = tqdm(dataset.tests, 'submission', disable=None)
        # a second thread decodes and encodes while the network is busy
        for name, png in prepared_ahead(look, shown, threads=2, ahead=2):
            members.writestr(name, png)
    write_whole(args.submission, archive.getvalue())
    return len(dataset.tests)


def kitti_encoder(dataset):
    """Returns a function of (image path, prediction) that gives (name, confidence map)."""
    folder = dataset.tests[0].parents[1] / 'calib'
    missing = [image.stem for image in dataset.tests
               if not os.path.exists(folder / f'{image.stem}.txt')]
    if missing:
        raise InputError(f'a submission needs the calibration of every test photograph; '
                         f'{len(missing)} of {len(dataset.tests)} are missing in {folder}: '
                         + ', '.join(missing[:5]) + (' ...' if len(missing) > 5 else '')
                         + "; KITTI's data_road.zip has them all")
    for image in dataset.tests:
        category, _, number = image.stem.partition('_')
        if category not in dataset.groups or not (number.isascii() and number.isdigit()):
            raise InputError(f"{image}: KITTI's server takes no such name, expected one such as "
                             'um_000012.png')
    calibrations = read_calibrations(dataset.tests, dataset)

    def encode(image, prediction):
        seen, _ = bev.to_bev(dataset.measures.confidence(prediction), calibrations[image.stem])
        return image.stem.replace('_', '_road_') + '.png', seen

    return encode


def cityscapes_encoder(dataset):
    """Returns a function of (image path, prediction) that gives (name, label ids)."""
    cityscapes.to_label_ids(np.zeros((1, 1), np.uint8), len(dataset.classes))    # raises early

    def encode(image, prediction):
        numbers = dataset.measures.decide(prediction)
        return image.name, cityscapes.to_label_ids(numbers, len(dataset.classes))

    return encode


def main(argv=None):
    """The command: prints the table, or writes a submission."""
    parser = Parser(prog='python -m roadseg.evaluate', description=__doc__)
    add = parser.add_argument
    add('runs', nargs='+', metavar='RUN', type=named_folder, help='folder runs/<date-time>')
    add('--split', metavar='SPLIT',
        help='photographs to score: a split of the data set, all, or kfold:K of runs trained on '
             'each fold; by default those that the run held out')
    add('--bev', action='store_true',
        help="score the bird's-eye view, too, as the KITTI server does")
    add('--checkpoint', choices=('last', 'best'), default='last',
        help='which one to score: best is that of the epoch with the highest validation score, '
             'of those that have one, which flatters the score on the split it was chosen by')
    add_averaging(parser)
    add('--data-dir', type=named_folder, default=None, metavar='DIR',
        help='holds the data set; by default where it lay in the training')
    add('--submission', metavar='FILE.zip', default=None,
        help='write what the server of KITTI Road or Cityscapes takes of the test photographs '
             'instead')
    args = parser.parse_args(argv)
    if args.submission is not None:
        if len(args.runs) > 1:
            raise InputError('--submission takes one run')
        if args.split is not None or args.bev:
            raise InputError('--submission is of the test photographs, which have no labels; '
                             'leave --split and --bev out')
        print(f'wrote {write_submission(args.runs[0], args)} files into {args.submission}')
        return
    check_comparable(args.runs)
    tasks = [prepare(run, args) for run in args.runs]
    check_together(tasks)
    print(score.tables([evaluate(task, args) for task in tasks], tasks[0].dataset))


if __name__ == '__main__':
    sys.exit(run_command(main))
