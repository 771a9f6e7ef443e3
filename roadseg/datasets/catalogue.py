"""The data sets by name."""
from typing import Callable, NamedTuple

from roadseg.datasets import camvid, cityscapes, demo, folder, kitti


class Entry(NamedTuple):
    """What is known of a data set before it is looked for."""
    load: Callable      # (data_dir, num_classes, strict) -> `description.Dataset`
    splits: tuple       # names of its published splits
    classes: int | None     # C, its own number; None where its files say it


DATASETS = {
    'kitti': Entry(kitti.load, ('val3', 'search'), 2),
    'camvid': Entry(camvid.load, ('val', 'test', 'trainval'), 11),
    'cityscapes': Entry(cityscapes.load, ('val',), 19),
    'folder': Entry(folder.load, (), None),
    'demo': Entry(demo.load, ('held-out',), 2),
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
