"""KITTI Road: 289 labelled photographs of streets, of three kinds, and 290 without labels.

    data_road/training/image_2/um_000012.png        photograph
    data_road/training/gt_image_2/um_road_000012.png    its label
    data_road/testing/image_2/um_000000.png

Fritsch, Kuehnl and Geiger, "A New Performance Measure and Evaluation Benchmark for Road Detection
Algorithms", ITSC 2013. CC BY-NC-SA 3.0.
"""
import fnmatch
import os
from functools import partial
from pathlib import Path

import numpy as np

from roadseg.datasets import download, labels
from roadseg.datasets.description import IGNORED, Dataset
from roadseg.datasets.splits import split_pairs
from roadseg.errors import InputError
from roadseg.files import describe_os_error, is_there
from roadseg.scoring import road

URL = 'https://s3.eu-central-1.amazonaws.com/avg-kitti/data_road.zip'
COUNTS = {'training photographs': ('training/image_2', '*.png', 289),
          'road labels': ('training/gt_image_2', '*_road_*.png', 289),
          'test photographs': ('testing/image_2', '*.png', 290)}
CLASSES = ('not road', 'road')
PALETTE = ((255, 0, 0), (0, 255, 0))
GROUPS = {'um': 'urban, two-way road with lane markings',
          'umm': 'urban, multi-lane road with lane markings',
          'uu': 'urban, road without lane markings'}
VAL3 = {'um': range(79, 95), 'umm': range(80, 96), 'uu': range(82, 98)}   # KittiSeg's split
SEARCH = {'um': range(63, 79), 'umm': range(64, 80), 'uu': range(66, 82)}   # the 48 before those


def load(data_dir, num_classes=2, strict=True):
    """Describes the KITTI Road of a folder; fetches it where it is missing.

    Args:
        data_dir: folder holding or getting `data_road/` or `data_road.zip`.
        num_classes: 2; KITTI Road has no other.
        strict: whether fewer files than KITTI has are an error; otherwise a warning is
            printed, for data of one's own in the same layout.

    Returns:
        `Dataset`. Its splits are val3, the published split of KittiSeg (Teichmann et al.,
        "MultiNet", 2018); search, the frames just before those, to choose options by, where val3
        is not trained on either, so that it can still tell how good the choice was; and those of
        `splits.split_pairs`.

    Raises:
        InputError: there are no data and none could be fetched, files are missing, or
            photographs have other names or endings than KITTI's.
    """
    if num_classes != 2:
        raise InputError(f'--classes {num_classes}: KITTI Road has 2, not road and road')
    return describe(fetch(data_dir, strict), 'kitti', 'KITTI Road')


def describe(folder, name, title, named_splits=None):
    """Describes photographs in KITTI Road's layout.

    Args:
        folder: `data_road`.
        name: of the data set.
        title: of the data set.
        named_splits: see `splits.split_pairs`, the first being the default; None for `SPLITS`.

    Returns:
        `Dataset`.

    Raises:
        InputError: as `paired_paths`, and where a photograph's name has no category.
    """
    for image in visible(folder / 'training/image_2', '*.png'):
        category(image)
        labels.check_name(image)
    pairs, named_splits = paired_paths(folder / 'training'), named_splits or SPLITS
    return Dataset(
        name=name, title=title, classes=CLASSES, palette=PALETTE, road=1, measures=road,
        labelled=pairs, tests=visible(folder / 'testing/image_2', '*.png'),
        read_label=read_road_label, default_split=next(iter(named_splits)), groups=GROUPS,
        group=category, pooled='URBAN', server='kitti',
        split=partial(split_pairs, pairs, group=category, named=named_splits))


def fetch(data_dir, strict=True):
    """Leaves KITTI Road in `data_dir/data_road` and checks that it is whole.

    Args and raises as in `load`.

    Returns:
        Path of `data_road`.
    """
    data_dir = Path(data_dir)
    folder, archive = data_dir / 'data_road', data_dir / 'data_road.zip'
    # os.path's questions have an answer where a name is too long or a folder is locked, too.
    if not is_there(folder):
        if not os.path.exists(archive):
            if os.path.isdir(data_dir / 'training/gt_image_2'):     # other sets of KITTI have none
                raise InputError(f'{data_dir} holds training/ itself, and --data-dir names the '
                                 'folder that holds data_road/: move training/ and testing/ into '
                                 f'{folder}')
            try:
                download.download(URL, archive)
            except download.Unavailable as error:
                raise InputError(
                    f'no KITTI Road data in {data_dir}: {error}. Three ways on: download '
                    f'data_road.zip by hand into {data_dir}; name the folder that holds '
                    'data_road/ with --data-dir; or run `python main.py --demo`') from error
        download.extract(archive, 'data_road')
    for place in ('training/image_2', 'testing/image_2'):
        for path in visible(folder / place, '*'):
            if path.suffix != '.png' and path.suffix.lower() in labels.PHOTOGRAPHS:
                raise InputError(f'{path} is no .png, as the photographs of KITTI Road are; '
                                 'photographs of any name and kind are read with --dataset folder')
    for what, (place, pattern, expected) in COUNTS.items():
        found = len(visible(folder / place, pattern))
        if found == 0 and not strict and what != 'test photographs':
            raise InputError(f'{folder / place} holds no {what}: their names should be like '
                             'um_000012.png and um_road_000012.png; photographs of any name are '
                             'read with --dataset folder')
        labels.check_count(folder / place, what, found, expected, strict)
    return folder


def visible(folder, pattern):
    """Sorted paths that match, without hidden ones, as macOS puts beside files on other disks."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f'cannot read {folder}: {describe_os_error(error)}; make it readable, or '
                         'name another --data-dir') from error
    return sorted(folder / name for name in fnmatch.filter(names, pattern)
                  if not name.startswith('.'))


def paired_paths(folder):
    """Pairs each KITTI photograph with its road label.

    The label of `um_000012.png` is `um_road_000012.png`; lane labels are left out.

    Args:
        folder: `data_road/training`, holding `image_2/` and `gt_image_2/`.

    Returns:
        List of (image, label) paths, sorted by image name.

    Raises:
        InputError: there is no photograph, or one has no road label.
    """
    folder = Path(folder)
    images = visible(folder / 'image_2', '*.png')
    if not images:
        raise InputError(f"no .png file in {folder / 'image_2'}; see 'Data' in README.md")
    of_name = {path.name.replace('_road_', '_'): path
               for path in visible(folder / 'gt_image_2', '*_road_*.png')}
    unlabelled = [image.name for image in images if image.name not in of_name]
    if unlabelled:
        raise InputError(
            f"{len(unlabelled)} of {len(images)} photographs have no road label in "
            f"{folder / 'gt_image_2'}, the first being {unlabelled[0]}")
    return [(image, of_name[image.name]) for image in images]


def category(name):
    """KITTI Road's category of a file: 'um', 'umm' or 'uu'.

    Args:
        name: file name or path, such as `um_000012.png` or `umm_road_000012.png`.

    Raises:
        InputError: the name does not start with a category.
    """
    prefix = Path(name).name.split('_')[0]
    if prefix not in GROUPS:
        raise InputError(f"{name} belongs to no category of KITTI Road: its name should start "
                         f"with one of {', '.join(c + '_' for c in GROUPS)}; photographs of any "
                         'other name are read with --dataset folder')
    return prefix


def numbered(pairs, numbers):
    """Returns the pairs whose number is in the range of their category.

    Args:
        pairs: list of (image, label) paths.
        numbers: dict from category to range, such as `VAL3`.

    Raises:
        InputError: an image has no category or no number.
    """
    chosen = []
    for image, label in pairs:
        number = image.stem.split('_')[-1]
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise InputError(f'{image} has no number, such as {category(image)}_000012.png, that '
                             'would tell whether it is held out; choose another --split')
        if int(number) in numbers[category(image)]:
            chosen.append((image, label))
    return chosen


SPLITS = {'val3': lambda pairs: (numbered(pairs, VAL3), []),
          'search': lambda pairs: (numbered(pairs, SEARCH), numbered(pairs, VAL3))}


def read_road_label(path):
    """Reads a KITTI road label: evaluated where red > 0, road where blue > 0.

    Returns:
        uint8 ndarray (H, W): 1 road, 0 not road, `IGNORED` not evaluated.

    Raises:
        InputError: unreadable, or a colour that KITTI's road labels do not have.
    """
    colours = labels.read_colours(path)
    red, green, blue = (colours[..., channel] for channel in range(3))
    foreign = (green > 0) | ((red > 0) & (red < 255)) | ((blue > 0) & (blue < 255))
    if foreign.any():
        raise labels.misplaced(path, colours, foreign, 'a KITTI road label, of (255, 0, 0), '
                               '(255, 0, 255), (0, 0, 255), (0, 0, 0)')
    return np.where(red > 0, (blue > 0).astype(np.uint8), np.uint8(IGNORED))
