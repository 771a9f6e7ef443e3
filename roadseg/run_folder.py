"""The folder of a training run: its options, its log and where it stands. No TensorFlow.

    runs/<date-time>/
        options.json        every option, versions, device, commit, data set counts
        log.csv             a row an epoch
        checkpoints/        see roadseg/checkpoints.py
        overlays/           the test photographs with their road in green
        validation/         the held-out photographs: input, truth, probability, overlay
        evaluation.json     the scores
        loss.png index.html the curve, and one page that shows it all
"""
import csv
import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from helper import InputError

LOG_COLUMNS = ('epoch', 'step', 'loss', 'learning_rate', 'seconds', 'images_per_second',
               'val_loss', 'val_maxf', 'val_ap', 'val_iou', 'val_f1')


@dataclass
class Progress:
    """Where a training run stands. It is saved with each checkpoint."""
    epoch: int = 0              # epochs finished
    step: int = 0               # steps done, over all epochs
    epoch_steps: int = 0        # steps done of the epoch that has begun
    epoch_loss: float = 0.0     # sum of their losses
    seconds: float = 0.0        # spent training, over all epochs, validation left out


def write_whole(path, content):
    """Writes a file beside its place and renames it, so that nobody ever sees half of it.

    Args:
        path: of the file.
        content: bytes, or text that becomes UTF-8.

    Raises:
        InputError: the file can't be written, for instance because the disk is full.
    """
    path = Path(path)
    part = path.with_name(path.name + '.part')
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f'cannot write {path} ({error.strerror}); make its folder writable, '
                         'or free some space') from error


def write_json(path, content):
    """Writes JSON whole or not at all; NaN, which JSON does not have, is refused."""
    write_whole(path, json.dumps(content, indent=2, allow_nan=False, default=str) + '\n')


def read_json(path):
    """Reads a JSON file that holds an object.

    Returns:
        dict.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise InputError(f'cannot read {path} ({error.strerror}); expected the folder of a run, '
                         'as training writes it into runs/') from error
    except ValueError as error:
        raise InputError(f'{path} is not JSON: {error}; take it from a backup, or train '
                         'again') from error
    if not isinstance(content, dict):
        raise InputError(f'{path} holds a {type(content).__name__}, expected an object, '
                         '{...}, at its top')
    return content


def read_options(run):
    """Returns the `options` of a run, a dict.

    Raises:
        InputError: the folder has no readable `options.json`.
    """
    options = read_json(Path(run) / 'options.json')
    if 'options' not in options:
        raise InputError(f"{Path(run) / 'options.json'} has no 'options'")
    return options['options']


def read_log(run):
    """Returns the rows of `log.csv` as dicts of text, [] where there is none yet."""
    path = Path(run) / 'log.csv'
    if not path.exists():
        return []
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def write_log(run, rows):
    """Writes `log.csv`.

    Args:
        run: folder.
        rows: dicts whose keys are among `LOG_COLUMNS`; what is missing stays empty.
    """
    lines = [','.join(LOG_COLUMNS)]
    lines += [','.join(str(row.get(column, '')) for column in LOG_COLUMNS) for row in rows]
    write_whole(Path(run) / 'log.csv', '\n'.join(lines) + '\n')


def describe_software():
    """Returns what else made a run: command, commit and versions, for `options.json`."""
    def git(*arguments):
        answer = subprocess.run(['git', *arguments], capture_output=True, text=True,
                                cwd=Path(__file__).parent, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else None

    try:
        commit = git('rev-parse', 'HEAD')
        changed = bool(git('status', '--porcelain', '--untracked-files=no'))
    except OSError:         # no git here
        commit, changed = None, None
    packages = ('tensorflow', 'numpy', 'scipy', 'pillow', 'imageio')
    return {'command': ' '.join(sys.argv), 'commit': commit, 'uncommitted_changes': changed,
            'versions': {'python': platform.python_version(),
                         **{package: version(package) for package in packages}}}
