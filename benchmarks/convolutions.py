"""What TensorFlow on a CPU makes of convolutions of one float32 image, and of its halves as two.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/convolutions.py

The kernel is a variable, as in training; the sizes are those of VGG16's blocks at 192x640. Medians
in ms, in alternation: forward, and the gradients of the input and of the kernel.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import roadseg.quiet        # noqa: E402, F401, isort: skip; before TensorFlow
import tensorflow.compat.v1 as tf       # noqa: E402

from roadseg.commands import Parser, number, run_command     # noqa: E402
from unpooling import medians       # noqa: E402

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


def command(argv=None):
    parser = Parser(prog='python benchmarks/convolutions.py', description=__doc__)
    parser.add_argument('--rounds', type=number(int, 2, 10_000), default=11, metavar='N',
                        help='of each')
    args = parser.parse_args(argv)
    print('block  forward  halves    input  halves   kernel  halves')
    for block, channels in enumerate(CHANNELS, 1):
        height, width = (length >> block - 1 for length in SIZE)
        with tf.Graph().as_default(), tf.Session() as sess:
            whole = operations(1, height, width, channels)
            halves = operations(2, height // 2, width, channels)
            sess.run(tf.global_variables_initializer())
            pairs = [medians(sess, {'whole': one, 'halves': two}, args.rounds)
                     for one, two in zip(whole, halves)]
        print(f'{block:5}' + ''.join(f"{pair['whole']:9.1f}{pair['halves']:8.1f}"
                                     for pair in pairs), flush=True)


if __name__ == '__main__':
    sys.exit(run_command(command))
