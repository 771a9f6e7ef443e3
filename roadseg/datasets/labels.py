"""Finding photographs and their labels, and reading labels whose values are class numbers."""
import re
import sys
import unicodedata

import numpy as np

from roadseg.errors import InputError
from roadseg.files import describe_os_error, folders_in
from roadseg.images import decode, to_rgb

FOREIGN = 254               # in a table: a value that the data set does not have
PHOTOGRAPHS = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')     # endings
# What telephones and cameras write, and is not read here.
UNREAD = ('.heic', '.heif', '.avif', '.dng', '.jfif', '.jp2', '.gif')
_NUMBERS = 'a PNG file of class numbers was expected'


# Finding --------------------------------------------------------------------------------------

def pictures(folder, endings=('.png',), suffix=''):
    """The pictures of a folder by name, in order: 'street 2' comes before 'street 10'.

    Args:
        folder: path; one that is not there has none.
        endings: of their names, in lower case; hidden files are passed over.
        suffix: what the names have in common before the ending and is left out.

    Returns:
        dict from name, without suffix and ending, to path.

    Raises:
        InputError: the folder can't be read, or two names differ in their ending only, or a name
            has a line break or what is no text.
    """
    found, unread = {}, []
    try:
        paths = sorted(folder.iterdir(), key=by_number) if folder.is_dir() else []
    except OSError as error:
        raise InputError(f'cannot read {folder}: {describe_os_error(error)}') from error
    for path in paths:
        if endings == PHOTOGRAPHS and path.suffix.lower() in UNREAD:
            unread.append(path.name)
        if path.suffix.lower() not in endings or not path.stem.endswith(suffix) or \
                path.name.startswith('.'):
            continue
        # The same letter may be stored as one character or as two, by the system it came from.
        name = unicodedata.normalize('NFC', path.stem.removesuffix(suffix))
        check_name(path)
        if name in found:
            raise InputError(f'{folder} holds both {found[name].name} and {path.name}; which one '
                             'is meant? Move the other away')
        found[name] = path
    warn_of_unread(unread, folder)
    return found


def warn_of_folders(folder):
    """Says that photographs in the folders of a folder are not read; of none, nothing."""
    below = [place for place in folders_in(folder) if any(
        path.suffix.lower() in PHOTOGRAPHS for path in place.iterdir())]
    if below:
        print(f'warning: the photographs in the folders of {shown(str(folder))} are not read, such '
              f'as those in {shown(below[0].name)}; move them up', file=sys.stderr)


def warn_of_unread(names, folder):
    """Says that so many files of a folder are of a kind that is not read; of none, nothing."""
    if names:
        print(f'warning: {len(names)} files in {shown(str(folder))} are of a kind that is not '
              f'read, such as {shown(min(names))}; convert them', file=sys.stderr)


def pair(images, labels, image_folder, label_folder, suffixes=('', '')):
    """Pairs photographs with the labels of the same name.

    Args:
        images, labels: dicts from name to path.
        image_folder, label_folder: where they were looked for, for messages.
        suffixes: what stands behind the name they share, for messages.

    Returns:
        List of (image, label) paths, in the order of `images`.

    Raises:
        InputError: one has no other.
    """
    for what, of, some, others, place in (
            ('photographs', 'label', images, labels, label_folder),
            ('labels', 'photograph', labels, images, image_folder)):
        alone = [path for name, path in some.items() if name not in others]
        if alone:
            rule = ('the label of NAME{}.png is NAME{}.png'.format(*suffixes) if any(suffixes) else
                    'a photograph and its label have the same name')
            raise InputError(f'{len(alone)} of {len(some)} {what} have no {of} in {place}, the '
                             f'first being {alone[0].name}; {rule}')
    return [(image, labels[name]) for name, image in images.items()]


def check_count(place, what, found, expected, strict):
    """Compares the number of files with that of the published data set.

    Raises:
        InputError: it is another, if `strict`; otherwise a warning is printed.
    """
    if found != expected:
        message = f'{place} holds {found} {what}, published are {expected}'
        if strict:
            raise InputError(f'{message}; get it again, or name a folder of your own with '
                             '--data-dir')
        print(f'warning: {message}', file=sys.stderr)


def contents(folder):
    """What lies in a folder, for a message: its first names."""
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith('.'))
    except OSError as error:
        return f'{folder}: {describe_os_error(error)}'
    first = ', '.join(map(shown, names[:6]))
    return f"{folder} holds {first or 'nothing'}{', ...' if len(names) > 6 else ''}"


def check_name(path):
    """Raises InputError where a file's name has a line break or what is no text."""
    if shown(path.name) != path.name:
        raise InputError(f'{shown(path.name)} in {path.parent} has a line break, or what is no '
                         'text, in its name; rename it')


def shown(name):
    """A name as it can stand in a line: escaped where it has line breaks or bytes without text."""
    strange = any(unicodedata.category(letter) in ('Cc', 'Cs', 'Zl', 'Zp') for letter in name)
    return ascii(name) if strange else name


def by_number(path):
    """Sorts names as people do: text and numbers in turn."""
    parts = re.split('([0-9]+)', path.stem)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


# Reading --------------------------------------------------------------------------------------

def table(classes):
    """Makes the table that `read_classes` looks values up in.

    Args:
        classes: dict from a value, 0-255, to its class number or `IGNORED`.

    Returns:
        uint8 ndarray (256,); `FOREIGN` where a value is no class.
    """
    numbers = np.full(256, FOREIGN, np.uint8)
    for value, number in classes.items():
        numbers[value] = number
    return numbers


def read_classes(path, numbers, expected, black_and_white=False):
    """Reads a label and translates its values.

    Args:
        path: of a PNG file.
        numbers: uint8 ndarray (256,), see `table`.
        expected: which values are right, for the message.
        black_and_white: see `read_numbers`.

    Returns:
        uint8 ndarray (H, W), class numbers and `IGNORED`.

    Raises:
        InputError: unreadable, or a value is not in the table.
    """
    values = read_numbers(path, black_and_white)
    # bytes.translate takes a quarter of the time of numbers[values].
    classes = np.frombuffer(bytearray(values.tobytes().translate(numbers.tobytes())),
                            np.uint8).reshape(values.shape)
    foreign = classes == FOREIGN
    if foreign.any():
        raise misplaced(path, values, foreign, expected)
    return classes


def read_numbers(path, black_and_white=False):
    """Reads a label whose values are numbers: grey, one bit, 16 bits, or with a palette.

    Of a palette, the numbers and not the colours count. White of one bit is 255, as in grey.

    Args:
        path: of a PNG file; the numbers of a JPEG are not the ones that were written.
        black_and_white: whether a palette of just black and white is read by these colours, as 0
            and 255: programs number them in any order.

    Returns:
        uint8 ndarray (H, W).

    Raises:
        InputError: it is missing, damaged, animated or no PNG, has colours, or a number above
            255.
    """
    values = _decode(path, black_and_white)
    if values.ndim == 3:
        grey = (values == values[..., :1]).all(axis=2)
        if not grey.all():
            row, column = np.argwhere(~grey)[0]
            colour = tuple(map(int, values[row, column]))
            raise InputError(
                f'{path} has colours, such as {colour} at row {row}, column {column}; '
                f'{_NUMBERS}: for each class, numbers[(colours == {colour}).all(axis=2)] = 1 in '
                'NumPy, and save `numbers`, of dtype uint8')
        values = values[..., 0]
    if values.dtype != np.uint8:
        high = (values < 0) | (values > 255)
        if high.any():
            raise misplaced(path, values, high, '0 to 255')
    return values.astype(np.uint8, copy=False)


def read_colours(path):
    """Reads a label whose colours stand for classes.

    Args:
        path: of a PNG file.

    Returns:
        uint8 ndarray (H, W, 3), RGB.

    Raises:
        InputError: it is missing, damaged, animated or no PNG.
    """
    return to_rgb(decode(path, ('PNG',), 'PNG file', 'take it from the data set again',
                         verified=True))


def _decode(path, black_and_white):
    """Decodes a PNG file: integer ndarray (H, W), or uint8 (H, W, 3) where it has colours."""
    # A damaged photograph is seen; a damaged label would be other classes, without a word.
    image = decode(path, ('PNG',), 'PNG file', _NUMBERS, verified=True)
    if image.mode == '1' or black_and_white and _is_black_and_white(image):
        return np.array(image.convert('L'))
    if image.mode not in ('LA', 'RGB', 'RGBA'):
        return np.array(image)
    with open(path, 'rb') as file:
        if file.read(25)[24] == 16:     # of which Pillow keeps the upper 8 bits: 0
            raise InputError(f'{path} has 16 bits in each of several channels; {_NUMBERS}, of one '
                             'channel')
    lowest, highest = zip(*image.getextrema())
    if image.mode != 'RGB' and lowest[:-1] == highest[:-1] and lowest[-1] < highest[-1]:
        raise InputError(f'{path} has but one colour, and shapes in its transparency; {_NUMBERS}')
    return np.array(image.convert('RGB'))


def _is_black_and_white(image):
    """Whether an image has a palette of black and white alone, or uses just these two of it."""
    if image.mode != 'P':
        return False
    palette, black, white = image.getpalette(), (0, 0, 0), (255, 255, 255)
    colours = [tuple(palette[start:start + 3]) for start in range(0, len(palette), 3)]
    numbers = [number for _, number in image.getcolors(256)]
    if max(numbers) >= len(colours):
        return False
    used = sorted(colours[number] for number in numbers)
    return used == [black, white] or sorted(colours) == [black, white] or (
        used == [white] and {black, white} >= set(colours))


def misplaced(path, values, where, expected):
    """The error of the first value or colour of a label that is none.

    Args:
        path: of the label.
        values: ndarray (H, W) or, of colours, (H, W, 3).
        where: bool ndarray (H, W), where it is none.
        expected: which are right.

    Returns:
        `InputError`, to be raised.
    """
    row, column = np.argwhere(where)[0]
    found = values[row, column]
    what = f'colour {tuple(map(int, found))}' if found.ndim else f'value {found}'
    return InputError(f'{path} has the {what} at row {row}, column {column}; expected {expected}')
