"""Makes the network that comes with the package: small, for use, not for the benchmark.

    python -m roadseg.box --data-dir data --weights vgg16.npz --work-dir box

It is an FCN-8s on a VGG16 of a quarter of the width, trained on windows of about 16:9 of KITTI Road
(without val3) and of CamVid (without its test frames), so that it has seen two cameras, two
countries and several scales. KITTI's labels end some rows above the photograph's lower edge; a
network that learns that leaves the bottom of every picture unpainted. So the last rows are not
evaluated here. The folder of --work-dir gets the windows, the narrow encoder and the run. The
command that is printed last exports it, to take the place of `roadseg/models/road`. Trained on
photographs that are CC BY-NC-SA and for research only: so is what comes of them.
"""
if __name__ == '__main__':      # before the imports, which take seconds
    from roadseg.signals import stop_at_once
    stop_at_once()
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import main as script
from roadseg.commands import Parser, named_folder, number, run_command
from roadseg.datasets import camvid, kitti
from roadseg.errors import InputError
from roadseg.files import make_folder
from roadseg.images import read_image, resize, write_image, write_mask
from roadseg.machine import processors
from roadseg.networks import narrow, vgg16
from roadseg.training.pipeline import ignoring_last_rows, read_pair

WINDOW = {'kitti': (370, 660), 'camvid': (272, 480)}        # rows, columns: about 16:9
LAST_ROWS = 8               # of KITTI's labels, that are not evaluated
IMAGE_SIZE = (192, 336)
FITTED_ON = 24              # photographs for the narrow encoder
DIVISOR, FC_WIDTH = 4, 128
RECIPE = ['--batch-size', '4', '--learning-rate', '6e-4', '--decoder-rate', '2',
          '--freeze-blocks', '0', '--scale', '0.5', '--colour', '0.4', '--keep-prob', '0.8',
          '--score-channels', '16']


def windows(image, classes, shape, count):
    """Cuts `count` windows of `shape` out of a photograph, from its upper left to its lower right.

    Args:
        image: uint8 ndarray (H, W, 3).
        classes: uint8 ndarray (H, W).
        shape: (h, w) of a window, at most (H, W).
        count: 1 for the middle.

    Returns:
        List of such pairs.
    """
    (rows, columns), surplus = shape, np.subtract(classes.shape, shape)
    found = []
    for share in [0.5] if count == 1 else np.linspace(0, 1, count):
        top, left = (round(share * room) for room in surplus)
        cut = np.s_[top:top + rows, left:left + columns]
        found.append((image[cut], classes[cut]))
    return found


def write_windows(data_dir, folder):
    """Writes the windows as a folder of one's own; those of val3 come last, to be held out.

    Args:
        data_dir: holds KITTI Road and CamVid.
        folder: gets `images/` and `masks/`.

    Returns:
        (number of windows, number of those held out).

    Raises:
        InputError: the data are missing, or can't be written.
    """
    road, street = kitti.load(data_dir), camvid.load(data_dir, 2)
    training, held_out = road.split('val3')
    of_camvid = list(dict.fromkeys(street.split('test')[0] + street.split('val')[1]))
    for name in ('images', 'masks'):
        make_folder(folder / name)

    def write(job):
        prefix, read_label, pair, shape, count = job
        image, classes = read_pair(pair, read_label)
        for index, (window, of_window) in enumerate(windows(image, classes, shape, count)):
            name = f'{prefix}_{pair[0].stem}_{index}'
            write_image(folder / f'images/{name}.jpg', window)
            write_mask(folder / f'masks/{name}.png', of_window)

    without_last_rows = ignoring_last_rows(road.read_label, LAST_ROWS)
    jobs = ([('a', without_last_rows, pair, WINDOW['kitti'], 3) for pair in training]
            + [('b', street.read_label, pair, WINDOW['camvid'], 2) for pair in of_camvid]
            + [('z', road.read_label, pair, WINDOW['kitti'], 1) for pair in held_out])
    with ThreadPoolExecutor(processors()) as pool:
        for _ in pool.map(write, jobs):
            pass
    return sum(job[4] for job in jobs), len(held_out)


def write_encoder(weights, images, out):
    """Writes a VGG16 of a quarter of the width, fitted on photographs.

    Args:
        weights: path of the `.npz` of the 13 convolutions.
        images: list of paths.
        out: folder to be made.

    Raises:
        InputError: a file is unreadable, or `out` is there already.
    """
    import tensorflow as tf     # here, as `narrow` runs eagerly and nothing else does
    photographs = np.float32([resize(read_image(path), IMAGE_SIZE) for path in images])
    narrowed, explained = narrow.narrowed(vgg16.read_npz(weights),
                                          vgg16.torch_input(tf.constant(photographs)).numpy(),
                                          DIVISOR)
    print('share of the variance explained: '
          + ', '.join(f'{name} {share:.2f}' for name, share in explained.items()))
    vgg16.save(narrowed, vgg16.top_shapes(narrowed['conv5_3'][1].size, FC_WIDTH, context=True),
               vgg16.torch_input, out)


def main(argv=None):
    """The command: prints where the run is, and how to export it."""
    parser = Parser(prog='python -m roadseg.box', description=__doc__)
    add = parser.add_argument
    add('--data-dir', default='data', metavar='DIR', help='holds KITTI Road and CamVid')
    add('--weights', required=True, metavar='FILE',
        help='.npz of the 13 ImageNet convolutions of VGG16')
    add('--work-dir', type=named_folder, default=Path('box'), metavar='DIR', help='to be made')
    add('--epochs', type=number(int, 1, 1000), default=24, help='passes over the windows')
    args = parser.parse_args(argv)
    if os.path.lexists(args.work_dir):
        raise InputError(f'{args.work_dir} is there already; move it away or choose another '
                         '--work-dir')
    vgg16.read_npz(args.weights)        # before the minutes of writing windows
    data = args.work_dir / 'KITTI Road and CamVid'         # which becomes the network's title
    try:
        count, held_out = write_windows(args.data_dir, data)
        images = sorted((data / 'images').iterdir())[:count - held_out]
        chosen = np.random.default_rng(0).choice(len(images), FITTED_ON, replace=False)
        write_encoder(args.weights, [images[index] for index in chosen], args.work_dir / 'vgg')
    except BaseException:
        shutil.rmtree(args.work_dir, ignore_errors=True)
        raise
    script.main([
        '--dataset', 'folder', '--data-dir', str(data), '--encoder',
        str(args.work_dir / 'vgg'), '--runs-dir', str(args.work_dir / 'runs'), '--split',
        f'tail:{held_out / count:.6f}', '--image-size', 'x'.join(map(str, IMAGE_SIZE)),
        '--epochs', str(args.epochs), *RECIPE])
    print(f'then: python -m roadseg.export {args.work_dir}/runs/<date-time> --format frozen --out '
          f'{args.work_dir}/road, which is to take the place of roadseg/models/road')


if __name__ == '__main__':
    sys.exit(run_command(main))
