"""Whether NVIDIA's driver is there. Costs no import of TensorFlow."""
import ctypes
import sys


def has_driver():
    """Whether NVIDIA's driver is there. Asked for a GPU without it, TensorFlow prints an error."""
    try:
        ctypes.CDLL('libcuda.so.1' if sys.platform == 'linux' else 'nvcuda.dll')
    except OSError:
        return False
    return True
