"""What several test files need: a tiny VGG16, tiny data, and a network that is away."""
import socket

import pytest


@pytest.fixture(scope='session')
def tiny_vgg(tmp_path_factory):
    """Path of a saved VGG16 graph 32 times narrower than the real one."""
    from roadseg import vgg16   # here, lest tests without TensorFlow wait for it
    path = tmp_path_factory.mktemp('frozen') / 'vgg'
    vgg16.save(vgg16.random_weights(width_divisor=32, fc_width=12, fc_kernel=3),
               vgg16.torch_input, path)
    return path


@pytest.fixture
def nowhere(monkeypatch):
    """URL of a port at which nobody listens."""
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return f'http://127.0.0.1:{listener.getsockname()[1]}/file.zip'


@pytest.fixture
def no_network(monkeypatch, nowhere):
    """The data and VGG16 can't be fetched."""
    import helper
    from roadseg import vgg16

    def refuse(weights):
        raise helper.InputError('no Keras weights either')

    monkeypatch.setattr(helper, 'KITTI_URL', nowhere)
    monkeypatch.setattr(helper, 'VGG_URL', nowhere)
    monkeypatch.setattr(vgg16, 'read_keras', refuse)
