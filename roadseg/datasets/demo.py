"""Drawn road scenes as a data set: nothing to download, and something to learn in a minute.

    python -m roadseg.datasets.demo --out data/demo

They have KITTI Road's own layout, colours and file names:

    data_road/training/image_2/um_000056.png            picture
    data_road/training/gt_image_2/um_road_000056.png    its label
    data_road/training/calib/um_000056.txt              its camera
    data_road/testing/image_2/um_000000.png
"""
import os
import secrets
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from roadseg import commands
from roadseg.datasets import drawing, kitti
from roadseg.errors import InputError
from roadseg.files import move_into_place, read_json, write_error, write_json, write_whole
from roadseg.images import write_image

DRAWING = 2             # raised whenever the pictures change
TRAIN, TEST, HELD_OUT = 84, 12, 5       # scenes with and without labels; per category in val3

# (height, width) of KITTI's photographs and how often each occurs, about as in the original.
SIZES = ((375, 1242), (370, 1226), (376, 1241), (374, 1238), (370, 1224))
SIZE_SHARES = (.7, .1, .1, .05, .05)


def load(data_dir, num_classes=2, strict=True):
    """Describes the drawn scenes of a folder; draws them where there are none.

    Args:
        data_dir: folder holding or getting `data_road/`.
        num_classes: 2.
        strict: of no effect; drawn scenes are always whole.

    Returns:
        `Dataset`.

    Raises:
        InputError: see `write_scenes`.
    """
    if num_classes != 2:
        raise InputError(f'--classes {num_classes}: the drawn scenes have 2, not road and road')
    return kitti.describe(write_scenes(data_dir), 'demo', 'drawn scenes')


# Drawing --------------------------------------------------------------------------------------

def write_scenes(data_dir, train=TRAIN, test=TEST, seed=0, held_out=HELD_OUT, size=None):
    """Draws scenes into a folder, with a progress bar on a terminal.

    Training scenes are numbered for the split `val3`, which holds out um_000079-094,
    umm_000080-095 and uu_000082-097. In each category the last `held_out` scenes take the first
    of those numbers and the others the numbers just before, so that whatever splits KITTI in
    that way splits these scenes too: 84 scenes are 3 x 23 to train on (um_000056-078 and so on)
    and 3 x 5 held out (um_000079-083 and so on).

    A scene is a function of seed, use, category and number: it is the same whatever `train` and
    `test` are. The scenes are drawn into a folder beside, which gets its name when it is
    complete. Complete scenes of the same settings are left alone; whatever else is there is
    never replaced.

    Args:
        data_dir: where `data_road` goes.
        train: number of scenes with labels, a multiple of 3.
        test: number of scenes without labels, a multiple of 3.
        seed: not negative.
        held_out: how many of each category's training scenes are in `val3`, 0 to 16.
        size: (height, width) of all scenes; None gives KITTI's five sizes, mostly 375 x 1242.

    Returns:
        Path of `data_road`.

    Raises:
        InputError: a number is out of range; there is something else in that place; or the
            scenes can't be written.
    """
    folder = Path(data_dir) / 'data_road'
    scenes = _scenes(train, test, held_out)
    settings = dict(drawing=DRAWING, train=train, test=test, seed=seed, held_out=held_out,
                    size=size and list(size))
    # Named by chance, as two processes may find that there are no scenes.
    part = folder.with_name(f'.{folder.name}.{secrets.token_hex(6)}.part')
    try:
        if _is_free(folder):
            part.mkdir(parents=True)
            _draw_all(part, scenes, seed, size)
            write_json(part / 'scenes.json', settings)
            if _is_free(folder):
                move_into_place(part, folder)
    except OSError as error:
        raise write_error(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _check_drawn(folder, settings, scenes)
    return folder


def _is_free(folder):
    """Whether scenes can be put there without replacing anything."""
    return not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir()))


def _check_drawn(folder, settings, scenes):
    """Raises InputError unless `folder` holds these scenes, of these settings, and no others."""
    away = f'move {folder} away, or name another folder with --data-dir'
    if not (folder / 'scenes.json').is_file():
        raise InputError(f'{folder} has no scenes.json, so it does not hold drawn scenes; they '
                         f'replace nothing: {away}')
    found = read_json(folder / 'scenes.json')
    other = [name for name in settings if found.get(name) != settings[name]]
    if other:
        raise InputError(f'{folder} holds scenes drawn with {other[0]} {found.get(other[0])}, '
                         f'expected {settings[other[0]]}; {away}, or delete it to have them '
                         'drawn anew')
    expected = {folder / name for scene in scenes for name in _names(*scene)}
    present = {path for path in folder.glob('*/*image_2/*.png') if not path.name.startswith('.')}
    for paths, what in ((expected - present, 'lacks'),
                        (present - expected, 'holds, beside drawn scenes,')):
        if paths:
            raise InputError(f'{folder} {what} {min(paths).relative_to(folder)}; {away}, or '
                             'delete it to have the scenes drawn anew')


def _scenes(train, test, held_out):
    """List of (use, category, number), for `write_scenes`, which documents the numbers."""
    kinds = len(drawing.CATEGORIES)
    for name, count in (('train', train), ('test', test)):
        if count < 0 or count % kinds:
            raise InputError(f'{name} is {count}, expected a multiple of {kinds}: as many scenes '
                             f"of each of {', '.join(drawing.CATEGORIES)}")
    each, first = train // kinds, min(frames.start for frames in kitti.VAL3.values())
    room = min(len(frames) for frames in kitti.VAL3.values())
    if not 0 <= held_out <= min(each, room) or each - held_out > first:
        raise InputError(
            f'{each} training scenes per category, {held_out} of them held out; val3 has room '
            f'for 0 to {room} held out, and for {first} others before them')
    scenes = []
    for category in drawing.CATEGORIES:
        end = kitti.VAL3[category].start + held_out
        scenes += [('training', category, number) for number in range(end - each, end)]
        scenes += [('testing', category, number) for number in range(test // kinds)]
    return scenes


def _names(use, category, number):
    """Names of a scene's picture and, where it is to train on, label."""
    names = [f'{use}/image_2/{category}_{number:06d}.png']
    if use == 'training':
        names.append(f'{use}/gt_image_2/{category}_road_{number:06d}.png')
    return names


def _draw_all(folder, scenes, seed, size):
    """Draws scenes into `folder`, see `write_scenes`."""
    for name in ('training/image_2', 'training/gt_image_2', 'training/calib',
                 'testing/image_2', 'testing/calib'):
        (folder / name).mkdir(parents=True)

    def write(scene):
        _write_scene(folder, scene, seed, size)

    drawing.foliage()     # lest both threads begin by drawing it
    # Threads, not processes: NumPy and Pillow let go of the interpreter for most of the work,
    # and a process forked after TensorFlow has started may hang.
    with ThreadPoolExecutor(2) as pool:
        for _ in tqdm(pool.map(write, scenes), 'drawing scenes', len(scenes), disable=None):
            pass


def _write_scene(folder, scene, seed, size):
    """Draws the scene (use, category, number); writes picture, calibration and label if any."""
    use, category, number = scene
    rng = np.random.default_rng([seed, ('training', 'testing').index(use),
                                 drawing.CATEGORIES.index(category), number])
    drawn_size = SIZES[rng.choice(len(SIZES), p=SIZE_SHARES)]
    image, label, calibration = drawing.draw_scene(rng, category, size or drawn_size)
    write_whole(folder / use / 'calib' / f'{category}_{number:06d}.txt', calibration,
                durable=False)
    # Little compression: deflate at its default level takes longer than drawing the scene.
    for name, picture in zip(_names(*scene), (image, label)):
        write_image(folder / name, picture, compress_level=1)


# The command ----------------------------------------------------------------------------------

def _parse_args(argv):
    parser = commands.Parser(prog='python -m roadseg.datasets.demo',
                             description="Draw road scenes in KITTI Road's layout.")
    parser.add_argument('--out', type=Path, required=True, help='folder that gets data_road/')
    count = commands.number(int, 0, 3 * 95)
    parser.add_argument('--train', type=count, default=TRAIN,
                        help='scenes with labels, a multiple of 3')
    parser.add_argument('--test', type=commands.number(int, 0, 3 * 10**6), default=TEST,
                        help='scenes without labels, a multiple of 3')
    parser.add_argument('--held-out', type=count, default=HELD_OUT,
                        help='labelled scenes per category that the split val3 holds out')
    parser.add_argument('--seed', type=commands.number(int, 0, 2**63 - 1), default=0)
    return parser.parse_args(argv)


def _command(argv):
    args = _parse_args(argv)
    folder = write_scenes(args.out, args.train, args.test, args.seed, args.held_out)
    print(f'{args.train} scenes with labels and {args.test} without: {folder}')


def main(argv=None):
    return commands.run_command(_command, argv)


if __name__ == '__main__':
    sys.exit(main())
