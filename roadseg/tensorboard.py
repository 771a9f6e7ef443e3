"""Events for TensorBoard, written without adding an operation to the graph."""
import io

import numpy as np
import tensorflow.compat.v1 as tf
from PIL import Image

from helper import overlay, resize
from roadseg.scoring import confidence


def write_scalars(writer, step, scalars):
    """Writes a dict from name to number; None and NaN are left out."""
    values = [tf.Summary.Value(tag=name, simple_value=float(value))
              for name, value in scalars.items() if value is not None and np.isfinite(value)]
    writer.add_summary(tf.Summary(value=values), step)


def write_panel(writer, step, name, photograph, classes, probability, width=640):
    """Writes input, truth and probability of a photograph as one picture, one above the other.

    Args:
        writer: `tf.summary.FileWriter`.
        step: global step.
        name: of the photograph.
        photograph: uint8 ndarray (H, W, 3), RGB.
        classes: uint8 ndarray (H, W), 1 road.
        probability: float32 ndarray (H, W), 0-1.
        width: of the picture, in pixels.
    """
    grey = np.repeat(confidence(probability)[..., np.newaxis], 3, axis=2)
    height = round(width * photograph.shape[0] / photograph.shape[1])
    panel = np.concatenate([resize(picture, (height, width)) for picture in
                            (photograph, overlay(photograph, classes == 1), grey)])
    encoded = io.BytesIO()
    Image.fromarray(panel).save(encoded, format='PNG')
    image = tf.Summary.Image(height=panel.shape[0], width=panel.shape[1], colorspace=3,
                             encoded_image_string=encoded.getvalue())
    writer.add_summary(tf.Summary(value=[tf.Summary.Value(
        tag=f'input, truth, probability/{name}', image=image)]), step)
