"""Where a training starts: at the weights of another run, at a checkpoint of its own, or anew."""
from pathlib import Path

import tensorflow.compat.v1 as tf

from roadseg.errors import InputError
from roadseg.files import read_json
from roadseg.inference import averaged_weights
from roadseg.training import averages, checkpoints, device
from roadseg.training.run_folder import (Progress, checksum, photograph_names, read_options,
                                         read_run)

AVERAGE = '/ExponentialMovingAverage'       # follows the name of the variable that is averaged
SHOWN = 6                                   # names of fresh variables in a line


def begin(sess, saver, options, held_out):
    """Gives the variables of a new graph the values that the training starts with.

    Args:
        sess: session of a graph as `main.build` makes it, in which all variables have values.
        saver: from `checkpoints.make_saver`.
        options: namespace; `resume`, `start_from`, `dataset` and `data_dir` are used.
        held_out: list of (image, label) paths.

    Returns:
        (`Progress`, dict of the run that the weights are from, see `take_weights`; {} for none).

    Raises:
        InputError: see `checkpoints.restore`, `check_unseen` and `take_weights`.
    """
    if options.resume:
        path, progress = checkpoints.restore(sess, saver, options.resume)
        print(f'going on from {path}')
        return progress, {}
    if not options.start_from:
        return Progress(), {}
    check_unseen(options.start_from, '--start-from', options, held_out)
    return Progress(), take_weights(sess, options.start_from)


def take_weights(sess, run):
    """Takes the weights of a finished run where names and shapes agree, and leaves the others.

    Taken are the moving averages, which are what the run was scored with, of everything that is
    trained, of the encoder's frozen part, and the moving moments of batch normalisations. The
    averages of this graph begin there, too; Adam begins anew.

    Args:
        sess: session of the graph that takes them; it may be finalized.
        run: folder of the run.

    Returns:
        dict for `options.json`: 'run', 'checkpoint', its 'sha256', how many variables were
        'taken', and the names of those that are 'fresh'.

    Raises:
        InputError: the run has no whole checkpoint, or nothing in common with the graph.
    """
    with sess.graph.as_default():
        mine = {variable.op.name: variable for variable in _weights()}
        all_of_mine = {variable.op.name: variable for variable in tf.global_variables()}
    # The session has a graph of its own, lest names meet.
    config = device.session_config('float32')
    with tf.Graph().as_default(), tf.Session(config=config) as other:
        path = checkpoints.load(other, run)
        theirs = {variable.op.name: variable for variable in _weights()}
        common = [name for name, variable in mine.items() if name in theirs
                  and theirs[name].shape.as_list() == variable.shape.as_list()
                  and theirs[name].dtype.base_dtype == variable.dtype.base_dtype]
        if not common:
            raise InputError(
                f'--start-from: {path} and the network to be trained have no weight of the same '
                f'name and shape in common (there {_shown(theirs)}; here {_shown(mine)}); name a '
                'run of the same encoder or model')
        with averaged_weights(other):
            for name in common:
                value = other.run(theirs[name])
                _assign(sess, mine[name], value)
                if name + AVERAGE in all_of_mine:
                    _assign(sess, all_of_mine[name + AVERAGE], value)
    fresh = [name for name in mine if name not in common]
    print(f'starting from {path}: {len(common)} of {len(mine)} variables taken; fresh: '
          + _shown(fresh), flush=True)
    return {'run': str(Path(run).resolve()), 'checkpoint': path.name, 'sha256': checksum(path),
            'taken': len(common), 'fresh': fresh}


def _weights():
    """What the default graph predicts with: trainable variables and moving moments."""
    return tf.trainable_variables() + averages.statistics()


def _assign(sess, variable, value):
    """Assigns by the initializer, as a finalized graph takes no further operation."""
    sess.run(variable.initializer, {variable.initializer.inputs[1]: value})


def _shown(names):
    """Names for a line: the first of them, or 'none'."""
    names = list(names)
    return ', '.join(names[:SHOWN]) + f', ... ({len(names)})' * (len(names) > SHOWN) or 'none'


# What a run has seen --------------------------------------------------------------------------

def check_unseen(run, option, options, held_out):
    """Refuses a run that was trained on photographs which are held out now.

    Whatever is learned from it would know them, and their score would say nothing.

    Args:
        run: folder.
        option: under which it was named, for the message.
        options: namespace; `dataset` and `data_dir` are used.
        held_out: list of (image, label) paths.

    Raises:
        InputError: it was, or a file of the run is damaged.
    """
    seen_file = Path(run) / 'photographs.json'
    if read_options(run).get('dataset', 'kitti') != options.dataset or not seen_file.exists():
        return
    trained_on = read_json(seen_file).get('training')
    now = photograph_names(options.data_dir, [], held_out)['validation']
    seen = sorted(set(now) & set(trained_on if isinstance(trained_on, list) else ()))
    if seen:
        raise InputError(
            f"{option}: {run} was trained on {len(seen)} of the {len(now)} photographs that are "
            f"held out now, the first being {seen[0]}; name a run with the --split of this one "
            f"(its own is {read_run(run)['options'].get('split')}), or hold nothing out with "
            '--split none')
