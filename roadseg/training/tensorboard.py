"""Events for TensorBoard, written without adding an operation to the graph."""
import io
import socket
import time
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf
from PIL import Image

from roadseg.images import paint, painted, resize, thumbnail_size
from roadseg.scoring import road
from roadseg.scoring.score import colour_map


class EventFile:
    """A new file of events, as `tf.summary.FileWriter` makes one.

    That one writes in a thread, which ends with a traceback where the disk is full; this one
    raises the error where it can be handled.

    Args:
        folder: where it is made; TensorBoard shows all files of a folder as one.
        graph: `tf.Graph` to show.
        step: what earlier files of the folder hold beyond this step is not shown.

    Raises:
        tf.errors.OpError: it can't be written.
    """

    def __init__(self, folder, graph, step=0):
        tf.io.gfile.makedirs(str(folder))
        # TensorBoard reads the files in the order of their names, whatever the clock was set to.
        parts = [path.name.split('.') for path in Path(folder).glob('events.out.tfevents.*')]
        second = max([int(time.time()),
                      *(int(part[3]) + 1 for part in parts if part[3].isdecimal())])
        name = f'events.out.tfevents.{second}.{socket.gethostname()}.{step}'
        self.file = tf.io.TFRecordWriter(str(Path(folder) / name))
        self._write(file_version='brain.Event:2')
        self._write(graph_def=graph.as_graph_def(add_shapes=True).SerializeToString())
        self._write(step=step + 1, session_log=tf.SessionLog(status=tf.SessionLog.START))
        self.file.flush()

    def add_summary(self, summary, step):
        """Writes a `tf.Summary` of a step."""
        self._write(step=step, summary=summary)

    def flush(self):
        """Hands everything written to the system."""
        self.file.flush()

    def _write(self, **content):
        self.file.write(tf.Event(wall_time=time.time(), **content).SerializeToString())


def write_scalars(writer, step, scalars):
    """Writes a dict from name to number into an `EventFile`; None and NaN are left out."""
    values = [tf.Summary.Value(tag=name, simple_value=float(value))
              for name, value in scalars.items() if value is not None and np.isfinite(value)]
    writer.add_summary(tf.Summary(value=values), step)


def panel(photograph, truth, prediction, dataset, width=640):
    """Draws a photograph, the truth, the prediction and its probability, one above the other.

    Of road and not road, the probability tells the prediction, too.

    Args:
        photograph: uint8 ndarray (H, W, 3), RGB.
        truth: uint8 ndarray (H, W), class numbers.
        prediction: of `dataset.measures.predict`.
        dataset: `Dataset`.
        width: of the picture, in pixels.

    Returns:
        JPEG, bytes.
    """
    size, measures = thumbnail_size(photograph.shape[:2], width), dataset.measures
    classes = [truth]
    if measures is not road:
        classes.append(measures.decide(prediction))
    drawn = np.concatenate([resize(picture, size) for picture in (
        photograph, *(paint(photograph, numbers, painted(dataset.palette)) for numbers in classes),
        colour_map(measures.confidence(prediction)))])
    encoded = io.BytesIO()
    Image.fromarray(drawn).save(encoded, format='JPEG', quality=90)     # PNG: ten times as long
    return encoded.getvalue()


def write_picture(writer, step, name, encoded):
    """Writes a picture, the bytes of a JPEG or PNG, into an `EventFile`."""
    with Image.open(io.BytesIO(encoded)) as image:
        width, height, channels = *image.size, len(image.getbands())
    writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag=name, image=tf.Summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=encoded))]), step)
