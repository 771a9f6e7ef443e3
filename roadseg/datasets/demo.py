"""Drawn road scenes as a data set: nothing to download, and something to learn in a minute.

    python -m roadseg.datasets.demo --out data/demo

With two classes they have KITTI Road's own layout, colours and file names:

    data_road/training/image_2/um_000056.png            picture
    data_road/training/gt_image_2/um_road_000056.png    its label
    data_road/training/calib/um_000056.txt              its camera
    data_road/testing/image_2/um_000000.png

With seven, the same scenes have the layout of a folder of one's own, see `folder`:

    scenes7/images/um_000056.png        picture
    scenes7/masks/um_000056.png         its label, class numbers
    scenes7/test/um_000000.png
    scenes7/classes.json
"""
if __name__ == '__main__':      # before the imports, which take seconds
    from roadseg.signals import stop_at_once
    stop_at_once()
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from roadseg.commands import Parser, named_folder, number, run_command
from roadseg.datasets import drawing, folder, kitti
from roadseg.errors import InputError
from roadseg.files import (move_into_place, part_folder, read_json, sweep, write_error,
                           write_json, write_whole)
from roadseg.images import write_image, write_mask

FOLDERS = {2: 'data_road', 7: 'scenes7'}
DRAWING = 2             # raised whenever the pictures change
SPLITS = {'held-out': kitti.SPLITS['val3']}     # by the same numbers
TRAIN, TEST, HELD_OUT = 84, 12, 5       # scenes with and without labels; per category in val3

# (height, width) of KITTI's photographs and how often each occurs, about as in the original.
SIZES = ((375, 1242), (370, 1226), (376, 1241), (374, 1238), (370, 1224))
SIZE_SHARES = (.7, .1, .1, .05, .05)


def load(data_dir, num_classes=2, strict=True):
    """Describes the drawn scenes of a folder; draws them where there are none.

    Args:
        data_dir: folder holding or getting `data_road/` or `scenes7/`.
        num_classes: 2, or 7 for `drawing.CLASSES`.
        strict: of no effect; drawn scenes are always whole.

    Returns:
        `Dataset`.

    Raises:
        InputError: another number of classes, or see `write_scenes`.
    """
    scenes = write_scenes(data_dir, num_classes=num_classes)
    if num_classes == 2:
        return kitti.describe(scenes, 'demo', 'drawn scenes', named_splits=SPLITS)
    return folder.describe(scenes, 'demo', 'drawn scenes', named_splits=SPLITS,
                           groups=kitti.GROUPS, group=kitti.category)


# Drawing --------------------------------------------------------------------------------------

def write_scenes(data_dir, train=TRAIN, test=TEST, seed=0, held_out=HELD_OUT, size=None,
                 num_classes=2):
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
        data_dir: where `data_road` or `scenes7` goes.
        train: number of scenes with labels, a multiple of 3.
        test: number of scenes without labels, a multiple of 3.
        seed: not negative.
        held_out: how many of each category's training scenes are in `val3`, 0 to 16.
        size: (height, width) of all scenes; None gives KITTI's five sizes, mostly 375 x 1242.
        num_classes: 2 or 7.

    Returns:
        Path of `data_road` or `scenes7`.

    Raises:
        InputError: a number is out of range; there is something else in that place; or the
            scenes can't be written.
    """
    if num_classes not in FOLDERS:
        raise InputError(f'--classes {num_classes}: the drawn scenes have 2, not road and road, '
                         f"or 7: {', '.join(drawing.CLASSES)}")
    target = Path(data_dir) / FOLDERS[num_classes]
    sweep(target)           # what was killed while it drew
    scenes = {scene: _files(num_classes, *scene) for scene in _scenes(train, test, held_out)}
    settings = dict(drawing=DRAWING, train=train, test=test, seed=seed, held_out=held_out,
                    size=size and list(size))
    try:
        if _is_free(target):
            with part_folder(target) as part:
                part.mkdir()
                _draw_all(part, scenes, seed, size)
                if num_classes == 7:
                    write_json(part / 'classes.json', {'names': drawing.CLASSES,
                                                       'colours': drawing.PALETTE})
                write_json(part / 'scenes.json', settings)
                try:
                    move_into_place(part, target)
                except OSError:
                    if _is_free(target):
                        raise               # else, another process was as fast
    except OSError as error:
        raise write_error(target, error) from error
    _check_drawn(target, settings, scenes.values())
    return target


def _is_free(target):
    """Whether scenes can be put there without replacing anything."""
    return not os.path.lexists(target) or (os.path.isdir(target) and not any(target.iterdir()))


def _check_drawn(target, settings, files):
    """Raises InputError unless a folder holds scenes of these settings, and no other files.

    Args:
        target: the folder.
        settings: dict, the content of scenes.json.
        files: of each scene, see `_files`.
    """
    away = f'move {target} away, or name another folder'
    if not os.path.isfile(target / 'scenes.json'):
        raise InputError(f'{target} has no scenes.json, so it does not hold drawn scenes; they '
                         f'replace nothing: {away}')
    found = read_json(target / 'scenes.json')
    other = [name for name in settings if found.get(name) != settings[name]]
    if other:
        raise InputError(f'{target} holds scenes drawn with {other[0]} {found.get(other[0])}, '
                         f'expected {settings[other[0]]}; {away}, or delete it to have them '
                         'drawn anew')
    expected = {target / name for of_scene in files for name in of_scene.values()}
    present = {path for place in {path.parent for path in expected} if os.path.isdir(place)
               for path in place.iterdir() if path.suffix in ('.png', '.txt')
               and not path.name.startswith('.')}
    for paths, what in ((expected - present, 'lacks'),
                        (present - expected, 'holds, beside drawn scenes,')):
        if paths:
            raise InputError(f'{target} {what} {min(paths).relative_to(target)}; {away}, or '
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


def _files(num_classes, use, category, number):
    """Names of a scene's files: dict with 'picture' and, as it has them, 'label' and 'camera'."""
    name = f'{category}_{number:06d}'
    if num_classes == 7:
        return ({'picture': f'images/{name}.png', 'label': f'masks/{name}.png'}
                if use == 'training' else {'picture': f'test/{name}.png'})
    files = {'picture': f'{use}/image_2/{name}.png', 'camera': f'{use}/calib/{name}.txt'}
    if use == 'training':
        files['label'] = f'{use}/gt_image_2/{category}_road_{number:06d}.png'
    return files


def _draw_all(target, scenes, seed, size):
    """Draws scenes into a folder.

    Args:
        target: the folder.
        scenes: dict from (use, category, number) to `_files`.
        seed, size: see `write_scenes`.
    """
    for place in {(target / name).parent for files in scenes.values() for name in files.values()}:
        place.mkdir(parents=True)

    def write(scene):
        _write_scene(target, scene, scenes[scene], seed, size)

    drawing.foliage()     # lest both threads begin by drawing it
    # Threads, not processes: NumPy and Pillow let go of the interpreter for most of the work,
    # and a process forked after TensorFlow has started may hang.
    with ThreadPoolExecutor(2) as pool:
        for _ in tqdm(pool.map(write, scenes), 'drawing scenes', len(scenes), disable=None):
            pass


def _write_scene(target, scene, files, seed, size):
    """Draws the scene (use, category, number) and writes its files."""
    use, category, number = scene
    rng = np.random.default_rng([seed, ('training', 'testing').index(use),
                                 drawing.CATEGORIES.index(category), number])
    drawn_size = SIZES[rng.choice(len(SIZES), p=SIZE_SHARES)]
    drawn = drawing.draw_scene(rng, category, size or drawn_size)
    # Little compression: deflate at its default level takes longer than drawing the scene.
    write_image(target / files['picture'], drawn.image, compress_level=1)
    if 'camera' in files:
        write_whole(target / files['camera'], drawn.calibration, durable=False)
        if 'label' in files:
            write_image(target / files['label'], drawn.label, compress_level=1)
    elif 'label' in files:
        write_mask(target / files['label'], drawn.classes, drawing.PALETTE)


# The command ----------------------------------------------------------------------------------

def main(argv=None):
    """The command: draws the scenes, and says where they are."""
    parser = Parser(prog='python -m roadseg.datasets.demo', description=__doc__)
    parser.add_argument('--out', type=named_folder, required=True,
                        help='folder that gets data_road/, for --dataset kitti, or, with 7 classes, '
                             'scenes7/, for --dataset folder')
    parser.add_argument('--classes', type=number(int, 2, 7), default=2,
                        help="2, in KITTI Road's layout, or 7")
    count = number(int, 0, 10**6)
    parser.add_argument('--train', type=count, default=TRAIN,
                        help='scenes with labels, a multiple of 3')
    parser.add_argument('--test', type=count, default=TEST,
                        help='scenes without labels, a multiple of 3')
    parser.add_argument('--held-out', type=count, default=HELD_OUT,
                        help='labelled scenes per category that are held out by default')
    parser.add_argument('--seed', type=number(int, 0, 2**63 - 1), default=0,
                        help='another one, other scenes')
    args = parser.parse_args(argv)
    target = write_scenes(args.out, args.train, args.test, args.seed, args.held_out,
                          num_classes=args.classes)
    print(f'{args.train} scenes with labels and {args.test} without: {target}')


if __name__ == '__main__':
    sys.exit(run_command(main))
