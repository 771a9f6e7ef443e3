"""What TensorFlow on a CPU makes of convolutions of one float32 image, and of its halves as two.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/convolutions.py

The kernel is a variable, as in training; the sizes are those of VGG16's blocks at 192x640. Medians
in ms, in alternation: forward, and the gradients of the input and of the kernel.
"""
import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import roadseg.quiet        # noqa: E402, F401, isort: skip; before TensorFlow
import tensorflow.compat.v1 as tf       # noqa: E402

SIZE = 192, 640
CHANNELS = (64, 128, 256, 512, 512)
STRIDES = {'strides': [1, 1, 1, 1], 'padding': 'SAME'}


def operations(images, height, width, channels):
    """The three convolutions of so many images: list of operations."""
    shape, kernel_shape = [images, height, width, channels], [3, 3, channels, channels]
    inputs, gradient = (tf.Variable(tf.random.normal(shape)) for _ in range(2))
    kernel = tf.Variable(tf.random.normal(kernel_shape, stddev=0.02))
    return [tf.nn.conv2d(inputs, kernel, **STRIDES).op,
            tf.raw_ops.Conv2DBackpropInput(input_sizes=shape, filter=kernel,
                                           out_backprop=gradient, **STRIDES).op,
            tf.raw_ops.Conv2DBackpropFilter(input=inputs, filter_sizes=kernel_shape,
                                            out_backprop=gradient, **STRIDES).op]


def medians(height, width, channels, rounds):
    """Six numbers: forward of one image and of two halves, and the same of both gradients."""
    with tf.Graph().as_default(), tf.Session() as sess:
        whole = operations(1, height, width, channels)
        halves = operations(2, height // 2, width, channels)
        sess.run(tf.global_variables_initializer())
        found = []
        for pair in zip(whole, halves):
            times = [[], []]
            for _ in range(rounds + 2):
                for operation, times_of in zip(pair, times):
                    began = time.perf_counter()
                    sess.run(operation)
                    times_of.append(1e3 * (time.perf_counter() - began))
            found += [statistics.median(times_of[2:]) for times_of in times]
        return found


def command():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=11)
    rounds = parser.parse_args().rounds
    print('block  forward  halves    input  halves   kernel  halves')
    for block, channels in enumerate(CHANNELS, 1):
        size = (length >> block - 1 for length in SIZE)
        print(f'{block:5}' + ''.join(f'{value:9.1f}{half:8.1f}' for value, half in zip(
            *[iter(medians(*size, channels, rounds))] * 2)), flush=True)


if __name__ == '__main__':
    command()
