"""Reading photographs of any kind, resizing them, and painting classes on them."""
import ctypes
import io
import logging
import math
import struct
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from roadseg.errors import InputError
from roadseg.files import check_file, write_whole

PIXEL_LIMIT = 100_000_000       # 100 megapixels are 300 MB; the sensor of a camera has 8 to 60
_FORMATS = ('PNG', 'JPEG', 'TIFF', 'WEBP', 'BMP', 'GIF', 'PPM', 'JPEG2000')
# What Pillow's decoders raise about a damaged file, found by damaging files at random.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError,
          OverflowError, MemoryError, AttributeError, struct.error, Image.DecompressionBombError)
# How an image is turned to be seen, by EXIF's number of how it is stored.
_TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
          4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
          6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_90}
STRIDE = 32         # pixels of a side that five poolings make one of
LEAST = STRIDE      # that a network sees of a side: less is nothing to it
_REMEDY = 'expected a PNG, JPEG, TIFF, WebP, BMP, GIF, PPM or JPEG 2000 file'
_LIGHT, _DARK = (255, 255, 255), (0, 0, 0)      # the two lines of an outline


# Reading --------------------------------------------------------------------------------------

def read_image(path):
    """Reads a photograph as it is meant to be seen.

    Of grey, palette, CMYK and 1-bit pictures the colours are converted; 16 bits become 8;
    transparency is dropped; a rotation noted by the camera (EXIF) is applied.

    Args:
        path: of a PNG, JPEG, TIFF, WebP, BMP, GIF, PPM or JPEG 2000 file.

    Returns:
        uint8 ndarray (H, W, 3), RGB.

    Raises:
        InputError: the file is missing, damaged, animated, larger than `PIXEL_LIMIT`, or has
            values without a scale (floating point or 32 bits).
    """
    return to_rgb(decode(path))


def to_rgb(image):
    """The colours of a PIL Image from `decode`: uint8 ndarray (H, W, 3)."""
    if image.mode.startswith('I'):
        # All that `decode` lets through have 16 bits; 65535 / 257 = 255.
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ('La', 'RGBa'):       # whose colours are multiplied by the opacity
        image = image.convert({'La': 'LA', 'RGBa': 'RGBA'}[image.mode])
    if image.mode == 'P':
        image = image.convert('RGBA')       # Pillow warns where a palette goes to RGB at once
    return np.array(image if image.mode == 'RGB' else image.convert('RGB'))


def check_image(path):
    """Decodes a photograph, to find out now whether it can be read.

    Returns:
        (H, W) in pixels.

    Raises:
        InputError: see `read_image`.
    """
    return decode(path).size[::-1]


def orientation(path):
    """How an image that can be read is stored: 1 as it is shown, 2 to 8 as EXIF numbers it.

    Raises:
        InputError: it cannot be read any more.
    """
    try:
        with open(path, 'rb') as file, Image.open(file) as image:
            return _orientation(image)
    except DAMAGE as error:                 # it has been removed since it was read
        raise InputError(f'cannot read {path}: {" ".join(str(error).split())}') from error


def _orientation(image):
    """EXIF's number of an opened image; 1 where it has none that can be read."""
    try:        # of a PNG, its own getexif would decode all of it
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        return 1


def decode(path, formats=_FORMATS, kind='image', remedy=_REMEDY, verified=False):
    """Opens and decodes an image file, rotated as its EXIF says.

    Args:
        path: of the file.
        formats: Pillow's names of those it may have.
        kind, remedy: what was expected, for messages.
        verified: whether to compare the checksums of a PNG file, which decoding leaves aside.

    Returns:
        PIL Image; of the modes 'I', 'I;16', 'I;16B' only with values from 0 to 65535.

    Raises:
        InputError: see `read_image`.
    """
    if check_file(path, remedy) == 0:
        raise InputError(f'{path} is not a readable {kind}: it is empty; {remedy}')
    silence_pillow()
    try:
        if verified:
            with Image.open(path, formats=formats) as image:
                image.verify()
        # By a path, Pillow maps a TIFF that is stored turned to memory, and turns it twice.
        with open(path, 'rb') as file, Image.open(file, formats=formats) as image:
            problem = _problem(image)
            if problem is None:
                image.load()        # a TIFF is turned by that
                # Not by Pillow's exif_transpose, which fails at any other entry that is odd.
                turn = _TURNS.get(_orientation(image))
                return image if turn is None else image.transpose(turn)
    except Image.DecompressionBombError as error:
        problem = (f'it is larger than {PIXEL_LIMIT / 1e6:.0f} megapixels ({error}); make it '
                   'smaller')
    except UnidentifiedImageError as error:     # whose text is but the path
        raise InputError(f'{path} is not a readable {kind}; {remedy}') from error
    except DAMAGE as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise InputError(f'{path} is not a readable {kind}: {reason}; {remedy}') from error
    raise InputError(f'{path} cannot be used: {problem}')


def silence_pillow():
    """Switches off Pillow's warnings: of odd EXIF entries, and from 89 megapixels on.

    And what libtiff and Pillow's log say about a damaged file, before Pillow raises an error.
    """
    # Only once, as after each change of the filters Python repeats everybody's warnings.
    if not any(of is Image.DecompressionBombWarning for _, _, of, *_ in warnings.filters):
        warnings.filterwarnings('ignore', category=UserWarning, module='PIL')
        warnings.filterwarnings('ignore', category=Image.DecompressionBombWarning)
        logging.getLogger('PIL').addHandler(logging.NullHandler())
        with suppress(OSError, AttributeError):     # Pillow was built without libtiff
            ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


def _problem(image):
    """Returns why an image that was opened, not decoded, is not for use; None where it is."""
    width, height = image.size
    if width * height > PIXEL_LIMIT:
        return (f'its {width} x {height} pixels are more than {PIXEL_LIMIT / 1e6:.0f} '
                'megapixels; make it smaller')
    # A telephone's MPO file is a JPEG photograph with something extra behind it.
    if getattr(image, 'n_frames', 1) > 1 and image.format != 'MPO':
        return (f'it is an animated or multi-page {image.format} of {image.n_frames} pictures; '
                'save the one that is meant')
    if image.format == 'TIFF' and image.mode.startswith('I;16') and image.tag_v2.get(258) not in (
            None, (16,)):       # bits of a value
        return f'its values have {image.tag_v2[258][0]} bits; save it with 8 or 16'
    if image.mode == 'F' or (image.mode == 'I' and image.format not in ('PPM', 'PNG')):
        kind = 'floating point' if image.mode == 'F' else '32-bit'
        return f'it has {kind} values, whose white is unknown; save it with 8 or 16 bits'
    return None


# Resizing -------------------------------------------------------------------------------------

def resize(array, image_shape, resample=Image.Resampling.BILINEAR):
    """Resizes a uint8 (H, W[, 3]) or float32 (H, W) array to `image_shape` (H, W)."""
    height, width = image_shape
    return np.asarray(Image.fromarray(array).resize((width, height), resample))


def resize_planes(planes, image_shape):
    """Resizes a float32 (h, w, C) array bilinearly to `image_shape` (H, W)."""
    resized = np.empty((*image_shape, planes.shape[-1]), np.float32)
    for number in range(planes.shape[-1]):
        resized[..., number] = resize(np.ascontiguousarray(planes[..., number]), image_shape)
    return resized


def resize_pair(image, classes, image_shape):
    """Resizes a photograph bilinearly, its label to the nearest: a mixed colour is no class.

    Args:
        image: uint8 ndarray (h, w, 3).
        classes: uint8 ndarray (h, w).
        image_shape: (H, W).

    Returns:
        Such a pair of the size (H, W).
    """
    return resize(image, image_shape), resize(classes, image_shape, Image.Resampling.NEAREST)


def seen_size(image_shape, training_shape):
    """Size at which a network sees a picture: with its own aspect, and the training's area.

    A network knows things by their size, as the width of a lane, so what should agree with the
    training are the pixels per degree. Cameras do not say what they see of the world; that all
    pictures have the same area comes near, and takes the memory and time of the training,
    whatever the shape. From KITTI's 1242x375, seen as 640x192, this makes 408x304 of a photograph
    of 4032x3024, and 264x464 of an upright video of 1080x1920. A smaller picture is enlarged.

    Measured: road IoU on 15 test frames of CamVid (every 16th, 480x360), after one epoch of KITTI
    Road at 320x96 with a frozen encoder: 69.8 with the same area (200x152), 60.8 with the same
    height, 55.2 with the same longer side, 63.9 squeezed to 320x96. Of frames reduced to 64x48,
    61.7 where they are enlarged, 50.6 where they are not.

    Args:
        image_shape: (H, W) of the picture.
        training_shape: (H, W) of those in training.

    Returns:
        (h, w), to multiples of 8; the training's own size where that is as near. No side is below
        `LEAST`, and of a very narrow picture the other is no longer for that.
    """
    area = math.prod(training_shape)
    factor = math.sqrt(area / math.prod(image_shape))
    size = [side * factor for side in image_shape]
    if all(abs(side - trained) < 8 for side, trained in zip(size, training_shape)):
        return tuple(training_shape)
    return tuple(max(LEAST, 8 * round(min(side, area / LEAST) / 8)) for side in size)


def scaled_size(image_shape, scale):
    """The size (H, W) times `scale`, about; as it is where `scale` is 1.

    Its height is a multiple of `STRIDE`. Of KITTI Road, a network learns that labels end some rows
    above the lower edge, and knows that edge by how its poolings meet it: 184 and 200 rows instead
    of 192 cost 2.5 of AP and trebled the cross entropy, 160 and 224 nothing. The width does not
    matter, and follows to a multiple of 8.
    """
    if scale == 1:
        return tuple(image_shape)
    height = STRIDE * max(1, round(image_shape[0] * scale / STRIDE))
    return height, 8 * max(1, round(image_shape[1] * height / image_shape[0] / 8))


def thumbnail_size(image_shape, width):
    """The size (H, W) of a small picture of that shape.

    Args:
        image_shape: (H, W).
        width: of the result in pixels; less where it would be more than 4 times as high, and
            height is at least 1, so that strips of any shape stay pictures of a bearable size.
    """
    height, limit = max(1, round(width * image_shape[0] / image_shape[1])), 4 * width
    if height <= limit:
        return height, width
    return limit, max(1, round(limit * image_shape[1] / image_shape[0]))


# Painting -------------------------------------------------------------------------------------

def painted(palette):
    """The colours of classes that `paint` takes for overlays: of two, the first stays bare."""
    return [None, *palette[1:]] if len(palette) == 2 else list(palette)


def paint(photograph, classes, palette, opacity=0.5, outlined=True):
    """Paints classes on a photograph in translucent colours.

    Args:
        photograph: uint8 ndarray (H, W, 3), RGB.
        classes: uint8 ndarray (H, W) of class numbers; those without a colour stay bare.
        palette: list of at most 253 colours (red, green, blue), 0-255, by class number; None
            for a class that is not painted.
        opacity: 0-1, of the colours.
        outlined: whether to draw a light line around each area and a dark one around that, as
            green hardly shows on grass.

    Returns:
        uint8 ndarray (H, W, 3).
    """
    # From here on, 0 is bare and k + 1 the class k, so that 254 and 255 are free for lines.
    areas, colours, alpha = np.zeros(256, np.uint8), np.zeros((256, 3), np.uint8), np.zeros(256)
    for number, colour in enumerate(palette):
        if colour is not None:
            areas[number], colours[number + 1], alpha[number + 1] = number + 1, colour, opacity
    codes = areas[classes]
    if outlined:
        inner, outer = outline(codes, min(16, max(1, round(max(classes.shape) / 1200))))
        codes[outer], codes[inner] = 254, 255
        colours[254:], alpha[254:] = (_DARK, _LIGHT), 1
    layer = Image.fromarray(codes)
    mask = layer.point((alpha * 255).astype(int).tolist())
    layer.putpalette(colours.tobytes())
    return np.array(Image.composite(layer.convert('RGB'), Image.fromarray(photograph), mask))


def outline(classes, width=1):
    """Where classes meet.

    Args:
        classes: bool or uint8 ndarray (H, W): a mask, or class numbers.
        width: of each line, in pixels.

    Returns:
        Two bool ndarrays (H, W): the pixels of which one within `width` to the left, right,
        above or below is of a lower class (for a mask, its rim), and those of which one is of
        a higher class (the rim around it). Where three classes meet, a pixel may be in both.
    """
    inner, outer = np.zeros(classes.shape, bool), np.zeros(classes.shape, bool)
    for of, rims, others in ((classes, inner, outer), (classes.T, inner.T, outer.T)):
        for distance in range(1, width + 1):
            ahead, behind = of[distance:], of[:-distance]
            for higher, inside, outside in (
                    (ahead > behind, rims[distance:], others[:-distance]),
                    (ahead < behind, rims[:-distance], others[distance:])):
                inside |= higher
                outside |= higher
    return inner, outer


# Writing --------------------------------------------------------------------------------------

def write_image(path, array, compress_level=1, quality=75):
    """Writes the image file `path`, whole or not at all.

    Args:
        path: its ending, such as .png or .jpg, tells the format.
        array: uint8 ndarray (H, W) or (H, W, 3).
        compress_level: 0-9, of a PNG; 1 takes a third of the time of 6.
        quality: 1-95, of a JPEG.

    Raises:
        InputError: it can't be written, for instance because the disk is full, or its ending
            tells no format.
    """
    _write(path, Image.fromarray(array), compress_level=compress_level, quality=quality)


def write_mask(path, classes, palette=None):
    """Writes class numbers as a PNG whose values are the numbers and which viewers show coloured.

    Args:
        path: ends in .png.
        classes: uint8 ndarray (H, W).
        palette: list of colours (red, green, blue) by class number, None for black; by default
            the file is grey.

    Raises:
        InputError: it can't be written.
    """
    image = Image.fromarray(classes)
    if palette is not None:
        colours = np.zeros((256, 3), np.uint8)      # all 256, lest Pillow writes fewer bits
        for number, colour in enumerate(palette):
            colours[number] = 0 if colour is None else colour
        image.putpalette(colours.tobytes())
    _write(path, image, compress_level=6)       # large areas of a number take little


def _write(path, image, **settings):
    """Encodes an image in memory and writes it whole."""
    suffix = Path(path).suffix.lower()
    Image.init()
    if suffix not in Image.EXTENSION:
        raise InputError(f"cannot write {path}: '{suffix}' is no ending of a picture; use .png "
                         'or .jpg')
    encoded = io.BytesIO()
    try:
        image.save(encoded, Image.EXTENSION[suffix], **settings)
    except OSError as error:        # of the format, as nothing is written yet
        raise InputError(f'cannot write {path}: {error}') from error
    write_whole(path, encoded.getvalue(), durable=False)
