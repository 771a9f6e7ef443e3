"""Peak memory of a training step against what `roadseg.preflight` estimates.

    python benchmarks/memory.py --data-dir data

A process of its own for each image and batch size; the resident memory before the first step
(interpreter, TensorFlow, weights) is subtracted from the peak.
"""
import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

CASES = (((160, 576), 1, 2), ((160, 576), 8, 2), ((256, 832), 4, 2), ((160, 576), 8, 0),
         ((256, 832), 4, 0))    # image size, batch size, frozen blocks


def resident():
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmRSS:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError('/proc/self/status has no VmRSS')


def measure(data_dir, image_size, batch_size, freeze_blocks, precision):
    """Returns (estimated, measured) bytes of a training step."""
    import numpy as np
    import tensorflow.compat.v1 as tf

    import main
    from roadseg import checkpoints, preflight

    with tf.Graph().as_default(), tf.Session(
            config=checkpoints.session_config(precision)) as sess:
        before = resident()
        image, keep_prob, *outputs = main.load_vgg(sess, str(Path(data_dir) / 'vgg'))
        label = tf.placeholder(tf.bool, [None, None, None, 2])
        logits, train_op, _ = main.optimize(
            main.layers(*outputs, 2, output_size=tf.shape(image)[1:3],
                        score_channels=main.build_parser().get_default('score_channels')), label,
            tf.constant(1e-4), 2, clip_norm=1.0, freeze_blocks=freeze_blocks, average_decay=0.99)
        shapes = preflight.layer_shapes(logits)
        main.initialize_new(sess)
        cost = preflight.cost(sess, logits, shapes, image, image_size, batch_size,
                              main.trained_variables(freeze_blocks), precision, {keep_prob: 1.0})
        feed = {image: np.zeros((batch_size, *image_size, 3), np.uint8), keep_prob: 0.5,
                label: np.ones((batch_size, *image_size, 2), bool)}
        for _ in range(3):
            sess.run(train_op, feed)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return cost.memory, peak - before


def command():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data-dir', default='data', help='holds vgg/')
    parser.add_argument('--precision', default='bfloat16', choices=('float32', 'bfloat16'))
    parser.add_argument('--case', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.data_dir, *json.loads(args.case), args.precision)))
        return
    print(f'{"size":>10} {"batch":>5} {"frozen":>6} {"estimated":>10} {"measured":>10}   '
          f'GiB, {args.precision}')
    for size, batch, frozen in CASES:
        answer = subprocess.run(
            [sys.executable, __file__, '--data-dir', args.data_dir, '--precision', args.precision,
             '--case', json.dumps([size, batch, frozen])],
            capture_output=True, text=True, check=True)
        estimated, measured = json.loads(answer.stdout.splitlines()[-1])
        print(f'{size[0]:>6}x{size[1]:<3} {batch:>5} {frozen:>6} {estimated / 2**30:>10.2f} '
              f'{measured / 2**30:>10.2f}')


if __name__ == '__main__':
    command()
