"""Learning from photographs without labels: a trained network labels them for the next one.

A teacher, or the mean of several, labels each photograph once, at its full size. Pixels that it is
unsure of are not evaluated. The student learns from these pseudo-labels and the true ones alike.
Lee, "Pseudo-Label", ICML workshop on representation learning, 2013; Xie et al., "Self-training
with Noisy Student improves ImageNet classification", CVPR 2020, whose noise is what training has
anyhow: dropout, and photographs that are zoomed, mirrored and coloured.

    RUN/pseudo_labels/NAME.png          class numbers, 255 where the teacher was unsure
    RUN/pseudo_labels/shown/NAME.jpg    some of them, painted on their photographs
    RUN/pseudo_labels.json              the teachers, the photographs, and which were left out
"""
import argparse
import hashlib
import math
import os
import shlex
import sys
import tempfile
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from shutil import copyfile

import numpy as np
from PIL import Image
from tqdm import tqdm

import roadseg
from roadseg.datasets import labels
from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError
from roadseg.files import folders_in, read_json, temporary, write_error, write_json
from roadseg.images import paint, painted, read_image, write_image, write_mask
from roadseg.machine import processors
from roadseg.tf_errors import naming_lack_of_memory
from roadseg.threads import prepared_ahead
from roadseg.training import pipeline
from roadseg.training.run_folder import checksum, read_options
from roadseg.training.start_from import NOTES, check_unseen, not_trained_on, sha256, taught_by

FOLDER = 'pseudo_labels'
THUMBNAIL = 32      # pixels of a side
# Two different photographs of KITTI Road correlate by 0.93 at most, neighbouring frames included;
# a copy of half or a quarter of the size, compressed to a JPEG of quality 20 to 50, by 0.999; cut
# by 0.5 % on each side, by 0.995 to 0.999. Not told any more: cut by 2 % (0.93 to 0.98), turned by
# a degree (0.93 to 0.97), histogram equalised (0.93 to 0.97).
SAME = 0.99
SHOWN = 6           # pseudo-labels that are painted on their photographs,
UNSURE = 0, 0, 0    # in this colour where they are not evaluated


class Lesson:
    """What a run learns from: labelled photographs, and perhaps others with pseudo-labels.

    Args:
        dataset: `Dataset`.
        training: list of (image, label) paths.
        more: list of (image, name of its pseudo-label) paths.
        drawn: how many of these an epoch has.
        folder: where the pseudo-labels lie.
        notes: what `pseudo_labels.json` holds.

    Attributes:
        pairs: list of (image, label) paths, those with true labels before the others.
        per_epoch: photographs of an epoch.
        order: function from a numpy Generator to the indices of an epoch; None: all, shuffled.
        notes: the argument.
    """

    def __init__(self, dataset, training, more=(), drawn=0, folder=None, notes=None):
        self.pairs, self.per_epoch, self.notes = [*training, *more], len(training) + drawn, notes
        self.order = partial(_order, len(training), len(more), drawn) if more else None
        self._dataset, self._more, self._folder = dataset, list(more), folder
        self._names = {name for _, name in more}

    def read_label(self, path):
        """Reads a label: uint8 ndarray (H, W), class numbers, `IGNORED` where not evaluated."""
        if path not in self._names:
            return self._dataset.read_label(path)
        num_classes = len(self._dataset.classes)
        values = {number: number for number in [*range(num_classes), IGNORED]}
        return labels.read_classes(self._folder / path, labels.table(values),
                                   f'0 to {num_classes - 1}, or {IGNORED} where it is not '
                                   'evaluated')

    def write(self, run):
        """Keeps the pseudo-labels in the folder of a new run.

        Raises:
            InputError: they can't be written.
        """
        if not self.notes:
            return
        folder = run / FOLDER
        try:
            (folder / 'shown').mkdir(parents=True)
            for _, name in self._more:
                copyfile(self._folder / name, folder / name)
        except OSError as error:
            raise write_error(folder, error) from error
        palette = [*painted(self._dataset.palette), UNSURE]
        for image, name in self._more[::math.ceil(len(self._more) / SHOWN)]:
            classes = self.read_label(name)
            classes[classes == IGNORED] = len(palette) - 1
            write_image(folder / 'shown' / f'{name.stem}.jpg',
                        paint(read_image(image), classes, palette))
        write_json(run / NOTES, self.notes)

    def read_from(self, run):
        """From here on, reads the pseudo-labels that a run keeps."""
        self._folder = run / FOLDER


@contextmanager
def lesson(options, dataset, training):
    """Gathers what a run learns from: the labelled photographs, and those of --unlabelled.

    A run that goes on takes the pseudo-labels that it has kept.

    Args:
        options: namespace.
        dataset: `Dataset`.
        training: list of (image, label) paths.

    Yields:
        `Lesson`.

    Raises:
        InputError: the teachers or the photographs are not what they should
            be, or what a run has kept is damaged.
    """
    if not options.unlabelled:
        yield Lesson(dataset, training)
        return
    scratch = nullcontext(options.resume / FOLDER) if options.resume else \
        temporary(tempfile.TemporaryDirectory, prefix='pseudo_labels-')
    with scratch as folder:
        folder = Path(folder)
        if options.resume:
            notes = _kept(options)
        else:
            notes = _label(options, dataset, training, folder)
        more = [(Path(options.unlabelled) / entry['photograph'], Path(entry['label']))
                for entry in notes['photographs']]
        drawn = len(more)
        if options.unlabelled_share is not None:
            share = options.unlabelled_share
            drawn = max(1, min(drawn, round(len(training) * share / (1 - share))))
        found = Lesson(dataset, training, more, drawn, folder, notes)
        print(f'an epoch: {len(training)} photographs with labels and {drawn} of {len(more)} with '
              f'pseudo-labels, a share of {drawn / found.per_epoch:.2f}', flush=True)
        yield found


def _order(labelled, unlabelled, drawn, rng):
    """Indices of an epoch, shuffled: all labelled ones and so many of the unlabelled ones."""
    chosen = labelled + rng.permutation(unlabelled)[:drawn]
    return rng.permutation(np.concatenate([np.arange(labelled), chosen]))


# Rounds ---------------------------------------------------------------------------------------

def rounds(run, options):
    """Trains --rounds times, each time with the last student as the teacher.

    Each round is a run of its own, whose `rounds` says how many are left, itself included; so one
    that is resumed is followed by the others, too.

    Args:
        run: function of the options that trains, and returns the run folder.
        options: namespace.

    Returns:
        Path of the last run folder.
    """
    folder = run(options)
    runs_dir = Path(folder).resolve().parent if options.resume else options.runs_dir
    if options.resume and options.rounds > 1:
        _check_no_next_round(Path(folder), options.rounds - 1)
    while options.rounds > 1:
        options = argparse.Namespace(**{**vars(options), 'resume': None, 'teacher': [folder],
                                        'runs_dir': runs_dir, 'rounds': options.rounds - 1})
        print(f'next round: {folder} is the teacher; {options.rounds} to go', flush=True)
        try:
            folder = run(options)
        except KeyboardInterrupt as error:
            if error.args:
                raise
            # before the next run has a folder; the one before knows how many rounds are left
            raise KeyboardInterrupt('stopped; go on with python main.py --resume '
                                    + shlex.quote(str(folder))) from None
    return folder


def _check_no_next_round(run, to_go):
    """Raises InputError where the next round is there already, as a run of the same folder.

    Args:
        run: folder, of a run that is done.
        to_go: `rounds` of that of the next one.
    """
    name, found = run.resolve().name, []
    for notes in sorted(run.resolve().parent.glob(f'[!.]*/{NOTES}')):
        with suppress(InputError):      # a damaged run there is not this one's business
            if (name in [teacher.name for teacher in taught_by(notes.parent)]
                    and read_options(notes.parent).get('rounds') == to_go):
                found.append(notes.parent)
    if found:
        raise InputError(f'{run} is done, and {found[0]} is its next round; resume that')


# Photographs ----------------------------------------------------------------------------------

def _photographs(options, training, held_out):
    """Finds the photographs, and leaves out those that are labelled ones.

    Args:
        options: namespace.
        training, held_out: lists of (image, label) paths.

    Returns:
        (list of paths, list of the file names that were left out).

    Raises:
        InputError: the folder belongs to the labelled photographs, or holds no usable
            photograph; or one is unreadable.
    """
    folder = Path(options.unlabelled)
    found = list(labels.pictures(folder, labels.PHOTOGRAPHS).values())
    for place in dict.fromkeys(path.parent for pair in training + held_out for path in pair):
        if folder.resolve().is_relative_to(place.resolve()):
            raise InputError(f"--unlabelled: {folder} lies in {place}, where the data set's "
                             'labelled photographs are; name a folder of others')
        if not found and place.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"--unlabelled: {folder} holds {place}, where the data set's "
                             'labelled photographs are; name a folder of others')
    below = folders_in(folder)         # such as cities
    if found and below:
        print(f'warning: the {len(found)} photographs in {folder} are learned from, and none in '
              f'its folders, such as {below[0]}', file=sys.stderr)
    found = found or [path for place in below
                      for path in labels.pictures(place, labels.PHOTOGRAPHS).values()]
    places = sorted({path.parent for path in found})
    if len(places) > 1:
        print(f'--unlabelled: {len(found)} photographs in {len(places)} folders, from '
              f'{places[0]} to {places[-1]}')
    by_name = {}
    for path in found:      # some disks do not tell A from a
        other = by_name.setdefault(_label_name(path, folder).casefold(), path)
        if other != path:
            raise InputError(f'--unlabelled: the labels of {other} and {path} would have the same '
                             'name; rename one')
    if not found:
        raise InputError(f'--unlabelled: {folder} holds no photograph '
                         f'({", ".join(labels.PHOTOGRAPHS)}); {labels.contents(folder)}')
    paths, known = found, [image for image, _ in held_out + training]
    looks = _looks(paths + known)
    digests, thumbnails = map(np.stack, zip(*looks[len(paths):]))
    kept, left_out = [], {'held out': [], 'trained on with their labels': []}
    for path, (digest, thumbnail) in zip(paths, looks):
        mirrored = thumbnail.reshape(THUMBNAIL, THUMBNAIL)[:, ::-1].ravel()
        alike = np.maximum(thumbnails @ thumbnail, thumbnails @ mirrored) > SAME
        [same] = np.nonzero((digests == digest) | alike)
        if not len(same):
            kept.append(path)
        elif same[0] < len(held_out):
            left_out['held out'].append(path.name)
        else:
            left_out['trained on with their labels'].append(path.name)
    for use, names in left_out.items():
        if names:
            print(f'warning: {len(names)} of {len(paths)} photographs in {folder} are left out, '
                  f'as they are {use}, by their content, the first being {labels.shown(names[0])}',
                  file=sys.stderr)
    if not kept:
        raise InputError(f"--unlabelled: all {len(paths)} photographs in {folder} are labelled "
                         'ones of the data set, by their content; name a folder of others')
    return kept, sorted(name for names in left_out.values() for name in names)


def _label_name(path, folder):
    """The name of a photograph's label, by where it lies in the folder: str."""
    return '-'.join(path.relative_to(folder).with_suffix('.png').parts)


def _looks(paths):
    """What tells photographs apart, of each of them.

    Returns:
        List of (SHA-256 of the pixels, float32 (1024,): grey thumbnail of mean 0 and length 1, so
        that the product of two is their correlation; 0 where all is of one grey).
    """
    threads = processors()
    return list(tqdm(prepared_ahead(_look, paths, threads, ahead=4 * threads),
                     'comparing photographs', len(paths), leave=False, disable=None))


def _look(path):
    photograph = read_image(path)
    small = Image.fromarray(photograph).convert('L').resize((THUMBNAIL, THUMBNAIL),
                                                            Image.Resampling.BOX)
    grey = np.asarray(small, np.float32).ravel()
    grey = grey - grey.mean()
    digest = hashlib.sha256(str(photograph.shape).encode() + photograph.tobytes()).hexdigest()
    return digest, grey / max(np.linalg.norm(grey), 1e-6)


# Labels ---------------------------------------------------------------------------------------

def _label(options, dataset, training, folder):
    """Labels the photographs of --unlabelled into a folder.

    Args:
        options: namespace.
        dataset: `Dataset`.
        training: list of (image, label) paths.
        folder: where the pseudo-labels go.

    Returns:
        dict, what `pseudo_labels.json` holds.

    Raises:
        InputError: see `lesson`.
    """
    bounds = options.unsure
    if len(bounds) == 2 and len(dataset.classes) != 2:
        raise InputError(f"--unsure {','.join(map('{:g}'.format, bounds))}: two bounds are for "
                         f'two classes, and {dataset.title} has {len(dataset.classes)}; name one, '
                         'below which the likeliest class is unsure')
    held_out = not_trained_on(dataset, training)
    entries, skipped = [], []
    with ExitStack() as stack:
        teachers = [stack.enter_context(_open_teacher(run, options, dataset, held_out))
                    for run in options.teacher]
        # at once, as one that still trains removes its earlier checkpoints
        noted = [{'run': str(Path(run).resolve()), 'checkpoint': teacher.name,
                  'sha256': checksum(Path(run) / 'checkpoints' / teacher.name)}
                 for run, teacher in zip(options.teacher, teachers, strict=True)]
        paths, left_out = _photographs(options, training, held_out)

        def look(path):
            photograph = read_image(path)
            with naming_lack_of_memory(f'{path} was labelled'):
                return pseudo_label(_mean(teacher.predict(photograph) for teacher in teachers),
                                    bounds)

        print(f'labelling {len(paths)} photographs; if this is stopped, it begins anew',
              flush=True)
        shapes, shown = [], tqdm(paths, 'labelling photographs', leave=False, disable=None)
        # a second thread decodes and decides while the network is busy
        for path, classes in zip(paths, prepared_ahead(look, shown, threads=2, ahead=2)):
            sure = float((classes != IGNORED).mean())
            if not sure:
                skipped.append(path.name)
                continue
            shapes.append(classes.shape)
            name = _label_name(path, options.unlabelled)
            write_mask(folder / name, classes, dataset.palette)
            photograph = path.relative_to(options.unlabelled).as_posix()
            entries.append({'photograph': photograph, 'label': name, 'sure': round(sure, 4),
                            'sha256': sha256(path), 'label_sha256': sha256(folder / name)})
    if shapes:
        pipeline.training_size(options.image_size, shapes, 'photographs without labels')
    if skipped:
        print(f'warning: {len(skipped)} of {len(paths)} photographs are left out, as the teacher '
              f'is unsure of every pixel, the first being {labels.shown(skipped[0])}',
              file=sys.stderr)
    if not entries:
        raise InputError(f'--unlabelled: the teacher is unsure of every pixel of all {len(paths)} '
                         f'photographs in {options.unlabelled}; train it for longer, or choose '
                         'another --unsure')
    sure = np.mean([entry['sure'] for entry in entries])
    print(f'{len(entries)} photographs labelled by '
          f"{', '.join(map(str, options.teacher))}; {100 * sure:.1f} % of their pixels are sure "
          'enough to be learned from', flush=True)
    return {'teachers': noted, 'unsure': bounds, 'photographs': entries,
            'left_out': {'labelled': left_out, 'unsure': skipped}}


def _mean(predictions):
    """The mean of arrays of one shape, of which there is one at a time, and it may be large."""
    total, count = next(predictions), 1
    for prediction in predictions:
        total += prediction
        count += 1
        del prediction          # before the next one is made
    total /= count
    return total


def pseudo_label(mean, bounds):
    """The class of each pixel, where the teacher, or the mean of several, is sure.

    Args:
        mean: float32 ndarray (H, W, C) of probabilities that add up to 1 over the classes.
        bounds: [P], where a pixel is unsure if its largest probability is below P; or, of two
            classes, [low, high], where it is if that of the second is between.

    Returns:
        uint8 ndarray (H, W), class numbers; `IGNORED` where it is unsure.
    """
    if len(bounds) == 2:        # they need not lie around one half
        low, high = bounds
        classes, sure = mean[..., 1] >= high, (mean[..., 1] <= low) | (mean[..., 1] >= high)
    else:
        classes, sure = mean.argmax(axis=-1), mean.max(axis=-1) >= bounds[0]
    return np.where(sure, classes, IGNORED).astype(np.uint8)


def _open_teacher(run, options, dataset, held_out):
    """Opens a run to label photographs with.

    Args:
        run: folder.
        options: namespace.
        dataset: `Dataset`.
        held_out: list of (image, label) paths, from `not_trained_on`.

    Returns:
        `roadseg.model.Model`.

    Raises:
        InputError: it is no run with a whole checkpoint, knows other classes, or has learned from
            photographs that are held out now.
    """
    check_unseen(run, '--teacher', options, held_out)
    teacher = roadseg.load(run)
    if teacher.classes != tuple(dataset.classes):
        teacher.close()
        theirs, ours = (', '.join(names)[:80] for names in (teacher.classes, dataset.classes))
        raise InputError(f'--teacher: {run} knows the classes {theirs}; {dataset.title} has '
                         f'{ours}; name a run on the same classes, and take weights of others '
                         'with --start-from')
    return teacher


# A run that goes on ---------------------------------------------------------------------------

def _kept(options):
    """What a run has noted, after a look at whether its photographs and labels are there still.

    Raises:
        InputError: they are not, or others; or the notes are damaged.
    """
    path = options.resume / NOTES
    notes = read_json(path)
    try:
        entries = [(entry['photograph'], entry['label'], entry['sha256'], entry['label_sha256'])
                   for entry in notes['photographs']]
        right = bool(entries) and all(
            isinstance(part, str) and not os.path.isabs(part) and '..' not in Path(part).parts
            for entry in entries for part in entry)
    except (KeyError, TypeError):
        right = False
    if not right:
        raise InputError(f"{path}: 'photographs' is no list of photographs and their labels; take "
                         'the file from a backup, or start a new run')
    for name, label, content, of_label in entries:
        photograph = Path(options.unlabelled) / name
        if not os.path.isfile(photograph) or sha256(photograph) != content:
            raise InputError(
                f'{options.resume} was started with other photographs without labels: '
                f"{photograph} is {'not as it was' if os.path.isfile(photograph) else 'missing'}; "
                'put the earlier ones back, name their folder with --unlabelled, or start a new '
                'run')
        label = options.resume / FOLDER / label
        if not os.path.isfile(label) or sha256(label) != of_label:
            raise InputError(f"{label} is {'not as it was' if os.path.isfile(label) else 'missing'}"
                             '; take it from a backup, or start a new run')
    return notes
