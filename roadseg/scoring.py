"""Scores a network on labelled photographs: KITTI's measures and the pictures that explain them.

Needs a session and three tensors, but does not import TensorFlow.
"""
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import xlogy

from helper import (IGNORED, InputError, overlay, read_pair, resize, road_probability,
                    write_image)
from roadseg import bev, metrics


class Network(NamedTuple):
    """What it takes to look at a photograph."""
    sess: object                # session
    logits: object              # tensor [pixels, 2]
    keep_prob: object           # placeholder
    input_image: object         # placeholder [N, H, W, 3], RGB 0-255
    image_shape: tuple          # (H, W)
    scales: tuple = (1,)        # of that size; average over them
    flip: bool = False          # average with the mirrored photograph, too

    def look(self, photograph):
        """Probability of road: uint8 (h, w, 3) -> float32 (h, w), 0-1."""
        return road_probability(self.sess, self.logits, self.keep_prob, self.input_image,
                                photograph, self.image_shape, scales=self.scales,
                                flip=self.flip)


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


def confidence(probability):
    """KITTI's 8-bit confidence map: float (H, W), 0-1 -> uint8 (H, W); 0.5 becomes 128."""
    return np.floor(np.minimum(probability * 256, 255)).astype(np.uint8)


def cross_entropy(probability, classes):
    """Sum of -log p(class) over the evaluated pixels, and their number.

    Args:
        probability: float ndarray (H, W) of road, 0-1.
        classes: uint8 ndarray (H, W), 1 road, 0 not road, `IGNORED`.

    Returns:
        (float, int). A probability below 1e-7 counts as 1e-7.
    """
    road = np.clip(probability, 1e-7, 1 - 1e-7)
    loss = -(xlogy(classes == 1, road) + xlogy(classes == 0, 1 - road)).sum(dtype=np.float64)
    return float(loss), int((classes != IGNORED).sum())


def read_samples(pairs):
    """Reads photographs and labels at their own size, one after the other.

    Yields:
        (name, photograph uint8 (H, W, 3), classes uint8 (H, W)).
    """
    for image, label in pairs:
        yield image.stem, *read_pair((image, label))


def score(network, samples, pictures=None, calibrations=None):
    """Scores a network on labelled photographs.

    Args:
        network: `Network`.
        samples: iterable of (name, photograph uint8 (H, W, 3), classes uint8 (H, W)).
        pictures: folder for `NAME_input.jpg`, `_truth.jpg`, `_probability.jpg` and
            `_overlay.jpg` of each photograph; None writes none.
        calibrations: dict from name to `bev.Calibration`; the photographs in it are scored in
            bird's-eye view, too.

    Returns:
        dict of 'loss' (mean cross entropy over the evaluated pixels), 'ms_per_image' (network
        and resizing; the median), 'histograms' and 'bev_histograms' (dicts from name to int64
        (2, 256), see `metrics.confidence_histograms`).

    Raises:
        InputError: there is no photograph.
    """
    histograms, bev_histograms, times, loss, pixels = {}, {}, [], 0.0, 0
    for name, photograph, classes in samples:
        began = time.perf_counter()
        probability = network.look(photograph)
        times.append(time.perf_counter() - began)
        frame_loss, frame_pixels = cross_entropy(probability, classes)
        loss, pixels = loss + frame_loss, pixels + frame_pixels
        values, road, evaluated = confidence(probability), classes == 1, classes != IGNORED
        histograms[name] = metrics.confidence_histograms(values, road, evaluated)
        if name in (calibrations or {}):
            views = [bev.to_bev(view, calibrations[name])[0] for view in (values, road, evaluated)]
            bev_histograms[name] = metrics.confidence_histograms(*views)
        if pictures is not None:
            write_pictures(pictures, name, photograph, classes, probability)
    if not histograms:
        raise InputError('there is no labelled photograph to score')
    return {'loss': loss / max(pixels, 1), 'ms_per_image': 1e3 * float(np.median(times)),
            'histograms': histograms, 'bev_histograms': bev_histograms}


def summary(result, checkpoint, split, network):
    """What `evaluation.json` holds, from what `score` returns.

    Args:
        result: dict.
        checkpoint: name, such as 'step-002892'.
        split: name of the photographs' split.
        network: the `Network` that was scored.

    Returns:
        dict of numbers and text; 'frames' has the measures of each photograph with a road.
    """
    frames = []
    for name, histogram in result['histograms'].items():
        if histogram[1].any():          # the measures need some road
            measures = metrics.kitti_measures(histogram)
            frames.append({'name': name, **{key: measures[key]
                                            for key in ('MaxF', 'IoU', 'FPR', 'FNR')}})
    content = {'checkpoint': checkpoint, 'split': split, 'view': 'perspective',
               'test_scale': list(network.scales), 'flip_test': network.flip,
               'loss': result['loss'], 'ms_per_image': result['ms_per_image'],
               'scores': metrics.measures_by_category(result['histograms']), 'frames': frames}
    if result['bev_histograms']:
        content['bev'] = {'scores': metrics.measures_by_category(result['bev_histograms']),
                          'frames': len(result['bev_histograms'])}
    return content


def text(results):
    """The tables of one or several results of `score`.

    Runs on different photographs, as the folds of a cross-validation, are pooled; runs on the
    same photographs, as with several seeds, give mean and sample standard deviation.

    Raises:
        InputError: the runs share some photographs, but not all.
    """
    names = [set(result['histograms']) for result in results]
    if len(results) == 1 or sum(map(len, names)) == len(set.union(*names)):
        tables = _pooled_tables
    elif all(name == names[0] for name in names):
        tables = _spread_tables
    else:
        raise InputError('these runs were scored on photographs of which they share some; score '
                         'them one by one, or with a --split that is the same for all')
    lines = []
    for key, view in (('histograms', 'perspective'), ('bev_histograms', "bird's-eye view")):
        histograms = [result[key] for result in results if result[key]]
        if histograms:
            lines += tables(histograms, view)
    loss = np.mean([result['loss'] for result in results])
    speed = np.median([result['ms_per_image'] for result in results])
    return '\n'.join([*lines, f'cross entropy {loss:.4f}, {speed:.0f} ms per image'])


def _pooled_tables(histograms, view):
    pooled = {name: histogram for run in histograms for name, histogram in run.items()}
    scores = metrics.measures_by_category(pooled)
    return [f'{len(pooled)} photographs, {view}, per cent', metrics.format_table(scores),
            'at threshold 0.5: F1 {F1:.2f}, IoU {IoU:.2f}'.format(**scores[metrics.POOLED])]


def _spread_tables(histograms, view):
    runs = [metrics.measures_by_category(run) for run in histograms]
    mean, deviation = ({category: {key: float(of([run[category][key] for run in runs]))
                                   for key in runs[0][category]} for category in runs[0]}
                       for of in (np.mean, partial(np.std, ddof=1)))
    return [f'{len(histograms[0])} photographs, {view}, per cent, mean of {len(runs)} runs',
            metrics.format_table(mean), 'sample standard deviation',
            metrics.format_table(deviation),
            'MaxF of the runs: ' + ', '.join(f'{run[metrics.POOLED]["MaxF"]:.2f}' for run in runs),
            'at threshold 0.5: F1 {F1:.2f}, IoU {IoU:.2f}'.format(**mean[metrics.POOLED])]


def write_pictures(folder, name, photograph, classes, probability, width=640):
    """Writes four small JPEGs of a frame: input, truth, probability and overlay.

    In the overlay, green is road found, red road missed, blue road that is none.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    height = round(width * photograph.shape[0] / photograph.shape[1])
    truth, found = classes == 1, (probability >= 0.5) & (classes != IGNORED)
    errors = overlay(photograph, truth & found)
    errors = overlay(errors, truth & ~found, (255, 0, 0))
    errors = overlay(errors, ~truth & found, (0, 80, 255))
    grey = np.repeat(confidence(probability)[..., np.newaxis], 3, axis=2)
    for kind, picture in (('input', photograph), ('truth', overlay(photograph, truth)),
                          ('probability', grey), ('overlay', errors)):
        write_image(folder / f'{name}_{kind}.jpg', resize(picture, (height, width)))
