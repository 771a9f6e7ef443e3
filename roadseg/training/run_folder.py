"""The folder of a training run: its options, its log and where it stands. No TensorFlow.

    runs/<date-time>/
        options.json        every option, versions, device, commit, data set, encoder
        photographs.json    names of the photographs to train on and of those held out
        log.csv             a row an epoch
        checkpoints/        see roadseg/training/checkpoints.py
        overlays/           the test photographs, painted with what the network sees
        validation/         the held-out photographs: input, truth, probability, overlay
        evaluation.json     the scores
        index.html          one page that shows it all, with its figures: loss.png, scores.png and
                            precision_recall.png or confusion.png
        tensorboard/        the same for TensorBoard
        pseudo_labels/ .json    labels by a teacher, see roadseg/training/unlabelled.py
        exports/ compare.*  by roadseg.export
        .lock               held by the process that trains
"""
import csv
import errno
import hashlib
import io
import math
import os
import platform
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock, Timeout

from roadseg.errors import InputError
from roadseg.files import (check_file, describe_os_error, differ, file_checksum, move_into_place,
                           part_folder, read_json, write_error, write_json, write_whole)

NO_LOCKS = errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP     # of some disks
LOG_COLUMNS = ('epoch', 'step', 'loss', 'learning_rate', 'seconds', 'images_per_second',
               'val_loss')      # and those of the data set's measures
LOG_LIMIT = 16 << 20            # bytes; a hundred thousand epochs, and a gigabyte once it is read
NOT_COUNTED = ('fingerprint.pb', 'Thumbs.db', 'desktop.ini')    # in a SavedModel's checksum


@dataclass
class Progress:
    """Where a training run stands. It is saved with each checkpoint."""
    epoch: int = 0              # epochs finished
    step: int = 0               # steps done, over all epochs
    epoch_steps: int = 0        # steps done of the epoch that has begun
    epoch_loss: float = 0.0     # sum of their losses
    seconds: float = 0.0        # spent training, over all epochs, validation left out
    row: dict | None = None     # log of the epoch just finished, as long as it is not scored

    def end_epoch(self, learning_rate, images_per_second):
        """Counts the epoch that has begun as finished. Returns its row of the log, a dict.

        Args:
            learning_rate: of its last step.
            images_per_second: None where it had no step since a resumption.
        """
        self.epoch += 1
        row = {'epoch': self.epoch, 'step': self.step,
               'loss': self.epoch_loss / max(self.epoch_steps, 1),
               'learning_rate': learning_rate, 'seconds': self.seconds,
               'images_per_second': images_per_second}
        self.epoch_steps, self.epoch_loss = 0, 0.0
        return row


def holds_runs(folder):
    """Whether something is a folder of runs, such as runs/."""
    return os.path.isdir(folder) and any(Path(folder).glob('*/options.json'))


# Options --------------------------------------------------------------------------------------

def read_run(run):
    """Returns what `options.json` of a run holds.

    Args:
        run: folder.

    Returns:
        dict; its values 'options', 'data' and 'model' are dicts, too, {} where they are missing.

    Raises:
        InputError: the folder has no readable `options.json`.
    """
    path = Path(run) / 'options.json'
    content = read_json(path)
    for part in ('options', 'data', 'model'):
        found = content.setdefault(part, {})
        if not isinstance(found, dict):
            raise InputError(f"{path}: '{part}' is a {type(found).__name__}, expected an object, "
                             '{...}; take the file from a backup, or start a new run')
    return content


def read_options(run):
    """Returns the `options` of a run, a dict.

    Raises:
        InputError: the folder has no readable `options.json`.
    """
    options = read_run(run)['options']
    if not options:
        raise InputError(f"{Path(run) / 'options.json'} has no 'options'; name the folder of a "
                         'run, as training writes it into runs/')
    return options


def describe_software():
    """Returns what else made a run: command, commit and versions, for `options.json`."""
    def git(*arguments):
        answer = subprocess.run(['git', *arguments], capture_output=True, text=True,
                                cwd=Path(__file__).parents[2], check=False)
        return answer.stdout.strip() if answer.returncode == 0 else None

    try:
        commit = git('rev-parse', 'HEAD')
        status = git('status', '--porcelain', '--untracked-files=no')
        changed = None if status is None else bool(status)
    except OSError:         # no git here
        commit, changed = None, None
    return {'command': shlex.join(sys.argv), 'commit': commit, 'uncommitted_changes': changed,
            'versions': versions()}


def versions():
    """Versions of Python and of the packages that a run's numbers depend on: dict."""
    packages = ('tensorflow', 'numpy', 'scipy', 'pillow', 'imageio')
    return {'python': platform.python_version(),
            **{package: _version(package) for package in packages}}


def _version(package):
    """The version of a package; None where it came under another name, as tensorflow-cpu does."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# What it was trained on -----------------------------------------------------------------------

def photograph_names(data_dir, training, validation):
    """What `photographs.json` holds.

    Args:
        data_dir: of the options.
        training, validation: lists of (image, label) paths.

    Returns:
        dict of the lists 'training' and 'validation': the images' paths below `data_dir`, so
        that the data may be moved.
    """
    return {use: [Path(os.path.relpath(image, data_dir)).as_posix() for image, _ in pairs]
            for use, pairs in (('training', training), ('validation', validation))}


def read_photographs(run):
    """Returns what `photographs.json` of a run holds; {} where it is missing.

    Raises:
        InputError: it is damaged.
    """
    path = Path(run) / 'photographs.json'
    if not os.path.lexists(path):
        return {}
    content = read_json(path)
    for use, names in content.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path}: '{use[:40]}' is no list of names; take the file from a "
                             'backup')
    return content


def noted_photographs(run):
    """Returns the names of all photographs in `photographs.json`; [] where it is missing."""
    return [name for names in read_photographs(run).values() for name in names]


def data_folder(run, *places):
    """Returns the first of some folders that has one of a run's photographs, None without.

    Args:
        run: folder.
        places: of which each is str or, where `options.json` says none, something else.

    Raises:
        InputError: `photographs.json` is damaged.
    """
    noted = noted_photographs(run)
    return next((place for place in places if isinstance(place, str) and os.path.isdir(place)
                 and (not noted or any(os.path.isfile(Path(place, name)) for name in noted))), None)


def trained_on(run, data_dir, pairs):
    """Which of some photographs a run was trained on.

    Those of published data sets are told by their names, wherever they lie. Folders of one's own
    may use the same names, or others for the same: of files that are there, contents tell.

    Args:
        run: folder.
        data_dir: of the options now.
        pairs: list of (image, label) paths.

    Returns:
        Sorted list of names, as `photograph_names` has them.

    Raises:
        InputError: a file of the run is damaged.
    """
    made = read_run(run)
    then, own = str(made['data'].get('folder')), made['options'].get('dataset') == 'folder'
    key = str if own else lambda name: Path(name).stem
    training = read_photographs(run).get('training', ())
    noted = set(map(key, training))
    known, others = [], {}
    for name, (image, _) in zip(photograph_names(data_dir, [], pairs)['validation'], pairs):
        if key(name) in noted and not (own and differ(Path(then, name), image)):
            known.append(name)
        else:
            others[image] = name
    if own:
        known += [others[image] for image in _copies(then, training, others)]
    return sorted(known)


def copies_trained_on(run, pairs):
    """Which of some photographs a run on another data set was trained on, by their contents.

    Args:
        run: folder.
        pairs: list of (image, label) paths.

    Returns:
        Sorted list of file names: of the copies of those that are still there, whatever their
        names.

    Raises:
        InputError: a file of the run is damaged.
    """
    folder = str(read_run(run)['data'].get('folder'))
    training = read_photographs(run).get('training', ())
    return sorted(Path(image).name
                  for image in _copies(folder, training, [image for image, _ in pairs]))


def _copies(folder, names, images):
    """Those of some images whose file is the same as one of those names in a folder."""
    by_size = defaultdict(list)
    for known in names:
        with suppress(OSError, ValueError):         # it is gone; ValueError: a NUL in the name
            by_size[os.path.getsize(Path(folder, known))].append(Path(folder, known))
    found = []
    for image in images:
        with suppress(OSError):
            if any(not differ(known, image) for known in by_size[os.path.getsize(image)]):
                found.append(image)
    return found


def checksum(folder):
    """SHA-256 of a SavedModel or checkpoint: names and contents of its files.

    Left out are the fingerprint, which TensorFlow draws by chance in parts and which some archives
    lack, and what file managers put into folders: hidden files, and their like on Windows.

    Args:
        folder: path.

    Returns:
        str of 64 hexadecimal digits.

    Raises:
        InputError: a file is unreadable, or there is no such folder.
    """
    folder, digest = Path(folder), hashlib.sha256()
    if not os.path.isdir(folder):
        raise InputError(f'{folder} is no folder, or has just been removed')
    try:
        for path in sorted(path for path in folder.rglob('*') if path.is_file()):
            if path.name not in NOT_COUNTED and not path.name.startswith('.'):
                content = file_checksum(path)
                digest.update(f'{path.relative_to(folder).as_posix()} {content}\n'.encode())
    except OSError as error:
        raise InputError(
            f'cannot read {folder}: {describe_os_error(error)}') from error
    return digest.hexdigest()


def check_same(run, data_dir, dataset, training, validation, encoder):
    """Checks that a run is about to go on with what it was started with.

    Other test photographs are a warning, as nothing is learned from them.

    Args:
        run: folder; None for a new run, where there is nothing to compare.
        data_dir: of the options.
        dataset: `Dataset`.
        training, validation: lists of (image, label) paths.
        encoder: path of the frozen graph.

    Raises:
        InputError: the classes, the photographs to train on or those held out, or the encoder
            are others; or a file of the run is damaged.
    """
    if run is None:
        return
    read_log(run)       # so that damage is found now, and not after the first epoch
    made, now = read_run(run), photograph_names(data_dir, training, validation)
    check_classes(run, dataset)
    then = read_photographs(run)
    if not then:
        raise InputError(f'{run} has no photographs.json; take the file from a backup, or start a '
                         'new run')
    differences = [f'{use}: {difference}' for use, names in now.items()
                   if (difference := _difference(then.get(use, []), names))]
    if differences:
        raise InputError(f'{run} was started with other photographs ({"; ".join(differences)}); '
                         'put the earlier ones back, name their folder with --data-dir, or start '
                         'a new run')
    tests = made['data'].get('testing', len(dataset.tests))
    if tests != len(dataset.tests):
        print(f'warning: there are {len(dataset.tests)} test photographs, there were {tests} '
              f'when {run} was started', file=sys.stderr)
    then = made['model'].get('encoder_sha256')
    if then is not None and then != (found := checksum(encoder)):
        raise InputError(f'{run} was started from another encoder: {encoder} has the checksum '
                         f'{found[:12]}, expected {str(then)[:12]}; put the earlier one back, or '
                         'start a new run')


def check_classes(run, dataset):
    """Checks that a data set has the classes that a run has learned, in their order.

    Args:
        run: folder.
        dataset: `Dataset`.

    Raises:
        InputError: it has others; or a file of the run is damaged.
    """
    classes = read_run(run)['data'].get('classes', list(dataset.classes))
    if classes != list(dataset.classes):
        raise InputError(f'{run} was started with the classes {_shown(classes)}, found '
                         f'{_shown(dataset.classes)}; put the earlier ones back, or start a new '
                         'run')


def _shown(values):
    """A list in an error's one line, of whatever an edited file holds."""
    text = ', '.join(map(str, values)) if isinstance(values, (list, tuple)) else repr(values)
    return text if len(text) < 80 else text[:77] + '...'


def _difference(then, now):
    """How a list of names differs from an earlier one, in words; '' where it does not."""
    if then == now:
        return ''
    parts = []
    for what, names, others in (('missing', then, now), ('new', now, then)):
        found = sorted(set(names) - set(others))
        if found:
            parts.append(f'{len(found)} of {len(names)} {what}, the first being {found[0]}')
    return ', '.join(parts) or 'in another order'


# Log ------------------------------------------------------------------------------------------

def read_log(run):
    """Returns the rows of `log.csv` as dicts of text, [] where there is none yet.

    Raises:
        InputError: it is unreadable, or what it holds is no log: `epoch` and `step` are whole
            numbers, `loss` and everything else is a number or empty.
    """
    path = Path(run) / 'log.csv'
    remedy = 'take it from a backup, or delete it to go on without the earlier rows'
    if not os.path.lexists(path):
        return []
    check_file(path, remedy, LOG_LIMIT)
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding='utf-8-sig'), newline='')))
    except OSError as error:
        raise InputError(f'cannot read {path}: {describe_os_error(error)}; {remedy}') from error
    except (ValueError, csv.Error) as error:
        raise InputError(f'{path} is no table: {error}; {remedy}') from error
    columns = lines[0] if lines else []
    lacking = [name for name in LOG_COLUMNS[:3] if name not in columns]
    if lacking:
        raise InputError(f"{path} has no column '{lacking[0]}'; {remedy}")
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != len(columns):
            raise InputError(f'{path}, line {number}: {len(cells)} values in {len(columns)} '
                             f'columns; {remedy}')
        for name, cell in zip(columns, cells):
            if not _is_value(cell, whole=name in ('epoch', 'step')):
                raise InputError(f"{path}, line {number}: {name} is '{cell[:40]}', expected a "
                                 f"{'whole ' * (name in ('epoch', 'step'))}number; {remedy}")
    return [dict(zip(columns, cells)) for cells in lines[1:]]


def _is_value(cell, whole):
    """Whether a cell is a whole number; or else a number, or empty."""
    if whole:
        return cell.isascii() and cell.isdigit() and len(cell) < 16     # a float64 has it whole
    try:
        return not cell or float(cell) is not None
    except ValueError:
        return False


def column(measure):
    """Column of `log.csv` for a measure of held-out photographs: 'road IoU' -> val_road_iou."""
    return 'val_' + measure.lower().replace(' ', '_')


def class_columns(classes):
    """Columns of `log.csv` for each class's IoU; those that would be the same get numbers."""
    names, found = [column(f'IoU {name}') for name in classes], []
    for number, name in enumerate(names):
        if names.count(name) > 1:
            name = f'{name}_{number}'
            while name in names or name in found:
                name += '_'
        found.append(name)
    return found


def log_columns(measures):
    """Columns of `log.csv` where these measures are taken after each epoch."""
    return LOG_COLUMNS + tuple(map(column, measures))


def write_log(run, rows, columns=LOG_COLUMNS):
    """Writes `log.csv`.

    Args:
        run: folder.
        rows: dicts of numbers or text; what is missing or no finite number stays empty.
        columns: names, from `log_columns`; what else the rows have follows them, such as each
            class's IoU.
    """
    columns = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator='\n')
    table.writerow(columns)
    for row in rows:
        values = [row.get(name, '') for name in columns]
        table.writerow(['' if value is None or value != '' and not math.isfinite(float(value))
                        else value for value in values])
    write_whole(Path(run) / 'log.csv', lines.getvalue())


# The folder -----------------------------------------------------------------------------------

@contextmanager
def locked(run):
    """Keeps other processes from training a run, until this one ends or is killed.

    Args:
        run: folder; None locks nothing.

    Raises:
        InputError: another process has it, or the folder is not writable.
    """
    if run is None:
        yield
        return
    path = Path(run) / '.lock'
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(f'{run} is being trained by another process; wait until it has ended, '
                         'or stop it') from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise write_error(path, error) from error
        print(f'warning: the disk of {run} knows no locks; take care that no other process trains '
              'it', file=sys.stderr)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def start_run(options, setting, cost, save, lesson=None, start_from=None, workers=1):
    """Opens the folder of a run, a new one with its `options.json`, or that of --resume.

    A new folder appears with its first checkpoint, so that there is none that can't be resumed.

    Args:
        options: namespace.
        setting: `setting.Setting`.
        cost: `preflight.Cost`.
        save: function of a run's folder that writes a checkpoint into it.
        lesson: `unlabelled.Lesson`, whose pseudo-labels are kept in the folder.
        start_from: dict of the run whose weights this one starts with, if any.
        workers: how many share the training.

    Yields:
        Path of the folder, which is locked: here, or, where a run is resumed, by the caller.

    Raises:
        InputError: it cannot be made.
        KeyboardInterrupt: as it comes from within, with a message that says how to go on.
    """
    dataset, training, validation = setting.dataset, setting.training, setting.validation

    def fill(folder):
        write_json(folder / 'options.json', {
            'id': secrets.token_hex(8), 'options': vars(options), 'device': setting.hardware.name,
            'workers': workers,
            **describe_software(),
            'data': {'title': dataset.title, 'folder': os.path.abspath(options.data_dir),
                     'classes': list(dataset.classes),
                     'palette': [list(colour) for colour in dataset.palette],
                     'unlabelled': options.unlabelled and os.path.abspath(options.unlabelled),
                     'road': dataset.road, 'best': column(dataset.measures.BEST),
                     'training': len(training), 'validation': len(validation),
                     'testing': len(dataset.tests)},
            **({'start_from': start_from} if start_from else {}),
            'model': {'parameters': cost.parameters,
                      'gflop_per_image': round(cost.gflop_per_image, 2),
                      'encoder': os.path.abspath(setting.encoder),
                      'encoder_sha256': checksum(setting.encoder)}})
        write_json(folder / 'photographs.json',
                   photograph_names(options.data_dir, training, validation))
        if lesson is not None:
            lesson.write(folder)
        save(folder)

    folder = options.resume or new_run_folder(options.runs_dir, fill)
    if lesson is not None:
        lesson.read_from(folder)
    with locked(None if options.resume else folder):
        if options.resume:
            _sweep(folder)
        print(f'run folder: {folder}', flush=True)
        try:
            yield folder
        except KeyboardInterrupt as error:
            if error.args:
                raise
            raise KeyboardInterrupt('stopped; go on with python main.py --resume '
                                    + shlex.quote(str(folder))) from None


def _sweep(run):
    """Deletes what a killed process had begun to write into a run, which is locked now."""
    for left in [*run.glob('.*.part'), *run.glob('*/.*.part'),
                 *run.glob('checkpoints/step-*.part')]:
        if left.parent.name != 'exports':       # an export may be under way
            with suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def new_run_folder(runs_dir, fill):
    """Makes the folder of a run with all its content at once: a kill leaves no empty one.

    What killed processes left unfinished an hour ago or earlier is deleted.

    Args:
        runs_dir: folder of the runs.
        fill: function of a path that writes the content into it.

    Returns:
        Path of the folder, see `new_folder`.

    Raises:
        InputError: it cannot be made.
    """
    runs_dir = Path(runs_dir)
    try:
        with part_folder(runs_dir / 'run') as part:
            part.mkdir()
            fill(part)
            return new_folder(runs_dir, lambda folder: move_into_place(part, folder))
    except OSError as error:
        raise write_error(runs_dir, error) from error


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
            if not os.path.lexists(folder) or error.errno not in (errno.EEXIST, errno.ENOTEMPTY,
                                                          errno.ENOTDIR):
                raise write_error(folder, error) from error
    raise InputError(f'{folder} and 98 like it are there already')
