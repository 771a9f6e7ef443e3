"""Checkpoints of a run that survive a kill, a full disk and a damaged file.

    checkpoints/step-001205/    model.index, model.data-..., model.meta, progress.json

A checkpoint is written into `step-001205.part/` and renamed when it is whole. Kept are the last
two, so that one is left if the other is damaged, and the one whose epoch scored best.
"""
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import tensorflow.compat.v1 as tf

from roadseg.errors import InputError
from roadseg.training.run_folder import Progress, read_log


def saved(run):
    """Returns the paths of a run's checkpoints, oldest first."""
    return sorted(path for path in (Path(run) / 'checkpoints').glob('step-*')
                  if path.suffix != '.part')


def best_step(run):
    """Returns the step of the epoch with the highest validation MaxF, None without one."""
    scored = [row for row in read_log(run) if row['val_maxf']]
    if not scored:
        return None
    return int(max(scored, key=lambda row: float(row['val_maxf']))['step'])


def save(sess, saver, run, progress):
    """Writes a checkpoint of all variables, and deletes those that are no longer needed.

    Args:
        sess: session whose variables are saved.
        saver: `tf.train.Saver`.
        run: folder of the run.
        progress: `Progress`.

    Returns:
        Path of the checkpoint.

    Raises:
        InputError: it could not be written; the ones before it are untouched.
    """
    path = Path(run) / 'checkpoints' / f'step-{progress.step:06d}'
    part = path.with_name(path.name + '.part')
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        saver.save(sess, str(part / 'model'), write_state=False)
        (part / 'progress.json').write_text(json.dumps(asdict(progress)))
        shutil.rmtree(path, ignore_errors=True)     # a resumed run reached this step again
        part.rename(path)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = str(getattr(error, 'message', error)).splitlines()[0]
        left = [old.name for old in saved(run)]
        raise InputError(f'could not write the checkpoint {path}: {reason}. '
                         + (f'{left[-1]} is untouched; make room and go on with '
                            f'--resume {run}' if left else 'Make room and start again')) from error
    keep = {f'step-{best_step(run) or 0:06d}', *(old.name for old in saved(run)[-2:])}
    for old in saved(run):
        if old.name not in keep:
            shutil.rmtree(old)
    return path


def candidates(run, which):
    """Returns the paths of the checkpoints to try, in this order.

    Args:
        run: folder of the run.
        which: 'last', which is the newest and then those before it; or 'best', which is just
            that one.

    Raises:
        InputError: there is none.
    """
    paths = saved(run)
    if which == 'best':
        paths = [path for path in paths if path.name == f'step-{best_step(run) or 0:06d}']
    if not paths:
        raise InputError(f"no {which} checkpoint in {Path(run) / 'checkpoints'}")
    return paths[::-1]


def restore(sess, saver, run, which='last'):
    """Restores the variables and the progress of a run.

    Args:
        sess: session of a graph like the one that was saved.
        saver: `tf.train.Saver` of that graph.
        run: folder of the run.
        which: 'last', where a damaged checkpoint is named on stderr and the one before it
            taken, or 'best'.

    Returns:
        (path of the checkpoint, `Progress`).

    Raises:
        InputError: there is no whole checkpoint, or it is of another network.
    """
    for path in candidates(run, which):
        try:
            progress = Progress(**json.loads((path / 'progress.json').read_text()))
            check_shapes(sess.graph, path)
            saver.restore(sess, str(path / 'model'))
            return path, progress
        except (tf.errors.OpError, OSError, ValueError, TypeError) as error:
            reason = str(getattr(error, 'message', error)).strip().splitlines()[0]
            print(f'warning: the checkpoint {path} is damaged: {reason}', file=sys.stderr)
    raise InputError(f"no whole checkpoint in {Path(run) / 'checkpoints'}")


def check_shapes(graph, path):
    """Raises InputError unless a checkpoint holds the graph's variables, in their shapes.

    `Saver.restore` itself gives a variable whatever shape the checkpoint has.
    """
    saved = tf.train.load_checkpoint(str(path / 'model')).get_variable_to_shape_map()
    for variable in graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES):
        found, expected = saved.get(variable.op.name), variable.shape.as_list()
        if found != expected:
            raise InputError(
                f'the checkpoint {path} is of another network (another model or number of '
                f'classes): {variable.op.name} has the shape {found} there, {expected} here')


def load(sess, run, which='last'):
    """Builds the graph of a run in the session's empty graph, and restores its variables.

    Args:
        sess: session.
        run: folder of the run.
        which: 'last' or 'best', see `restore`.

    Returns:
        Path of the checkpoint.

    Raises:
        InputError: there is no whole checkpoint.
    """
    for path in candidates(run, which):
        try:
            with sess.graph.as_default():
                saver = tf.train.import_meta_graph(str(path / 'model.meta'))
        except (OSError, tf.errors.OpError, ValueError) as error:
            print(f'warning: {path}/model.meta is damaged: {error}', file=sys.stderr)
            continue
        return restore(sess, saver, run, which)[0]
    raise InputError(f"no whole checkpoint in {Path(run) / 'checkpoints'}")
