"""A training step of this project against PyTorch's and Keras', in alternation.

    python benchmarks/train.py [--encoder data/vgg] [--batches 1 2] [--precisions float32 bfloat16]

Needs PyTorch (`pip install torch`) and a frozen VGG16 with context layers. Each cell starts one
process per peer; they take turns, one step each, and the median and the ratio of the pairs count.
All processes get large pages.
"""
import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

PEER = Path(__file__).with_name('peer.py')
PEERS = ('ours', 'torch', 'torch-channels_last', 'keras')


def start(who, batch, args, precision, kind):
    environment = {**os.environ, 'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}
    process = subprocess.Popen(
        [sys.executable, str(PEER), who, str(batch), args.image_size, precision, kind,
         args.encoder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    while (line := process.stdout.readline()) and line.strip() != 'ready':
        pass
    if not line:
        sys.exit(f'{who} ended with exit code {process.wait()}')
    return process


def measure(kind, argv=None):
    """Prints the table of 'train' or 'infer'."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--encoder', default='data/vgg')
    parser.add_argument('--image-size', default='192x640', metavar='HxW')
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 2, 5])
    parser.add_argument('--precisions', nargs='+', default=['float32', 'bfloat16'])
    parser.add_argument('--rounds', type=int, default=7)
    args = parser.parse_args(argv)
    print(f'{kind}, {args.image_size}, ms per image: median; ratio to ours of each pair: median '
          '(least to most)')
    for precision in args.precisions:
        for batch in args.batches:
            processes = {who: start(who, batch, args, precision, kind) for who in PEERS}
            seconds = {who: [] for who in PEERS}
            for _ in range(args.rounds):
                for who, process in processes.items():
                    process.stdin.write('step\n')
                    process.stdin.flush()
                    seconds[who].append(float(process.stdout.readline()))
            for process in processes.values():
                process.stdin.close()
                process.wait()
            for who in PEERS:
                ratios = [theirs / mine for theirs, mine in zip(seconds[who], seconds['ours'])]
                print(f'{precision:9} batch {batch}  {who:20} '
                      f'{1e3 * statistics.median(seconds[who]) / batch:8.0f}   '
                      f'{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})',
                      flush=True)


if __name__ == '__main__':
    measure('train')
