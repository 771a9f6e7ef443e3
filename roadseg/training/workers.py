"""Several processes that train one network, each on its share of every batch.

Each worker is started with the same command and the standard TF_CONFIG, which names all of them:

    TF_CONFIG='{"cluster": {"worker": ["host1:2222", "host2:2222"]},
                "task": {"type": "worker", "index": 0}}' python main.py

The gradients of a step are added up by TensorFlow's collective operations, the first worker keeps
the run folder. Source of synchronous training by all-reduce: Goyal et al., "Accurate, Large
Minibatch SGD", 2017.
"""
import hashlib
import itertools
import json
import os
import re
import socket
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf
from filelock import FileLock
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from roadseg import driver
from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError
from roadseg.tf_errors import as_os_error, explain_gpu
from roadseg.training.device import naming_gpu, open_session, session_config
from roadseg.training.run_folder import checksum, read_run, versions

GROUP, ROLL_CALL, NUMBERS = 1, 2, 3     # keys of groups of all workers: of the gradients, and, on
                                        # CPUs, of the start and of `exchange`
EXCHANGE = 2 ** 30          # key where none is counted: two models' graphs may differ in that
PATIENCE = 45               # seconds that the others wait for a worker to start
SILENCE = 15                # seconds that a worker may be silent before the others give up
LOOK = 2                    # seconds between two looks whether it is
PIECE = 2 ** 20             # elements that are sent at a time, about
SEED_STEP = 1_000_003       # between the seeds of two workers' dropout
# What TensorFlow raises where a connection breaks; and oneDNN where it cannot compute
_OF_CONNECTION = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
_OF_ONEDNN = 'Operation received an exception'
_EXAMPLE = ('{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", '
            '"index": 0}}')


class Workers:
    """The workers of a training, one of which this process is.

    Args:
        addresses: list of 'host:port', the first being that of the one that keeps the run.
        index: of this process.
    """

    def __init__(self, addresses=('',), index=0):
        self.addresses, self.index, self.count = list(addresses), index, len(addresses)
        hosts = [address.rpartition(':')[0] for address in self.addresses]
        self.count_here = hosts.count(hosts[index])     # on this machine
        self.is_first = index == 0
        self.target = ''                # of the session
        self._instances = 0             # keys of collective operations given so far
        self._exchange = None
        self._watching = threading.Event()

    # Beginning and end ------------------------------------------------------------------------

    def start(self):
        """Starts this worker's server and waits for the others.

        Raises:
            InputError: this worker's port is in use, or another does not answer in time, or has
                the same index.
        """
        if self.count == 1:
            return
        port = int(self.addresses[self.index].rsplit(':', 1)[1])
        with socket.socket() as probe:
            if os.name == 'posix':      # what is left of killed workers' connections is no use
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(('', port))
            except OSError as error:
                raise InputError(f'TF_CONFIG: port {port} of worker {self.index} cannot be used: '
                                 f'{error.strerror}; end the process that has it, or choose '
                                 'another port') from error
        config = self.configure(session_config())
        with naming_gpu():
            self.target = tf.train.Server({'worker': self.addresses}, job_name='worker',
                                          task_index=self.index, config=config).target
        end = time.monotonic() + PATIENCE
        while missing := self.silent():
            if time.monotonic() > end:
                raise InputError(f'{self.names(missing)} did not start within {PATIENCE} s')
            time.sleep(0.5)
        self._call_the_roll()
        self._watching.set()
        threading.Thread(target=self._watch, daemon=True).start()

    def _call_the_roll(self):
        """Raises InputError where the workers do not find each other.

        Two machines that are both worker 0 each see the ports of all, its own among them.
        """
        with tf.Graph().as_default(), self.session(tf.ConfigProto()) as sess:
            present = self._of_cpus(tf.one_hot(self.index, self.count), ROLL_CALL, PATIENCE)
            try:
                _run_hearing_signals(sess, present)
            except tf.errors.OpError as error:
                if missing := self.silent():
                    raise InputError(self.farewell(missing)) from error
                raise InputError('TF_CONFIG: the workers do not find each other; give all of them '
                                 'the same list, and each an index of its own, and see whether '
                                 'another program has one of these ports') from error

    @contextmanager
    def in_turn(self, folder):
        """Lets one worker of a machine after the other look for data, which the first may fetch.

        Args:
            folder: where it goes.
        """
        with ExitStack() as stack:
            if self.count > 1:
                # Elsewhere, as the folder may be missing: it is to be made by the first, or misspelt.
                name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
                user = os.getuid() if hasattr(os, 'getuid') else 0
                with suppress(OSError):         # there is no place for it
                    stack.enter_context(FileLock(Path(
                        tempfile.gettempdir(), f'roadseg-{user}-{name}.lock')))
            yield

    def session(self, config):
        """Opens a session on this worker's server, or, where it is alone, in this process.

        Args:
            config: `tf.ConfigProto`.

        Returns:
            `tf.Session`.

        Raises:
            InputError: the GPU is taken by other processes.
        """
        return open_session(self.configure(config), self.target)

    def configure(self, config):
        """Returns a session's configuration, with what collective operations need.

        Between GPUs, NCCL adds up, by NVLink, PCIe or InfiniBand; it hangs unless all workers ask
        for the sums in the same order, which TensorFlow then sees to. CPUs take gRPC.
        """
        if self.count > 1:
            config.experimental.collective_group_leader = '/job:worker/replica:0/task:0'
            config.experimental.collective_nccl = True
            config.device_filters.append(f'/job:worker/task:{self.index}')
            rewritten = config.graph_options.rewrite_options
            if rewritten.auto_mixed_precision_onednn_bfloat16 == RewriterConfig.ON:
                # Joined, convolution and bias are an operation that has no bfloat16 in its
                # definition; oneDNN replaces it, but here not before the graph was sent.
                rewritten.remapping = RewriterConfig.OFF
        return config

    def silent(self):
        """Returns the indices of the other workers that do not answer."""
        found, end = [], time.monotonic() + 5       # of all: a machine that is off refuses nothing
        for index, address in enumerate(self.addresses):
            if index != self.index:
                host, port = address.rsplit(':', 1)
                try:
                    socket.create_connection((host.strip('[]'), int(port)),
                                             max(0.5, end - time.monotonic())).close()
                except OSError:
                    found.append(index)
        return found

    def names(self, indices):
        """Text such as 'worker 1 (host2:2222)'."""
        return ', '.join(f'worker {index} ({self.addresses[index]})' for index in indices)

    def _watch(self):
        """Ends this process where another worker is gone: a collective operation would wait."""
        silent_since = None
        while self._watching.is_set():
            missing = self.silent()
            if not missing:
                silent_since = None
            elif silent_since is None:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > SILENCE and self._watching.is_set():
                print(f'error: {self.farewell(missing)}', file=sys.stderr, flush=True)
                os._exit(2)     # the main thread is inside TensorFlow and can't be called back
            time.sleep(LOOK)

    def part(self):
        """From here on, each worker may end in its own time, without alarming the others."""
        self._watching.clear()

    @contextmanager
    def naming_lost(self):
        """Where TensorFlow can't reach another worker, says which one it is.

        After an error, this worker goes its own way: it may have a checkpoint to write.
        """
        try:
            yield
        except BaseException as error:
            self.part()
            if not isinstance(error, tf.errors.OpError):
                raise
            missing = self.silent()
            if not missing:
                time.sleep(1)       # of a process that ends, the port may be closed last
                missing = self.silent()
            if missing:
                raise InputError(self.farewell(missing)) from error
            # it has begun anew, by a supervisor
            if (self.count > 1 and isinstance(error, _OF_CONNECTION)
                    and _OF_ONEDNN not in str(error.message)):
                raise InputError(f'the connection to another worker broke '
                                 f'({as_os_error(error).strerror}); start all workers again, with '
                                 '--resume and the run folder if there is one') from error
            explain_gpu(error)
            raise

    def farewell(self, missing):
        """What is said where other workers are gone."""
        return (f'{self.names(missing)} is gone; start all workers again, with --resume and the '
                'run folder if there is one')

    def finish(self, sess):
        """Waits for all workers, after which one may go without alarming the others."""
        if self.count > 1:
            with self.naming_lost():
                self.exchange(sess, [0])
            self.part()

    def batch_size(self, options):
        """Photographs that each worker takes in a step.

        Args:
            options: namespace.

        Returns:
            --batch-size; of a run that another number of workers started, what leaves its steps
            as they were.

        Raises:
            InputError: its steps cannot be shared by so many.
        """
        if not options.resume:
            return options.batch_size
        then = read_run(options.resume).get('workers', self.count)
        if type(then) is not int or then < 1:
            raise InputError(f"{options.resume}/options.json: 'workers' is {str(then)[:40]}, which "
                             'is no number of workers; take the file from a backup, or start a '
                             'new run')
        if then * options.batch_size % self.count:
            raise InputError(f'{options.resume} was started by {then} workers with --batch-size '
                             f'{options.batch_size}, {then * options.batch_size} photographs a '
                             f'step, which {self.count} cannot share; start {then}')
        share = then * options.batch_size // self.count
        if share != options.batch_size:
            print(f'warning: {options.resume} was started by {then} workers; of its '
                  f'{then * options.batch_size} photographs a step, each of {self.count} takes '
                  f'{share} now', file=sys.stderr)
        return share

    # In the graph -----------------------------------------------------------------------------

    def sum(self, tensors):
        """Adds up tensors over the workers, in one collective operation.

        The gradient of such a sum is the sum of the workers' gradients.

        Args:
            tensors: list of tensors of one dtype and of known shapes, the same for all workers.

        Returns:
            List of such tensors; the same ones for one worker.
        """
        if self.count == 1:
            return tensors
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)
        parts = tf.split(self._reduced(flat), [tensor.shape.num_elements() for tensor in tensors])
        return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors)]

    def share(self, weight):
        """This worker's share of a sum over all of them: float32 tensor [] -> float32 tensor []."""
        if self.count == 1:
            return tf.constant(1.0)
        total, = self.sum([weight])
        return tf.math.divide_no_nan(weight, total)

    def mean_by_labels(self, classes):
        """Makes the function by which batch normalisation sees the batches of all workers.

        Each counts by its photographs, but for a worker which had none left for the last step of
        an epoch, and got a grey image without labels instead: that one changes nothing.

        Args:
            classes: uint8 tensor [N, H, W], class numbers of this worker's batch.

        Returns:
            Function from a list of float32 tensors to the list of their means over the workers;
            None where one is alone.
        """
        if self.count == 1:
            return None
        labelled = tf.reduce_any(tf.not_equal(classes, IGNORED))
        # Not 0, lest there is nothing to divide by where no photograph of a step has a label.
        weight = tf.where(labelled, tf.cast(tf.shape(classes)[0], tf.float32), 1e-6)

        def mean(tensors):
            *sums, total = self.sum([*(weight * tensor for tensor in tensors), weight])
            return [tensor / total for tensor in sums]
        return mean

    def _reduced(self, flat):
        @tf.custom_gradient
        def reduced(flat):
            return self._collective(flat), self._collective
        return reduced(flat)

    def _collective(self, flat):
        self._instances += 1
        # Several rings: in two pieces of 37 MB, gradients took two to three times as long.
        rings = 1 + min((flat.shape.num_elements() or 0) // (PIECE * self.count), 15)
        return tf.raw_ops.CollectiveReduce(
            input=flat, group_size=self.count, group_key=GROUP, instance_key=self._instances,
            merge_op='Add', final_op='Id', subdiv_offsets=[0] * rings)

    def _of_cpus(self, numbers, group, patience=0):
        """Adds up a few numbers over the workers, on whose devices nothing is asked."""
        with tf.device('/cpu:0'):       # of this worker, and of whoever opens the run later
            return tf.raw_ops.CollectiveReduce(
                input=tf.identity(numbers), group_size=self.count, group_key=group,
                instance_key=EXCHANGE, merge_op='Add', final_op='Id', subdiv_offsets=[0],
                timeout_seconds=float(patience))

    def prepare(self):
        """Adds what `exchange` and `agree` need, before the graph is finalized."""
        if self.count == 1:
            return
        fed = tf.placeholder(tf.float64, [None])
        self._exchange = fed, self._of_cpus(fed, NUMBERS)
        # Reduced one by one: all of them together may be gigabytes.
        variables = [variable for variable in tf.global_variables()
                     if variable.dtype.base_dtype in (tf.float32, tf.int32, tf.int64)]
        mine = tf.constant(self.is_first)
        updates, before = [], []
        for variable in variables:
            with tf.control_dependencies(before):
                value, = self.sum([tf.where(mine, variable, tf.zeros_like(variable))])
                before = [tf.assign(variable, value)]
            updates += before
        self._agree = tf.group(*updates)

    # Between steps ----------------------------------------------------------------------------

    def exchange(self, sess, numbers):
        """Adds up some numbers over the workers.

        Args:
            sess: session.
            numbers: list of floats, as many on each worker.

        Returns:
            float64 ndarray.
        """
        if self.count == 1:
            return np.float64(numbers)
        fed, reduced = self._exchange
        return _run_hearing_signals(sess, reduced, {fed: numbers})

    def of_first(self, sess, numbers):
        """Returns the numbers that the first worker has: float64 ndarray."""
        return self.exchange(sess, np.float64(numbers) * self.is_first)

    def any(self, sess, flag):
        """Whether some worker's flag is set."""
        return bool(self.exchange(sess, [float(flag)])[0])

    def agree(self, sess, progress, options, dataset, labelled, encoder):
        """Makes sure that all workers do the same, and begin where the first one does.

        Args:
            sess: session; all variables get the first worker's values.
            progress: `Progress`, gets the first worker's values.
            options: namespace.
            dataset: `Dataset`.
            labelled: list of (image, label) paths to train on and to score.
            encoder: path of the frozen graph.

        Raises:
            InputError: a worker has other options, classes, photographs, labels, versions or
                code, or another encoder.
        """
        if self.count == 1:
            return
        own = {'resume', 'start_from', 'data_dir', 'runs_dir', 'encoder', 'own_data', 'cache_gb'}
        names = sorted({*vars(options)} - own)
        found = versions()
        self.check_same(sess, 'versions', ', '.join(
            f'{package} {found[package]}' for package in ('tensorflow', 'numpy', 'scipy',
                                                          'pillow')))
        self.check_same(sess, 'the code of this project', f'{_code_checksum():08x}')
        values = {name: str(getattr(options, name)) for name in names}
        try:
            self.check_same(sess, 'options', str(values))
        except InputError:          # on all workers: which one is it?
            for name, value in values.items():
                self.check_same(sess, '--' + name.replace('_', '-'), value)
            raise
        gpus = [device for device in sess.list_devices() if device.device_type == 'GPU']
        self.check_same(sess, 'the kind of device', 'a GPU' if gpus else 'a CPU')
        if gpus:
            self.check_own_gpu(sess)
        self.check_same(sess, 'classes', ', '.join(dataset.classes))
        self.check_all_same(sess, 'the photographs, their names or sizes', [
            f'{image.stem} ({os.path.getsize(image)} bytes)' for image, _ in dataset.labelled])
        self.check_all_same(sess, 'the labels, their names or sizes', [
            f'{label.name} ({os.path.getsize(label)} bytes)' for _, label in labelled])
        self.check_same(sess, 'the encoder', checksum(encoder))
        sess.run(self._agree)
        names = [field.name for field in fields(progress) if field.type in (int, float)]
        for name, value in zip(names, self.of_first(
                sess, [getattr(progress, name) for name in names])):
            setattr(progress, name, type(getattr(progress, name))(value))

    def check_own_gpu(self, sess):
        """Raises InputError where two workers use one GPU, which NCCL cannot."""
        mine = driver.first_gpu() or f'unknown, of worker {self.index}'
        number = float(zlib.crc32(mine.encode()))
        used = self.exchange(sess, [number * (index == self.index) for index in range(self.count)])
        for first, second in itertools.combinations(range(self.count), 2):
            if used[first] == used[second]:
                raise InputError(f'{self.names([second])} uses the same GPU as '
                                 f'{self.names([first])}; give each one of its own by '
                                 'CUDA_VISIBLE_DEVICES, or -1 to all of them')

    def check_same(self, sess, what, text):
        """Raises InputError unless all workers have the same text: of options, versions, data.

        Args:
            sess: session.
            what: name of it, for the message.
            text: str.
        """
        mine = float(zlib.crc32(text.encode()))
        of_first = self.of_first(sess, [mine])[0]
        differing = self.exchange(sess, [float(index == self.index and mine != of_first)
                                         for index in range(self.count)])
        if differing.any():
            raise InputError(f'{self.names(np.flatnonzero(differing))} differs from worker 0 in '
                             f'{what}; here: {text[:300]}')


    def check_all_same(self, sess, what, texts):
        """As `check_same`, of a list, of which the message has what differs first.

        Args:
            sess, what: see `check_same`.
            texts: list of str.
        """
        try:
            self.check_same(sess, what, ' '.join(texts))
            return
        except InputError:          # on all workers: where?
            self.check_same(sess, f'the number of {what}', str(len(texts)))
        while len(texts) > 1:
            half = len(texts) // 2
            try:
                self.check_same(sess, what, ' '.join(texts[:half]))
                texts = texts[half:]
            except InputError:
                texts = texts[:half]
        self.check_same(sess, what, texts[0])


class Bystander:
    """Stands where the first worker has its `Recorder`: scores its share, and keeps nothing.

    Args:
        held_out: `held_out.HeldOut`.
    """

    def __init__(self, held_out):
        self.held_out = held_out

    def follow(self, row=None):
        """Scores its share of the held-out photographs, where the first worker says so."""
        self.held_out.scored()

    def nothing(self):
        """Does nothing."""

    catch_up = after_epoch = follow
    after_step = score_last = finish = nothing

    def stop(self):
        """Raises KeyboardInterrupt."""
        raise KeyboardInterrupt('stopped; the first worker has saved')


def join(environ=os.environ):
    """Reads TF_CONFIG.

    Args:
        environ: mapping.

    Returns:
        `Workers`, not started; one alone where TF_CONFIG is not set or names one.

    Raises:
        InputError: it is malformed.
    """
    text = environ.get('TF_CONFIG')
    if not text:
        return Workers()
    try:
        content = json.loads(text)
        addresses = content['cluster']['worker']
        kind, index = content['task']['type'], content['task']['index']
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f'TF_CONFIG is malformed ({type(error).__name__}: {error}); expected '
                         f'such as {_EXAMPLE}') from error
    if kind != 'worker' or set(content['cluster']) != {'worker'}:
        raise InputError(f'TF_CONFIG: the cluster has {", ".join(content["cluster"])}, this task '
                         f'is a {kind}; only workers are known here, such as {_EXAMPLE}')
    if (not isinstance(addresses, list) or not addresses
            or not all(isinstance(address, str) and _is_address(address)
                       for address in addresses)
            or len({address.lower() for address in addresses}) < len(addresses)):
        raise InputError(f'TF_CONFIG: cluster.worker is {str(addresses)[:80]}; expected different '
                         f'addresses host:port, such as {_EXAMPLE}')
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(addresses):
        raise InputError(f'TF_CONFIG: task.index is {index!r}; expected 0 to {len(addresses) - 1}')
    return Workers(addresses, index) if len(addresses) > 1 else Workers()


def _code_checksum():
    """CRC-32 of the sources that a training runs: int."""
    root, value = Path(__file__).parents[2], 0
    for path in sorted([*root.glob('main.py'), *root.glob('roadseg/**/*.py')]):
        value = zlib.crc32(path.read_text(encoding='utf-8').encode(), value)
    return value


def _run_hearing_signals(sess, fetches, feed=None):
    """`sess.run`, in a thread: no signal is heard inside TensorFlow, however long others take."""
    answer = Future()

    def run():
        try:
            answer.set_result(sess.run(fetches, feed))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer.result()


def _is_address(text):
    host, _, port = text.rpartition(':')
    try:
        host.encode('idna')
    except UnicodeError:        # two dots, or what is too long
        return False
    # no comma, as two addresses in one have; IPv6 in brackets
    return (bool(re.fullmatch(r'\[[0-9A-Fa-f:.]+(%\w+)?\]|[^\s/\[\]:,]+', host))
            and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536)
