"""What TensorFlow's errors mean: files as Python's own errors, memory and GPU in a line."""
import errno
import re
from contextlib import contextmanager

from roadseg.driver import offers_gpu
from roadseg.errors import InputError

_REASONS = {'No space left on device': errno.ENOSPC, 'Disk quota exceeded': errno.EDQUOT,
            'Permission denied': errno.EACCES, 'Read-only file system': errno.EROFS,
            'File too large': errno.EFBIG, 'Input/output error': errno.EIO}
_OF_GPU = re.compile(r'\bDNN\b|[Cc][Uu](DNN|BLAS)|CUDA|cuLaunchKernel|NCCL|\bnccl')


def explain_gpu(error):
    """Raises InputError where an `OpError` is a GPU's that cannot compute.

    TensorFlow has no class of errors for these. With a cuDNN that is too new for the GPU, it is
    FailedPrecondition, "DNN library initialization failed"; else Internal or InvalidArgument.
    """
    if offers_gpu() and _OF_GPU.search(re.sub(r'/\S*', '', str(error.message))):    # without paths
        raise InputError(f'the GPU cannot compute: {as_os_error(error).strerror}; see nvidia-smi '
                         'and requirements-gpu.txt, or take the CPU by '
                         'CUDA_VISIBLE_DEVICES=-1') from error


@contextmanager
def naming_lack_of_memory(doing):
    """Where TensorFlow or Python runs out of memory, says so in a line.

    Args:
        doing: what was done, such as 'a picture was looked at'.

    Raises:
        InputError: it did.
    """
    try:
        yield
    except Exception as error:
        of_tensorflow = type(error).__name__ == 'ResourceExhaustedError'    # it may not be there
        if not of_tensorflow and not isinstance(error, MemoryError):
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
