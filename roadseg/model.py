"""A trained network as an object: what a run learnt, or an export of it.

    with roadseg.load('runs/2025-03-01_12-00-00') as model:
        probabilities = model.predict(photograph)       # float32 (H, W, C)

The network sees a photograph of any size the way it saw those of its training, not squeezed into
their shape: see `seen_size`.
"""
import os
from numbers import Real
from pathlib import Path

import numpy as np
from scipy.special import expit, softmax

from roadseg.errors import InputError
from roadseg.images import resize, resize_planes, seen_size
from roadseg.inference import TURNS, Network

BOX = Path(__file__).parent / 'models'      # the network that comes with the package
EXPORTED = ('.tflite', '.onnx', '.pb', '.xml')      # endings of an export that is one file


# What is there --------------------------------------------------------------------------------

def is_run(path):
    """Whether a path looks like the folder of a run, be it damaged."""
    return (os.path.isfile(os.path.join(path, 'options.json'))
            or os.path.isdir(os.path.join(path, 'checkpoints')))


def is_export(path):
    """Whether a path looks like an export, be it damaged or without its metadata."""
    return (any(os.path.isfile(os.path.join(path, name))
                for name in ('export.json', 'saved_model.pb'))
            or Path(path).suffix.lower() in EXPORTED and os.path.isfile(path))


def boxed():
    """Returns the path of the network that comes with the package, None without one."""
    inside = sorted(BOX.iterdir()) if BOX.is_dir() else []
    return next((path for path in [BOX, *inside] if is_export(path)), None)


# The answer -------------------------------------------------------------------------------------

def probabilities_of(scores):
    """Softmax: float32 (h, w, C) -> float32 (h, w, C)."""
    if scores.shape[-1] == 2:           # in a tenth of the time
        second = expit(scores[..., 1] - scores[..., 0])
        return np.stack([1 - second, second], axis=-1)
    return softmax(scores, axis=-1)


# The model ------------------------------------------------------------------------------------

class Model:
    """A trained network in a graph and session of its own, to be closed or used in a `with`.

    Any number may be open at once. One may be used by several threads at the same time.

    Attributes:
        name: of the checkpoint or of the export's file.
        classes: tuple of C names; a class's number is its place.
        palette: tuple of C colours (red, green, blue), 0-255.
        road: number of the class that is road, or None.
        image_size: (H, W) of the photographs in training.
        network: `inference.Network`, which sees everything at `image_size`, as in validation, times
            the scales that it averages over.
    """

    def __init__(self, name, network, description, where, close, fixed=False):
        """Takes over an open network; `load` makes one.

        Args:
            name, network: see the attributes.
            description: dict with 'classes', 'palette' and 'road'.
            where: what holds it, for messages.
            close: function that frees what the network holds.
            fixed: whether the network takes pictures of `image_size` only.

        Raises:
            InputError: the description is damaged.
        """
        self.name, self.network, self._close, self._fixed = name, network, close, fixed
        self.classes, self.palette, self.road = _checked(description, where)
        self.image_size = tuple(network.image_shape)

    def predict(self, image, full_size=True):
        """The probability of each class at each pixel.

        Args:
            image: uint8 ndarray (H, W, 3), RGB.
            full_size: whether the answer has the size of the picture, or the one at which the
                network saw it, see `seen_size`; the latter takes less memory.

        Returns:
            float32 ndarray (H, W, C), or (h, w, C); the classes of a pixel add up to 1.

        Raises:
            InputError: the picture is none.
            ValueError: the model is closed.
        """
        network = self.network
        if network is None:
            raise ValueError('this model is closed; load it again')
        try:
            image = np.asarray(image)
        except ValueError as error:     # rows of unequal length
            raise InputError(f'the picture is no array: {error}') from error
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            raise InputError(f'the picture is {image.dtype} of the shape {image.shape}, expected '
                             'uint8 (H, W, 3), RGB; roadseg.images.read_image reads files so')
        size = seen_size(image.shape[:2], self.image_size)
        if self._fixed and size != self.image_size:
            scores = _letterboxed(network, image)
        else:
            scores = network._replace(image_shape=size).scores(image)
        probabilities = probabilities_of(scores)
        return resize_planes(probabilities, image.shape[:2]) if full_size else probabilities

    def close(self):
        """Frees memory and device. A model that is closed stays so."""
        if self.network is not None:
            self.network = None
            self._close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def load(source=None, runtime='auto', checkpoint='last', test_scale=None, flip_test=None):
    """Opens a trained network, see `roadseg.load`."""
    if source is None:
        source = boxed()
        if source is None:
            raise InputError(f'no network comes with this package ({BOX} holds none); name a run, '
                             'such as runs/<date-time>, or an export')
    if is_export(source):
        if checkpoint != 'last':
            raise InputError(f'{source} is an export, and has but one checkpoint; leave '
                             f"'{checkpoint}' out, or name its run")
        if test_scale is not None or flip_test is not None:
            raise InputError(f'{source} is an export, and sees a picture once; leave test scales '
                             'and mirroring out, or name its run')
        return _open_export(Path(source), runtime)
    if runtime not in ('auto', 'tensorflow'):
        raise InputError(f'{source} is no export, and runs on tensorflow only, not on {runtime}; '
                         f'write one with `python -m roadseg.export {source}`')
    return _open_run(Path(source), checkpoint, test_scale, flip_test)


def _open_run(run, checkpoint, test_scale, flip_test):
    """Opens the checkpoint of a run, averaged weights in place."""
    from roadseg.training.options import complete
    from roadseg.training.run_folder import read_run
    made = read_run(run)
    options, description = complete(made['options'], run), made['data']
    scales = options['test_scale'] if test_scale is None else _factors(test_scale)
    flip = options['flip_test'] if flip_test is None else flip_test

    # TensorFlow comes here, as an export can do without.
    from roadseg import quiet       # noqa: F401
    import tensorflow.compat.v1 as tf
    from roadseg.inference_graph import with_constants
    from roadseg.training import checkpoints, device, preflight
    config = device.session_config(device.find(options['precision']).precision)
    # A graph of its own, also where the caller's TensorFlow is eager.
    with tf.Graph().as_default(), device.open_session(config) as trained:
        path = checkpoints.load(trained, run, checkpoint)
        try:
            network = Network.of_session(trained, options['image_size'], scales, flip)
        except KeyError as error:
            raise InputError(f'{path} is of another model: {error.args[0]}') from error
        network = with_constants(network, config)
    try:
        model = Model(path.name, network, description, run, network.sess.close)
        if network.logits.shape[-1] != len(model.classes):
            raise InputError(f'{run}/options.json names {len(model.classes)} classes, and the '
                             f'network in {path} has {network.logits.shape[-1]}; take the file '
                             'from a backup')
        if max(network.scales) > 1:         # at that of the training, it was trained
            preflight.check_prediction(network)     # takes two seconds
        return model
    except BaseException:
        network.sess.close()
        raise


def _factors(test_scale):
    """Test scales, one or several, as a tuple; raises InputError where they are none."""
    scales = (test_scale,) if isinstance(test_scale, (Real, str)) else tuple(test_scale)
    if not scales or not all(isinstance(scale, Real) and 0.1 <= scale <= 8 for scale in scales):
        raise InputError(f'test_scale is {test_scale!r}, expected factors from 0.1 to 8, such as '
                         '(1, 1.5)')
    return scales


def _open_export(path, runtime):
    """Opens an export by one of the runtimes that can."""
    from roadseg import runtimes
    export = runtimes.open_export(path, runtime)
    try:
        metadata = export.metadata
        network = _Exported(export, None, None, None, tuple(metadata['image_size']))
        return Model(path.name, network, metadata, path, export.close, metadata['fixed_size'])
    except BaseException:
        export.close()
        raise


class _Exported(Network):
    """A network whose `sess` answers pictures with probabilities."""

    def run(self, image):
        """Logarithms of the probabilities: uint8 (h, w, 3) -> float32 (h, w, C).

        Raises:
            InputError: they are not finite.
        """
        with TURNS:         # not all runtimes bear several threads
            probabilities = self.sess.run(np.ascontiguousarray(image)[np.newaxis])[0]
        if not np.isfinite(probabilities).all():
            raise InputError('the export answers a picture by what is no number; choose another '
                             '--runtime, or export the run anew in float32')
        return np.log(np.maximum(probabilities, 1e-7))


def _letterboxed(network, image):
    """What a network that takes one size only makes of a picture of another shape.

    The picture is fitted into that size, and its border repeated around it. It stays at the lower
    edge, where the road was in training.

    Args:
        network: `inference.Network`.
        image: uint8 ndarray (H, W, 3).

    Returns:
        float32 ndarray (h, w, C), scores; (h, w) has the shape of the picture.
    """
    height, width = network.image_shape
    factor = min(height / image.shape[0], width / image.shape[1])
    fitted = resize(image, [min(limit, max(1, round(side * factor))) for side, limit in
                            zip(image.shape[:2], (height, width))])
    above, left = height - fitted.shape[0], (width - fitted.shape[1]) // 2
    right = width - fitted.shape[1] - left
    scores = network.run(np.pad(fitted, ((above, 0), (left, right), (0, 0)), 'edge'))
    return scores[above:, left:width - right]


def _checked(description, where):
    """Classes, palette and road of a description that may have been edited by hand.

    Returns:
        (tuple of names, tuple of (red, green, blue), number or None).

    Raises:
        InputError: they are missing or don't go together.
    """
    classes, palette, road = (description.get(name) for name in ('classes', 'palette', 'road'))
    named = (isinstance(classes, (list, tuple)) and 2 <= len(classes) <= 253
             and all(isinstance(name, str) for name in classes))
    if not named:
        problem = f"'classes' is {str(classes)[:60]}, expected the names of at least two classes"
    elif not _is_palette(palette, len(classes)):
        problem = (f"'palette' is {str(palette)[:60]}, expected [red, green, blue] from 0 to 255 "
                   f'for each of {len(classes)} classes')
    elif road is not None and not (type(road) is int and 0 <= road < len(classes)):
        problem = f"'road' is {str(road)[:60]}, expected a class's number below {len(classes)}"
    else:
        return tuple(classes), tuple(tuple(colour) for colour in palette), road
    raise InputError(f'the description of {where} is damaged: {problem}; take it from a backup')


def _is_palette(palette, num_classes):
    """Whether something is a list of so many colours."""
    return (isinstance(palette, (list, tuple)) and len(palette) == num_classes
            and all(isinstance(colour, (list, tuple)) and len(colour) == 3
                    and all(type(value) is int and 0 <= value <= 255 for value in colour)
                    for colour in palette))
