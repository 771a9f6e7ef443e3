"""ResNet-50 as a fully convolutional graph behind the same five names as VGG16's.

    python -m roadseg.networks.resnet50 --weights {imagenet,FILE,random} --out data/resnet50

`imagenet` is what Keras Applications downloads, FILE an `.h5` of its ResNet50, with its top or
without. Layers 3, 4 and 7 are what conv3, conv4 and conv5 end with, of stride 8, 16 and 32.
Batch normalisation is frozen: it is folded into the kernel and the bias of its convolution, both
of which are trained. `random` draws the kernels from the run's seed; there, start with
--freeze-blocks 0.

Keras' convolutions of stride 2 are centred on every second pixel from the first one on. So the
middle of a cell of layer 3, 4 or 7 is at 8, 16 or 32 times its index, in pixels: up and to the
left of the middle of the square that the decoder draws it in, by 3.5, 7.5 or 15.5 pixels. The
decoder's transposed convolutions are trained and can shift by that much; other strides would not
be those that Keras' weights were trained with.

Network: He et al., "Deep Residual Learning for Image Recognition", 2016.
"""
if __name__ == '__main__':      # before the imports, which take seconds
    from roadseg.signals import stop_at_once
    stop_at_once()
import sys
import warnings
from pathlib import Path

import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
import numpy as np
import tensorflow.compat.v1 as tf

from roadseg import files
from roadseg.commands import Parser, named_folder, run_command
from roadseg.errors import InputError
from roadseg.networks import encoder
from roadseg.networks.encoder import (caffe_input, convolution_variables, dropout, fill,
                                      he_normal)
from roadseg.training.device import open_session

STACKS = ((2, 64, 3), (3, 128, 4), (4, 256, 6), (5, 512, 3))    # name's number, width, blocks
LAYERS = {3: 'layer3_out', 4: 'layer4_out', 5: 'layer7_out'}    # by the stack they end

# Mean activations of the three layers on `calibration_picture`, as VGG16 gives them: torchvision's
# weights, unit of 58, new fc6 and fc7 of 512 channels. On KITTI's photographs they are 120, 40 and
# 0.4. The decoder scales layers 3 and 4 by 1e-4 and 1e-2 to fit that; batch normalisation makes
# activations of the order of 1, and skips of 1e-4 and 1e-2 of that would be dead.
TARGETS = {'layer3_out': 140.0, 'layer4_out': 24.0, 'layer7_out': 0.16}


# The network ----------------------------------------------------------------------------------

def convolution_shapes(width_divisor=1):
    """Kernel shapes of the 53 convolutions, each layer narrower by `width_divisor`, 1-16.

    Returns:
        dict from Keras' name of the layer to [K, K, I, O], in the order of the network.
    """
    inputs = 64 // width_divisor
    shapes = {'conv1_conv': [7, 7, 3, inputs]}
    for stack, width, depth in STACKS:
        width //= width_divisor
        for block in range(1, depth + 1):
            name = f'conv{stack}_block{block}'
            if block == 1:
                shapes[name + '_0_conv'] = [1, 1, inputs, 4 * width]
            shapes[name + '_1_conv'] = [1, 1, inputs, width]
            shapes[name + '_2_conv'] = [3, 3, width, width]
            shapes[name + '_3_conv'] = [1, 1, width, 4 * width]
            inputs = 4 * width
    return shapes


def random_kernel(shape, seed, name):
    """Values of a new kernel: He-normal, and less for the last one of a residual block.

    There is no batch normalisation that keeps the sum of 16 blocks from growing; 16**-0.5 does
    (as in Zhang et al., "Fixup Initialization", 2019, the more blocks, the less).

    Args:
        shape: [K, K, I, O].
        seed: int64 tensor [].
        name: of the layer.

    Returns:
        float32 tensor [K, K, I, O].
    """
    blocks = sum(depth for _, _, depth in STACKS)
    return he_normal(shape, seed, name) * (blocks ** -0.5 if name.endswith('_3_conv') else 1.0)


def features(image, seed, shapes, new=False):
    """The layers that the interface hands out, before their units, with variables to be filled.

    Every stage has ceil(H / 2**k) rows, for odd sizes too.

    Args:
        image: float32 tensor [N, H, W, 3], RGB, 0-255.
        seed: int64 tensor [], of new kernels.
        shapes: dict from layer name to the kernel's shape [K, K, I, O].
        new: whether the kernels are drawn from the seed; else they refuse to be initialised, as
            they are to be loaded.

    Returns:
        (dict from layer name to (kernel, bias) variables, dict from `TARGETS`' names to float32
        tensors [N, H/8, W/8, D3], [N, H/16, W/16, D4] and [N, H/32, W/32, D7], none negative).
    """
    variables, layers = {}, {}

    def convolution(inputs, name, strides=1, padding='SAME'):
        with tf.variable_scope(name):
            kernel, bias = convolution_variables(
                shapes[name], random_kernel(shapes[name], seed, name) if new else None)
            variables[name] = kernel, bias
            return tf.nn.bias_add(tf.nn.conv2d(inputs, kernel, strides, padding), bias)

    def residual_block(inputs, name, strides):
        shortcut = inputs
        if name + '_0_conv' in shapes:
            shortcut = convolution(inputs, name + '_0_conv', strides)
        outputs = tf.nn.relu(convolution(inputs, name + '_1_conv', strides))
        outputs = tf.nn.relu(convolution(outputs, name + '_2_conv'))
        return tf.nn.relu(shortcut + convolution(outputs, name + '_3_conv'))

    def border(inputs, size):
        # By hand, as 'SAME' of stride 2 would put the larger half of it below and right.
        return tf.pad(inputs, [[0, 0], [size, size], [size, size], [0, 0]])

    outputs = convolution(border(caffe_input(image), 3), 'conv1_conv', 2, 'VALID')
    outputs = tf.nn.max_pool2d(border(tf.nn.relu(outputs), 1), 3, strides=2, padding='VALID')
    for stack, _, depth in STACKS:
        for block in range(1, depth + 1):
            strides = 2 if stack > 2 and block == 1 else 1
            outputs = residual_block(outputs, f'conv{stack}_block{block}', strides)
        if stack in LAYERS:
            layers[LAYERS[stack]] = outputs
    return variables, layers


# Weights --------------------------------------------------------------------------------------

def fold(kernel, bias, gamma, beta, mean, variance, epsilon):
    """Folds a batch normalisation into the convolution before it.

    Args:
        kernel: float32 ndarray [K, K, I, O].
        bias, gamma, beta, mean, variance: float32 ndarrays [O].
        epsilon: added to the variance.

    Returns:
        (kernel, bias) of the convolution that gives what both gave. They hold NaN where the
        variance is negative.
    """
    with np.errstate(invalid='ignore', divide='ignore'):
        scale = gamma / np.sqrt(variance + epsilon)
        return kernel * scale, (bias - mean) * scale + beta


def load_keras(weights):
    """Builds Keras Applications' ResNet50 with weights, with its top if the file has one.

    Args:
        weights: path of an `.h5` file, or 'imagenet', which Keras downloads.

    Returns:
        `keras.Model`.

    Raises:
        InputError: Keras can't read or fetch the weights.
    """
    include_top = False
    try:
        import h5py         # here, as they take a second or two, and `random` does without
        import keras        # fails where it is told to use another library than TensorFlow
        if weights != 'imagenet':
            with h5py.File(weights) as file:
                include_top = 'predictions' in file.get('model_weights', file)
        with warnings.catch_warnings(action='ignore'):      # of each layer that is not there
            return keras.applications.ResNet50(include_top=include_top, weights=weights)
    except Exception as error:     # Keras and h5py raise a dozen kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if weights == 'imagenet':
            raise InputError(
                f'Keras could not fetch the ImageNet weights of ResNet-50: {reason}; fetch that '
                'file where there is a network, and give its path as --weights') from error
        raise InputError(f'{weights} holds no weights of ResNet-50 that Keras could load: '
                         f'{reason}; give an .h5 of keras.applications.ResNet50') from error


def read_keras(weights):
    """Reads the 53 convolutions through Keras, and folds batch normalisation into them.

    Args:
        weights: path of an `.h5` file of `keras.applications.ResNet50`, or 'imagenet', which
            Keras downloads.

    Returns:
        dict from layer name to (kernel HWIO, bias [O]), float32.

    Raises:
        InputError: Keras can't read or fetch the weights, or they are not finite.
    """
    model = load_keras(str(weights))
    result = {}
    for name in convolution_shapes():
        normalisation = model.get_layer(name.removesuffix('conv') + 'bn')
        values = model.get_layer(name).get_weights() + normalisation.get_weights()
        result[name] = fold(*values, normalisation.epsilon)
        if not all(np.isfinite(value).all() for value in result[name]):
            raise InputError(f'{weights}: with its batch normalisation, {name} holds NaN or '
                             'infinite weights; the file is damaged, or its training had diverged')
    return result


def calibration_picture():
    """Noise with the spectrum of photographs, whose amplitude falls with the frequency.

    Field, "Relations between the statistics of natural images and the response properties of
    cortical cells", 1987. Mean and deviation are ImageNet's, and the channels mostly agree.

    Returns:
        float32 ndarray [1, 224, 224, 3], RGB, 0-255.
    """
    size = 224
    frequency = np.hypot(np.fft.fftfreq(size)[:, np.newaxis], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf        # no mean
    white = np.random.default_rng(0).normal(size=(3, size, size))
    noise = np.fft.irfft2(np.fft.rfft2(white) / frequency)
    noise += 2 * noise[0]
    noise /= noise.std(axis=(1, 2), keepdims=True)
    picture = 58 * noise.transpose(1, 2, 0) + [123.68, 116.779, 103.939]
    return picture[np.newaxis].clip(0, 255).astype(np.float32)


def measure_units(sess, image, layers):
    """Factors with which the layers' mean activations on `calibration_picture` are `TARGETS`.

    Args:
        sess: session of the network, filled. New kernels are those of seed 0; those of other
            seeds have other values, but the same statistics.
        image: float32 tensor [N, H, W, 3], RGB, 0-255, to be fed.
        layers: dict from `TARGETS`' names to float32 tensors.

    Returns:
        dict from the layer's name to a float.

    Raises:
        InputError: a layer is 0 everywhere or infinite, so that no factor could help.
    """
    means = sess.run({name: tf.reduce_mean(layer) for name, layer in layers.items()},
                     {image: calibration_picture()})
    for name, mean in means.items():
        if not 0 < mean < np.inf:
            raise InputError(f'with these weights, {name} is {mean:g} on average, expected a '
                             'positive number; they are no weights of a trained network')
    return {name: float(TARGETS[name] / mean) for name, mean in means.items()}


def build(sess, shapes, weights):
    """Builds the network in the session's graph, weights included.

    The names of the interface are those that `vgg16.build` describes.

    Args:
        sess: session.
        shapes: dict from layer name to the kernel's shape [K, K, I, O].
        weights: dict from layer name to (kernel HWIO, bias [O]), float32; {} for new ones.

    Raises:
        InputError: the weights are no trained network's.
    """
    image = tf.placeholder(tf.float32, [None, None, None, 3], name='image_input')
    keep_prob = tf.placeholder_with_default(1.0, [], name='keep_prob')
    seed = tf.placeholder_with_default(np.int64(0), [], name='seed')
    variables, layers = features(image, seed, shapes, new=not weights)
    fill(sess, variables, weights)
    units = measure_units(sess, image, layers)
    layer3, layer4, layer7 = (units[name] * layers[name] for name in TARGETS)
    tf.identity(layer3, name='layer3_out')
    tf.identity(layer4, name='layer4_out')
    tf.identity(dropout(layer7, keep_prob, 7, seed), name='layer7_out')


# Saving ---------------------------------------------------------------------------------------

def save(shapes, weights, out):
    """Writes the graph and its weights as a SavedModel with the tag that `main.load_vgg` expects.

    Args:
        shapes: dict from layer name to the kernel's shape [K, K, I, O].
        weights: dict from layer name to (kernel HWIO, bias [O]), float32; {} for new ones.
        out: folder to be made; it appears when it is whole.

    Raises:
        InputError: `out` is there already or can't be written, or the weights are no network's.
    """
    with tf.Graph().as_default(), open_session() as sess:
        build(sess, shapes, weights)
        encoder.save(sess, out)


def convert(weights, out, width_divisor=1):
    """Writes the graph with the weights that the command was asked for.

    Args:
        weights: 'imagenet', 'random', or path of an `.h5` file of Keras' ResNet50.
        out: folder to be made.
        width_divisor: makes the layers of 'random' narrower, for tests.

    Raises:
        InputError: the file is missing, of another kind or not ResNet-50's; ImageNet's weights
            can't be fetched; or `out` can't be made.
    """
    files.check_free(out)
    if weights not in ('imagenet', 'random'):
        expected = "give imagenet, random, or the path of an .h5 of Keras' ResNet50"
        files.check_file(weights, expected)
        if Path(weights).suffix not in ('.h5', '.hdf5'):
            raise InputError(f'{weights} is no .h5; {expected}')
    save(convolution_shapes(width_divisor), {} if weights == 'random' else read_keras(weights),
         out)


def main(argv=None):
    """The command: writes the graph; raises as `convert` does."""
    parser = Parser(prog='python -m roadseg.networks.resnet50', description=__doc__)
    parser.add_argument('--weights', required=True, metavar='{imagenet,FILE,random}',
                        help="imagenet: Keras downloads them; FILE: an .h5 of Keras' ResNet50; "
                             'random: drawn from the seed of the run')
    parser.add_argument('--out', type=named_folder, default='data/resnet50', metavar='DIR',
                        help='folder to write')
    options = parser.parse_args(argv)
    convert(options.weights, options.out)
    print(f'wrote {options.out}')


if __name__ == '__main__':
    sys.exit(run_command(main))
