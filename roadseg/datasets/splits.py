"""Which photographs are trained on, and which are held out."""
from roadseg.datasets.labels import by_number
from roadseg.errors import InputError


def split_pairs(pairs, split, named=None, group=lambda name: None):
    """Splits (image, label) paths into those to train on and those held out.

    Neighbouring frames show the same street, so every split holds out contiguous runs of frames
    within each group.

    Args:
        pairs: list of (image, label) paths. Neighbours are those whose names are, numbers in
            them counted as such, in whatever order the list has them.
        split: a name in `named`; 'kfold:K:I', the I-th of K folds, I from 0; 'tail:S', the last
            share S of each group; or 'none', which holds nothing out.
        named: dict from the name of a published split to a function of `pairs` that returns
            (validation pairs, pairs that are left out altogether).
        group: function from an image's stem to its group.

    Returns:
        (training pairs, validation pairs).

    Raises:
        InputError: another split, or one that leaves nothing to train on or to validate.
    """
    named = named or {}
    if split == 'none':
        return list(pairs), []
    kind, *numbers = split.split(':')
    unused = []
    if split in named:
        validation, unused = named[split](pairs)
    elif kind == 'kfold' and _is_fold(numbers):
        folds, fold = map(int, numbers)
        validation = [pair for members in _groups(pairs, group)
                      for index, pair in enumerate(members)
                      if index * folds // len(members) == fold]
    elif kind == 'tail' and _is_share(numbers):
        share = float(numbers[0])
        validation = [pair for members in _groups(pairs, group)
                      for index, pair in enumerate(members)
                      if index >= len(members) - round(share * len(members))]
    else:
        shown = split if len(split) < 40 else split[:37] + '...'
        raise InputError(f"split '{shown}' is none of {', '.join([*named, ''])}kfold:K:I (I from "
                         '0 to K-1), tail:S (S between 0 and 1), none')
    left_out = {*validation, *unused}
    training = [pair for pair in pairs if pair not in left_out]
    if not training or not validation:
        raise InputError(f"split '{split}' leaves {len(training)} of {len(pairs)} photographs "
                         f'to train on and {len(validation)} to validate; choose another --split')
    return training, validation


def check_split(split, named=()):
    """Raises InputError where `split_pairs` would refuse a split whatever the photographs."""
    kind, *numbers = split.split(':')
    if not (split in (*named, 'none') or kind == 'kfold' and _is_fold(numbers)
            or kind == 'tail' and _is_share(numbers)):
        split_pairs([], split, dict.fromkeys(named))


def _groups(pairs, group):
    groups = {}
    for pair in sorted(pairs, key=lambda pair: by_number(pair[0])):
        groups.setdefault(group(pair[0].stem), []).append(pair)
    return groups.values()


def _is_fold(numbers):
    # isascii, as '²' is a digit that int() refuses; few digits, as int() refuses thousands
    return (len(numbers) == 2 and all(n.isascii() and n.isdigit() and len(n) < 7 for n in numbers)
            and int(numbers[1]) < int(numbers[0]))


def _is_share(numbers):
    try:
        return (len(numbers) == 1 and numbers[0].isascii() and numbers[0] == numbers[0].strip()
                and 0 < float(numbers[0]) < 1)
    except ValueError:
        return False
