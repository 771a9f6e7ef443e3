"""A narrower VGG16 computes what the full one computes, as far as fewer channels can."""
import numpy as np

from roadseg import box
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


def test_windows_lie_at_both_ends_and_between():
    image = np.arange(6 * 20 * 3, dtype=np.uint8).reshape(6, 20, 3)
    classes = np.arange(6 * 20, dtype=np.uint8).reshape(6, 20)
    found = box.windows(image, classes, (5, 8), 3)
    assert [cut.shape for _, cut in found] == [(5, 8)] * 3
    assert [int(cut[0, 0]) for _, cut in found] == [0, 6, 32]      # of rows 0, 0, 1; columns 0, 6, 12
    (window, cut), = box.windows(image, classes, (4, 10), 1)
    assert int(cut[0, 0]) == 25 and (window == image[1:5, 5:15]).all()
