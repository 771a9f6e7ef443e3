"""The data sets by name."""
from roadseg.datasets import camvid, cityscapes, demo, folder, kitti

DATASETS = {'kitti': kitti.load, 'camvid': camvid.load, 'cityscapes': cityscapes.load,
            'folder': folder.load, 'demo': demo.load}
SPLITS = {'kitti': ('val3', 'search'), 'camvid': ('val', 'test', 'trainval'),
          'cityscapes': ('val',), 'folder': (), 'demo': ('held-out',)}
CLASSES = {'kitti': 2, 'camvid': 11, 'cityscapes': 19, 'folder': None, 'demo': 2}


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
    return DATASETS[name](data_dir, num_classes or CLASSES[name], strict)
