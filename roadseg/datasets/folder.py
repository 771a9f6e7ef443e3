"""A folder of one's own: photographs, and for each a mask of the same name.

    images/street 1.jpg     photograph
    masks/street 1.png      its mask: class numbers, or black and white
    classes.json            names of the classes; may be left out
    test/, unlabelled/      photographs without a mask; may be left out

In classes.json all but the names may be left out:

    {"names": ["ground", "road", "path"],
     "colours": [[90, 60, 30], [128, 64, 128], [240, 200, 0]],
     "ignored": 255,
     "road": "road"}

A class's number is its place in `names`, from 0. `ignored` is the number of pixels that are not
evaluated, null for none; 255 where it is left out. `road` is null where no class is road. Of two
classes, the second is road where `road` is left out; and where `ignored` is left out, too, the
masks may be black and white.
"""
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

from roadseg.datasets import kitti, labels
from roadseg.datasets.description import IGNORED, Dataset
from roadseg.datasets.splits import split_pairs
from roadseg.errors import InputError
from roadseg.files import read_json
from roadseg.scoring import classes as class_scores
from roadseg.scoring import road as road_scores

MOST = labels.FOREIGN - 1   # classes: what an overlay can paint
KEYS = ('names', 'colours', 'ignored', 'road')
SPLIT = 'tail:0.2'
LOOKED_AT = 200     # masks, to find out whether they have class numbers or are black and white
_LAYOUT = 'expected images/ with photographs and masks/ with a PNG mask of the same name for each'


class _Classes(NamedTuple):
    names: tuple
    palette: tuple
    ignored: int | None     # value in a mask
    road: int | None        # number of the class
    two_coloured: bool      # whether masks may be black and white


def load(data_dir, num_classes=None, strict=True):
    """Describes a folder of one's own.

    Args:
        data_dir: the folder.
        num_classes: C; None for as many as classes.json names, 2 without one.
        strict: of no effect; nobody published how many files there are.

    Returns:
        `Dataset`. By default, the last fifth of the photographs is held out.

    Raises:
        InputError: it is laid out differently, photographs and masks do not pair up, or
            classes.json is wrong or names another number of classes.
    """
    title = labels.shown(os.path.basename(os.path.abspath(data_dir)))
    return describe(Path(data_dir), 'folder', title, num_classes)


def describe(folder, name, title, num_classes=None, named_splits=None, **grouping):
    """Describes photographs in this layout.

    Args:
        folder: holds `images/`.
        name, title: of the data set.
        num_classes: see `load`.
        named_splits: see `splits.split_pairs`, the first being the default; None for none.
        **grouping: `groups`, `group` and `pooled` of the `Dataset`.

    Returns:
        `Dataset`.

    Raises:
        InputError: see `load`.
    """
    pairs = _pairs(folder)
    classes = _read_classes(folder / 'classes.json', num_classes)
    values = {number: number for number in range(len(classes.names))}
    expected = f'0 to {len(classes.names) - 1}'
    mask = _black_and_white(pairs) if classes.two_coloured else None
    if mask:
        values, expected = {0: 0, 255: 1}, f'0 or 255, black or white, as in {mask.name}'
    elif classes.ignored is not None:
        values[classes.ignored] = IGNORED
        expected += f', or {classes.ignored} where it is not evaluated'
    if num_classes is None and not os.path.lexists(folder / 'classes.json'):
        expected += '; name the number of classes by --classes, or the classes in classes.json'
    if len(classes.names) == 2 and classes.road == 0:       # KITTI's measures want it to be 1
        values = {value: number if number == IGNORED else 1 - number
                  for value, number in values.items()}
        classes = classes._replace(names=classes.names[::-1], palette=classes.palette[::-1],
                                   road=1)
    measures = road_scores if len(classes.names) == 2 and classes.road else class_scores
    return Dataset(
        name=name, title=title, classes=classes.names, palette=classes.palette,
        road=classes.road, measures=measures, labelled=pairs, tests=_tests(folder),
        read_label=partial(labels.read_classes, numbers=labels.table(values), expected=expected,
                           black_and_white=mask is not None),
        split=partial(split_pairs, pairs, named=named_splits,
                      group=grouping.get('group', lambda name: None)),
        default_split=next(iter(named_splits or [SPLIT])), **grouping)


# Photographs and masks ------------------------------------------------------------------------

def _pairs(folder):
    """List of (image, label) paths."""
    images, masks = folder / 'images', folder / 'masks'
    for place in (images, masks):
        if not os.path.isdir(place):
            raise InputError(f'{place} is no folder: {_LAYOUT}; {labels.contents(folder)}')
    photographs = labels.pictures(images, labels.PHOTOGRAPHS)
    if not photographs:
        raise InputError(f'{images} holds no photograph ({", ".join(labels.PHOTOGRAPHS)}): '
                         f'{_LAYOUT}; {labels.contents(images)}')
    found = labels.pictures(masks)
    if not found:
        raise InputError(f'{masks} holds no .png file: {_LAYOUT}, as JPEG changes class '
                         f'numbers; {labels.contents(masks)}')
    labels.warn_of_folders(images)
    return labels.pair(photographs, found, images, masks)


def _tests(folder):
    """Paths of the photographs without a mask; by their names, their overlays are told apart."""
    tests, more = (labels.pictures(folder / place, labels.PHOTOGRAPHS)
                   for place in ('test', 'unlabelled'))
    for name in tests.keys() & more.keys():
        raise InputError(f'{tests[name]} and {more[name]} have the same name; rename one')
    for place in ('test', 'unlabelled'):
        labels.warn_of_folders(folder / place)
    return [*tests.values(), *more.values()]


def _black_and_white(pairs):
    """Returns the first mask that is black and white, None where they have class numbers.

    Of many masks, the first `LOOKED_AT` tell, or the first that is not all black.

    255 may stand for white or for 'not evaluated'. A mask of class numbers that has no road
    but has ignored pixels, and comes first, is taken for black and white; then the next one
    that has the number 1 is refused.

    Raises:
        InputError: some have class numbers, none of which has both 1 and 255, and one is black
            and white.
    """
    numbered = white = None
    is_told = False
    for index, (_, mask) in enumerate(pairs):
        if is_told and index >= LOOKED_AT:
            break
        values = labels.read_numbers(mask, black_and_white=True)
        is_told = is_told or bool(values.any())
        if ((values > 0) & (values < 255)).any():
            if (values == 255).any():
                return None
            numbered = numbered or mask
        elif (values != 255 * labels.read_numbers(mask)).any():     # else 0 and 1 say the same
            if numbered is None:
                return mask
            white = white or mask
    if white:
        raise InputError(f'{white} is black and white, and {numbered} has class numbers; make '
                         'them of one kind, or say in classes.json what is "ignored"')
    return None


# The classes ----------------------------------------------------------------------------------

def _read_classes(path, num_classes):
    """What classes.json says, and what goes for what it leaves out: `_Classes`."""
    said = {}
    if os.path.lexists(path):
        said = read_json(path, 'make it a file')
        _check_classes(path, said)
        if num_classes not in (None, len(said['names'])):
            raise InputError(f"{path} names {len(said['names'])} classes, --classes is "
                             f'{num_classes}; leave --classes away, or change the file')
        names = tuple(said['names'])
    else:
        num_classes = num_classes or 2
        if not 2 <= num_classes <= MOST:
            raise InputError(f'--classes {num_classes}: a folder has 2 to {MOST}')
        names = (kitti.CLASSES if num_classes == 2
                 else tuple(f'class {number}' for number in range(num_classes)))
    two = len(names) == 2
    if 'road' in said:
        road = None if said['road'] is None else names.index(said['road'])
    else:
        road = 1 if two else names.index('road') if 'road' in names else None
    colours = said.get('colours') or (kitti.PALETTE if two else _distinct_colours(len(names)))
    return _Classes(names, tuple(map(tuple, colours)), said.get('ignored', IGNORED), road,
                    two and 'ignored' not in said)


def _check_classes(path, said):
    """Raises InputError unless the content of classes.json, a dict, is as documented above."""
    def expect(right, what, key, found):
        if not right:
            raise InputError(f"{path}: '{key}' is {str(found)[:60]!r}, expected {what}")

    unknown = [key for key in said if key not in KEYS]
    if unknown or 'names' not in said:
        found = ', '.join(map(labels.shown, said))[:80]
        raise InputError(f"{path} has the keys {found or '(none)'}; expected 'names' and perhaps "
                         f"{', '.join(KEYS[1:])}")
    names = said['names']
    expect(isinstance(names, list) and 2 <= len(names) <= MOST, f'a list of 2 to {MOST} names',
           'names', names)
    for name in names:
        expect(isinstance(name, str) and 0 < len(name.strip()) and len(name) <= 60
               and labels.shown(name) == name, 'text of 1 to 60 characters', 'names', name)
        expect(names.count(name) == 1, 'each name once', 'names', name)
    if 'colours' in said:
        colours = said['colours']
        expect(isinstance(colours, list) and len(colours) == len(names),
               f'a list of {len(names)} colours, one for each name', 'colours', colours)
        for colour in colours:
            expect(isinstance(colour, list) and len(colour) == 3
                   and all(_is_byte(part) for part in colour),
                   'red, green and blue of each class, whole numbers from 0 to 255', 'colours',
                   colour)
    ignored = said.get('ignored')
    expect(ignored is None or _is_byte(ignored) and ignored >= len(names),
           f'null or a whole number from {len(names)} to 255, as the smaller ones are classes',
           'ignored', ignored)
    expect(said.get('road') is None or said['road'] in names, 'null or one of the names', 'road',
           said.get('road'))


def _is_byte(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _distinct_colours(count):
    """The colour map of PASCAL VOC: a number's bits, three at a time, go to red, green, blue."""
    return [tuple(sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
                  for channel in range(3)) for number in range(count)]
