"""A narrower VGG16 that begins with what the full one knows.

In each layer the channels that matter most to the next one are kept, and the kernel is fitted anew,
by least squares, so that their values on some photographs come out as before although the layer
sees fewer channels. After He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural
Networks", ICCV 2017, without its selection by lasso.
"""
import numpy as np
import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
import tensorflow as tf

from roadseg.networks import vgg16

POINTS = 24_000             # pixels that a layer is fitted on
RIDGE = 1e-3                # of the mean diagonal, lest channels that are alike cancel out


def narrowed(weights, images, divisor):
    """Narrows the 13 convolutions of VGG16.

    Args:
        weights: dict from layer name to (kernel HWIO, bias [O]), float32, see `vgg16.read_npz`.
        images: float32 ndarray [N, H, W, 3], preprocessed as the weights expect.
        divisor: of each layer's number of channels.

    Returns:
        (dict like `weights`, dict from layer name to the share of the variance of the kept
        channels, before the ReLU, that the narrower layer explains, 0-1).
    """
    rng, full, narrow = np.random.default_rng(0), images, images
    result, explained = {}, {}
    for name, following in zip(vgg16.CONVOLUTIONS, [*vgg16.CONVOLUTIONS[1:], None]):
        kernel, bias = weights[name]
        wanted = tf.nn.bias_add(tf.nn.conv2d(full, kernel, 1, 'SAME'), bias).numpy()
        full = np.maximum(wanted, 0)
        uses = np.sqrt(np.square(weights[following][0]).sum((0, 1, 3))) if following else 1
        importance = full.std((0, 1, 2)) * uses
        kept = np.sort(np.argsort(-importance)[:len(bias) // divisor])

        patches = tf.image.extract_patches(narrow, [1, 3, 3, 1], [1] * 4, [1] * 4, 'SAME')
        patches = tf.reshape(patches, [-1, patches.shape[-1]])
        rows = rng.choice(len(patches), min(len(patches), POINTS), replace=False)
        seen = np.c_[tf.gather(patches, rows).numpy(), np.ones(len(rows))].astype(np.float64)
        target = wanted.reshape(-1, len(bias))[rows][:, kept].astype(np.float64)
        gram = seen.T @ seen
        gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
        solution = np.linalg.solve(gram, seen.T @ target)
        explained[name] = float(1 - np.square(seen @ solution - target).sum()
                                / np.square(target - target.mean(axis=0)).sum())
        result[name] = (np.float32(solution[:-1].reshape(3, 3, -1, len(kept))),
                        np.float32(solution[-1]))

        narrow = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(narrow, result[name][0], 1, 'SAME'),
                                           result[name][1])).numpy()
        if following is None or following[4] != name[4]:       # the last of its block
            full, narrow = (tf.nn.max_pool2d(values, 2, 2, 'SAME').numpy()
                            for values in (full, narrow))
    return result, explained
