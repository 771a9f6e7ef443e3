"""The course's helper: get VGG16, batches of KITTI, overlays. Its names and positional calls stay.

`main.py` calls it, and so can a script of one's own; what is behind it lives in `roadseg/`.
"""
from pathlib import Path

import numpy as np
from tqdm import tqdm

from roadseg.datasets import kitti
from roadseg.errors import InputError
from roadseg.files import make_folder
from roadseg.images import paint, painted, read_image, write_image
from roadseg.inference import Network
from roadseg.machine import processors
from roadseg.networks import vgg16
from roadseg.threads import prepared_ahead
from roadseg.training import pipeline
from roadseg.training.run_folder import new_folder


def maybe_download_pretrained_vgg(data_dir):
    """Leaves the frozen FCN-VGG16 graph in `data_dir/vgg`, from the first source that works.

    See `vgg16.fetch`.

    Returns:
        Path of the folder.

    Raises:
        InputError: no source worked.
    """
    return vgg16.fetch(data_dir)


def gen_batch_function(data_folder, image_shape):
    """Makes a function that yields the shuffled batches of an epoch of KITTI Road.

    Args:
        data_folder: `data_road/training`.
        image_shape: (H, W) of the batches.

    Returns:
        `get_batches_fn(batch_size, first=0)`, a generator of (images uint8 [N, H, W, 3], labels
        bool one-hot [N, H, W, 2]: not road, road); a label row of a pixel that is not evaluated
        is all False. Photographs are mirrored with a probability of 1/2; `first` is the number of the
        batch that an epoch begins with.

    Raises:
        InputError: no, unpaired or unreadable files.
    """
    class_batches_fn = pipeline.gen_batch_function(kitti.paired_paths(data_folder),
                                                   kitti.read_road_label, image_shape)

    def get_batches_fn(batch_size, first=0):
        for images, classes in class_batches_fn(batch_size, first):
            yield images, classes[..., np.newaxis] == np.arange(2, dtype=np.uint8)

    return get_batches_fn


def gen_test_output(sess, logits, keep_prob, image_pl, data_folder, image_shape):
    """Paints the road that the network finds on each test photograph of KITTI Road.

    Args:
        sess: session; no operation is added to its graph.
        logits: tensor [pixels, 2].
        keep_prob: placeholder of the dropout's keep probability, fed with 1.
        image_pl: placeholder [N, H, W, 3], RGB, 0-255.
        data_folder: `data_road/testing`, holding `image_2/*.png`.
        image_shape: (H, W) at which the network sees a photograph.

    Returns:
        Iterator, see `overlays`.

    Raises:
        InputError: there is no test photograph, or one is unreadable.
    """
    paths = kitti.visible(Path(data_folder) / 'image_2', '*.png')
    if not paths:
        raise InputError(f"no .png file in {Path(data_folder) / 'image_2'}")
    network = Network(sess, logits, keep_prob, image_pl, image_shape)
    return overlays(network, paths, kitti.road, kitti.PALETTE)


def save_inference_samples(runs_dir, data_dir, sess, image_shape, logits, keep_prob, input_image):
    """Writes each test photograph of KITTI Road, the road in colour, at its original size.

    Args:
        runs_dir: a new folder `<date-time>` is made in it.
        data_dir: holds `data_road/testing/image_2`.
        sess, image_shape, logits, keep_prob, input_image: see `gen_test_output`.

    Returns:
        Path of the folder.

    Raises:
        InputError: there is no test photograph, one is unreadable, or the disk is full.
    """
    pictures = gen_test_output(sess, logits, keep_prob, input_image,
                               Path(data_dir) / 'data_road/testing', image_shape)
    folder = new_folder(runs_dir)
    write_overlays(folder, pictures)
    return folder


def overlays(network, paths, measures, palette):
    """Paints what a network finds on photographs, in threads beside it.

    Args:
        network: `roadseg.inference.Network`.
        paths: of the photographs.
        measures, palette: those of a `Dataset`.

    Returns:
        Iterator of (file name, uint8 ndarray (H, W, 3), the photograph at its own size). Of two
        classes, the second is painted; of more, all of them are.

    Raises:
        InputError: a photograph is unreadable.
    """
    palette = painted(palette)

    def overlay(path):
        photograph = read_image(path)
        classes = measures.decide(measures.predict(network, photograph))
        return path.stem + '.png', paint(photograph, classes, palette)

    return prepared_ahead(overlay, tqdm(paths, desc='overlays', unit='image', disable=None),
                          processors() + 1, ahead=processors())


def write_overlays(folder, pictures):
    """Writes pictures into a folder, which is made where it is missing.

    Args:
        folder: path.
        pictures: iterator of (file name, uint8 ndarray (H, W, 3)), see `overlays`.

    Raises:
        InputError: as `overlays`, or the disk is full.
    """
    make_folder(folder)
    for _ in prepared_ahead(lambda named: write_image(Path(folder, named[0]), named[1]), pictures,
                            processors(), ahead=processors()):
        pass
