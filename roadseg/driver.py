"""Whether NVIDIA's driver is there. Costs no import of TensorFlow."""
import ctypes
import os
import sys


def has_driver():
    """Whether NVIDIA's driver is there. Asked for a GPU without it, TensorFlow prints an error."""
    try:
        ctypes.CDLL('libcuda.so.1' if sys.platform == 'linux' else 'nvcuda.dll')
    except OSError:
        return False
    return True


def sees_gpu():
    """Whether TensorFlow could use a GPU: not on Windows, nor where the user has hidden it."""
    return (sys.platform != 'win32' and has_driver()
            and os.environ.get('CUDA_VISIBLE_DEVICES', '0') not in ('', '-1'))
