"""Events for TensorBoard, written without adding an operation to the graph."""
import io

import numpy as np
import tensorflow.compat.v1 as tf
from PIL import Image

from roadseg.images import paint, resize, thumbnail_size
from roadseg.scoring.score import colour_map


def write_scalars(writer, step, scalars):
    """Writes a dict from name to number; None and NaN are left out."""
    values = [tf.Summary.Value(tag=name, simple_value=float(value))
              for name, value in scalars.items() if value is not None and np.isfinite(value)]
    writer.add_summary(tf.Summary(value=values), step)


def write_panel(writer, step, name, photograph, truth, prediction, dataset, width=640):
    """Writes input, truth and probability of a photograph as one picture, one above the other.

    Args:
        writer: `tf.summary.FileWriter`.
        step: global step.
        name: of the photograph.
        photograph: uint8 ndarray (H, W, 3), RGB.
        truth: uint8 ndarray (H, W), class numbers.
        prediction: of `dataset.measures.predict`.
        dataset: `Dataset`.
        width: of the picture, in pixels.
    """
    size = thumbnail_size(photograph.shape[:2], width)
    panel = np.concatenate([resize(picture, size) for picture in (
        photograph, paint(photograph, truth, dataset.palette),
        colour_map(dataset.measures.confidence(prediction)))])
    encoded = io.BytesIO()
    Image.fromarray(panel).save(encoded, format='PNG')
    image = tf.Summary.Image(height=panel.shape[0], width=panel.shape[1], colorspace=3,
                             encoded_image_string=encoded.getvalue())
    writer.add_summary(tf.Summary(value=[tf.Summary.Value(
        tag=f'input, truth, probability/{name}', image=image)]), step)
