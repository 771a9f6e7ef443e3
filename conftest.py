"""What several test files need: a tiny VGG16, a small disk, and a network that does not answer."""
import os
import signal
import socket
import subprocess
from contextlib import contextmanager

import pytest

os.environ.setdefault('NVIDIA_TF32_OVERRIDE', '0')      # what is compared with NumPy is float32
# As roadseg.quiet does, which is too late where a test file imports TensorFlow first.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell has its background jobs ignore Ctrl-C, and what they start inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def save_tiny_vgg(path, width_divisor=32, fc_width=12, fc_kernel=3, context=False):
    """Writes a VGG16 graph some 32 times narrower than the real one."""
    from roadseg.networks import vgg16   # here, lest tests without TensorFlow wait for it
    shapes = vgg16.convolution_shapes(width_divisor)
    top = vgg16.top_shapes(shapes['conv5_3'][-1], fc_width, fc_kernel, context)
    vgg16.save({}, {**shapes, **top}, vgg16.torch_input, path)
    return path


@contextmanager
def small_disk(folder, size):
    """Mounts a file system of a size such as '300k', or skips the test."""
    folder.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', folder],
                             capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip('a small file system cannot be mounted here: ' + mounted.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(['umount', folder], check=True)


@pytest.fixture(scope='session')
def tiny_vgg(tmp_path_factory):
    """Path of a saved VGG16 graph 32 times narrower than the real one; layer 7 has 12 channels."""
    return save_tiny_vgg(tmp_path_factory.mktemp('frozen') / 'vgg')


@pytest.fixture
def nowhere(monkeypatch):
    """URL of a port at which nobody listens."""
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        yield f'http://127.0.0.1:{listener.getsockname()[1]}/file.zip'


@pytest.fixture
def no_network(monkeypatch, nowhere):
    """The data and VGG16 can't be fetched."""
    from roadseg.datasets import kitti
    from roadseg.errors import InputError
    from roadseg.networks import vgg16

    def refuse(weights):
        raise InputError('no Keras weights either')

    monkeypatch.setattr(kitti, 'URL', nowhere)
    monkeypatch.setattr(vgg16, 'COURSE_URL', nowhere)
    monkeypatch.setattr(vgg16, 'read_keras', refuse)
