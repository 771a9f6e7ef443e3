"""VGG16 as a fully convolutional graph, saved the way `main.load_vgg` expects it.

    python -m roadseg.vgg16 --weights FILE --out data/vgg [--fc-width N --fc-kernel K | --context]

FILE is Keras' `.h5` of VGG16 with its top (fc1 and fc2 become the 7x7 and 1x1 convolutions
fc6 and fc7), or an `.npz` of the 13 convolutions (`conv1_1_W`, `conv1_1_b`, ... `conv5_3_b`,
kernels HWIO, torchvision's scaling of the input) to which new layers fc6 and fc7 are added. With
--context, the new fc6 looks near, far and at the whole image.

Networks: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2014; Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
Segmentation", 2015; for --context, Chen et al., "Rethinking Atrous Convolution for Semantic
Image Segmentation", 2017.
"""
import argparse
import shutil
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

from helper import InputError

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))   # channels, convolutions
CONVOLUTIONS = [f'conv{block}_{number}' for block, (_, depth) in enumerate(BLOCKS, 1)
                for number in range(1, depth + 1)]
DILATIONS = (1, 2, 4)           # of the branches of fc6 with --context
TAG = 'vgg16'


def caffe_input(image):
    """RGB 0-255 to BGR minus ImageNet's mean, as the Oxford and Keras weights expect.

    Args:
        image: float32 tensor [N, H, W, 3], RGB, 0-255.

    Returns:
        float32 tensor [N, H, W, 3].
    """
    return image[..., ::-1] - tf.constant([103.939, 116.779, 123.68])


def torch_input(image):
    """RGB 0-255 to zero mean and unit variance over ImageNet, as torchvision's weights expect.

    Args:
        image: float32 tensor [N, H, W, 3], RGB, 0-255.

    Returns:
        float32 tensor [N, H, W, 3].
    """
    mean, deviation = tf.constant([0.485, 0.456, 0.406]), tf.constant([0.229, 0.224, 0.225])
    return (image / 255.0 - mean) / deviation


# Units of pools 3 and 4: FCN-8s scales them by 1e-4 and 1e-2, which was made for weights that see
# inputs of a deviation near 58. Torchvision's see a deviation of 1, and a network of convolutions
# and ReLU without its biases is homogeneous. Without the unit, the skips die: their scores were
# measured at 1/140 and 1/10000 of layer 7's after 12 epochs.
UNITS = {caffe_input: 1.0, torch_input: 58.0}


def he_kernel(rng, size, inputs, outputs):
    """He-normal kernel for a ReLU layer (He et al., "Delving Deep into Rectifiers", 2015).

    Returns:
        float32 ndarray [size, size, inputs, outputs], variance 2 / (size * size * inputs).
    """
    deviation = np.sqrt(2 / (size * size * inputs))
    return rng.normal(0, deviation, (size, size, inputs, outputs)).astype(np.float32)


def with_new_top(weights, fc_width, fc_kernel, context=False, seed=0):
    """Adds He-initialised fc6 and fc7 to 13 convolutions.

    Args:
        weights: dict from layer name to (kernel HWIO, bias [O]), float32.
        fc_width: N, channels of both layers.
        fc_kernel: K, spatial size of fc6.
        context: whether fc6 consists of four branches of N / 2 channels: `DILATIONS` of a 3x3
            kernel, and one that sees the mean over the image. K is not used then.
        seed: of the new kernels.

    Returns:
        A new dict with the layers 'fc6', or 'fc6_1' to 'fc6_image', and 'fc7'.
    """
    rng, depth = np.random.default_rng(seed), weights['conv5_3'][1].size
    if context:
        half = fc_width // 2
        kernels = {f'fc6_{dilation}': he_kernel(rng, 3, depth, half) for dilation in DILATIONS}
        kernels['fc6_image'] = he_kernel(rng, 1, depth, half)
    else:
        kernels = {'fc6': he_kernel(rng, fc_kernel, depth, fc_width)}
    inputs = sum(kernel.shape[-1] for kernel in kernels.values())
    kernels['fc7'] = he_kernel(rng, 1, inputs, fc_width)
    return {**weights, **{name: (kernel, np.zeros(kernel.shape[-1], np.float32))
                          for name, kernel in kernels.items()}}


def random_weights(width_divisor, fc_width, fc_kernel, context=False, seed=0):
    """He-initialised weights of a VGG16 whose layers are narrower by `width_divisor`.

    Returns:
        dict from layer name to (kernel HWIO, bias [O]), float32, of all layers.
    """
    rng, weights, inputs = np.random.default_rng(seed), {}, 3
    for name in CONVOLUTIONS:
        outputs = BLOCKS[int(name[4]) - 1][0] // width_divisor
        weights[name] = he_kernel(rng, 3, inputs, outputs), np.zeros(outputs, np.float32)
        inputs = outputs
    return with_new_top(weights, fc_width, fc_kernel, context, seed + 1)


def read_npz(path, fc_width=512, fc_kernel=3, context=False):
    """Reads the 13 convolutions from an `.npz` and adds new layers fc6 and fc7.

    Returns:
        dict from layer name to (kernel HWIO, bias [O]), float32, of all layers.

    Raises:
        InputError: the file is unreadable, or an array is missing or of another shape.
    """
    try:
        with np.load(path) as arrays:
            weights, inputs = {}, 3
            for name in CONVOLUTIONS:
                outputs = BLOCKS[int(name[4]) - 1][0]
                kernel, bias = arrays[name + '_W'], arrays[name + '_b']
                expected = (3, 3, inputs, outputs)
                if kernel.shape != expected or bias.shape != (outputs,):
                    raise InputError(f'{path}: {name} has kernel {kernel.shape} and bias '
                                     f'{bias.shape}, expected {expected} and {(outputs,)}')
                weights[name] = kernel.astype(np.float32), bias.astype(np.float32)
                inputs = outputs
    except KeyError as error:
        raise InputError(f'{path} lacks an array of VGG16: {error.args[0]}') from error
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f'{path} is not a readable .npz file: {error}') from error
    return with_new_top(weights, fc_width, fc_kernel, context)


def read_keras(weights):
    """Reads VGG16 with its top through Keras, and turns fc1 and fc2 into convolutions.

    Args:
        weights: path of an `.h5` file of `keras.applications.VGG16`, or 'imagenet', which
            Keras downloads.

    Returns:
        dict from layer name to (kernel HWIO, bias [O]), float32, of all layers.

    Raises:
        InputError: Keras can't read or fetch the weights.
    """
    try:
        model = tf.keras.applications.VGG16(weights=str(weights))
    except Exception as error:     # Keras and h5py raise a dozen kinds
        reason = str(error).strip().splitlines()[0]
        raise InputError(f'Keras could not load VGG16 with its top from {weights}: '
                         f'{reason}') from error
    result = {}
    for name in CONVOLUTIONS:
        layer = model.get_layer(name.replace('conv', 'block').replace('_', '_conv'))
        result[name] = tuple(np.asarray(value) for value in layer.get_weights())
    for name, dense, size in (('fc6', 'fc1', 7), ('fc7', 'fc2', 1)):
        kernel, bias = (np.asarray(value) for value in model.get_layer(dense).get_weights())
        result[name] = kernel.reshape(size, size, -1, bias.size), bias
    return result


def dropout(inputs, keep_prob, layer):
    """Dropout whose mask depends on the layer's number and the global step alone.

    So a run that was interrupted and resumed draws the masks it would have drawn. The
    training step must count the global step, as `main.optimize` does.

    Args:
        inputs: float32 tensor [N, H, W, D].
        keep_prob: float32 tensor [], 0-1.
        layer: int, makes the masks of two layers differ.

    Returns:
        float32 tensor [N, H, W, D].
    """
    step = tf.cast(tf.train.get_or_create_global_step(), tf.int32)
    draw = tf.random.stateless_uniform(tf.shape(inputs), seed=tf.stack([layer, step]))
    return tf.where(draw < keep_prob, inputs / keep_prob, tf.zeros_like(inputs))


def build(shapes, preprocess):
    """Builds the network in the default graph, with variables that are yet to be filled.

    Names `image_input`, `keep_prob`, `layer3_out`, `layer4_out` and `layer7_out` are those
    of the course's archive. Outputs of the pooling layers have ceil(H / 2**k) rows.

    Args:
        shapes: dict from layer name to the kernel's shape [K, K, I, O].
        preprocess: `caffe_input` or `torch_input`; also decides the unit of layers 3 and 4.

    Returns:
        dict from layer name to (kernel, bias) variables.
    """
    variables = {}

    def convolution(inputs, name, dilation=1):
        with tf.variable_scope(name):
            kernel = tf.get_variable('kernel', shapes[name], initializer=tf.zeros_initializer)
            bias = tf.get_variable('bias', shapes[name][-1:], initializer=tf.zeros_initializer)
            variables[name] = kernel, bias
            return tf.nn.relu(tf.nn.bias_add(
                tf.nn.conv2d(inputs, kernel, strides=1, padding='SAME', dilations=dilation), bias))

    def context(inputs):
        branches = [convolution(inputs, f'fc6_{dilation}', dilation) for dilation in DILATIONS]
        image_mean = convolution(tf.reduce_mean(inputs, axis=[1, 2], keepdims=True), 'fc6_image')
        branches.append(tf.broadcast_to(image_mean, tf.shape(branches[0])))
        return tf.concat(branches, axis=3)

    image = tf.placeholder(tf.float32, [None, None, None, 3], name='image_input')
    keep_prob = tf.placeholder_with_default(1.0, [], name='keep_prob')
    outputs = preprocess(image)
    for block, (_, depth) in enumerate(BLOCKS, 1):
        for number in range(1, depth + 1):
            outputs = convolution(outputs, f'conv{block}_{number}')
        outputs = tf.nn.max_pool2d(outputs, ksize=2, strides=2, padding='SAME')
        if block in (3, 4):
            tf.multiply(outputs, UNITS[preprocess], name=f'layer{block}_out')
    outputs = convolution(outputs, 'fc6') if 'fc6' in shapes else context(outputs)
    outputs = dropout(outputs, keep_prob, layer=6)
    outputs = dropout(convolution(outputs, 'fc7'), keep_prob, layer=7)
    tf.identity(outputs, name='layer7_out')
    return variables


def save(weights, preprocess, out):
    """Writes the graph and its weights as a SavedModel with the tag `vgg16`.

    Args:
        weights: dict from layer name to (kernel HWIO, bias [O]), float32, of all layers.
        preprocess: `caffe_input` or `torch_input`.
        out: folder to be made; it appears when it is whole.

    Raises:
        InputError: `out` is there already.
    """
    out = Path(out)
    if out.exists():
        raise InputError(f'{out} is there already; move it away or choose another --out')
    part = out.with_name(out.name + '.part')
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default() as graph, tf.Session(graph=graph) as sess:
        variables = build({name: kernel.shape for name, (kernel, _) in weights.items()},
                          preprocess)
        sess.run(tf.train.get_or_create_global_step().initializer)
        for name, pair in weights.items():
            for variable, value in zip(variables[name], pair):
                variable.load(value, sess)
        builder = tf.saved_model.Builder(str(part))
        builder.add_meta_graph_and_variables(sess, [TAG])
        builder.save()
    part.rename(out)


def convert(path, out, fc_width=512, fc_kernel=3, context=False):
    """Turns a weight file, `.h5` or `.npz`, into the graph of this module.

    Raises:
        InputError: the file is missing, of another kind, or not VGG16's; or `out` exists.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'no weight file {path}')
    if path.suffix == '.npz':
        save(read_npz(path, fc_width, fc_kernel, context), torch_input, out)
    elif path.suffix in ('.h5', '.hdf5'):
        save(read_keras(path), caffe_input, out)
    else:
        raise InputError(f"{path}: expected Keras' .h5 or an .npz of the 13 convolutions")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description='Builds the fully convolutional VGG16 graph from a weight file.')
    parser.add_argument('--weights', required=True, metavar='FILE',
                        help="Keras' .h5 with the top, or an .npz of the 13 convolutions")
    parser.add_argument('--out', default='data/vgg', help='folder to write (%(default)s)')
    parser.add_argument('--fc-width', type=int, default=512, metavar='N',
                        help='.npz only: channels of the new fc6 and fc7 (%(default)s)')
    parser.add_argument('--fc-kernel', type=int, default=3, metavar='K',
                        help='.npz only: spatial size of the new fc6 (%(default)s)')
    parser.add_argument('--context', action='store_true',
                        help='.npz only: a fc6 that looks near, far and at the whole image, '
                             'which scores better: see README.md')
    args = parser.parse_args(argv)
    try:
        if args.fc_width < 2 or args.fc_kernel < 1:
            raise InputError(f'--fc-width {args.fc_width} and --fc-kernel {args.fc_kernel} should '
                             'be at least 2 and 1')
        convert(args.weights, args.out, args.fc_width, args.fc_kernel, args.context)
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'wrote {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
