"""Where a training starts: at the weights of another run, at a checkpoint of its own, or anew."""
import os
import sys
from pathlib import Path

import tensorflow.compat.v1 as tf

from roadseg.errors import InputError
from roadseg.files import file_checksum, read_json
from roadseg.inference import averaged_weights
from roadseg.networks.encoder import NEW_KERNELS
from roadseg.training import averages, checkpoints, device
from roadseg.training.run_folder import (Progress, checksum, copies_trained_on, photograph_names,
                                         read_options, read_photographs, read_run, trained_on)

AVERAGE = '/ExponentialMovingAverage'       # follows the name of the variable that is averaged
SHOWN = 6                                   # names of fresh variables in a line
NOTES = 'pseudo_labels.json'                # in a run's folder, where teachers labelled for it


def begin(sess, saver, options, held_out):
    """Gives the variables of a new graph the values that the training starts with.

    Args:
        sess: session of a graph as `main.build` makes it, in which all variables have values.
        saver: from `checkpoints.make_saver`.
        options: namespace; `resume`, `start_from`, `train`, `dataset` and `data_dir` are used.
        held_out: list of (image, label) paths, from `not_trained_on`.

    Returns:
        (`Progress`, dict of the run that the weights are from, see `take_weights`; {} for none).

    Raises:
        InputError: see `checkpoints.restore`, `check_unseen` and `take_weights`.
    """
    if options.resume:
        path, progress = checkpoints.restore(sess, saver, options.resume)
        print(f'going on from {path}')
        return progress, {}
    origin = {}
    if options.start_from:
        check_unseen(options.start_from, '--start-from', options, held_out)
        origin = take_weights(sess, options.start_from)
    if options.train == 'decoder':
        drawn = [name.decode() for name in sess.graph.get_collection(NEW_KERNELS)]
        untaught = [name for name in drawn if name in origin.get('fresh', drawn)]
        if untaught:
            print(f'warning: --train decoder leaves the encoder as it is, and {_shown(untaught)} '
                  'of it are new and have learned nothing; begin with --start-from RUN',
                  file=sys.stderr)
    return Progress(), origin


def take_weights(sess, run):
    """Takes the weights of a finished run where names and shapes agree, and leaves the others.

    Taken are, of what was trained, the moving averages, which the run was scored with; of the
    frozen part of the encoder, the weights; and the moving moments of batch normalisations. The
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
    with tf.Graph().as_default(), device.open_session() as other:
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
        theirs_take = _input_constants(other.graph)
    if all(name.startswith('decoder/') for name in common):
        print(f'warning: --start-from: {path} has another encoder; {len(common)} variables of its '
              'decoder are taken, which were made for that; name a run with --encoder of this '
              'one', file=sys.stderr)
    elif theirs_take != _input_constants(sess.graph):
        made_of = read_run(run)['model'].get('encoder')
        print(f'warning: --start-from: the encoder of {path}, {made_of}, takes photographs in '
              'another form, such as with another mean, and its weights do not go with this one; '
              'name it with --encoder', file=sys.stderr)
    fresh = [name for name in mine if name not in common]
    print(f'starting from {path}: {len(common)} of {len(mine)} variables taken; fresh: '
          + _shown(fresh), flush=True)
    return {'run': str(Path(run).resolve()), 'checkpoint': path.name, 'sha256': checksum(path),
            'taken': len(common), 'fresh': fresh}


def _input_constants(graph):
    """What a frozen encoder does to photographs and layers, besides its weights.

    Returns:
        Sorted list of the float constants, as nested lists, that `layer4_out` is computed from.
    """
    found, ahead, seen = [], [op for op in graph.get_operations() if op.name == 'layer4_out'], set()
    while ahead:
        op = ahead.pop()
        if op in seen or op.type.startswith(('Var', 'Placeholder')):
            continue
        seen.add(op)
        if op.type == 'Const' and op.outputs[0].dtype.is_floating:
            found.append(tf.make_ndarray(op.get_attr('value')).tolist())
        ahead += [tensor.op for tensor in op.inputs]
    return sorted(found, key=str)


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

def not_trained_on(dataset, training):
    """The labelled photographs of a data set that a run does not train on.

    Those are the ones held out, and what a split keeps for later.

    Args:
        dataset: `Dataset`.
        training: list of (image, label) paths.

    Returns:
        List of (image, label) paths.
    """
    learned = set(training)
    return [pair for pair in dataset.labelled if pair not in learned]


def check_unseen(run, option, options, held_out):
    """Refuses a run that has learned from photographs which are held out now.

    Whatever is learned from it would know them, and their score would say nothing. The same goes
    for the runs that it started from or was taught by, and for theirs.

    Args:
        run: folder.
        option: under which it was named, for the message.
        options: namespace; `dataset` and `data_dir` are used.
        held_out: list of (image, label) paths, from `not_trained_on`.

    Raises:
        InputError: it has, or a file of the run is damaged.
    """
    for known in _lineage(Path(run)):
        if read_options(known).get('unlabelled') and not os.path.lexists(known / NOTES):
            print(f'warning: {known} has lost its {NOTES}; nobody can tell whether it has learned '
                  'from photographs which are held out now', file=sys.stderr)
        subject = run if known == Path(run) else f'{run} has learned from {known}, which'
        check_untaught(subject, known, option, held_out)
        if read_options(known).get('dataset') != options.dataset:
            seen = copies_trained_on(known, held_out)
        else:
            if held_out and 'training' not in read_photographs(known):
                print(f'warning: {known} has not noted what it was trained on; nobody can tell '
                      'whether it has seen photographs which are held out now', file=sys.stderr)
            seen = trained_on(known, options.data_dir, held_out)
        if seen:
            raise InputError(
                f'{option}: {subject} was trained on {len(seen)} of the {len(held_out)} '
                f'photographs that are held out now, the first being {seen[0]}; name a run with '
                f"the --split of this one (its own is {read_options(known).get('split')}), or "
                'hold nothing out with --split none')


def check_untaught(subject, run, option, held_out):
    """Refuses a run that has learned from photographs without labels which are held out now.

    Args:
        subject: who has, for the message.
        run: folder.
        option, held_out: as for `check_unseen`.

    Raises:
        InputError: it has, by the files' contents, or its notes are no JSON object.
    """
    seen = taught_on(run, held_out)
    if seen:
        raise InputError(f"{option}: {subject} has learned, by a teacher's labels, from "
                         f'{len(seen)} of the {len(held_out)} photographs that are held out now, '
                         f'the first being {seen[0]}; name another run, or hold nothing out with '
                         '--split none')


def taught_on(run, pairs):
    """Which of some photographs a run has learned from without their labels, by their contents.

    Args:
        run: folder.
        pairs: list of (image, label) paths.

    Returns:
        List of the images' paths.

    Raises:
        InputError: a photograph is unreadable, or the run's notes are no JSON object.
    """
    taught = {entry['sha256'] for entry in _noted(run, 'photographs')
              if isinstance(entry.get('sha256'), str)}
    return [image for image, _ in pairs if taught and sha256(image) in taught]


def learned_from(run, data_dir, pairs):
    """Which of some photographs a run has learned from, with their labels or without.

    Args:
        run: folder.
        data_dir: of the options now.
        pairs: list of (image, label) paths.

    Returns:
        List of the images' paths, each once.

    Raises:
        InputError: as `trained_on` and `taught_on`.
    """
    known, taught = set(trained_on(run, data_dir, pairs)), set(taught_on(run, pairs))
    names = photograph_names(data_dir, [], pairs)['validation']
    return [image for name, (image, _) in zip(names, pairs) if name in known or image in taught]


def sha256(path):
    """SHA-256 of a file, 64 hexadecimal digits.

    Raises:
        InputError: it can't be read.
    """
    try:
        return file_checksum(path)
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error


def _lineage(run):
    """The run and all that it has learned from, as far as they are there: list of paths."""
    found, waiting = [], [run]
    while waiting:
        known = waiting.pop()
        found.append(known)
        for parent in _learned_from(known):
            beside = known.resolve().parent / parent.name
            if not os.path.isfile(parent / 'options.json') and \
                    os.path.isfile(beside / 'options.json'):    # all runs were moved together
                parent = beside
            if not os.path.isfile(parent / 'options.json'):
                print(f'warning: {known} has learned from {parent}, which is gone; nobody can '
                      'tell whether that has seen photographs which are held out now',
                      file=sys.stderr)
            elif parent not in found + waiting:
                waiting.append(parent)
    return found


def _learned_from(run):
    """The runs that a run notes to have started from, or to have been taught by: list of paths."""
    start = read_run(run).get('start_from')
    return _runs_in([start if isinstance(start, dict) else {}]) + taught_by(run)


def taught_by(run):
    """The runs that a run notes to have been taught by: list of paths.

    Raises:
        InputError: its notes are no JSON object.
    """
    return _runs_in(_noted(run, 'teachers'))


def _runs_in(origins):
    """Paths of those noted origins, dicts, that say their run."""
    return [Path(origin['run']) for origin in origins if isinstance(origin.get('run'), str)]


def _noted(run, key):
    """The objects in a list of a run's `NOTES`: list of dicts."""
    if not os.path.lexists(run / NOTES):
        return []
    found = read_json(run / NOTES).get(key)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
