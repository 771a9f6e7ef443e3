"""Time and memory against the size of photographs, of batches and of the data set.

    python benchmarks/scale.py --data-dir data
    python benchmarks/scale.py --encoder DIR --sizes 96x352 --batches 1,2 --frames 289,2000

First, training steps on random photographs, a process of its own for each size: milliseconds a
photograph and the peak of resident memory. Then an epoch of the input alone over data sets of so
many frames, drawn ones whose paths repeat: each is decoded on its own, as if it were another file.
Of these --cache-mb are kept in memory; what else the epoch takes must not grow with their number.
"""
import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from roadseg.commands import Parser, image_size, number, run_command     # noqa: E402
from roadseg.datasets import demo, kitti        # noqa: E402
from roadseg.runtimes import peak_memory        # noqa: E402
from roadseg.training import allocator, augment, pipeline, processor      # noqa: E402

MIB = 2 ** 20
STEPS = 4           # of which the first is left out


def several(convert):
    """Converter of several values with commas between them."""
    return lambda text: [convert(part) for part in text.split(',')]


def resident_memory():
    """This process's resident memory, in MiB."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize() / MIB


# Steps ----------------------------------------------------------------------------------------

def measure_steps(data_dir, encoder, size, batch_size):
    """Trains on random photographs; returns (ms a photograph, peak memory in MiB)."""
    import numpy as np

    import main
    from roadseg.training import device
    options = main.parse_args(['--data-dir', data_dir])
    hardware = device.find()
    options.precision = hardware.precision
    rng, times = np.random.default_rng(0), []
    with main.tf.Graph().as_default(), main.tf.Session(
            config=device.session_config(options.precision)) as sess:
        net = main.build(sess, Path(encoder or Path(data_dir) / 'vgg'), 2, options)
        main.initialize_new(sess)
        feed = {net.input_image: rng.integers(0, 256, (batch_size, *size, 3), np.uint8),
                net.classes: rng.integers(0, 2, (batch_size, *size), np.uint8),
                net.keep_prob: 0.5, net.learning_rate: 1e-5, **net.feed}
        for _ in range(STEPS):
            began = time.perf_counter()
            sess.run([net.cross_entropy_loss, net.train_op], feed)
            times.append(time.perf_counter() - began)
    return 1e3 * float(np.median(times[1:])) / batch_size, peak_memory() / MIB


def table_of_steps(args):
    """Prints it; returns 0, or the exit code of a process that failed."""
    print(f'{"size":>10} {"batch":>6} {"ms a photograph":>16} {"peak memory, MiB":>17}')
    for size in args.sizes:
        for batch_size in args.batches:
            case = json.dumps([args.data_dir, args.encoder, size, batch_size])
            answer = subprocess.run([sys.executable, __file__, '--case', case],
                                    stdout=subprocess.PIPE, text=True)
            if answer.returncode:       # the process has said why
                return answer.returncode
            milliseconds, memory = json.loads(answer.stdout.splitlines()[-1])
            print(f'{size[0]:>6}x{size[1]:<3} {batch_size:>6} {milliseconds:>16.1f} '
                  f'{memory:>17.0f}', flush=True)
    return 0


# Data sets ------------------------------------------------------------------------------------

def table_of_frames(args, folder):
    demo.write_scenes(folder, train=12, test=0, held_out=0, size=args.frame_size)
    drawn = kitti.paired_paths(Path(folder) / 'data_road/training')
    print(f'\n{"frames":>10} {"a second":>10} {"memory after a tenth, MiB":>26} '
          f'{"at the end":>11}')
    for frames in args.frames:
        # each is numbered, lest the cache takes them for the dozen files that they are read from
        pairs = [(image, (number, label)) for number, (image, label) in
                 zip(range(frames), itertools.cycle(drawn))]
        get_batches_fn = pipeline.gen_batch_function(
            pairs, lambda numbered: kitti.read_road_label(numbered[1]), args.sizes[0],
            augment=partial(augment.distort, scale=0.3, colour=0.3),
            cache=pipeline.Cache(args.cache_mb * 10**6))
        began, seen, early = time.perf_counter(), 0, None
        for images, _ in get_batches_fn(4):
            seen += len(images)
            if early is None and seen >= frames / 10:
                early = resident_memory()
        print(f'{frames:>10} {frames / (time.perf_counter() - began):>10.1f} {early:>26.0f} '
              f'{resident_memory():>11.0f}', flush=True)


def command(argv=None):
    parser = Parser(prog='python benchmarks/scale.py', description=__doc__)
    add = parser.add_argument
    add('--data-dir', default='data', help='holds vgg/')
    add('--encoder', default=None, metavar='DIR', help='frozen graph instead of the one there')
    add('--sizes', type=several(image_size), metavar='HxW[,HxW...]',
        default=[(96, 352), (192, 640), (256, 832), (384, 1248)])
    add('--batches', type=several(number(int, 1, 4096)), metavar='N[,N...]', default=[1, 2, 4, 8])
    add('--frames', type=several(number(int, 10, 10**8)), metavar='N[,N...]',
        default=[289, 3000, 30_000, 100_000])
    add('--frame-size', type=image_size, default=(375, 1242), metavar='HxW', help='of the files')
    add('--cache-mb', type=number(int, 0, 10**6), default=200, metavar='MB',
        help='memory for decoded frames')
    add('--case', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.case:       # as main.py does
        allocator.use_huge_pages()
        processor.choose_convolutions()
        print(json.dumps(measure_steps(*json.loads(args.case))))
        return 0
    if code := table_of_steps(args):
        return code
    with tempfile.TemporaryDirectory() as folder:
        table_of_frames(args, folder)
    return 0


if __name__ == '__main__':
    sys.exit(run_command(command))
