"""A narrower VGG16 computes what the full one computes, as far as fewer channels can."""
from functools import partial

import numpy as np
import pytest
from tensorflow import make_ndarray

import roadseg
from roadseg import box
from roadseg.commands import run_command
from roadseg.datasets import camvid, demo, kitti
from roadseg.datasets.labels import read_numbers
from roadseg.images import write_image
from roadseg.networks import narrow, vgg16


def test_channels_that_say_nothing_are_left_out_without_a_loss(rng=np.random.default_rng(0)):
    """Half of each layer's channels are silent: the half that is left computes the same."""
    weights = {}
    for name, shape in vgg16.convolution_shapes(32).items():
        kernel = rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape).astype(np.float32)
        kernel[..., shape[-1] // 2:] = 0
        weights[name] = kernel, np.zeros(shape[-1], np.float32)
    images = rng.normal(size=(3, 64, 96, 3)).astype(np.float32)
    result, explained = narrow.narrowed(weights, images, divisor=2)
    assert list(result) == vgg16.CONVOLUTIONS
    for name, (kernel, bias) in result.items():
        assert kernel.shape[-1] == bias.size == weights[name][1].size // 2
        assert kernel.dtype == bias.dtype == np.float32
    first = weights['conv1_1'][0][..., :1]
    np.testing.assert_allclose(result['conv1_1'][0], first, atol=0.05)
    assert explained['conv1_1'] > 0.99 and explained['conv3_3'] > 0.9


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Nine scenes as KITTI's, three of them of val3, and a frame of each part of CamVid."""
    monkeypatch.setattr(box, 'WINDOW', {'kitti': (32, 57), 'camvid': (20, 30)})
    for dataset in (kitti, camvid):
        monkeypatch.setattr(dataset, 'load', partial(dataset.load, strict=False))
    demo.write_scenes(tmp_path / 'data', train=6, test=0, held_out=1, size=(36, 120))
    for place in ('train', 'val', 'test'):
        for folder, shape in ((place, (24, 40, 3)), (place + 'annot', (24, 40))):
            (tmp_path / 'data/camvid' / folder).mkdir(parents=True)
            write_image(tmp_path / 'data/camvid' / folder / f'{place}.png', np.full(shape, 3, np.uint8))
    return tmp_path / 'data'


def test_the_box_is_made(data, tmp_path, monkeypatch):
    """From the file of weights to a run that the package can open."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(vgg16, 'read_npz', lambda path: {
        name: (rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape).astype(np.float32),
               np.zeros(shape[-1], np.float32))
        for name, shape in vgg16.convolution_shapes(16).items()})
    monkeypatch.setattr(box, 'IMAGE_SIZE', (32, 64))
    monkeypatch.setattr(box, 'FITTED_ON', 3)
    monkeypatch.setattr(box, 'FC_WIDTH', 12)
    assert run_command(box.main, ['--weights', 'x.npz', '--data-dir', str(data), '--work-dir',
                                  str(tmp_path / 'box'), '--epochs', '1']) == 0
    run, = (path for path in (tmp_path / 'box/runs').iterdir() if path.is_dir())
    with roadseg.load(run) as model:
        assert model.image_size == (32, 64) and model.road == 1
        kernel, = (node for node in model.network.sess.graph.as_graph_def().node
                   if node.name == 'conv5_3/kernel')
        assert make_ndarray(kernel.attr['value'].tensor).shape == (3, 3, 8, 8)


@pytest.mark.parametrize('place', ['file/below', 300 * 'x', 'dangling'])
def test_where_the_box_cannot_be_made(data, tmp_path, capsys, monkeypatch, place):
    monkeypatch.setattr(vgg16, 'read_npz', lambda path: {})
    (tmp_path / 'file').touch()
    (tmp_path / 'dangling').symlink_to('nowhere')
    assert run_command(box.main, ['--weights', 'x.npz', '--data-dir', str(data), '--work-dir',
                                  str(tmp_path / place)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ') and ('cannot write' in error or 'is there already' in error)


def test_windows_of_kitti_leave_the_last_rows_out_but_of_those_held_out(data, tmp_path):
    count, held_out = box.write_windows(data, tmp_path / 'out')
    masks = {path.name: read_numbers(path) for path in sorted((tmp_path / 'out/masks').iterdir())}
    assert len(masks) == count and held_out == 3
    assert [name[0] for name in masks] == ['a'] * 9 + ['b'] * 4 + ['z'] * 3
    for name, mask in masks.items():
        assert mask.shape == ((20, 30) if name[0] == 'b' else (32, 57))
        assert name[0] == 'b' or (mask[-4:] == 255).all() == (name[0] == 'a')


def test_missing_weights_are_told_before_windows_are_written(tmp_path, capsys):
    assert run_command(box.main, ['--weights', str(tmp_path / 'x.npz'), '--work-dir',
                                  str(tmp_path / 'box')]) == 2
    assert 'x.npz' in capsys.readouterr().err and not (tmp_path / 'box').exists()


def test_windows_lie_at_both_ends_and_between():
    image = np.arange(6 * 20 * 3, dtype=np.uint8).reshape(6, 20, 3)
    classes = np.arange(6 * 20, dtype=np.uint8).reshape(6, 20)
    found = box.windows(image, classes, (5, 8), 3)
    assert [cut.shape for _, cut in found] == [(5, 8)] * 3
    assert [int(cut[0, 0]) for _, cut in found] == [0, 6, 32]      # of rows 0, 0, 1; columns 0, 6, 12
    (window, cut), = box.windows(image, classes, (4, 10), 1)
    assert int(cut[0, 0]) == 25 and (window == image[1:5, 5:15]).all()
