"""Checkpoints of a run that survive a kill, a full disk and a damaged file.

    checkpoints/step-001205/    model.index, model.data-..., model.meta, progress.json

A checkpoint is written into `step-001205.part/` and renamed when the disk has it whole. One of the
same step is `step-001205.old/` in between. Kept are the last two, so that one is left if the other
is damaged, and of the epochs that got one, the one that scored best.

`progress.json` says where the training stands, which run it is, and the checksums of the
other files. TensorFlow itself checks `model.data-...`, against checksums in `model.index`.

While a network is trained, a thread writes a copy of the variables, see `Writer`. `log.csv` may
then be ahead of the checkpoints: by the epoch that is being written, and by those that end
meanwhile and get none. After a kill, they come again.
"""
import hashlib
import json
import math
import re
import shutil
import sys
import time
from concurrent import futures
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import NamedTuple

import tensorflow.compat.v1 as tf
from google.protobuf.message import DecodeError

from roadseg.errors import InputError
from roadseg.files import (describe_os_error, file_checksum, move_into_place, read_json,
                           write_error, write_json)
from roadseg.tf_errors import as_os_error, explain_gpu, naming_lack_of_memory
from roadseg.tf_paths import literal
from roadseg.training.run_folder import Progress, read_log, read_run

FINITE = 'variables_are_finite'     # name of an operation
COPIES = 'variables_to_save'        # name of a collection of tensors
NAME = re.compile(r'step-(\d{6,18})(\.old)?')


class _Damaged(Exception):
    """A checkpoint that can't be used; says why."""


# Finding --------------------------------------------------------------------------------------

def saved(run):
    """Returns the paths of a run's checkpoints, oldest first.

    Raises:
        InputError: the folder can't be read.
    """
    folder = Path(run) / 'checkpoints'
    try:
        found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f'cannot read {folder}: {error.strerror}; make it readable') from error
    return sorted(found, key=lambda path: (step_of(path), path.suffix != '.old'))


def step_of(path):
    """Returns the step in the name of a checkpoint."""
    return int(NAME.fullmatch(path.name)[1])


def best_step(run):
    """Returns the step of the epoch with the best score on held-out photographs, None without.

    Epochs without a checkpoint do not count: theirs is being written, or a kill took it, or there
    was none. The best of those that had one is kept by `_prune`.

    Raises:
        InputError: `options.json` or `log.csv` is damaged, or the checkpoints can't be listed.
    """
    column = str(read_run(run)['data'].get('best'))
    kept = set(map(step_of, saved(run)))
    scored = [row for row in read_log(run) if int(row['step']) in kept
              and row.get(column) and math.isfinite(float(row[column]))]
    return int(max(scored, key=lambda row: float(row[column]))['step']) if scored else None


def candidates(run, which):
    """Returns the paths of the checkpoints to try, in this order.

    Args:
        run: folder of the run.
        which: 'last', which is the newest and then those before it; or 'best', which is just
            that one.

    Raises:
        InputError: there is none, or `which` is something else.
    """
    if which not in ('last', 'best'):
        raise InputError(f"there is no checkpoint '{which}'; name last or best")
    paths = saved(run)
    if which == 'best':
        best = best_step(run)
        paths = [path for path in paths if step_of(path) == best]
    if not paths:
        raise InputError(f"no {which} checkpoint in {Path(run) / 'checkpoints'}")
    return paths[::-1]


@contextmanager
def naming_last(run):
    """Adds to an error that ends a training which checkpoint of it is left."""
    try:
        yield
    except InputError as error:
        left = saved(run)
        if not left:
            raise
        raise InputError(f'{error}; the last checkpoint is {left[-1]}') from error


# Writing --------------------------------------------------------------------------------------

class Copy(NamedTuple):
    """What a checkpoint holds: the variables between two steps, and where the training stood."""
    values: list            # ndarrays, in the order of the saver's tensors
    progress: Progress


def make_saver():
    """Adds to the default graph what saves its variables, and tells whether they are finite.

    Call it before the graph is finalized.

    Returns:
        `tf.train.Saver` of all variables.
    """
    finite = [tf.reduce_all(tf.math.is_finite(variable)) for variable in _floats()]
    tf.stack(finite or [True], name=FINITE)
    saver = tf.train.Saver(max_to_keep=0)
    # Fetched itself, a variable would be copied by Python, and once more when it is written.
    with tf.device('/device:CPU:0'):
        for tensor in _saved_tensors(tf.get_default_graph(), saver):
            tf.add_to_collection(COPIES, tf.raw_ops.DeepCopy(x=tensor))
    return saver


def _saved_tensors(graph, saver):
    """The tensors that a saver's operation writes: all variables."""
    [operation] = graph.get_tensor_by_name(saver.saver_def.save_tensor_name).op.control_inputs
    return operation.inputs[3:]         # behind prefix, names and slices


def _floats():
    return [variable for variable in tf.global_variables() if variable.dtype.is_floating]


def save(sess, saver, run, progress):
    """Writes a checkpoint of all variables, and deletes those that are no longer needed.

    Those are also the ones of later steps, which were found damaged when the run went on.

    Args:
        sess: session whose variables are saved.
        saver: from `make_saver`.
        run: folder of the run, with its `options.json`.
        progress: `Progress`.

    Returns:
        Path of the checkpoint.

    Raises:
        InputError: a variable is not finite, or the checkpoint could not be written; the ones
            before it are untouched.
    """
    return _write(sess, saver, run, _copy(sess, progress), _meta_graph(sess, saver))


def _copy(sess, progress):
    """Copies what a checkpoint holds.

    Raises:
        InputError: a variable is not finite.
    """
    finite, values = sess.run([sess.graph.get_tensor_by_name(FINITE + ':0'),
                               sess.graph.get_collection(COPIES)])
    broken = _broken(sess, finite)
    if broken:
        raise InputError(f'the training has diverged: after step {progress.step}, {len(broken)} '
                         f'variables are not finite, the first being {broken[0]}; try a lower '
                         '--learning-rate')
    return Copy(values, replace(progress))


def _broken(sess, finite):
    """Returns the names of the variables that hold NaN or an infinity; nothing good follows.

    Args:
        sess: session.
        finite: bool ndarray, what the operation `FINITE` gives.
    """
    with sess.graph.as_default():
        return [variable.op.name for variable, is_finite in zip(_floats(), finite)
                if not is_finite]


def _meta_graph(sess, saver):
    """Returns what `model.meta` holds: bytes."""
    with sess.graph.as_default():
        return saver.export_meta_graph().SerializeToString()


def _write(sess, saver, run, copy, meta_graph):
    """Writes a copy, see `save`; the variables may change meanwhile."""
    path = Path(run) / 'checkpoints' / f'step-{copy.progress.step:06d}'
    part, old = (path.with_name(path.name + suffix) for suffix in ('.part', '.old'))
    names = saver.saver_def
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(exist_ok=True)        # in a run that is still there
        part.mkdir()
        sess.run(names.save_tensor_name, {
            names.filename_tensor_name: str(part / 'model'),
            **dict(zip(_saved_tensors(sess.graph, saver), copy.values))})
        (part / 'model.meta').write_bytes(meta_graph)
        content = {**asdict(copy.progress), 'run': read_run(run).get('id'),
                   'files': {file.name: file_checksum(file) for file in part.iterdir()
                             if file.suffix in ('.index', '.meta')}}
        write_json(part / 'progress.json', {**content, 'checksum': _checksum(content)})
        if path.exists():       # a resumed run reached this step again, or an epoch ends with it
            _remove(old)
            path.rename(old)
        move_into_place(part, path)
        _prune(run, path)
    except (OSError, tf.errors.OpError) as error:
        reason = as_os_error(error)     # TensorFlow calls a full disk, too, an exhausted resource
        raise write_error(path, reason) from reason
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return path


def _prune(run, newest):
    """Deletes what is not to be kept beside the newest checkpoint, and what kills left behind."""
    try:
        best = best_step(run)
    except InputError as error:     # somebody has edited the log, which is no reason to stop
        print(f'warning: {error}; until then, no checkpoint is deleted', file=sys.stderr)
        return
    paths = [path for path in saved(run) if step_of(path) < step_of(newest)] + [newest]
    keep = {*paths[-2:], *(path for path in paths if step_of(path) == best)}
    for path in saved(run):
        if path not in keep:
            _remove(path)
    for left in newest.parent.glob('step-*.part'):
        shutil.rmtree(left, ignore_errors=True)


def _remove(path):
    """Deletes a checkpoint, if it is there, so that a kill in between leaves none that is half."""
    part = path.with_name(path.name + '.part')
    shutil.rmtree(part, ignore_errors=True)
    if path.exists():
        path.rename(part)
        shutil.rmtree(part, ignore_errors=True)


def _checksum(content):
    """Checksum of what `progress.json` says, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# Writing beside the training ------------------------------------------------------------------

@contextmanager
def writing(sess, saver, run):
    """Within it, checkpoints are written while the training goes on; in the end, they are there.

    To an error that ends the training, it adds which checkpoint of it is left.

    Args:
        sess, saver, run: see `save`.

    Yields:
        `Writer`.

    Raises:
        InputError: a checkpoint could not be written. Where the training ends by another error,
            or because it was asked to, that is a line on stderr.
    """
    with naming_last(run), futures.ThreadPoolExecutor(1) as thread:
        writer = Writer(sess, saver, run, thread)
        try:
            yield writer
        except BaseException:
            try:
                writer.wait()
            except InputError as error:
                print(f'warning: {error}', file=sys.stderr)
            raise
        writer.wait()


class Writer:
    """Writes one checkpoint at a time, in a thread.

    Args:
        sess, saver, run: see `save`.
        thread: `ThreadPoolExecutor` of one thread.
    """

    def __init__(self, sess, saver, run, thread):
        self._sess, self._saver, self._run, self._thread = sess, saver, run, thread
        self._meta_graph = self._writing = None
        self.seconds = 0.0      # that the last one took

    def save(self, progress):
        """Copies all variables, and begins to write them as a checkpoint.

        It waits for the one before, as there is room for a single copy in memory.

        Args:
            progress: `Progress`; it may change from here on.

        Raises:
            InputError: a variable is not finite; or the checkpoint before could not be written,
                and there will be none of this step.
        """
        self.wait()
        if self._meta_graph is None:        # a graph that is trained is finalized
            self._meta_graph = _meta_graph(self._sess, self._saver)
        self._writing = self._thread.submit(self._write, _copy(self._sess, progress))

    def _write(self, copy):
        began = time.perf_counter()
        _write(self._sess, self._saver, self._run, copy, self._meta_graph)
        self.seconds = time.perf_counter() - began

    def is_busy(self):
        """Whether a checkpoint is being written."""
        return self._writing is not None and not self._writing.done()

    def check(self):
        """Raises the InputError of a checkpoint that could not be written, without waiting."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self):
        """Waits until the last checkpoint is on the disk.

        Raises:
            InputError: it could not be written; the ones before it are untouched.
        """
        if self._writing is not None:
            futures.wait([self._writing])
            writing, self._writing = self._writing, None
            writing.result()


# Reading --------------------------------------------------------------------------------------

def restore(sess, saver, run):
    """Restores the variables and the progress of a run from its last whole checkpoint.

    A damaged one is named on stderr, and the one before it taken.

    Args:
        sess: session of a graph like the one that was saved.
        saver: from `make_saver`, of that graph.
        run: folder of the run.

    Returns:
        (path of the checkpoint, `Progress`).

    Raises:
        InputError: there is no whole checkpoint, or it is of another network.
    """
    for path in candidates(run, 'last'):
        with _naming_damage(path):
            progress = _read_progress(path, read_run(run).get('id'))
            _restore(sess, saver, path, progress)
            return path, progress
    raise InputError(f"no whole checkpoint in {Path(run) / 'checkpoints'}; start a new run")


def load(sess, run, which='last'):
    """Builds the graph of a run in the session's empty graph, and restores its variables.

    Args:
        sess: session.
        run: folder of the run.
        which: 'last', where a damaged checkpoint is named on stderr and the one before it
            taken, or 'best'.

    Returns:
        Path of the checkpoint.

    Raises:
        InputError: there is no whole checkpoint.
    """
    saver, paths = None, candidates(run, which)
    for path in paths:
        with _naming_damage(path):
            progress = _read_progress(path, read_run(run).get('id'))
            if saver is None:       # that of one before is as good, as the graph never changes
                with literal(path) as folder, sess.graph.as_default():
                    saver = tf.train.import_meta_graph(str(folder / 'model.meta'))
            _restore(sess, saver, path, progress)
            if path != paths[0]:
                print(f'warning: {path} is taken instead', file=sys.stderr)
            return path
    raise InputError(f"no whole checkpoint in {Path(run) / 'checkpoints'}")


@contextmanager
def _naming_damage(path):
    """Turns whatever a damaged checkpoint brings about into a line on stderr.

    Raises:
        InputError: there is too little memory to tell whether it is damaged.
    """
    try:
        with naming_lack_of_memory(f'{path} was read'):
            yield
    except (_Damaged, OSError, tf.errors.OpError, ValueError, KeyError, TypeError,
            DecodeError) as error:
        reason = str(error).strip().splitlines() or [repr(error)]
        if isinstance(error, tf.errors.OpError):        # which says much, the reason far below
            explain_gpu(error)
            reason = [f'its files cannot be read ({type(error).__name__})']
        elif isinstance(error, OSError):
            reason = [describe_os_error(error) + (f': {error.filename}' if error.filename else '')]
        print(f'warning: the checkpoint {path} is damaged: {reason[0]}', file=sys.stderr)


def _read_progress(path, run_id):
    """Reads and checks `progress.json` of a checkpoint, and the files it has checksums of.

    What a later version adds is left aside.

    Args:
        path: of the checkpoint.
        run_id: str, of the run.

    Returns:
        `Progress`.

    Raises:
        _Damaged: see the message.
    """
    try:
        special = [inside.name for inside in path.iterdir() if not inside.is_file()]
        if special:             # reading a pipe would wait
            raise _Damaged(f'{special[0]} is no file')
        content = read_json(path / 'progress.json')
    except (InputError, OSError) as error:
        raise _Damaged(error) from error
    if content.pop('checksum', None) != _checksum(content):
        raise _Damaged('progress.json is not as it was written')
    if content['run'] != run_id:
        raise _Damaged(f"it is of the run {content['run']}, and this one is {run_id}")
    for name, sha256 in dict(content['files']).items():
        if file_checksum(path / name) != sha256:
            raise _Damaged(f'{name} is not as it was written')
    values = {field.name: content[field.name] for field in fields(Progress)
              if field.name in content}
    for name, kinds in (('epoch', int), ('step', int), ('epoch_steps', int),
                        ('epoch_loss', (int, float)), ('seconds', (int, float)),
                        ('row', (dict, type(None)))):
        value = values.get(name, getattr(Progress, name))
        if isinstance(value, bool) or not isinstance(value, kinds) or (
                isinstance(value, int) and value < 0):
            raise _Damaged(f'progress.json says that {name} is {str(value)[:40]}')
    return Progress(**values)


def _restore(sess, saver, path, progress):
    """Restores the variables of a checkpoint.

    Raises:
        InputError: it is of another network.
        _Damaged: its step is another.
        and whatever TensorFlow raises where a file is damaged.
    """
    with literal(path) as folder:
        reader = tf.train.load_checkpoint(str(folder / 'model'))
        check_shapes(sess.graph, reader, path)
        saver.restore(sess, str(folder / 'model'))
    step = int(sess.run(tf.train.get_global_step(sess.graph)))
    if step != progress.step:
        raise _Damaged(f'its variables are of step {step}, and progress.json says {progress.step}')


def check_shapes(graph, reader, path):
    """Raises InputError unless a checkpoint holds the graph's variables, in their shapes.

    `Saver.restore` itself gives a variable whatever shape the checkpoint has.
    """
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    for variable in graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES):
        name, shape, kind = variable.op.name, variable.shape.as_list(), variable.dtype.base_dtype
        for what, found, expected in (('the shape', shapes.get(name), shape),
                                      ('the type', name in types and types[name].name, kind.name)):
            if found != expected:
                raise InputError(
                    f'the checkpoint {path} is of another network (another model or number of '
                    f'classes): {name} has {what} {found} there, {expected} here')
