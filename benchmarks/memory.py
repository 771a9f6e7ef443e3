"""Peak memory of a training step against what `roadseg.training.preflight` estimates.

    python benchmarks/memory.py --data-dir data

A process of its own for each image and batch size; the resident memory before the network is loaded
(interpreter, TensorFlow) is subtracted from the peak.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from roadseg.commands import Parser, run_command        # noqa: E402
from roadseg.runtimes import peak_memory        # noqa: E402

CASES = (((160, 576), 1, 2), ((160, 576), 8, 2), ((256, 832), 4, 2), ((160, 576), 8, 0),
         ((256, 832), 4, 0))    # image size, batch size, frozen blocks


def resident():
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmRSS:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError('/proc/self/status has no VmRSS')


def measure(data_dir, image_size, batch_size, freeze_blocks, precision):
    """Returns (estimated, measured) bytes of a training step."""
    import main     # first, as it imports TensorFlow quietly
    import numpy as np

    import tensorflow.compat.v1 as tf
    from roadseg.training import device, preflight

    options = main.parse_args(['--freeze-blocks', str(freeze_blocks)])
    with tf.Graph().as_default(), tf.Session(config=device.session_config(precision)) as sess:
        before = resident()
        net = main.build(sess, Path(data_dir) / 'vgg', 2, options)
        main.initialize_new(sess)
        cost = preflight.cost(sess, net.logits, net.input_image, image_size, batch_size,
                              main.trained_variables(freeze_blocks), precision,
                              {net.keep_prob: 1.0})
        feed = {net.input_image: np.zeros((batch_size, *image_size, 3), np.uint8),
                net.classes: np.zeros((batch_size, *image_size), np.uint8),
                net.keep_prob: 0.5, net.learning_rate: 1e-4, **net.feed}
        for _ in range(3):
            sess.run(net.train_op, feed)
    return cost.memory, peak_memory() - before


def command(argv=None):
    parser = Parser(prog='python benchmarks/memory.py', description=__doc__)
    parser.add_argument('--data-dir', default='data', help='holds vgg/')
    parser.add_argument('--precision', default='bfloat16', choices=('float32', 'bfloat16'),
                        help='of the activations')
    parser.add_argument('--case', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.case:
        print(json.dumps(measure(args.data_dir, *json.loads(args.case), args.precision)))
        return 0
    print(f'{"size":>10} {"batch":>5} {"frozen":>6} {"estimated":>10} {"measured":>10}   '
          f'GiB, {args.precision}')
    for size, batch, frozen in CASES:
        answer = subprocess.run(
            [sys.executable, __file__, '--data-dir', args.data_dir, '--precision', args.precision,
             '--case', json.dumps([size, batch, frozen])],
            stdout=subprocess.PIPE, text=True)
        if answer.returncode:       # the process has said why
            return answer.returncode
        estimated, measured = json.loads(answer.stdout.splitlines()[-1])
        print(f'{size[0]:>6}x{size[1]:<3} {batch:>5} {frozen:>6} {estimated / 2**30:>10.2f} '
              f'{measured / 2**30:>10.2f}')
    return 0


if __name__ == '__main__':
    sys.exit(run_command(command))
