"""Steps per second with real batches against the same step fed one constant batch.

    python benchmarks/input_pipeline.py --data-dir data

Blocks of steps alternate between the two, so that a machine that changes its speed does so for
both. A ratio of 1 means that the step never waits for its input.
"""
import argparse
import itertools
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

sys.path.insert(0, str(Path(__file__).parents[1]))

import helper       # noqa: E402
import main         # noqa: E402
from roadseg import augment, checkpoints        # noqa: E402


def command():
    defaults = main.build_parser().parse_args([])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data-dir', default='data', help='holds data_road/ and vgg/')
    parser.add_argument('--image-size', type=main.image_size, default=defaults.image_size)
    parser.add_argument('--batch-size', type=int, default=defaults.batch_size)
    parser.add_argument('--blocks', type=int, default=10, help='of each kind')
    parser.add_argument('--steps', type=int, default=15, help='in a block')
    args = parser.parse_args()

    kitti = Path(args.data_dir) / 'data_road/training'
    get_batches_fn = helper.gen_batch_function(
        kitti, args.image_size,
        augment=partial(augment.distort, image_shape=args.image_size, scale=defaults.scale,
                        colour=defaults.colour))
    endless = itertools.chain.from_iterable(get_batches_fn(args.batch_size)
                                            for _ in itertools.count())
    with tf.Graph().as_default(), tf.Session(
            config=checkpoints.session_config(defaults.precision)) as sess:
        image, keep_prob, *outputs = main.load_vgg(sess, str(Path(args.data_dir) / 'vgg'))
        label = tf.placeholder(tf.bool, [None, None, None, 2])
        _, train_op, loss = main.optimize(
            main.layers(*outputs, 2, output_size=tf.shape(image)[1:3],
                        score_channels=defaults.score_channels), label,
            tf.constant(1e-5), 2, clip_norm=1.0, freeze_blocks=defaults.freeze_blocks,
            average_decay=defaults.average_decay)
        main.initialize_new(sess)

        def seconds(batches):
            began = time.perf_counter()
            for images, labels in batches:
                sess.run([train_op, loss], {image: images, label: labels, keep_prob: 0.5})
            return time.perf_counter() - began

        constant = next(endless)
        seconds([constant] * args.steps)        # warm up
        times = np.array([(seconds(itertools.islice(endless, args.steps)),
                           seconds([constant] * args.steps)) for _ in range(args.blocks)])
    real, fixed = args.steps / np.median(times, axis=0)
    ratios = times[:, 1] / times[:, 0]
    print(f'{args.image_size[0]}x{args.image_size[1]}, batch {args.batch_size}, '
          f'{defaults.precision}: {real:.3f} steps/s with real data, {fixed:.3f} with a constant '
          f'batch;\nratio, median of {args.blocks} pairs: {np.median(ratios):.3f} '
          f'(from {ratios.min():.3f} to {ratios.max():.3f})')


if __name__ == '__main__':
    command()
