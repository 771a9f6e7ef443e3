"""Paints what a trained network sees on pictures and videos.

    python -m roadseg.predict RUN photo.jpg drive.mp4 --out seen
    python -m roadseg.predict RUN photos/ 'more/*.png' --out seen --masks --confidence --json

RUN is the folder of a run or an export; without one, the network that comes with the package is
used. Every other argument is a picture, a video (.mp4, .mov, .avi, .gif), a folder, which is
searched with all folders in it, or a pattern with `*`, `?`, `[...]` or `**`, unless a file has
just that name. In DIR, everything keeps its path below the deepest folder common to all inputs,
and gets a number where two would still have one name: of `photo.jpg`

    photo.jpg               the overlay; a PNG for what is no JPEG, a video for a video
    photo.mask.png          --masks: class numbers, which viewers show coloured
    photo.confidence.png    --confidence: 0-255, the probability of the road, or where there are
                            more than two classes, of the class that is painted
    photo.json              --json: share of each class; all inputs together: predictions.json
    legend.png              the classes' colours, where there are more than two classes

Of a video, masks and confidence are folders `drive.masks/000000.png` and so on. A video keeps its
rate and size, pixels that are not square being made so, and loses its sound. The network sees
pictures at the scale of its training, see `roadseg.images.seen_size`.
"""
if __name__ == '__main__':      # before the imports, which take seconds
    from roadseg.signals import stop_at_once
    stop_at_once()
import itertools
import os
import sys
import time
from array import array
from contextlib import closing
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from roadseg import runtimes, video
from roadseg.commands import (Parser, add_averaging, named_folder, number, one_line,
                              run_command)
from roadseg.datasets import labels
from roadseg.errors import InputError
from roadseg.files import check_file, delete, folders_in, make_folder, write_json, write_whole
from roadseg.images import (DAMAGE, paint, read_image, resize, silence_pillow, write_image,
                            write_mask)
from roadseg.machine import processors
from roadseg.model import boxed, is_export, is_run, load
from roadseg.scoring.classes import class_numbers
from roadseg.threads import prepared_ahead
from roadseg.training.run_folder import holds_runs

PICTURES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.webp', '.bmp', '.ppm', '.pgm', '.jp2',
            '.gif')
SUMMARY, LEGEND = 'predictions.json', 'legend.png'
THREADS = max(2, min(8, processors()))      # that read and write; each has a picture in memory
UNREAD = (*(set(labels.UNREAD) - set(PICTURES)), '.mkv', '.webm', '.m4v', '.mts', '.3gp', '.wmv')
QUALITY = 90                # of JPEG overlays


class Job(NamedTuple):
    """A picture or video, and what is made of it."""
    source: Path
    is_video: bool
    outputs: dict           # from 'overlay', 'mask', 'confidence', 'json' to a path


# What to do -----------------------------------------------------------------------------------

def find_inputs(texts, out):
    """Finds the files that arguments stand for.

    Args:
        texts: arguments: files, folders, patterns.
        out: folder of the results.

    Returns:
        List of (file, folder that it was found in), each file once.

    Raises:
        InputError: there is nothing of that name, a folder or pattern has no picture or video, or
            `out` and an input lie one in the other.
    """
    found = {}
    for text in texts:
        literal = os.path.lexists(text)
        files = {}
        for match in [Path(text)] if literal else _matches(text):
            if os.path.isdir(match):
                if _is_inside(out, match):
                    raise InputError(f'--out {out} lies in the input folder {match}, where its '
                                     'pictures would be the next input; name a folder outside')
                files.update({path: match for path in _walk(match)})
            elif literal or _is_known(match):
                files[match] = match.parent
        if not files:
            what = f'{text} holds no' if literal else (
                f'{text}: there is no such file, and as a pattern it matches no')
            raise InputError(f'{what} picture ({" ".join(PICTURES)}) or video '
                             f'({" ".join(video.ENDINGS)})')
        for path, folder in files.items():
            if _is_inside(path.parent, out):
                raise InputError(f'the input {path} lies in --out {out}, where a result may take '
                                 'its place or that of its like; name another folder')
            found.setdefault(os.path.abspath(path), (path, folder))
    return list(found.values())


def _matches(pattern):
    """Paths that a pattern stands for, in order; `**` follows no links and finds no hidden."""
    whole = Path(pattern)
    try:
        found = Path(whole.anchor).glob(str(whole.relative_to(whole.anchor)))
        named = [part for part in whole.parts if part.startswith('.')]
        found = [path for path in found if not any(
            part.startswith('.') and not any(fnmatch(part, name) for name in named)
            for part in path.parts)]
    # it is empty, has `**` within a name, or is too long or deep
    except (ValueError, IndexError, NotImplementedError, OSError, RecursionError):
        return []
    return sorted(found)


def _is_inside(path, folder):
    """Whether a path is a folder or lies in it, symbolic links followed."""
    path, folder = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return path == folder or folder in path.parents


def _is_known(path):
    return path.suffix.lower() in (*PICTURES, *video.ENDINGS)


def _walk(folder):
    """Pictures and videos in a folder and all those in it, in order; hidden ones left out."""
    paths = [path for place in [folder, *folders_in(folder)] for path in place.iterdir()
             if not path.name.startswith('.') and not os.path.isdir(path)]
    labels.warn_of_unread([path.name for path in paths if path.suffix.lower() in UNREAD], folder)
    return sorted(filter(_is_known, paths))


def plan(inputs, out, kinds):
    """Names what is made of each input: no two outputs are the same, and none is an input.

    Args:
        inputs: list of `find_inputs`.
        out: folder of the results.
        kinds: of results: 'overlay' and any of 'mask', 'confidence', 'json'.

    Returns:
        List of `Job`.

    Raises:
        InputError: a result would take the place of an input, or its name would be too long.
    """
    folders = [os.path.abspath(folder) for _, folder in inputs]
    try:
        common = os.path.commonpath(folders)
    except ValueError:              # drives of Windows
        common = None
    sources = {os.path.realpath(source) for source, _ in inputs}
    relatives = [Path(os.path.relpath(source, common) if common else source.name)
                 for source, _ in inputs]
    # A result can't have the name of a folder of results, such as drive.masks/.
    taken = {str(folder).lower() for path in relatives for folder in path.parents}
    taken |= {SUMMARY, LEGEND}
    jobs = []
    for (source, _), relative in zip(inputs, relatives):
        is_video = _is_video(source)
        for count in itertools.count(1):
            stem = relative.stem + (f'-{count}' if count > 1 else '')
            names = _names(relative.parent / stem, relative.suffix, is_video)
            names = {kind: name for kind, name in names.items() if kind in kinds}
            # Not all file systems tell capitals.
            if taken.isdisjoint(str(name).lower() for name in names.values()):
                break
        taken.update(str(name).lower() for name in names.values())
        outputs = {kind: Path(out) / name for kind, name in names.items()}
        for path in outputs.values():
            if len(os.fsencode(path.name)) > 255:       # of file systems
                raise InputError(f'the name of {source} is too long for those of its results, '
                                 f'such as {path.name[-20:]}; shorten it')
            if os.path.realpath(path) in sources:
                raise InputError(f'{path} is an input, or a link to one, and its result would '
                                 'take its place; name another --out')
        jobs.append(Job(source, is_video, outputs))
    return jobs


def _names(base, suffix, is_video):
    """Paths of all results, below the folder of the results, from that without an ending."""
    def ending(text):
        return base.with_name(base.name + text)

    if is_video:
        return {'overlay': ending(suffix), 'mask': ending('.masks'),
                'confidence': ending('.confidence'), 'json': ending('.json')}
    jpeg = suffix.lower() in ('.jpg', '.jpeg')
    return {'overlay': ending(suffix if jpeg else '.png'), 'mask': ending('.mask.png'),
            'confidence': ending('.confidence.png'), 'json': ending('.json')}


def _is_video(path):
    """Whether a file is a video, by its ending; a GIF if it has several pictures."""
    if path.suffix.lower() == '.gif':
        try:
            check_file(path, '')        # opening a pipe would wait
            silence_pillow()
            with Image.open(path, formats=['GIF']) as image:
                return image.is_animated
        except (InputError, *DAMAGE):       # reading it as a picture tells which
            return False
    return path.suffix.lower() in video.ENDINGS


# Seeing ---------------------------------------------------------------------------------------

def decoded_ahead(frames):
    """Yields the items of an iterator, none of them None, which a thread gets meanwhile."""
    with closing(prepared_ahead(lambda _: next(frames, None), itertools.count(),
                               ahead=1)) as images:
        yield from itertools.takewhile(lambda image: image is not None, images)


def look_at(image, probabilities, model):
    """What is to be drawn and told of a picture.

    Args:
        image: uint8 ndarray (H, W, 3), RGB.
        probabilities: float32 ndarray (h, w, C).
        model: `Model`.

    Returns:
        (overlay uint8 (H, W, 3), class numbers uint8 (H, W), pixels of each class int64 (C,)).
    """
    numbers = class_numbers(probabilities, image.shape[:2])
    palette = model.palette
    if len(palette) == 2:           # just the one that is looked for
        wanted = 1 if model.road is None else model.road
        palette = [colour if number == wanted else None for number, colour in enumerate(palette)]
    pixels = np.array(Image.fromarray(numbers).histogram()[:len(model.classes)])
    return paint(image, numbers, palette), numbers, pixels


def confidence(probabilities, image_shape, model):
    """Probability of the class that is painted, as 8 bits: uint8 (H, W)."""
    if len(model.classes) == 2:
        plane = probabilities[..., 1 if model.road is None else model.road]
    else:
        plane = probabilities.max(axis=-1)
    plane = resize(np.ascontiguousarray(plane), image_shape)
    return np.floor(np.clip(plane * 256, 0, 255)).astype(np.uint8)


def shares(pixels, model):
    """Share of each class, for JSON: int64 (C,) -> dict."""
    parts = [round(float(count / pixels.sum()), 6) for count in pixels]
    road = {} if model.road is None else {'road': parts[model.road]}
    return {**road, 'areas': dict(zip(model.classes, parts))}


def write_planes(outputs, numbers, probabilities, model, name=''):
    """Writes mask and confidence of a picture, or of the frame of a video that `name` names."""
    if 'mask' in outputs:
        write_mask(outputs['mask'] / name, numbers, model.palette)
    if 'confidence' in outputs:
        write_image(outputs['confidence'] / name,
                    confidence(probabilities, numbers.shape, model))


def predict_pictures(jobs, model):
    """Looks at pictures, while threads read the next ones and write those before.

    Args:
        jobs: list of `Job`.
        model: `Model`.

    Yields:
        (`Job`, dict for JSON; or the `InputError` of a picture that can't be read).

    Raises:
        InputError: a result can't be written.
    """
    def read(job):
        try:
            return job, read_image(job.source)
        except InputError as error:
            if not _is_known(job.source) and 'readable' in str(error):      # it was named
                error = InputError(f'{error}; of videos, {" ".join(video.ENDINGS)}')
            return job, error

    def write(seen):
        job, image, probabilities = seen
        if probabilities is None:
            return job, image
        overlay, numbers, pixels = look_at(image, probabilities, model)
        write_image(job.outputs['overlay'], overlay, quality=QUALITY)
        write_planes(job.outputs, numbers, probabilities, model)
        return job, {'height': image.shape[0], 'width': image.shape[1], 'frames': 1,
                     **shares(pixels, model)}

    read_ones = prepared_ahead(read, jobs, THREADS, ahead=THREADS + 1)
    seen = ((job, image, None if isinstance(image, InputError)
             else model.predict(image, full_size=False)) for job, image in read_ones)
    yield from prepared_ahead(write, seen, THREADS, ahead=THREADS + 1)


def predict_video(job, reader, model, temporal):
    """Looks at a video, while threads decode the next frames and encode those before.

    Args:
        job: `Job`.
        reader: `video.Reader`.
        model: `Model`.
        temporal: weight of all frames so far in the probabilities, from 0 to below 1; that of
            the new frame is the rest (exponential smoothing).

    Returns:
        dict for JSON.

    Raises:
        InputError: a result can't be written.
        video.NoFrame: there is none any more; nothing is written.
        video.TooLarge: for the encoder; nothing is written.
    """
    def see(images):
        mean = before = new = None
        for index, image in enumerate(images):
            if mean is None:        # there is something to take the place of an earlier video's
                for kind in ('mask', 'confidence'):
                    if kind in job.outputs:
                        make_folder(job.outputs[kind])
                        remove_frames(job.outputs[kind])
            if before is None or not np.array_equal(image, before):     # frames may be repeated
                new, before = model.predict(image, full_size=False), image
            mean = new if mean is None else temporal * mean + (1 - temporal) * new
            yield index, image, mean

    def look(seen):
        index, image, probabilities = seen
        overlay, numbers, pixels = look_at(image, probabilities, model)
        write_planes(job.outputs, numbers, probabilities, model, f'{index:06d}.png')
        return overlay, pixels

    def write(looked):
        overlay, pixels = looked
        writer.write(overlay)
        return pixels

    total, of_frames = 0, array('d')        # eight bytes a number: videos may be long
    with video.Writer(job.outputs['overlay'], reader.shape, reader.rate) as writer, \
            closing(prepared_ahead(write, prepared_ahead(
                look, see(decoded_ahead(iter(reader))), THREADS, ahead=THREADS + 1),
                                   ahead=1)) as written:
        for pixels in tqdm(written, job.source.name, reader.expected, unit='frame', leave=False,
                           dynamic_ncols=True, disable=None):
            total = total + pixels
            of_frames.extend(np.round(pixels / pixels.sum(), 6))
    return {'height': reader.shape[0], 'width': reader.shape[1],
            'frames': len(of_frames) // len(model.classes),
            'frames_per_second': float(reader.rate), **shares(total, model),
            'areas_of_frames': {name: of_frames[number::len(model.classes)].tolist()
                                for number, name in enumerate(model.classes)}}


def remove_frames(folder):
    """Removes the pictures of an earlier video's frames, lest a kill leaves some of each.

    Raises:
        InputError: one can't be removed.
    """
    for path in folder.glob('[0-9]' * 6 + '*.png'):
        if path.stem.isdigit():
            delete(path)


# The command ----------------------------------------------------------------------------------

def predict(jobs, model, out, temporal=0.0, summarize=False):
    """Makes the results of all jobs; a file that can't be read does not stop the rest.

    Args:
        jobs: list of `Job`.
        model: `Model`.
        out: folder of the results.
        temporal: see `predict_video`.
        summarize: whether to write `SUMMARY` into `out`.

    Returns:
        (number of frames, list of messages about files that could not be read to their end).

    Raises:
        InputError: a result can't be written.
    """
    files, failed = [], []

    def add(job, result):
        outputs = {kind: str(path.relative_to(out)) for kind, path in job.outputs.items()}
        entry = {'input': str(job.source), **result, 'outputs': outputs}
        if 'json' in job.outputs:
            write_json(job.outputs['json'], entry)
        files.append({key: value for key, value in entry.items() if key != 'areas_of_frames'})

    for folder in {path.parent for job in jobs for path in job.outputs.values()}:
        make_folder(folder)
    pictures = [job for job in jobs if not job.is_video]
    try:
        with closing(predict_pictures(pictures, model)) as results:
            for job, result in tqdm(results, 'pictures', len(pictures), unit='picture',
                                    leave=False, dynamic_ncols=True,
                                    disable=None if pictures else True):
                if isinstance(result, InputError):
                    failed.append(str(result))
                else:
                    add(job, result)
        for job in jobs:
            if job.is_video:
                try:
                    reader = video.Reader(job.source)
                except InputError as error:
                    failed.append(str(error))
                    continue
                try:
                    with reader:
                        add(job, predict_video(job, reader, model, temporal))
                except (video.NoFrame, video.TooLarge) as error:
                    failed.append(str(error))
                    continue
                if reader.problem:
                    failed.append(f"{job.source}: {reader.problem}; the {files[-1]['frames']} "
                                  f"frames that could be read are in {job.outputs['overlay']}")
    finally:
        if summarize:
            write_json(out / SUMMARY, {'model': model.name, 'classes': model.classes,
                                       'palette': model.palette, 'files': files,
                                       'failed': failed})
    if files and len(model.classes) > 2:
        from roadseg.scoring.figures import legend      # takes a while, and is seldom needed
        write_whole(out / LEGEND, legend(model.classes, model.palette))
    return sum(file['frames'] for file in files), failed


def model_and_inputs(texts):
    """Tells the run or export, which comes first if at all, from the inputs.

    Args:
        texts: arguments.

    Returns:
        (path or None, list of the others).

    Raises:
        InputError: there is no input, or one that is meant to be the network.
    """
    source = texts[0] if is_run(texts[0]) or is_export(texts[0]) else None
    inputs = texts[1:] if source else texts
    if not inputs:
        raise InputError(f'{source} is a network; what shall it look at? Name a picture, a video '
                         'or a folder after it')
    if source is None and boxed() is None:
        raise InputError(f'{texts[0]} is neither a run, with its options.json, nor an export, and '
                         'no network comes with this package; name one first, such as '
                         'runs/<date-time>')
    for text in inputs:
        if is_run(text) or holds_runs(text):
            raise InputError(f"{text} {'is a run' if is_run(text) else 'holds runs'}; name one "
                             'run, and before all pictures')
    first = Path(texts[0])
    if source is None and first.suffix and not _is_known(first) and os.path.isfile(first):
        raise InputError(f'{first} is neither a picture nor a video, and no network: a run is '
                         'named by its folder')
    return source, inputs


def main(argv=None):
    """The command: exit code 0, 1 where a file could not be read to its end, 2 where none could."""
    parser = Parser(prog='python -m roadseg.predict', description=__doc__)
    add = parser.add_argument
    add('paths', nargs='+', metavar='[RUN] INPUT',
        help='a run or an export, if not the network that comes with the package; then pictures, '
             "videos (" + ' '.join(video.ENDINGS) + "), folders, and patterns in quotes")
    add('--out', type=named_folder, metavar='DIR', default=Path('seen'),
        help='folder of the results')
    add('--masks', action='store_true', help='write the class numbers, too, as coloured PNG')
    add('--confidence', action='store_true',
        help='write the probability, too, as PNG of 8 bits: of the road, or of the class painted '
             'where there are more than two')
    add('--json', action='store_true',
        help=f'write the share of each class, too, of each file and of all in {SUMMARY}')
    add('--temporal', type=number(float, 0, 0.99), default=0.0, metavar='WEIGHT',
        help='smooth videos: the weight of the frames before, such as 0.6')
    add('--runtime', choices=('auto', *runtimes.MODULES), default='auto',
        help='what an export runs on')
    add('--checkpoint', choices=('last', 'best'), default='last', help='of a run')
    add_averaging(parser)
    args = parser.parse_args(argv)

    source, texts = model_and_inputs(args.paths)
    kinds = ['overlay', *(kind for kind, wanted in (
        ('mask', args.masks), ('confidence', args.confidence), ('json', args.json)) if wanted)]
    if is_run(args.out):
        raise InputError(f'--out {args.out} is a run, whose files would be replaced; name another '
                         'folder')
    jobs = plan(find_inputs(texts, args.out), args.out, kinds)
    make_folder(args.out)
    with load(source, args.runtime, args.checkpoint, args.test_scale, args.flip_test) as model:
        began = time.perf_counter()
        frames, failed = predict(jobs, model, args.out, args.temporal, args.json)
        seconds = time.perf_counter() - began
    if frames:
        print(f'{len(jobs) - len(failed)} of {len(jobs)} files, {frames} frames, '
              f'{frames / seconds:.2f} frames/s: {args.out}')
    for message in failed:
        print(f'error: {one_line(message)}', file=sys.stderr)
    if failed:
        return 1 if frames else 2
    return 0


if __name__ == '__main__':
    sys.exit(run_command(main))
