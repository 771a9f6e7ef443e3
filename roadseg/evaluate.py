"""Scores a trained run with KITTI's own measures.

    python -m roadseg.evaluate RUN [RUN ...] [--split val3|search|all|kfold:K] [--bev]
                              [--checkpoint last|best] [--flip-test]
                              [--test-scale FACTOR[,FACTOR...]] [--submission FILE.zip]

Prints the table, and writes `evaluation.json`, the pictures and the page of the run anew. Several
runs on the same photographs, as with several seeds, give mean and sample standard deviation. Runs
trained with `--split kfold:K:0`, `kfold:K:1` and so on are pooled with `--split kfold:K`: every
photograph is then scored by the network that has not seen it.
"""
import argparse
import io
import sys
import zipfile
from pathlib import Path

import imageio.v3 as imageio
import tensorflow.compat.v1 as tf
from tqdm import tqdm

import helper
from helper import InputError
from main import factors
from roadseg import bev, checkpoints, report, scoring
from roadseg.run_folder import read_options, write_json, write_whole


def open_network(sess, run, options, which, scales=None, flip=None):
    """Restores a run's network into the session.

    Args:
        sess: session.
        run: folder.
        options: of the run.
        which: 'last' or 'best' checkpoint.
        scales: of the training's size, to average over; None for as in the training.
        flip: whether to average with the mirrored photographs; None for as in the training.

    Returns:
        (path of the checkpoint, `scoring.Network`).

    Raises:
        InputError: there is no whole checkpoint, or it holds another network.
    """
    path, graph = checkpoints.load(sess, run, which), sess.graph
    try:
        logits, keep_prob, input_image = (graph.get_tensor_by_name(name + ':0')
                                          for name in ('logits', 'keep_prob', 'image_input'))
    except KeyError as error:
        raise InputError(f'{path} is of another model: {error.args[0]}') from error
    if logits.shape[-1] != 2:
        raise InputError(f'{path} tells {logits.shape[-1]} classes apart; KITTI Road has 2')
    return path, scoring.Network(sess, logits, keep_prob, input_image, options['image_size'],
                                 options['test_scale'] if scales is None else scales,
                                 options['flip_test'] if flip is None else flip)


def frames_of(split, options, pairs, run):
    """The labelled photographs of a split.

    Args:
        split: 'val3', 'search', 'all' or 'kfold:K'.
        options: of the run.
        pairs: all (image, label) paths.
        run: folder, for messages.

    Returns:
        List of (image, label) paths.

    Raises:
        InputError: another split, or the run was not trained for this one.
    """
    trained_on = helper.split_pairs(pairs, options['split'])[0]
    if split == 'all':
        chosen = pairs
    elif split.startswith('kfold:'):
        if not options['split'].startswith(split + ':'):
            raise InputError(f"{run} was trained with --split {options['split']}; {split} takes "
                             f'runs trained with --split {split}:0, {split}:1 and so on')
        chosen = helper.split_pairs(pairs, options['split'])[1]
    else:
        chosen = helper.split_pairs(pairs, split)[1]
    seen = len(set(chosen) & set(trained_on))
    if seen:
        print(f'warning: {run} was trained on {seen} of these {len(chosen)} photographs; their '
              'score says little about new ones', file=sys.stderr)
    return chosen


def read_calibrations(images):
    """Reads the calibration of those photographs that have one in `calib/`, and says how many.

    Args:
        images: paths in `image_2/`.

    Returns:
        dict from name to `bev.Calibration`.

    Raises:
        InputError: none has one, or one is malformed.
    """
    paths = {image.stem: image.parents[1] / 'calib' / f'{image.stem}.txt' for image in images}
    missing = [path for path in paths.values() if not path.exists()]
    if len(missing) == len(paths):
        raise InputError(f'none of {len(paths)} photographs has a calibration: {missing[0]} and '
                         "so on are missing; KITTI's data_road.zip has them all")
    if missing:
        print(f"warning: bird's-eye view without {len(missing)} of {len(paths)} photographs, "
              f'whose calibration is missing, the first being {missing[0]}', file=sys.stderr)
    return {name: bev.read_calibration(path) for name, path in paths.items() if path.exists()}


def evaluate(run, split, data_dir, which='last', with_bev=False, scales=None, flip=None):
    """Scores a run, and writes `evaluation.json`, pictures and page.

    Args:
        run: folder.
        split: see `frames_of`; None for the one that the run held out.
        data_dir: holds `data_road/`; None for that of the training.
        which: 'last' or 'best' checkpoint.
        with_bev: whether to score the bird's-eye view too.
        scales, flip: see `open_network`.

    Returns:
        What `scoring.score` returns.

    Raises:
        InputError: no run, no checkpoint, no labelled photograph.
    """
    run, options = Path(run), read_options(run)
    if split is None:
        held_out = options['split'].rsplit(':', 1)[0]
        split = 'all' if held_out == 'none' else held_out
    training = Path(data_dir or options['data_dir']) / 'data_road/training'
    pairs = frames_of(split, options, helper.paired_paths(training), run)
    calibrations = read_calibrations([image for image, _ in pairs]) if with_bev else None
    with tf.Graph().as_default(), tf.Session(
            config=checkpoints.session_config(options['precision'])) as sess:
        path, network = open_network(sess, run, options, which, scales, flip)
        with scoring.averaged_weights(sess):
            samples = tqdm(scoring.read_samples(pairs), 'scoring', len(pairs), leave=False,
                           disable=None)
            result = scoring.score(network, samples, run / 'validation', calibrations)
    write_json(run / 'evaluation.json', scoring.summary(result, path.name, split, network))
    report.write_report(run)
    return result


def write_submission(run, data_dir, which, target, scales=None, flip=None):
    """Writes the bird's-eye-view confidence maps of the test photographs, zipped.

    The KITTI server takes 800x400 8-bit PNGs named `um_road_000000.png` and so on.

    Args:
        run: folder.
        data_dir: holds `data_road/testing/image_2` and `calib`; None for that of the training.
        which: 'last' or 'best' checkpoint.
        target: path of the archive.
        scales, flip: see `open_network`.

    Returns:
        Number of maps.

    Raises:
        InputError: photographs or calibrations are missing.
    """
    options = read_options(run)
    testing = Path(data_dir or options['data_dir']) / 'data_road/testing'
    images = sorted((testing / 'image_2').glob('*.png'))
    if not images:
        raise InputError(f"no .png file in {testing / 'image_2'}")
    missing = [image.stem for image in images
               if not (testing / 'calib' / f'{image.stem}.txt').exists()]
    if missing:
        raise InputError(f"a submission needs the calibration of every test photograph; "
                         f"{len(missing)} of {len(images)} are missing in {testing / 'calib'}: "
                         + ', '.join(missing[:5]) + (' ...' if len(missing) > 5 else '')
                         + "; KITTI's data_road.zip has them all")
    calibrations = read_calibrations(images)
    archive = io.BytesIO()
    with tf.Graph().as_default(), tf.Session(
            config=checkpoints.session_config(options['precision'])) as sess, \
            zipfile.ZipFile(archive, 'w') as members:
        _, network = open_network(sess, run, options, which, scales, flip)
        with scoring.averaged_weights(sess):
            for image in tqdm(images, 'submission', disable=None):
                values = scoring.confidence(network.look(helper.read_image(image)))
                seen, _ = bev.to_bev(values, calibrations[image.stem])
                category, number = image.stem.split('_')
                members.writestr(f'{category}_road_{number}.png',
                                 imageio.imwrite('<bytes>', seen, extension='.png'))
    write_whole(target, archive.getvalue())
    return len(images)


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog='python -m roadseg.evaluate', description="Scores a run with KITTI's own measures.")
    parser.add_argument('runs', nargs='+', metavar='RUN', help='folder runs/<date-time>')
    parser.add_argument('--split', help='val3, search, all, or kfold:K of runs trained on each fold '
                                        '(default: what the run held out)')
    parser.add_argument('--bev', action='store_true',
                        help="score the bird's-eye view too, as the KITTI server does")
    parser.add_argument('--checkpoint', choices=('last', 'best'), default='last',
                        help='best: of the epoch with the highest validation MaxF, which flatters '
                             'the score on the split it was chosen by (%(default)s)')
    parser.add_argument('--test-scale', type=factors, metavar='FACTOR[,FACTOR...]',
                        help='predict at this size relative to that of the training; of several, '
                             'the mean (default: as in the training)')
    parser.add_argument('--flip-test', action=argparse.BooleanOptionalAction, default=None,
                        help='average with the mirrored photographs (default: as in the training)')
    parser.add_argument('--data-dir', help='holds data_road/ (default: as in the training)')
    parser.add_argument('--submission', metavar='FILE.zip',
                        help="write the test set's confidence maps for the KITTI server instead")
    args = parser.parse_args(argv)
    try:
        if args.submission:
            if len(args.runs) > 1:
                raise InputError('--submission takes one run')
            count = write_submission(args.runs[0], args.data_dir, args.checkpoint,
                                     args.submission, args.test_scale, args.flip_test)
            print(f'wrote {count} confidence maps to {args.submission}')
            return 0
        results = [evaluate(run, args.split, args.data_dir, args.checkpoint, args.bev,
                            args.test_scale, args.flip_test) for run in args.runs]
        print(scoring.text(results))
        return 0
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(main())
