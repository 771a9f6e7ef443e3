"""Photographs a second that are read, zoomed, mirrored and coloured for training, by threads.

    python benchmarks/input_pipeline.py --data-dir data
    python benchmarks/input_pipeline.py --draw 12 --seconds 3      without data

Of photographs in memory, as in all epochs but the first, and of such as are read from their files
each time. Threads beyond the processors are shown to do no harm. CPU time tells what a photograph
costs where other work keeps the machine busy: so many a second is what one thread would do alone.
"""
import itertools
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from roadseg.commands import Parser, image_size, number, run_command     # noqa: E402
from roadseg.datasets import demo, kitti        # noqa: E402
from roadseg.machine import processors      # noqa: E402
from roadseg.training import augment, pipeline      # noqa: E402
from roadseg.training.options import build_parser       # noqa: E402


def photographs_per_second(get_batches_fn, batch_size, seconds):
    """Counts photographs of as many epochs as it takes, the first epoch left out.

    Returns:
        (photographs a second, photographs a second of CPU time).
    """
    for _ in get_batches_fn(batch_size):        # fills the memory
        pass
    began, began_work, count = time.perf_counter(), time.process_time(), 0
    for images, _ in itertools.chain.from_iterable(
            get_batches_fn(batch_size) for _ in itertools.count()):
        count += len(images)
        elapsed = time.perf_counter() - began
        if elapsed > seconds:
            return count / elapsed, count / (time.process_time() - began_work)


def command(argv=None):
    defaults = build_parser().parse_args([])
    parser = Parser(prog='python benchmarks/input_pipeline.py', description=__doc__)
    parser.add_argument('--data-dir', default='data', help='holds data_road/')
    parser.add_argument('--draw', type=number(int, 3, 3000), metavar='N',
                        help="draw so many scenes of KITTI's size instead")
    parser.add_argument('--image-size', type=image_size, default=defaults.image_size)
    parser.add_argument('--batch-size', type=number(int, 1, 4096), default=1)
    parser.add_argument('--seconds', type=number(float, 0.1, 600), default=5, help='of each row')
    parser.add_argument('--photographs', type=number(int, 1, 10**6), default=48,
                        help='how many of them are used')
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        if args.draw:
            demo.write_scenes(folder, train=args.draw // 3 * 3, test=0, held_out=0,
                              size=(375, 1242))
        pairs = kitti.paired_paths(Path(folder if args.draw else args.data_dir)
                                   / 'data_road/training')[:args.photographs]
        print(f'{len(pairs)} photographs at {args.image_size[0]}x{args.image_size[1]}, batch '
              f'{args.batch_size}, {processors()} processors\n'
              f'{"":10} {"threads":>8} {"a second":>10} {"a second of CPU time":>22}')
        threads = sorted({1, 2, processors(), 2 * processors()})
        for kept, room in (('in memory', 2**40), ('from files', 0)):
            for count in threads:
                get_batches_fn = pipeline.gen_batch_function(
                    pairs, kitti.read_road_label, args.image_size, threads=count,
                    augment=partial(augment.distort, scale=defaults.scale,
                                    colour=defaults.colour), cache=pipeline.Cache(room))
                rate, of_work = photographs_per_second(get_batches_fn, args.batch_size,
                                                       args.seconds)
                print(f'{kept:10} {count:>8} {rate:>10.1f} {of_work:>22.1f}', flush=True)


if __name__ == '__main__':
    sys.exit(run_command(command))
