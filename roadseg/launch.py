"""Starts several workers of one training on this machine, to try it out.

    python -m roadseg.launch --workers 2 -- --demo --epochs 4

What stands behind `--` are options of `main.py`. Each worker gets a TF_CONFIG that names all of
them; on several machines, that is set by hand, see README.md. The first worker's output is shown
as it is, the others' errors and tracebacks behind their number.
"""
if __name__ == '__main__':      # before the imports, which take seconds
    from roadseg.signals import stop_at_once
    stop_at_once()
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from roadseg.commands import Parser, number, run_command
from roadseg.driver import gpus
from roadseg.errors import InputError
from roadseg.signals import handling, hold_back
from roadseg.training.options import check_alone, parse_args

MAIN = Path(__file__).parents[1] / 'main.py'
LIBC = ctypes.CDLL(None) if sys.platform == 'linux' else None
PR_SET_PDEATHSIG = 1        # of Linux' prctl
KILLED = getattr(signal, 'SIGKILL', 9)
OF_FATAL = re.compile(rb'F\d{4} ')       # TensorFlow's log, before it aborts


def free_addresses(count):
    """Returns `count` addresses of this machine whose ports nobody has."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(('127.0.0.1', 0))
        return [f'127.0.0.1:{one.getsockname()[1]}' for one in sockets]
    finally:
        for one in sockets:
            one.close()


def environment_of(addresses, index):
    """Returns the environment of a worker: this process's, TF_CONFIG, and a GPU of its own.

    Where there are fewer GPUs than workers, they use the CPU: NCCL takes no two on one GPU.
    """
    task = {'cluster': {'worker': addresses}, 'task': {'type': 'worker', 'index': index}}
    found = gpus()
    own = found[index] if len(found) >= len(addresses) else '-1'
    return {**os.environ, **({'CUDA_VISIBLE_DEVICES': own} if found else {}),
            'TF_CONFIG': json.dumps(task)}


def launch(count, options):
    """Runs `main.py` in several workers until all have ended.

    A signal to end is handed on to each of them. Where one fails, the others notice it, see
    `training.workers`.

    Args:
        count: of the workers.
        options: list of str for `main.py`.

    Returns:
        The first exit code that is not 0, or 0; 130 of a worker that a signal ended which was
        handed on.

    Raises:
        InputError: the system has no ports for so many, or can't start them.
    """
    workers, asked = [], []
    try:
        addresses = free_addresses(count)
    except OSError as error:
        raise InputError(f'there are no ports for {count} workers: {error.strerror}; start '
                         'fewer') from error

    def hand_on(received, frame):
        asked.append(received)
        for worker in workers:
            # Windows' console sends Ctrl-C to all of its processes, and Python cannot.
            if worker.poll() is None and (os.name == 'posix' or received != signal.SIGINT):
                worker.send_signal(received)

    with handling(hand_on):
        try:
            while len(workers) < count and not asked:
                workers.append(_started(addresses, len(workers), options))
                if asked:           # while it was started
                    hand_on(asked[-1], None)
        except OSError as error:
            hand_on(signal.SIGTERM, None)
            raise InputError(f'worker {len(workers)} of {count} cannot be started: '
                             f'{error.strerror}; start fewer') from error
        shown = [threading.Thread(target=_show, args=(index, worker.stderr), daemon=True)
                 for index, worker in enumerate(workers[1:], 1)]
        for thread in shown:
            thread.start()
        codes = [worker.wait() for worker in workers]
        for thread in shown:        # what it said last is the most important
            thread.join(5)
    for index, code in enumerate(codes):
        if code == -KILLED:
            print(f'error: worker {index} was killed; is there too little memory?',
                  file=sys.stderr)
        elif code < 0 and -code not in asked:
            print(f'error: worker {index} was ended by {signal.Signals(-code).name}',
                  file=sys.stderr)
    return next((130 if -code in asked else 2 if code == -KILLED else abs(code)
                 for code in codes if code), 0)


def _started(addresses, index, options):
    """Starts a worker, of which only the first one prints: `subprocess.Popen`."""
    hold_back(True)         # until the worker has its handlers
    try:
        return subprocess.Popen([sys.executable, str(MAIN), *options],
                                env=environment_of(addresses, index), start_new_session=True,
                                preexec_fn=_end_with_this if LIBC else None,
                                stdout=None if index == 0 else subprocess.DEVNULL,
                                stderr=None if index == 0 else subprocess.PIPE)
    finally:
        hold_back(False)


def _end_with_this():
    """Has the kernel send this process SIGTERM when the one that started it is gone."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _show(index, stream):
    failed = False
    for line in stream:
        failed = failed or line.startswith(b'Traceback')
        if failed or line.startswith(b'error: ') or OF_FATAL.match(line):
            sys.stderr.write(f"worker {index}: {line.decode(errors='replace')}")


def main(argv=None):
    """The command: returns the exit code of the workers."""
    parser = Parser(prog='python -m roadseg.launch', description=__doc__)
    parser.add_argument('--workers', type=number(int, 1, 64), required=True, metavar='N',
                        help='how many')
    parser.add_argument('options', nargs='*', metavar='-- OPTIONS', help='of main.py')
    args = parser.parse_args(argv)
    options = parse_args(args.options)      # a mistake is said once, not by every worker
    if args.workers > 1:
        check_alone(options)
    if 0 < (count := len(gpus())) < args.workers:
        print(f'warning: {args.workers} workers for {count} GPU(s): all of them use the CPU; '
              'start no more workers than there are GPUs', file=sys.stderr)
    return launch(args.workers, args.options)


if __name__ == '__main__':
    sys.exit(run_command(main))
