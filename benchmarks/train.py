"""A training step of this project against PyTorch's and Keras', in alternation.

    python benchmarks/train.py [--encoder data/vgg] [--batches 1 2] [--precisions float32 bfloat16]

Needs PyTorch (`pip install torch`) and a frozen VGG16 with context layers; for `torch.compile` a
C++ compiler, too, without which those rows are left out. Each cell starts one process per peer; they
take turns, one step each, and the median and the ratio of the pairs count. All processes get large
pages. The share of the peak is of what the fastest product of two large matrices reaches in the same
alternation.
"""
import os
import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from roadseg.commands import (Parser, image_size, number, run_command,     # noqa: E402
                              typed)
from roadseg.errors import InputError       # noqa: E402
from peer import SIDE, work     # noqa: E402

PEER = Path(__file__).with_name('peer.py')
COMPILED = ('torch-compile', 'torch-compile-channels_last')
PEERS = ('ours', 'torch', 'torch-channels_last', *(COMPILED if shutil.which('c++') else ()),
         'keras', 'peak')


def start(who, batch, args, precision, kind):
    environment = {**os.environ, 'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}
    process = subprocess.Popen(
        [sys.executable, str(PEER), who, str(batch), args.image_size, precision, kind,
         args.encoder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    while (line := process.stdout.readline()) and line.strip() != 'ready':
        pass
    if not line:
        raise InputError(f'{who} ended with exit code {process.wait()}')
    return process


def measure(kind, argv=None):
    """Prints the table of 'train' or 'infer'."""
    parser = Parser(prog=f'python benchmarks/{kind}.py', description={
        'train': 'A training step', 'infer': 'A prediction'}[kind] +
        " of this project against PyTorch's and Keras', in alternation.")
    parser.add_argument('--encoder', default='data/vgg', metavar='DIR', help='frozen graph')
    parser.add_argument('--image-size', type=image_size, default=(192, 640), metavar='HxW',
                        help='of the photographs')
    parser.add_argument('--batches', type=number(int, 1, 4096), nargs='+', default=[1, 2, 5],
                        metavar='N', help='batch sizes')
    parser.add_argument('--precisions', choices=('float32', 'bfloat16'), nargs='+',
                        default=['float32', 'bfloat16'], help='of the activations')
    parser.add_argument('--rounds', type=number(int, 1, 10_000), default=7, metavar='N',
                        help='of each cell')
    args = parser.parse_args(argv)
    if not os.path.isdir(args.encoder):
        raise InputError(f'--encoder {args.encoder} is no folder; write a frozen graph with '
                         '`python -m roadseg.networks.vgg16`')
    operations = work(args.image_size, kind == 'train')     # of an image
    args.image_size = typed(args.image_size)
    print(f'{kind}, {args.image_size}, {1e-9 * operations:.0f} GFLOP per image; ms per image: '
          'median; ratio to ours of each pair: median (least to most); share of the peak')
    for precision in args.precisions:
        for batch in args.batches:
            processes = {who: start(who, batch, args, precision, kind) for who in PEERS}
            seconds = {who: [] for who in PEERS}
            for _ in range(args.rounds):
                for who, process in processes.items():
                    process.stdin.write('step\n')
                    process.stdin.flush()
                    if not (line := process.stdout.readline()):
                        raise InputError(f'{who} ended with exit code {process.wait()}')
                    seconds[who].append(float(line))
            for process in processes.values():
                process.stdin.close()
                process.wait()
            rate = 2 * SIDE ** 3 / min(seconds.pop('peak'))
            print(f'{precision:9} the peak of this machine: {1e-9 * rate:.0f} GFLOP a second')
            for who in seconds:
                ratios = [theirs / mine for theirs, mine in zip(seconds[who], seconds['ours'])]
                each = statistics.median(seconds[who]) / batch
                print(f'{precision:9} batch {batch}  {who:28} {1e3 * each:8.0f}   '
                      f'{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})   '
                      f'{operations / each / rate:.2f}', flush=True)


if __name__ == '__main__':
    sys.exit(run_command(partial(measure, 'train')))
