"""Random changes of photograph and label that leave the road a road. NumPy and Pillow only."""
import numpy as np
from PIL import Image

from helper import IGNORED, random_flip


def random_scale(rng, image, classes, strength):
    """Zooms in or out about a random point, and changes the aspect a little.

    What comes in from outside is grey and ignored.

    Args:
        rng: numpy Generator.
        image: uint8 ndarray (H, W, 3).
        classes: uint8 ndarray (H, W).
        strength: s >= 0; the scale is drawn between 1/(1 + s/2) and 1 + s.

    Returns:
        Such a pair of the same sizes.
    """
    height, width = classes.shape
    scale = np.exp(rng.uniform(-np.log(1 + strength / 2), np.log(1 + strength)))
    seen_width, seen_height = width / scale, height / scale * np.exp(rng.uniform(-0.1, 0.1))
    left = (width - seen_width) * rng.random()
    top = (height - seen_height) * rng.random()
    affine = (seen_width / width, 0, left, 0, seen_height / height, top)

    def transformed(array, resample, outside):
        return np.asarray(Image.fromarray(np.ascontiguousarray(array)).transform(
            (width, height), Image.Transform.AFFINE, affine, resample, fillcolor=outside))

    return (transformed(image, Image.Resampling.BILINEAR, (124, 116, 104)),
            transformed(classes, Image.Resampling.NEAREST, IGNORED))


def random_colour(rng, image, strength):
    """Changes brightness, white balance, saturation and contrast.

    Args:
        rng: numpy Generator.
        image: uint8 ndarray (H, W, 3), RGB.
        strength: s, 0-1; factors are drawn between 1 - s and 1 + s, those of the white
            balance between 1 - s/4 and 1 + s/4.

    Returns:
        uint8 ndarray (H, W, 3).
    """
    brightness, saturation, contrast = rng.uniform(1 - strength, 1 + strength, 3)
    balance = rng.uniform(1 - strength / 4, 1 + strength / 4, 3)
    changed = image * np.float32(brightness * balance)
    grey = changed.mean(axis=2, keepdims=True)
    changed = grey + (changed - grey) * np.float32(saturation)
    mean = changed.mean()
    changed = np.rint(mean + (changed - mean) * np.float32(contrast))
    return np.clip(changed, 0, 255).astype(np.uint8)


def distort(rng, image, classes, flip=True, scale=0.0, colour=0.0):
    """Flips, scales and colours; a strength of 0 leaves that step out.

    Args and returns as in the functions above; made for `helper.gen_batch_function`.
    """
    if flip:
        image, classes = random_flip(rng, image, classes)
    if scale:
        image, classes = random_scale(rng, image, classes, scale)
    if colour:
        image = random_colour(rng, image, colour)
    return image, classes
