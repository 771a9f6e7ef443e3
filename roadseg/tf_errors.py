"""TensorFlow's errors of reading and writing files, as Python's own."""
import errno
import re
from contextlib import contextmanager

from roadseg.errors import InputError

_REASONS = {'No space left on device': errno.ENOSPC, 'Disk quota exceeded': errno.EDQUOT,
            'Permission denied': errno.EACCES, 'Read-only file system': errno.EROFS,
            'File too large': errno.EFBIG, 'Input/output error': errno.EIO}


_OF_GPU = re.compile(r'\bDNN\b|[Cc][Uu](DNN|BLAS)|CUDA|cuLaunchKernel')


def explain_gpu(error):
    """Raises InputError where an `OpError` is a GPU's that cannot compute.

    TensorFlow has no class of errors for these: with a cuDNN that is too new for the GPU, it is a
    FailedPrecondition ("DNN library initialization failed"), elsewhere Internal or InvalidArgument.
    """
    if _OF_GPU.search(str(error.message)):
        raise InputError(f'the GPU cannot compute: {as_os_error(error).strerror}; see nvidia-smi and '
                         'requirements-gpu.txt, or take the CPU by '
                         'CUDA_VISIBLE_DEVICES=-1') from error


@contextmanager
def naming_lack_of_memory(doing):
    """Where TensorFlow runs out of memory, says so in a line.

    Args:
        doing: what was done, such as 'a picture was looked at'.

    Raises:
        InputError: it did.
    """
    try:
        yield
    except Exception as error:
        if type(error).__name__ != 'ResourceExhaustedError':    # TensorFlow may not be there
            raise
        raise InputError(f'out of memory while {doing}; end what else uses the memory, or choose '
                         'another GPU by CUDA_VISIBLE_DEVICES, or the CPU by -1') from error


def as_os_error(error):
    """Makes an OSError of TensorFlow's `OpError`, which tells the reason in its text alone.

    Args:
        error: `OpError` or `OSError`; the latter is returned as it is.

    Returns:
        OSError.
    """
    if isinstance(error, OSError):
        return error
    message = str(error.message)
    for text, number in _REASONS.items():
        if text in message:
            return OSError(number, text)
    # of what a session has run, the reason comes last, behind a list of nodes
    reason = re.split(r"\nNode: '.*'\n", message)[-1].removeprefix('Graph execution error:')
    return OSError(None, (reason.strip() or type(error).__name__).splitlines()[0])
