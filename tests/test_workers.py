"""Several workers: what TF_CONFIG may say, and that two are as good as one with twice the batch."""
import contextlib
import csv
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

import main
import roadseg
from conftest import save_tiny_vgg
from roadseg import launch, tf_errors
from roadseg.commands import run_command
from roadseg.datasets import demo, kitti
from roadseg.errors import InputError
from roadseg.signals import as_ctrl_c
from roadseg.training import workers
from roadseg.training.processor import native_bfloat16
from roadseg.training.run_folder import Progress

ROOT = Path(__file__).parents[1]
HELD_OUT = {'um_road': '000079', 'umm_road': '000080', 'uu_road': '000082'}


def config(addresses=('a:1', 'b:2'), index=0, kind='worker'):
    return {'TF_CONFIG': json.dumps({'cluster': {'worker': list(addresses)},
                                     'task': {'type': kind, 'index': index}})}


@pytest.mark.parametrize('environ', [{}, {'TF_CONFIG': ''}, config(['a:1'])])
def test_one_worker_is_alone_and_passes_everything_on(environ):
    alone = workers.join(environ)
    assert (alone.count, alone.index, alone.is_first, alone.target) == (1, 0, True, '')
    tensors = [object(), object()]
    assert alone.sum(tensors) is tensors
    assert alone.any(None, True) is True and list(alone.exchange(None, [3, 4])) == [3, 4]


def test_the_workers_of_tf_config():
    second = workers.join(config(['h1:2222', '10.0.0.2:99'], 1))
    assert (second.count, second.index, second.is_first) == (2, 1, False)
    assert second.names([0, 1]) == 'worker 0 (h1:2222), worker 1 (10.0.0.2:99)'


@pytest.mark.parametrize('then, batch_size, now, share', [
    (2, 1, 1, 2), (2, 3, 2, 3), (1, 4, 2, 2), (3, 2, 2, 3), (None, 2, 2, 2)])
def test_a_resumed_run_keeps_its_steps_whoever_shares_them(tmp_path, then, batch_size, now, share):
    (tmp_path / 'options.json').write_text(json.dumps({} if then is None else {'workers': then}))
    options = SimpleNamespace(resume=tmp_path, batch_size=batch_size)
    team = workers.Workers([f'h{index}:1' for index in range(now)], now - 1)
    assert team.batch_size(options) == share
    assert team.batch_size(SimpleNamespace(resume=None, batch_size=5)) == 5


@pytest.mark.parametrize('then, message', [
    (3, 'was started by 3 workers with --batch-size 1, 3 photographs a step, which 2 cannot share'),
    ('two', "'workers' is two"), (0, "'workers' is 0"), (True, "'workers' is True")])
def test_steps_that_cannot_be_shared_are_refused(tmp_path, then, message):
    (tmp_path / 'options.json').write_text(json.dumps({'workers': then}))
    with pytest.raises(InputError, match=message):
        workers.Workers(['a:1', 'b:1'], 0).batch_size(
            SimpleNamespace(resume=tmp_path, batch_size=1))


def test_workers_of_a_machine_know_how_many_they_are():
    team = workers.Workers(['a:1', '[::1]:1', 'a:2', 'b:1', 'a:3'], 2)
    assert team.count_here == 3 and workers.Workers().count_here == 1


@pytest.mark.parametrize('own, same', [
    (['8a', '8b', '8c'], None), ([None, None, '8c'], None),
    (['8a', '8b', '8a'], r'worker 2 \(b:3\) uses the same GPU as worker 0 \(a:1\)')])
def test_two_workers_on_one_gpu_are_refused(monkeypatch, own, same):
    """By all of them, before NCCL would fail."""
    asked = []
    for index, gpu in enumerate(own):       # first each says what it has
        team = workers.Workers(['a:1', 'a:2', 'b:3'], index)
        monkeypatch.setattr(workers.driver, 'first_gpu', lambda gpu=gpu: gpu)
        monkeypatch.setattr(team, 'exchange', lambda _, numbers: asked.append(numbers)
                            or np.arange(len(numbers)))
        team.check_own_gpu(None)
    monkeypatch.setattr(team, 'exchange', lambda _, numbers: np.sum(asked, axis=0))
    with pytest.raises(InputError, match=same) if same else contextlib.nullcontext():
        team.check_own_gpu(None)


def test_the_sums_of_a_step_have_an_order(tmp_path):
    """NCCL hangs where two workers ask for two sums in different orders."""
    script = tmp_path / 'worker.py'
    script.write_text(f"""import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
from roadseg.training import device, workers
import tensorflow.compat.v1 as tf
team = workers.join()
with tf.Graph().as_default():
    given = tf.placeholder(tf.float32, [3])
    sums = team.sum([given]) + team.sum([2 * given])
    team.start()
    noted = tf.RunMetadata()
    with team.session(device.session_config()) as sess:
        found = sess.run(sums, {{given: [1, 2, 5]}}, run_metadata=noted,
                         options=tf.RunOptions(output_partition_graphs=True))
        waits = [list(node.attr['wait_for'].list.i) for graph in noted.partition_graphs
                 for node in graph.node if node.op == 'CollectiveReduce']
    team.part()
print(json.dumps([[list(map(float, value)) for value in found], sorted(waits)]))
""")
    addresses = launch.free_addresses(2)
    both = [subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True,
                             env={**os.environ, **config(addresses, index)}) for index in (0, 1)]
    for worker in both:
        assert json.loads(worker.communicate(timeout=100)[0]) == [
            [[2, 4, 10], [4, 8, 20]], [[], [2]]]


def test_addresses_of_ipv6_answer():
    with socket.socket(socket.AF_INET6) as other:
        try:
            other.bind(('::1', 0))
        except OSError:
            pytest.skip('no IPv6 here')
        other.listen()
        team = workers.Workers(['a:1', f'[::1]:{other.getsockname()[1]}'], 0)
        assert team.silent() == []


def test_many_machines_that_are_off_are_found_within_seconds(monkeypatch):
    """They refuse no connection: each try lasts as long as it may."""
    now = [0.0]

    def create_connection(address, timeout):
        now[0] += timeout
        raise TimeoutError

    monkeypatch.setattr(workers.socket, 'create_connection', create_connection)
    monkeypatch.setattr(workers.time, 'monotonic', lambda: now[0])
    missing = workers.Workers([f'h{index}:1' for index in range(9)], 4).silent()
    monkeypatch.undo()
    assert missing == [0, 1, 2, 3, 5, 6, 7, 8] and now[0] < 10


def test_a_mistake_in_the_options_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr(launch.subprocess, 'Popen', None)       # nothing is started
    for options in (['--no-such-option'], ['--epochs', '0'], ['--resume', '/nowhere']):
        with contextlib.suppress(SystemExit):       # from argparse
            assert run_command(launch.main, ['--workers', '3', '--', *options]) == 2
        assert capsys.readouterr().err.count('error: ') == 1


def test_workers_that_cannot_all_be_started_are_ended(monkeypatch):
    """As where the system has no process left."""
    started, start = [], subprocess.Popen

    def limited(*arguments, **options):
        if len(started) == 2:
            raise OSError(errno.EAGAIN, 'Resource temporarily unavailable')
        code = ('from roadseg.signals import stop_at_once; stop_at_once(); '
                'import time; time.sleep(60)')
        started.append(start([sys.executable, '-c', code], **options, cwd=ROOT))
        return started[-1]

    monkeypatch.setattr(subprocess, 'Popen', limited)
    with pytest.raises(InputError, match='^worker 2 of 3 cannot be started: Resource'):
        launch.launch(3, [])
    assert [worker.wait(20) for worker in started] == [130] * 2
    for worker in started[1:]:
        worker.stderr.close()


@pytest.mark.parametrize('environ, says', [
    ({'TF_CONFIG': '{'}, 'malformed'), ({'TF_CONFIG': '[]'}, 'malformed'),
    ({'TF_CONFIG': '{"cluster": {}}'}, 'malformed'), ({'TF_CONFIG': '3'}, 'malformed'),
    ({'TF_CONFIG': '[' * 100_000}, 'malformed'),
    (config(['a..b:1', 'c:2']), 'a..b:1'), (config(['http://a:1', 'b:2']), 'http://a:1'),
    (config(['a b:1', 'c:2']), 'a b:1'), (config([64 * 'a' + ':1', 'c:2']), 'host:port'),
    (config(kind='ps'), 'a ps'), (config(index=2), '0 to 1'), (config(index=-1), '0 to 1'),
    (config(index='0'), '0 to 1'), (config(index=True), '0 to 1'),
    (config(['a:1', 'a:1']), 'host:port'), (config(['a', 'b:2']), 'host:port'),
    (config(['a:0', 'b:2']), 'host:port'), (config(['a:²', 'b:2']), 'host:port'),
    (config(['a:99999', 'b:2']), 'host:port'), (config([1, 2]), 'host:port'), (config([]), 'host'),
    (config(['h1:1,h2:2']), 'host:port'), (config(['a,b:1', 'c:2']), 'host:port'),
    (config(['::1:1', 'b:2']), 'host:port')])
def test_a_malformed_tf_config_is_told(environ, says):
    with pytest.raises(InputError, match=f'TF_CONFIG.*{re.escape(says)}'):
        workers.join(environ)


def test_a_port_in_use_is_told():
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f'port {port} of worker 1'):
            workers.join(config(['127.0.0.1:1', f'127.0.0.1:{port}'], 1)).start()


def test_a_worker_that_never_starts_is_named(monkeypatch):
    monkeypatch.setattr(workers, 'PATIENCE', 1)
    addresses = launch.free_addresses(2)
    with pytest.raises(InputError, match=re.escape(f'worker 1 ({addresses[1]}) did not start')):
        workers.join(config(addresses, 0)).start()


def test_two_workers_with_the_same_index_are_told(monkeypatch):
    """On two machines, both have the port, and each sees its own among the others'."""
    monkeypatch.setattr(workers, 'PATIENCE', 1)
    addresses, said = launch.free_addresses(2), []
    there, server = threading.Barrier(2, timeout=120), workers.tf.train.Server

    def both_there(*arguments, **options):
        made = server(*arguments, **options)
        there.wait()
        return made

    monkeypatch.setattr(workers.tf.train, 'Server', both_there)

    def start(listed):
        try:
            workers.join(config(listed, 0)).start()
        except InputError as error:
            said.append(str(error))

    both = [threading.Thread(target=start, args=(listed,))
            for listed in (addresses, addresses[::-1])]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(60)
    assert len(said) == 2 and all('each an index of its own' in line for line in said)


def test_a_worker_that_waits_for_the_others_hears_a_signal():
    over = threading.Event()

    class Session:
        def run(self, *_):
            with contextlib.suppress(KeyboardInterrupt):    # as inside TensorFlow, none is heard
                os.kill(os.getpid(), signal.SIGTERM)
                over.wait(60)

    team = workers.Workers(['a:1', 'b:1'])
    team._exchange = None, None
    try:
        with pytest.raises(KeyboardInterrupt), as_ctrl_c():
            team.exchange(Session(), [1])
    finally:
        over.set()


def test_workers_of_a_machine_look_for_data_in_turn(tmp_path):
    inside, most = [], []

    def fetch(index, fetched):
        with workers.join(config(['a:1', 'a:2'], index)).in_turn(tmp_path / 'new/data'):
            inside.append(index)
            if fetched:         # the folder is there before the other worker looks
                (tmp_path / 'new/data').mkdir(parents=True, exist_ok=True)
                began.set()
            most.append(len(inside))
            time.sleep(0.2)
            inside.remove(index)

    for fetched in (False, True):
        began = threading.Event()
        both = [threading.Thread(target=fetch, args=(index, fetched)) for index in range(2)]
        both[0].start()
        if fetched:
            began.wait(20)
        both[1].start()
        for thread in both:
            thread.join(20)
        assert most == [1, 1] and not inside
        assert fetched or not (tmp_path / 'new').exists()       # which may be misspelt
        most.clear()


def test_the_port_of_a_killed_worker_can_be_used_at_once(monkeypatch):
    """Its connections stay in the system's list for a minute, if it ended before the others."""
    monkeypatch.setattr(workers, 'PATIENCE', 1)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)      # as TensorFlow does
        listener.bind(('127.0.0.1', 0))
        listener.listen()
        address = '{}:{}'.format(*listener.getsockname())
        with socket.create_connection(listener.getsockname()) as other:
            listener.accept()[0].close()
            assert other.recv(1) == b''
    with pytest.raises(InputError, match='worker 0 .* did not start'):
        workers.join(config([launch.free_addresses(1)[0], address], 1)).start()


def test_workers_watch_each_other_until_they_part_or_fail(monkeypatch, capsys):
    """Whoever writes the last checkpoint is not ended because the others are gone already."""
    ended = []
    monkeypatch.setattr(workers, 'SILENCE', 0.5)
    monkeypatch.setattr(workers, 'LOOK', 0.1)
    monkeypatch.setattr(os, '_exit', ended.append)
    monkeypatch.setattr(workers.Workers, '_call_the_roll', lambda self: None)
    others = [socket.create_server(('127.0.0.1', 0)) for _ in range(3)]
    addresses = ['{}:{}'.format(*other.getsockname()) for other in others]
    watching, parted, failed = teams = [
        workers.join(config([launch.free_addresses(1)[0], address])) for address in addresses]
    for team, other in zip(teams, others):
        team.start()
    parted.part()
    with pytest.raises(InputError, match='the loss became nan'), failed.naming_lost():
        raise InputError('the loss became nan')
    for other in others:
        other.close()
    end = time.monotonic() + 20
    while not ended and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.5)         # the others would have noticed, too
    watching.part()
    said = capsys.readouterr().err
    assert set(ended) == {2} and f'error: worker 1 ({addresses[0]}) is gone' in said
    assert addresses[1] not in said and addresses[2] not in said


def test_a_connection_that_breaks_is_a_line_though_all_answer(monkeypatch):
    """As where a supervisor starts a killed worker anew at once."""
    team = workers.Workers(['a:1', 'b:1'], 0)
    monkeypatch.setattr(workers.time, 'sleep', lambda seconds: None)
    monkeypatch.setattr(team, 'silent', lambda: [])
    with pytest.raises(InputError, match='the connection to another worker broke .Socket closed.; '
                                         'start all workers again'), team.naming_lost():
        raise tf.errors.UnavailableError(None, None, 'Socket closed\nmore')
    alone, of_onednn = workers.Workers(), ('Operation received an exception:Status: 1, message: '
                                           'could not create a primitive')
    for one, error in ((team, tf.errors.InvalidArgumentError(None, None, 'shapes')),
                       (team, tf.errors.AbortedError(None, None, of_onednn)),
                       (alone, tf.errors.AbortedError(None, None, 'Socket closed'))):
        with pytest.raises(type(error)), one.naming_lost():         # a bug of ours
            raise error
    monkeypatch.setattr(tf_errors, 'offers_gpu', lambda: True)
    with pytest.raises(InputError, match='^the GPU cannot compute: NCCL: unhandled cuda error'), \
            team.naming_lost():
        raise tf.errors.InternalError(None, None, 'NCCL: unhandled cuda error')


def test_a_worker_that_is_gone_before_the_roll_is_called_is_named(monkeypatch):
    team = workers.Workers(['a:1', 'b:1'], 0)

    def fail(*arguments):
        raise tf.errors.DeadlineExceededError(None, None, '')

    monkeypatch.setattr(workers, '_run_hearing_signals', fail)
    monkeypatch.setattr(team, 'session', lambda config: contextlib.nullcontext())
    for missing, message in (([1], r'worker 1 \(b:1\) is gone'),
                             ([], 'do not find each other; .* another program has one of these')):
        monkeypatch.setattr(team, 'silent', lambda missing=missing: missing)
        with pytest.raises(InputError, match=message):
            team._call_the_roll()


def test_a_mean_of_batches_counts_photographs_and_no_grey_image(monkeypatch):
    """The other worker has two photographs, whose mean is 10."""
    team = workers.Workers(['a:1', 'b:1'], 0)
    monkeypatch.setattr(team, 'sum', lambda tensors: [tensors[0] + 2 * 10, tensors[1] + 2])
    with tf.Graph().as_default(), tf.Session() as sess:
        classes = tf.placeholder(tf.uint8, [None, None, None])
        mean, = team.mean_by_labels(classes)([tf.constant([4.0])])
        labelled, ignored = np.ones((1, 3, 5)), np.full((1, 3, 5), 255)
        for batch, expected in ((np.concatenate([labelled, labelled]), 7),
                                (np.concatenate([labelled, ignored]), 7),   # one without a label
                                (ignored, 10)):         # in the place of none
            assert sess.run(mean, {classes: batch}) == pytest.approx(expected, abs=1e-4)


def test_dropout_differs_by_worker(data):
    def seeds(index):
        with tf.Graph().as_default(), tf.Session() as sess:
            net = main.build(sess, data / 'vgg', 2, main.parse_args(['--image-size', '32x96']),
                             team=workers.Workers(['a:1', 'b:1'], index))
            return list(net.feed.values())

    first, second = seeds(0), seeds(1)
    assert first and not set(first) & set(second)


def test_the_first_difference_of_two_lists_is_told(monkeypatch):
    lists = [['a', 'b', 'c', 'd', 'e', 'f', 'g'], ['a', 'b', 'c', 'X', 'e', 'f', 'Y']]

    def told(mine, other):
        """What the worker with the list `mine` says, where another asks the same of `other`."""
        team = workers.Workers(['a:1', 'b:1'], 0)

        def check_same(_, what, text):
            if what.startswith('the number'):
                there = str(len(other))
            else:
                first, count = mine.index(text.split()[0]), len(text.split())
                there = ' '.join(other if count == len(mine) else other[first:first + count])
            if text != there:
                raise InputError(f'{what}; here: {text}')

        monkeypatch.setattr(team, 'check_same', check_same)
        with pytest.raises(InputError) as caught:
            team.check_all_same(None, 'the labels', mine)
        return str(caught.value)

    assert told(*lists) == 'the labels; here: d' and told(*lists[::-1]) == 'the labels; here: X'
    assert told(lists[0], lists[1][:6]) == 'the number of the labels; here: 7'


def test_what_workers_must_have_in_common(data, tmp_path, monkeypatch):
    """What each of them would compare of its own."""
    def compared(folder, spoil=lambda: None, **changes):
        team, found = workers.Workers(['a:1', 'b:1'], 0), {}
        spoil()
        dataset = kitti.load(folder, strict=False)._replace(**changes)
        monkeypatch.setattr(team, 'check_same', lambda _, what, text: found.update({what: text}))
        monkeypatch.setattr(team, 'of_first', lambda _, numbers: numbers)
        team._agree = None
        sess = SimpleNamespace(list_devices=lambda: [], run=lambda fetches: None)
        team.agree(sess, Progress(), main.parse_args(['--seed', '5']), dataset,
                   sum(dataset.split('kfold:3:0'), []), folder / 'vgg')
        return found

    own = tmp_path / 'own'
    shutil.copytree(data, own)
    expected = compared(data)
    assert compared(own) == expected

    def differing(spoil=lambda: None, **changes):
        found = compared(own, spoil, **changes)
        return [what for what in found if found[what] != expected[what]]

    assert differing(classes=('road', 'rest')) == ['classes']
    training = kitti.load(own, strict=False).split('kfold:3:0')[0]
    with monkeypatch.context() as patch:
        patch.setattr(workers, 'versions', lambda: dict.fromkeys(
            ('tensorflow', 'numpy', 'scipy', 'pillow'), '9'))
        patch.setattr(workers, '_code_checksum', lambda: 7)
        assert differing() == ['versions', 'the code of this project']
    label = training[0][1].read_bytes()
    assert differing(lambda: training[0][1].write_bytes(label + b' ')) == [
        'the labels, their names or sizes']
    training[0][1].write_bytes(label)
    photograph = training[0][0].read_bytes()
    assert differing(lambda: training[0][0].write_bytes(photograph + b' ')) == [
        'the photographs, their names or sizes']


def test_errors_and_tracebacks_of_all_workers_are_shown(monkeypatch, tmp_path, capsys):
    script = tmp_path / 'main.py'
    script.write_text('import os, sys\n'
                      'print("warning: no", file=sys.stderr)\n'
                      'print("error: yes", file=sys.stderr)\n'
                      'if \'"index": 1\' in os.environ["TF_CONFIG"]: 1 / 0\n')
    monkeypatch.setattr(launch, 'MAIN', script)
    assert launch.launch(2, []) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ['worker 1: error: yes', 'worker 1: Traceback (most recent call last):']
    assert said[-1] == 'worker 1: ZeroDivisionError: division by zero'


def test_a_signal_that_ends_the_workers_at_once_is_no_failure(tmp_path, monkeypatch):
    """As where they have not begun to handle it: it waits until they do."""
    script, started = tmp_path / 'main.py', tmp_path / 'started'
    script.write_text(f"""
import pathlib, sys, time
pathlib.Path({str(started)!r}).touch()
time.sleep(0.3)
sys.path.insert(0, {str(ROOT)!r})
from roadseg.signals import stop_at_once
stop_at_once()
time.sleep(60)""")
    monkeypatch.setattr(launch, 'MAIN', script)

    def end():
        while not started.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end)
    ending.start()
    assert launch.launch(1, []) == 130
    ending.join()


@pytest.mark.skipif(launch.LIBC is None, reason='this needs Linux')
def test_workers_end_with_the_process_that_started_them(tmp_path):
    """Else they would go on training, and keep the run locked."""
    script = tmp_path / 'main.py'
    script.write_text(f"""
import os, pathlib, sys, time
sys.path.insert(0, {str(ROOT)!r})
from roadseg.signals import stop_at_once
stop_at_once()
(pathlib.Path({str(tmp_path)!r}) / f'pid-{{os.getpid()}}').touch()
time.sleep(60)""")
    starter = subprocess.Popen([sys.executable, '-c', 'import pathlib, sys; '
                                'from roadseg import launch; '
                                'launch.MAIN = pathlib.Path(sys.argv[1]); launch.launch(2, [])',
                                str(script)], cwd=ROOT)
    end = time.monotonic() + 60
    while len(found := list(tmp_path.glob('pid-*'))) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    starter.kill()
    starter.wait()
    numbers = [int(path.name[4:]) for path in found]
    assert len(numbers) == 2
    while numbers and time.monotonic() < end:
        time.sleep(0.05)
        numbers = [number for number in numbers if is_alive(number)]
    assert not numbers


def is_alive(number):
    """Whether a process runs: one that has ended may wait for whoever cares."""
    try:
        return Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def test_a_worker_that_is_killed_is_named(tmp_path, monkeypatch, capsys):
    script = tmp_path / 'main.py'
    script.write_text('import os, signal\n'
                      'if \'"index": 0\' in os.environ["TF_CONFIG"]:\n'
                      '    os.kill(os.getpid(), signal.SIGKILL)\n')
    monkeypatch.setattr(launch, 'MAIN', script)
    assert launch.launch(2, []) == 2
    assert capsys.readouterr().err == 'error: worker 0 was killed; is there too little memory?\n'


# Whole trainings ------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    demo.write_scenes(folder, train=15, test=3, held_out=1, size=(47, 155))
    save_tiny_vgg(folder / 'vgg')
    return folder


def options(data, runs, *more):
    """Without dropout, which differs by worker, and augmentation; 12 photographs."""
    return ['--data-dir', str(data), '--runs-dir', str(runs), '--image-size', '32x96', '--epochs',
            '2', '--keep-prob', '1', '--no-flip', '--scale', '0', '--colour', '0', '--warmup', '2',
            '--learning-rate', '1e-3', '--precision', 'float32', '--freeze-blocks', '4',
            '--clip-norm', '0.1', *more]


def start(arguments, count=1):
    command = ([sys.executable, '-m', 'roadseg.launch', '--workers', str(count), '--']
               if count > 1 else [sys.executable, 'main.py'])
    return subprocess.Popen([*command, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env={**os.environ})


def finish(process):
    output, _ = process.communicate(timeout=400)
    return process.returncode, output


def log_of(runs):
    run, = (path for path in runs.iterdir() if path.is_dir())
    with open(run / 'log.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    return run, [[float(row[name]) for name in (
        'step', 'loss', 'val_loss', 'val_maxf', 'val_ap', 'val_iou', 'val_f1')] for row in rows]


@pytest.fixture(scope='module')
def alone(data, tmp_path_factory):
    """Log of one worker with batches of two."""
    runs = tmp_path_factory.mktemp('alone')
    assert run_command(main.main, options(data, runs, '--batch-size', '2')) == 0
    return log_of(runs)[1]


def start_each(arguments):
    """Starts workers that have a list of arguments each."""
    addresses = launch.free_addresses(len(arguments))
    return [subprocess.Popen(
        [sys.executable, 'main.py', *own], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env=launch.environment_of(addresses, index))
        for index, own in enumerate(arguments)]


def test_two_workers_are_one_with_twice_the_batch(data, alone, tmp_path):
    """Of three held-out photographs, the first scores two and the second one.

    Each has a data folder of its own, with wrong labels in the place of the other's share.
    """
    folders = [tmp_path / 'first', tmp_path / 'second']
    for folder, not_its in zip(folders, (['uu_road'], ['um_road', 'umm_road'])):
        shutil.copytree(data, folder)
        for name in HELD_OUT:
            path = folder / f'data_road/training/gt_image_2/{name}_{HELD_OUT[name]}.png'
            if name in not_its:
                Image.fromarray(np.array(Image.open(path))[::-1]).save(path)
            with path.open('ab') as label:      # of one size: what differs more is refused
                label.truncate(4096)
    for process in start_each([options(folder, tmp_path / 'runs', '--batch-size', '1')
                               for folder in folders]):
        code, output = finish(process)
        assert code == 0, output
    run, found = log_of(tmp_path / 'runs')
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    with roadseg.load(run) as model:        # without the other worker
        assert model.predict(np.zeros((32, 96, 3), np.uint8)).shape == (32, 96, 2)


@pytest.mark.slow
def test_batch_normalisation_sees_the_batches_of_both_workers(data, tmp_path):
    """Of 12 photographs in steps of 10, the last has two, and the second worker a grey one."""
    segnet = ['--model', 'segnet', '--freeze-blocks', '2']
    for count, batch_size in ((1, '10'), (2, '5')):
        code, output = finish(start(
            options(data, tmp_path / str(count), '--batch-size', batch_size, *segnet), count))
        assert code == 0, output
    expected, found = (np.array(log_of(tmp_path / name)[1]) for name in '12')
    # Adam makes steps of one size of gradients that are rounding alone, hence the second bound.
    np.testing.assert_allclose(found[:, :2], expected[:, :2], rtol=1e-4)     # steps, losses
    np.testing.assert_allclose(found[:, 2], expected[:, 2], rtol=5e-3)


@pytest.mark.slow
@pytest.mark.skipif(not native_bfloat16(), reason='a processor without bfloat16')
def test_two_workers_train_in_bfloat16_too(data, alone, tmp_path):
    code, output = finish(start(options(data, tmp_path, '--batch-size', '1', '--precision',
                                        'bfloat16'), count=2))
    assert code == 0 and 'per image forward, bfloat16' in output, output
    np.testing.assert_allclose([row[1] for row in log_of(tmp_path)[1]],
                               [row[1] for row in alone], rtol=0.02)


def start_two(data, runs):
    """Starts two workers, and waits for their first checkpoint; returns (process, run folder)."""
    process = start(options(data, runs, '--batch-size', '1', '--epochs', '2'), count=2)
    end = time.monotonic() + 200
    while not (saved := list(runs.glob('[!.]*/checkpoints/step-*'))) and time.monotonic() < end:
        time.sleep(0.05)
    return process, saved[0].parents[1]


@pytest.mark.slow
def test_two_workers_killed_and_resumed_by_one_end_with_the_same_log(data, alone, tmp_path):
    """The other ends by itself, within a minute, naming the one that is gone."""
    process, run = start_two(data, tmp_path)
    children = subprocess.run(['pgrep', '-P', str(process.pid)], capture_output=True, text=True,
                              check=True).stdout.split()
    began = time.monotonic()
    os.kill(int(children[1]), signal.SIGKILL)
    code, output = finish(process)
    assert code and 'worker 1 (127.0.0.1:' in output and 'is gone' in output, output
    assert time.monotonic() - began < 60
    code, output = finish(start(['--resume', str(run)]))
    assert code == 0, output
    np.testing.assert_allclose(log_of(tmp_path)[1], alone, rtol=1e-5)


@pytest.mark.slow
def test_two_workers_that_are_asked_to_stop_do_so_together_and_go_on_as_two(data, alone, tmp_path):
    process, run = start_two(data, tmp_path)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 130 and 'go on with python main.py --resume' in output, output
    code, output = finish(start(['--resume', str(run)], count=2))
    assert code == 0, output
    np.testing.assert_allclose(log_of(tmp_path)[1], alone, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('option', ['--seed', '--encoder'])
def test_workers_with_other_options_or_another_encoder_are_refused(data, tmp_path, option):
    save_tiny_vgg(tmp_path / 'vgg', fc_width=14)
    values = {'--seed': ['0', '1'], '--encoder': [str(data / 'vgg'), str(tmp_path / 'vgg')]}
    each = [options(data, tmp_path / 'runs', option, value) for value in values[option]]
    what = {'--seed': '--seed', '--encoder': 'the encoder'}[option]
    for process in start_each(each):
        code, output = finish(process)
        last = output.splitlines()[-1]
        assert code == 2 and last.startswith('error: worker 1'), output
        assert f'differs from worker 0 in {what}; here: ' in last


def test_too_few_ports_are_told(monkeypatch):
    def refuse():
        raise OSError(errno.EMFILE, 'Too many open files')

    monkeypatch.setattr(socket, 'socket', refuse)
    with pytest.raises(InputError, match='no ports for 64 workers: Too many open files; start fewer'):
        launch.launch(64, [])


def test_without_a_place_for_temporary_files_data_are_looked_for_all_the_same(monkeypatch):
    def refuse():
        raise FileNotFoundError(errno.ENOENT, 'No usable temporary directory found')

    monkeypatch.setattr(workers.tempfile, 'gettempdir', refuse)
    for team in (workers.Workers(), workers.Workers(['a:1', 'b:1'], 1)):
        with team.in_turn('data'):
            pass
