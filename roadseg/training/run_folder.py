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
import errno
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from roadseg.errors import InputError
from roadseg.files import read_json, write_error, write_json, write_whole

LOG_COLUMNS = ('epoch', 'step', 'loss', 'learning_rate', 'seconds', 'images_per_second',
               'val_loss')      # and those of the data set's measures


@dataclass
class Progress:
    """Where a training run stands. It is saved with each checkpoint."""
    epoch: int = 0              # epochs finished
    step: int = 0               # steps done, over all epochs
    epoch_steps: int = 0        # steps done of the epoch that has begun
    epoch_loss: float = 0.0     # sum of their losses
    seconds: float = 0.0        # spent training, over all epochs, validation left out


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


def column(measure):
    """Column of `log.csv` for a measure of the held-out photographs: 'road IoU' -> val_road_iou."""
    return 'val_' + measure.lower().replace(' ', '_')


def log_columns(measures):
    """Columns of `log.csv` where these measures are taken after each epoch."""
    return LOG_COLUMNS + tuple(map(column, measures))


def write_log(run, rows, columns):
    """Writes `log.csv`.

    Args:
        run: folder.
        rows: dicts whose keys are among the columns; what is missing stays empty.
        columns: names, from `log_columns`.
    """
    lines = [','.join(columns)]
    lines += [','.join(str(row.get(name, '')) for name in columns) for row in rows]
    write_whole(Path(run) / 'log.csv', '\n'.join(lines) + '\n')


@contextmanager
def start_run(options, device, dataset, training, validation, encoder, cost):
    """Opens the folder of a run, a new one with its `options.json`, or that of --resume.

    Args:
        options: namespace.
        device: `device.Device`.
        dataset: `Dataset`.
        training, validation: lists of (image, label) paths.
        encoder: path of the frozen graph.
        cost: `preflight.Cost`.

    Yields:
        Path of the folder.

    Raises:
        InputError: it cannot be made.
    """
    folder = options.resume
    if folder is None:
        folder = new_run_folder(options.runs_dir, {
            'options': vars(options), 'device': device.name, **describe_software(),
            'data': {'title': dataset.title, 'classes': list(dataset.classes),
                     'palette': [list(colour) for colour in dataset.palette],
                     'road': dataset.road, 'best': column(dataset.measures.BEST),
                     'training': len(training), 'validation': len(validation),
                     'testing': len(dataset.tests)},
            'model': {'parameters': cost.parameters,
                      'gflop_per_image': round(cost.gflop_per_image, 2),
                      'encoder': str(encoder)}})
    print(f'run folder: {folder}', flush=True)
    yield folder


def new_run_folder(runs_dir, description):
    """Makes the folder of a run, with its `options.json`, at once: a kill leaves no empty one.

    Args:
        runs_dir: folder of the runs.
        description: content of its `options.json`.

    Returns:
        Path of the folder, see `new_folder`.

    Raises:
        InputError: it cannot be made.
    """
    try:
        Path(runs_dir).mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix='.run-', dir=runs_dir))
        part.chmod(0o755)
        try:
            write_json(part / 'options.json', description)
            return new_folder(runs_dir, part.rename)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise write_error(Path(runs_dir), error) from error


def new_folder(runs_dir, make=Path.mkdir):
    """Makes `runs_dir/<date-time>`, and a name of its own where two runs start in a second.

    Args:
        runs_dir: folder of the runs.
        make: function of a path that makes the folder, unless one that is not empty is there.

    Returns:
        Path of the folder.

    Raises:
        InputError: it cannot be made.
    """
    name = time.strftime('%Y-%m-%d_%H-%M-%S')
    for suffix in ['', *(f'-{number}' for number in range(2, 100))]:
        folder = Path(runs_dir) / (name + suffix)
        try:
            Path(runs_dir).mkdir(parents=True, exist_ok=True)
            make(folder)
            return folder
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise write_error(folder, error) from error
    raise InputError(f'{folder} and 98 like it are there already')


def describe_software():
    """Returns what else made a run: command, commit and versions, for `options.json`."""
    def git(*arguments):
        answer = subprocess.run(['git', *arguments], capture_output=True, text=True,
                                cwd=Path(__file__).parents[2], check=False)
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
