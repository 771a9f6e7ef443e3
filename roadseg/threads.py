"""Work in threads, in order. NumPy, Pillow and TensorFlow let others run while they compute."""
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor


def prepared_ahead(make, arguments, threads=1, ahead=4):
    """Yields `make(argument)` in order, computed in threads up to `ahead` items early.

    In the end, also where it is left early, a generator of arguments is closed.
    """
    pool, pending = ThreadPoolExecutor(threads), deque()
    try:
        for argument in arguments:
            pending.append(pool.submit(make, argument))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        if hasattr(arguments, 'close'):     # whose own threads end then
            arguments.close()


class Turns:
    """A lock that tells time: its clock stands still for a thread that waits for its turn."""

    def __init__(self):
        self._lock, self._of_thread = threading.Lock(), threading.local()

    def __enter__(self):
        began = time.perf_counter()
        self._lock.acquire()
        self._of_thread.waited = self._waited() + time.perf_counter() - began

    def __exit__(self, *error):
        self._lock.release()

    def clock(self):
        """Seconds that the calling thread has not waited, from an arbitrary beginning."""
        return time.perf_counter() - self._waited()

    def _waited(self):
        return getattr(self._of_thread, 'waited', 0.0)
