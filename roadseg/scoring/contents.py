"""What the folder of a run holds, read and checked for its page."""
import math
import os
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from roadseg.errors import InputError
from roadseg.files import read_json
from roadseg.images import DAMAGE
from roadseg.training.run_folder import read_log, read_run

OF_DATA = ('title', 'classes', 'palette', 'road', 'best')
OF_SCORING = (*OF_DATA, 'columns', 'frame_columns', 'pooled', 'groups', 'scores', 'detail',
              'frames', 'test_scale', 'interval')


class Run(NamedTuple):
    """The folder of a run."""
    folder: Path
    options: dict       # all of options.json
    chosen: dict        # its 'options'; {} where it has none
    data: dict          # its 'data', at least with the keys `OF_DATA`
    log: list           # rows of log.csv, dicts from column to float; [] before the first epoch
    evaluation: dict    # evaluation.json, at least with the keys `OF_SCORING`; {} where it is none

    @property
    def split(self):
        """Name of the photographs that were held out; '' if the options do not say."""
        return str(self.chosen.get('split') or '')

    @property
    def best(self):
        """(epoch, score) of the best epoch, the earliest of equal ones; None without scores."""
        column = self.data['best']
        scored = [(row[column], -row['epoch']) for row in self.log
                  if math.isfinite(row.get(column, math.nan))]
        return (-max(scored)[1], max(scored)[0]) if scored else None

    @property
    def last_scored(self):
        """The last row of the log that has a score; {} without."""
        return next((row for row in reversed(self.log)
                     if math.isfinite(row.get(self.data['best'], math.nan))), {})


def read(folder):
    """Reads what the folder of a run holds, but for its pictures.

    Args:
        folder: holds `options.json` and, where there are any, `log.csv` and `evaluation.json`.

    Returns:
        `Run`.

    Raises:
        InputError: `options.json` is missing, or a file is not what it should be.
    """
    folder, options = Path(folder), read_run(folder)
    _check_data(folder / 'options.json', options['data'], OF_DATA)
    return Run(folder, options, options['options'], options['data'], _numbers_of_log(folder),
               _read_evaluation(folder / 'evaluation.json'))


def _numbers_of_log(folder):
    """The rows of `log.csv` as dicts {column: float, NaN where empty}; [] without the file."""
    return [{key: number(cell) for key, cell in row.items()} for row in read_log(folder)]


def picture_paths(folder):
    """Paths of the pictures in a folder, by name; [] where it is missing or locked."""
    if not os.path.isdir(folder):       # nor is it where the folder around it is locked
        return []
    return sorted(path for path in folder.glob('*')
                  if path.suffix in ('.jpg', '.png') and os.path.isfile(path))


def pictures(paths):
    """Those pictures that open: dict {file name: (path, width, height)}."""
    found = {}
    for path in paths:
        try:
            with Image.open(path) as image:
                found[path.name] = (path, *image.size)
        except DAMAGE:
            pass        # shown as missing; one bad picture should not cost the page
    return found


def picture_size(path):
    """(width, height) of a picture that was just drawn, in pixels."""
    with Image.open(path) as image:
        return image.size


def number(value):
    """float of a number or its text; NaN for None and ''."""
    return math.nan if value is None or value == '' else float(value)


def is_number(value):
    """Whether something from JSON is a number that can be shown: True and NaN are none."""
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and math.isfinite(value))


# Checks ---------------------------------------------------------------------------------------

def _read_evaluation(path):
    """evaluation.json, checked as far as the page leans on it; {} where there is none."""
    if not path.exists():
        return {}
    evaluation = {'bev': {}, 'seen': 0, **read_json(path)}
    _check_data(path, evaluation, OF_SCORING)
    for section in (evaluation, evaluation['bev'] or {}):
        _check(path, 'bev', isinstance(section, dict), '{"scores": {...}, ...}')
        scores = section.get('scores', {})
        _check(path, 'scores', isinstance(scores, dict) and all(
            isinstance(row, dict) for row in scores.values()), '{"um": {"MaxF": 95.2, ...}, ...}')
    frames, groups = evaluation['frames'], evaluation['groups']
    _check(path, 'frames', isinstance(frames, list) and all(
        isinstance(frame, dict) and 'name' in frame for frame in frames),
        '[{"name": "um_000079", ...}, ...]')
    _check(path, 'groups', isinstance(groups, dict) and _are_texts(list(groups.values())),
           '{"um": "urban, two-way road with lane markings", ...}')
    for key in ('columns', 'frame_columns'):
        _check(path, key, _are_texts(evaluation[key]), '["MaxF", "AP", ...]')
    _check(path, 'pooled', isinstance(evaluation['pooled'], str), 'the name of a row, "URBAN"')
    _check(path, 'seen', type(evaluation['seen']) is int, 'a number of photographs')
    bounds = evaluation['interval']
    _check(path, 'interval', bounds is None or isinstance(bounds, list) and len(bounds) == 2
           and all(map(is_number, bounds)), '[95.8, 96.6], or null')
    _check(path, 'detail', _is_detail(evaluation['detail'], len(evaluation['classes'])),
           '{"precision": [...], "recall": [...]}, each of the same length, or {"confusion": '
           '[[...], ...]}, as many rows and columns as there are classes')
    return evaluation


def _check_data(path, data, keys):
    """Checks that the keys are there, and what options.json and evaluation.json both say."""
    lacking = [key for key in keys if key not in data]
    if lacking:
        raise InputError(f'{path} lacks "{lacking[0]}"; take the file from a backup, or make it '
                         'again')
    classes, palette, road = data['classes'], data['palette'], data['road']
    for key, example in (('title', 'KITTI Road'), ('best', 'val_maxf')):
        _check(path, key, isinstance(data[key], str), f'text such as "{example}"')
    _check(path, 'classes', _are_texts(classes) and len(classes) >= 2, '["not road", "road"]')
    _check(path, 'palette', isinstance(palette, list) and len(palette) == len(classes) and all(
        isinstance(colour, list) and len(colour) == 3
        and all(isinstance(part, int) and 0 <= part <= 255 for part in colour)
        for colour in palette), 'a colour such as [255, 0, 0] for each class')
    _check(path, 'road', road is None or (isinstance(road, int) and 0 <= road < len(classes)),
           f'the number of a class, 0 to {len(classes) - 1}, or null')


def _check(path, key, right, expected):
    if not right:
        raise InputError(f'{path}: "{key}" should be {expected}; take the file from a backup, or '
                         'make it again')


def _are_texts(values):
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _is_detail(detail, num_classes):
    """Whether curves or matrix can be drawn, if they are there."""
    if not isinstance(detail, dict):
        return False
    curves = [detail.get(key, []) for key in ('precision', 'recall')]
    rows = detail.get('confusion', [])
    if not (all(map(_are_counts, curves)) and len(curves[0]) == len(curves[1])
            and all(value <= 100 for curve in curves for value in curve)
            and isinstance(rows, list) and all(map(_are_counts, rows))):
        return False
    return not rows or [len(row) for row in rows] == [num_classes] * num_classes


def _are_counts(values):
    return isinstance(values, list) and all(is_number(value) and value >= 0 for value in values)
