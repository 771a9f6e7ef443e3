"""Requests to end a training run: Ctrl-C, a scheduler's SIGTERM, a closed terminal's SIGHUP."""
import signal
from contextlib import contextmanager

STOPPING = [getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP')
            if hasattr(signal, name)]       # Windows has no SIGHUP


@contextmanager
def stopping():
    """Asks the training to end between two steps; the same signal again ends it at once.

    Yields:
        Function that says whether a signal came.
    """
    received = []

    def handler(number, frame):
        received.append(number)
        signal.signal(number, before[number])

    before = {number: signal.signal(number, handler) for number in STOPPING}
    try:
        yield lambda: bool(received)
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
