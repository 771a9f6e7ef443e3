"""Imports TensorFlow without its start-up chatter. To be imported before TensorFlow.

TensorFlow's libraries write some twenty lines to the terminal before their own log level counts.
They are caught here, and those that are no information or warning are passed on. Importing this
module is meant to have that effect, and these: the log level is that of errors; oneDNN is on, also
on processors without AVX-512, where TensorFlow leaves it off (a training may have chosen otherwise,
see `roadseg.training.processor`); and a GPU's memory is taken as it is needed, whoever opens the
first session, lest two processes cannot share one.
"""
import os
import re
import tempfile
from contextlib import contextmanager, suppress

from roadseg.driver import offers_gpu

NOISE = re.compile(rb'WARNING: All log messages before absl|[IW]\d{4} |\d{4}-\d\d-\d\d .*: [IW] |'
                   rb'E\d{4} .*failed call to cuInit')


@contextmanager
def _without_noise():
    """Catches the error stream, where that can be done, and passes on what is no noise."""
    if os.environ['TF_CPP_MIN_LOG_LEVEL'] in ('0', '1'):        # it is wanted
        yield
        return
    try:
        stderr, caught = os.dup(2), tempfile.TemporaryFile()
    except OSError:                 # no error stream, as in some services; or a full disk
        yield
        return
    with caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught:
                if not NOISE.match(line):
                    with suppress(OSError):     # a full disk, or a reader that has gone
                        os.write(2, line)


def _import_tensorflow():
    """Imports TensorFlow, and sets what it would say aloud otherwise."""
    with _without_noise():
        import tensorflow
        if not offers_gpu():        # once asked here, it is not asked later, aloud
            tensorflow.config.set_visible_devices([], 'GPU')
    tensorflow.compat.v1.logging.set_verbosity(tensorflow.compat.v1.logging.ERROR)


os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')
_import_tensorflow()
