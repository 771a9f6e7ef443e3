"""Requests to end a command: Ctrl-C, a scheduler's SIGTERM, a closed terminal's SIGHUP.

They all end in KeyboardInterrupt, and commands in exit code 130. What the process was started to
ignore, as `nohup` does with SIGHUP, it goes on ignoring.
"""
import atexit
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress

STOPPING = [getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP')
            if hasattr(signal, name)]       # Windows has no SIGHUP
ONE_REQUEST = 0.5       # seconds in which it may come twice: to all processes, and handed on


@contextmanager
def as_ctrl_c():
    """Makes SIGTERM and SIGHUP raise KeyboardInterrupt, so that nothing half written is left.

    Once for all that come within `ONE_REQUEST`: a second one would interrupt what clears up.
    """
    raised = []

    def handler(number, frame):
        now = time.monotonic()
        if not raised or now - raised[-1] > ONE_REQUEST:
            raised.append(now)
            signal.default_int_handler(number, frame)

    with handling(handler):
        yield


@contextmanager
def stopping():
    """Asks the training to end between two steps; a signal later on ends it at once.

    Yields:
        Function that says whether a signal came.
    """
    received = []

    def handler(number, frame):
        received.append(time.monotonic())
        if received[-1] - received[0] > ONE_REQUEST:
            signal.signal(number, before[number])
            signal.raise_signal(number)
        elif len(received) == 1:
            with suppress(OSError):     # not print(), which may be what the signal interrupted
                os.write(2, b'\nstopping after this step; once more to stop at once\n')

    with handling(handler) as before:
        yield lambda: bool(received)


def handle(handler):
    """Has the signals that are not ignored call a function; for good, or see `handling`.

    Outside the main thread, where Python can't, it changes nothing.

    Args:
        handler: function of the signal's number and the frame.

    Returns:
        dict from signal to earlier handler.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in STOPPING
                  if signal.getsignal(number) not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    return before


def hold_back(held):
    """Blocks the signals to end while a program without handlers starts, or lets them through."""
    if hasattr(signal, 'pthread_sigmask'):
        signal.pthread_sigmask(signal.SIG_BLOCK if held else signal.SIG_UNBLOCK, STOPPING)


@contextmanager
def handling(handler):
    """As `handle`, until the block ends; yields what it returns."""
    before = handle(handler)
    try:
        yield before
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def stop_at_once():
    """Has Ctrl-C and its like end the process without a word, until `run_command` handles them.

    To be called before the imports, which take seconds: Python would show a traceback out of the
    middle of them, and nothing has been begun. And when all is done, no signal ends it before it
    has said its own exit code, while libraries are unloaded. A notebook, which lives on, is left
    as it is.
    """
    open_closed_streams()
    if hasattr(sys, 'ps1'):
        return
    handle(lambda *_: os._exit(130))
    hold_back(False)            # what waited since the process was started
    atexit.register(handle, signal.SIG_IGN)


def open_closed_streams():
    """Keeps the numbers of the standard streams taken, lest a file of ours gets the log's."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)    # the lowest that is free
