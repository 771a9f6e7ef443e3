"""The data sets by name."""
import os
from pathlib import Path
from typing import Callable, NamedTuple

from roadseg.datasets import camvid, cityscapes, demo, folder, kitti
from roadseg.errors import InputError


class Entry(NamedTuple):
    """What is known of a data set before it is looked for."""
    load: Callable      # (data_dir, num_classes, strict) -> `description.Dataset`
    splits: tuple       # names of its published splits
    classes: int | None     # C, its own number; None where its files say it
    parts: tuple | dict     # where none of these is in a folder, it is fetched or drawn; () for never;
                            # dict from C to such where it has a folder for each


DATASETS = {
    'kitti': Entry(kitti.load, ('val3', 'search'), 2, ('data_road', 'data_road.zip')),
    'camvid': Entry(camvid.load, ('val', 'test', 'trainval'), 11, camvid.PARTS),
    'cityscapes': Entry(cityscapes.load, ('val',), 19, ()),
    'folder': Entry(folder.load, (), None, ()),
    'demo': Entry(demo.load, ('held-out',), 2,
                  {number: (folder,) for number, folder in demo.FOLDERS.items()}),
}


def load(name, data_dir, num_classes=None, strict=True):
    """Describes a data set; fetches or draws it where it is missing and that is possible.

    Args:
        name: in `DATASETS`.
        data_dir: where it lies.
        num_classes: C, of those that the data set can be grouped into; None for its own.
        strict: whether fewer files than the published data set has are an error.

    Returns:
        `description.Dataset`.

    Raises:
        InputError: there are no data, they are laid out differently, or `num_classes` does not go
            with them.
    """
    entry = DATASETS[name]
    return entry.load(data_dir, num_classes or entry.classes, strict)


def check_there(name, data_dir, num_classes=None):
    """Checks that `load` with these arguments would neither fetch a data set nor draw it.

    Raises:
        InputError: it would.
    """
    parts = DATASETS[name].parts
    if isinstance(parts, dict):
        parts = parts.get(num_classes or DATASETS[name].classes)    # `load` says which there are
    if parts and not any(os.path.lexists(Path(data_dir, part)) for part in parts):
        raise InputError(f"{data_dir} holds none of {', '.join(parts)}; name the folder that does "
                         'with --data-dir')
