"""What a training works with, once nothing is left open: device, data, encoder."""
from pathlib import Path
from typing import NamedTuple

import numpy as np

from roadseg.commands import typed
from roadseg.datasets import catalogue
from roadseg.datasets.description import Dataset
from roadseg.errors import InputError
from roadseg.networks import vgg16
from roadseg.training import class_weights, device, pipeline
from roadseg.training.options import check_alone
from roadseg.training.run_folder import check_same


class Setting(NamedTuple):
    """What a training works with."""
    hardware: device.Device
    dataset: Dataset
    training: list              # (image, label) paths
    validation: list            # the same, held out
    encoder: Path               # frozen graph
    class_weights: np.ndarray | None    # float32 [C], in the loss; None for 1 each
    scale_loss: bool            # see `main.optimize`


def settle(options, team):
    """Finds device, data and encoder, checks them, and fills in what the options leave to them.

    Args:
        options: namespace of `parse_args`; gets precision, xla, split, batch_size, image_size.
        team: the workers; it is started.

    Returns:
        `Setting`.

    Raises:
        InputError: something that the user can put right.
    """
    if team.count > 1:
        check_alone(options)
    team.start()
    hardware = device.find(options.precision, options.xla)
    print(device.describe(hardware), flush=True)
    # A run of float16 keeps its loss scale where it goes on without: its checkpoints hold it.
    scale_loss = 'float16' in (hardware.precision, options.precision if options.resume else '')
    with team.in_turn(options.data_dir):
        dataset = catalogue.load(options.dataset, options.data_dir, options.classes,
                                 strict=not options.own_data)
    options.precision, options.xla = hardware.precision, hardware.xla
    options.split = options.split or dataset.default_split
    training, validation = dataset.split(options.split)
    options.batch_size = team.batch_size(options)
    sizes = pipeline.check(dataset, training, validation, options.batch_size, team.count,
                           options.ignore_last_rows)
    options.image_size = pipeline.training_size(options.image_size, sizes)
    if options.model == 'segnet' and max(options.image_size) <= 16:
        raise InputError(f'--image-size {typed(options.image_size)}: after four poolings, SegNet '
                         'would have one pixel to normalise; choose a larger one')
    with team.in_turn(options.data_dir):
        encoder = vgg16.find_encoder(options)
    check_same(options.resume, options.data_dir, dataset, training, validation, encoder)
    read_label = pipeline.ignoring_last_rows(dataset.read_label, options.ignore_last_rows)
    weights = class_weights.find(options.class_weights, training,
                                 dataset._replace(read_label=read_label))
    return Setting(hardware, dataset, training, validation, encoder, weights, scale_loss)
