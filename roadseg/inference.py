"""A network that looks at photographs. Needs a session and three tensors, not TensorFlow."""
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from scipy.special import expit, softmax

from roadseg.errors import InputError
from roadseg.images import resize, resize_planes, scaled_size
from roadseg.tf_errors import naming_lack_of_memory
from roadseg.threads import Turns

TURNS = Turns()     # threads that wait for each other take one network's memory


class Network(NamedTuple):
    """What it takes to look at a photograph; no operation is added to the graph."""
    sess: object                # session
    logits: object              # tensor [pixels, C]
    keep_prob: object           # placeholder of the dropout's keep probability, fed with 1
    input_image: object         # placeholder [N, H, W, 3], RGB 0-255
    image_shape: tuple          # (H, W) at which the network sees a photograph
    scales: tuple = (1,)        # of that size; average over them
    flip: bool = False          # average with the mirrored photograph, too

    @classmethod
    def of_session(cls, sess, image_shape, scales=(1,), flip=False):
        """Finds the tensors of a trained network in the session's graph, by their names.

        Raises:
            KeyError: the graph lacks one.
        """
        logits, keep_prob, input_image = (sess.graph.get_tensor_by_name(name + ':0')
                                          for name in ('logits', 'keep_prob', 'photographs'))
        return cls(sess, logits, keep_prob, input_image, tuple(image_shape), tuple(scales), flip)

    def run(self, image):
        """Logits of an image at the size it has: uint8 (h, w, 3) -> float32 (h, w, C).

        Raises:
            InputError: they are not finite, or there is too little memory.
        """
        with TURNS, naming_lack_of_memory('a picture was looked at'):
            scores = self.sess.run(self.logits,
                                   {self.input_image: image[np.newaxis], self.keep_prob: 1.0})
        if not np.isfinite(scores).all():
            raise InputError('the network answers a picture by what is no number: its training '
                             'has diverged; take an earlier checkpoint, or train it anew with a '
                             'lower --learning-rate')
        return scores.reshape(*image.shape[:2], -1)

    def probability(self, photograph):
        """Probability of the second of two classes.

        Args:
            photograph: uint8 ndarray (H, W, 3), RGB.

        Returns:
            float32 ndarray (H, W), 0-1.
        """
        def of(image):
            scores = self.run(image)
            return expit(scores[..., 1] - scores[..., 0])       # softmax of two, in a tenth

        return self._averaged(photograph, of, photograph.shape[:2])

    def scores(self, photograph):
        """Logits, or logarithms of mean probabilities where several predictions are averaged.

        Args:
            photograph: uint8 ndarray (H, W, 3), RGB.

        Returns:
            float32 ndarray (h, w, C), (h, w) being `image_shape`; of a single scale without the
            mirror image, that times the scale.
        """
        if len(self.scales) == 1 and not self.flip:
            return self.run(resize(photograph, scaled_size(self.image_shape, self.scales[0])))
        mean = self._averaged(photograph, lambda image: softmax(self.run(image), axis=-1),
                              self.image_shape)
        return np.log(np.maximum(mean, 1e-7))

    def _averaged(self, photograph, predict, size):
        """Mean, over scales and mirror image, of what `predict` makes of an image, resized."""
        predictions = []
        for scale in self.scales:
            image = resize(photograph, scaled_size(self.image_shape, scale))
            prediction = predict(image)
            if self.flip:
                prediction = (prediction + predict(image[:, ::-1])[:, ::-1]) / 2
            resized = resize if prediction.ndim == 2 else resize_planes
            predictions.append(resized(np.float32(prediction), size))
        return sum(predictions) / len(predictions)


@contextmanager
def averaged_weights(sess):
    """Within it, the weights are their moving averages, where `main.optimize` keeps some."""
    try:
        swap = sess.graph.get_operation_by_name('swap_averages')
    except KeyError:
        yield
        return
    sess.run(swap)
    try:
        yield
    finally:
        sess.run(swap)
