"""Whether NVIDIA's driver is there. Costs no import of TensorFlow."""
import ctypes
import itertools
import os
import sys

DRIVER = 'libcuda.so.1' if sys.platform == 'linux' else 'nvcuda.dll'


def has_driver():
    """Whether NVIDIA's driver is there. Asked for a GPU without it, TensorFlow prints an error."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


def offers_gpu():
    """Whether the driver is there, and the user has not hidden its GPUs."""
    return has_driver() and os.environ.get('CUDA_VISIBLE_DEVICES', '0') not in ('', '-1')


def gpus():
    """The GPUs that programs may use, as CUDA_VISIBLE_DEVICES names them: list of str."""
    if not offers_gpu():
        return []
    if chosen := os.environ.get('CUDA_VISIBLE_DEVICES'):
        names = map(str.strip, chosen.split(','))
        # CUDA passes over what follows a number that is none
        return list(itertools.takewhile(lambda name: name and name[0] != '-', names))
    driver, count = ctypes.CDLL(DRIVER), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    return list(map(str, range(count.value)))


def first_gpu():
    """The UUID of the first GPU that programs may use, 32 hexadecimal digits; None without one.

    It is the same however a GPU is named to a process, and within a container.
    """
    if not offers_gpu():
        return None
    driver, device, found = ctypes.CDLL(DRIVER), ctypes.c_int(), (ctypes.c_ubyte * 16)()
    if (driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
            or driver.cuDeviceGetUuid(ctypes.byref(found), device)):
        return None
    return bytes(found).hex()


def sees_gpu():
    """Whether TensorFlow could use a GPU, which it does not on Windows."""
    return sys.platform != 'win32' and offers_gpu()
