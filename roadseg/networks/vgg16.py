"""VGG16 as a fully convolutional graph, saved the way `main.load_vgg` expects it.

    python -m roadseg.networks.vgg16 --weights FILE --out data/vgg [--fc-width N]
                                     [--fc-kernel K | --context]

FILE is Keras' `.h5` of VGG16, with its top (fc1 and fc2 become the 7x7 and 1x1 convolutions fc6
and fc7) or without; an `.npz` of the 13 convolutions (`conv1_1_W`, `conv1_1_b`, ... `conv5_3_b`,
kernels HWIO, torchvision's scaling of the input); or `imagenet`, which Keras downloads. Without a
top, new layers fc6 and fc7 are added. With --context, the new fc6 looks near, far and at the whole
image.

An .npz of torchvision's weights, where that is installed:

    import numpy, torchvision
    kernels = [layer for layer in torchvision.models.vgg16(weights='IMAGENET1K_V1').features
               if hasattr(layer, 'weight')]
    names = [f'conv{block}_{n}' for block, depth in enumerate((2, 2, 3, 3, 3), 1)
             for n in range(1, depth + 1)]
    arrays = {}
    for name, layer in zip(names, kernels):
        arrays[name + '_W'] = layer.weight.detach().numpy().transpose(2, 3, 1, 0)
        arrays[name + '_b'] = layer.bias.detach().numpy()
    numpy.savez('vgg16.npz', **arrays)

Networks: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2014; Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
Segmentation", 2015; for --context, Chen et al., "Rethinking Atrous Convolution for Semantic
Image Segmentation", 2017.
"""
if __name__ == '__main__':      # before the imports, which take seconds
    from roadseg.signals import stop_at_once
    stop_at_once()
import lzma
import math
import os
import sys
import tokenize
import zipfile
import zlib
from pathlib import Path

import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
import numpy as np
import tensorflow.compat.v1 as tf

from roadseg.commands import Parser, named_folder, number, run_command
from roadseg.datasets import download
from roadseg.errors import InputError
from roadseg.files import (check_file, check_free, free_space_check, human_size,
                           is_there, sweep)
from roadseg.machine import free_memory
from roadseg.networks import encoder
from roadseg.networks.encoder import (caffe_input, convolution_variables, dropout, he_normal,
                                      torch_input)
from roadseg.training.device import open_session

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))   # channels, convolutions
CONVOLUTIONS = [f'conv{block}_{number}' for block, (_, depth) in enumerate(BLOCKS, 1)
                for number in range(1, depth + 1)]
DILATIONS = (1, 2, 4)           # of the branches of fc6 with --context
COURSE_URL = 'https://s3-us-west-1.amazonaws.com/udacity-selfdrivingcar/vgg.zip'
# What reading a damaged .npz raises: encrypted members and odd compressions are RuntimeErrors, and
# a header that is nested too deep is a MemoryError.
_DAMAGE = (OSError, ValueError, TypeError, IndexError, EOFError, RuntimeError, SyntaxError,
           MemoryError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


# Units of pools 3 and 4: FCN-8s scales them by 1e-4 and 1e-2, which was made for weights that see
# inputs of a deviation near 58. Torchvision's see a deviation of 1, and a network of convolutions
# and ReLU without its biases is homogeneous. Without the unit, the skips die: their scores were
# measured at 1/140 and 1/10000 of layer 7's after 12 epochs. New layers fc6 and fc7, which keep the
# size of what they are given, see pool 5 as torchvision's weights make it, whatever the weights.
UNITS = {caffe_input: 1.0, torch_input: 58.0}


def convolution_shapes(width_divisor=1):
    """Kernel shapes of the 13 convolutions, each layer narrower by `width_divisor`.

    Returns:
        dict from layer name to [3, 3, I, O], in the order of the network.
    """
    shapes, inputs = {}, 3
    for name in CONVOLUTIONS:
        outputs = BLOCKS[int(name[4]) - 1][0] // width_divisor
        shapes[name] = [3, 3, inputs, outputs]
        inputs = outputs
    return shapes


def top_shapes(inputs, fc_width, fc_kernel=3, context=False):
    """Kernel shapes of new layers fc6 and fc7.

    Args:
        inputs: channels of conv5_3.
        fc_width: N, channels of both layers.
        fc_kernel: K, spatial size of fc6.
        context: whether fc6 consists of four branches of N / 2 channels: `DILATIONS` of a 3x3
            kernel, and one that sees the mean over the image. K is not used then.

    Returns:
        dict from layer name, 'fc6' or 'fc6_1' to 'fc6_image', and 'fc7', to [K, K, I, O].
    """
    if context:
        half = fc_width // 2
        shapes = {f'fc6_{dilation}': [3, 3, inputs, half] for dilation in DILATIONS}
        shapes['fc6_image'] = [1, 1, inputs, half]
    else:
        shapes = {'fc6': [fc_kernel, fc_kernel, inputs, fc_width]}
    branches = sum(shape[-1] for shape in shapes.values())
    return {**shapes, 'fc7': [1, 1, branches, fc_width]}


def read_npz(path):
    """Reads the 13 convolutions from an `.npz`.

    Returns:
        dict from layer name to (kernel HWIO, bias [O]), float32.

    Raises:
        InputError: the file is unreadable, or an array is missing, of another shape or kind, or
            holds what is no finite number.
    """
    check_file(path, 'expected an .npz of the 13 convolutions')
    weights = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name, shape in convolution_shapes().items():
                weights[name] = (_read_array(path, archive, name + '_W', shape),
                                 _read_array(path, archive, name + '_b', shape[-1:]))
    except KeyError as error:
        raise InputError(f'{path} lacks an array of VGG16: {error.args[0]}') from error
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise InputError(f'{path} is not a readable .npz file: {reason}') from error
    _check_finite(path, weights)
    return weights


def _read_array(path, archive, name, expected):
    """Reads one array of an open `.npz`, after its header, which may claim anything.

    Args:
        path: of the archive, for messages.
        archive: `zipfile.ZipFile`.
        name: of the array.
        expected: its shape, a list.

    Returns:
        float32 ndarray.

    Raises:
        InputError: another shape, or no floating-point numbers.
        KeyError, and those of `_DAMAGE`: the member is missing or damaged.
    """
    layout = np.lib.format
    with archive.open(name + '.npy') as file:
        version = layout.read_magic(file)
        read_header = {(1, 0): layout.read_array_header_1_0,
                       (2, 0): layout.read_array_header_2_0}.get(version)
        if read_header is None:
            raise ValueError(f'{name} has version {version} of the format of arrays')
        shape, _, kind = read_header(file)
    if list(shape) != expected:
        raise InputError(f'{path}: {name} has the shape {shape}, expected {tuple(expected)}')
    if kind.kind != 'f':
        raise InputError(f'{path}: {name} holds {kind}, expected floating-point numbers')
    with archive.open(name + '.npy') as file, np.errstate(over='ignore'):
        return layout.read_array(file, allow_pickle=False).astype(np.float32)


def read_keras(weights):
    """Reads VGG16 through Keras, and turns fc1 and fc2, where it has them, into convolutions.

    Args:
        weights: path of an `.h5` file of `keras.applications.VGG16`, with its top or without,
            or 'imagenet', the 13 convolutions, which Keras downloads (58 MB).

    Returns:
        dict from layer name to (kernel HWIO, bias [O]), float32.

    Raises:
        InputError: Keras can't read or fetch the weights.
    """
    try:
        with_top = weights != 'imagenet' and _has_top(weights)
        model = tf.keras.applications.VGG16(weights=str(weights), include_top=with_top)
    except Exception as error:     # Keras and h5py raise a dozen kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f'Keras could not load VGG16 from {weights}: {reason}') from error
    result = {}
    for name in CONVOLUTIONS:
        layer = model.get_layer(name.replace('conv', 'block').replace('_', '_conv'))
        result[name] = tuple(np.asarray(value) for value in layer.get_weights())
    for name, dense, size in (('fc6', 'fc1', 7), ('fc7', 'fc2', 1)) if with_top else ():
        kernel, bias = (np.asarray(value) for value in model.get_layer(dense).get_weights())
        result[name] = kernel.reshape(size, size, -1, bias.size), bias
    _check_finite(weights, result)
    return result


def _has_top(path):
    import h5py         # comes with Keras, and is needed for this alone
    with h5py.File(path) as file:
        # 'dense' in files that end in .weights.h5, which call layers by their kind
        return not {'fc1', 'dense'}.isdisjoint(file.get('model_weights', file.get('layers', file)))


def _check_finite(path, weights):
    """Raises InputError where a weight is NaN or infinite: training would end in NaN."""
    for name, pair in weights.items():
        for what, value in zip(('kernel', 'bias'), pair):
            if not np.isfinite(value).all():
                raise InputError(f'{path}: the {what} of {name} holds a number that is not '
                                 'finite; fetch the file again')


def build(shapes, new, preprocess):
    """Builds the network in the default graph, with variables that are yet to be filled.

    Names `image_input`, `keep_prob`, `layer3_out`, `layer4_out` and `layer7_out` are those
    of the course's archive; `seed` decides dropout and new layers. Outputs of the pooling layers
    have ceil(H / 2**k) rows.

    A pretrained layer has no initial value: `tf.global_variables_initializer()`, which would wipe
    its weights, is an error.

    Args:
        shapes: dict from layer name to the kernel's shape [K, K, I, O].
        new: names of the layers that are drawn from the seed; their kernels' names are in the
            graph's collection `encoder.NEW_KERNELS`.
        preprocess: `caffe_input` or `torch_input`; also decides the unit of layers 3 and 4.

    Returns:
        dict from layer name to (kernel, bias) variables.
    """
    variables = {}

    def convolution(inputs, name, dilation=1):
        with tf.variable_scope(name):
            kernel, bias = convolution_variables(
                shapes[name], he_normal(shapes[name], seed, name) if name in new else None)
            variables[name] = kernel, bias
            # Dilation by rearrangement: Eigen has no gradient of a dilated convolution.
            outputs = tf.nn.with_space_to_batch(
                inputs, [dilation, dilation], 'SAME', filter_shape=shapes[name][:2],
                op=lambda inputs, _, padding: tf.nn.conv2d(inputs, kernel, 1, padding))
            return tf.nn.relu(tf.nn.bias_add(outputs, bias))

    def context(inputs):
        branches = [convolution(inputs, f'fc6_{dilation}', dilation) for dilation in DILATIONS]
        image_mean = convolution(tf.reduce_mean(inputs, axis=[1, 2], keepdims=True), 'fc6_image')
        branches.append(tf.broadcast_to(image_mean, tf.shape(branches[0])))
        return tf.concat(branches, axis=3)

    image = tf.placeholder(tf.float32, [None, None, None, 3], name='image_input')
    keep_prob = tf.placeholder_with_default(1.0, [], name='keep_prob')
    seed = tf.placeholder_with_default(np.int64(0), [], name='seed')
    outputs = preprocess(image)
    for block, (_, depth) in enumerate(BLOCKS, 1):
        for place in range(1, depth + 1):
            outputs = convolution(outputs, f'conv{block}_{place}')
        outputs = tf.nn.max_pool2d(outputs, ksize=2, strides=2, padding='SAME')
        if block in (3, 4):
            tf.multiply(outputs, UNITS[preprocess], name=f'layer{block}_out')
    if any(name.startswith('fc6') for name in new):     # trained ones know the unit of their input
        outputs *= UNITS[preprocess] / UNITS[torch_input]
    outputs = convolution(outputs, 'fc6') if 'fc6' in shapes else context(outputs)
    outputs = dropout(outputs, keep_prob, 6, seed)
    outputs = dropout(convolution(outputs, 'fc7'), keep_prob, 7, seed)
    tf.identity(outputs, name='layer7_out')
    return variables


def save(weights, new_shapes, preprocess, out):
    """Writes the graph and its weights as a SavedModel with the tag `vgg16`.

    Args:
        weights: dict from layer name to (kernel HWIO, bias [O]), float32, of the pretrained
            layers.
        new_shapes: dict from layer name to kernel shape, of the layers to draw.
        preprocess: `caffe_input` or `torch_input`.
        out: folder to be made; it appears when it is whole.

    Raises:
        InputError: `out` is there already.
    """
    shapes = {name: list(kernel.shape) for name, (kernel, _) in weights.items()}
    with tf.Graph().as_default(), open_session() as sess:
        encoder.fill(sess, build({**shapes, **new_shapes}, new_shapes, preprocess), weights)
        encoder.save(sess, out)


def convert(path, out, fc_width=512, fc_kernel=3, context=False):
    """Turns a weight file, `.h5` or `.npz`, into the graph of this module.

    Args:
        path: of the file; 'imagenet' for Keras' 13 convolutions, which Keras downloads.
        out: folder to be made.
        fc_width, fc_kernel, context: see `top_shapes`; not used where the file has fc6 and fc7.

    Raises:
        InputError: the file is missing, of another kind, or not VGG16's; `context` is for new
            layers, and it has fc6 and fc7; or `out` exists.
    """
    expected = "expected Keras' .h5 or an .npz of the 13 convolutions"
    if path != 'imagenet':
        path = Path(path)
        check_file(path, expected)
    if path == 'imagenet' or path.suffix in ('.h5', '.hdf5'):
        weights, preprocess = read_keras(path), caffe_input
    elif path.suffix == '.npz':
        weights, preprocess = read_npz(path), torch_input
    else:
        raise InputError(f'{path}: {expected}')
    if context and 'fc6' in weights:
        raise InputError(f'{path} has its own fc6 and fc7; leave --context out, or take weights '
                         'without them')
    new = {} if 'fc6' in weights else top_shapes(weights['conv5_3'][1].size, fc_width, fc_kernel,
                                                 context)
    save(weights, new, preprocess, out)


# Getting it -----------------------------------------------------------------------------------

def find_encoder(options):
    """Finds the frozen graph that a training run starts from, and makes it where it is missing.

    Args:
        options: namespace with `encoder`, `dataset` and `data_dir`.

    Returns:
        Path of a SavedModel: --encoder; for drawn scenes, a narrow VGG16 without pretrained
        weights; else the VGG16 of the data folder, or the one in `data`. It is fetched to the
        data folder; not to that of one's own photographs, but to `data`.

    Raises:
        InputError: there is none, and none could be had.
    """
    if options.encoder is not None:
        return options.encoder
    folder = Path(options.data_dir) / 'vgg'
    if options.dataset != 'demo':
        places = [options.data_dir, 'data']
        there = [place for place in places if is_there(Path(place) / 'vgg')
                 or os.path.exists(Path(place) / 'vgg.zip')]
        return fetch((there or places[options.dataset == 'folder':])[0])
    sweep(folder)           # what was killed while it wrote
    if not is_there(folder):
        shapes = convolution_shapes(width_divisor=8)
        try:
            save({}, {**shapes, **top_shapes(shapes['conv5_3'][-1], fc_width=128)}, torch_input,
                 folder)
        except InputError:
            if not os.path.isfile(folder / 'saved_model.pb'):
                raise                       # else, another process was as fast
    return folder


def fetch(data_dir):
    """Leaves the frozen VGG16 graph in `data_dir/vgg`, from the first source that works.

    What is already there; the course's archive; Keras Applications' ImageNet convolutions, which
    Keras itself downloads, with the new context layers.

    Returns:
        Path of the folder.

    Raises:
        InputError: no source worked.
    """
    data_dir = Path(data_dir)
    folder, archive = data_dir / 'vgg', data_dir / 'vgg.zip'
    if is_there(folder):
        return folder
    try:
        if not os.path.exists(archive):
            download.download(COURSE_URL, archive)
        download.extract(archive, 'vgg')
        return folder
    except download.Unavailable as error:
        print(f'{error}\ntrying the VGG16 weights of Keras Applications', file=sys.stderr)
        first = error
    try:
        convert('imagenet', folder, context=True)
        download.discard(archive)
    except InputError as error:
        raise InputError(
            f'no VGG16: {first}; {error}. Three ways on: put the course\'s vgg.zip into '
            f'{data_dir}; build {folder} from a weight file with `python -m '
            'roadseg.networks.vgg16`; or run `python main.py --demo`, which needs no '
            'download') from error
    return folder


def check_room(out, fc_width, fc_kernel, context):
    """Checks that the graph can be put there and made, before weights are read or fetched.

    Args:
        out: folder to be made.
        fc_width, fc_kernel, context: see `top_shapes`.

    Raises:
        InputError: something is there already, a file stands in the way, or memory or disk will
            not do for the new layers.
    """
    check_free(out)
    shapes = top_shapes(BLOCKS[-1][0], fc_width, fc_kernel, context)
    needed, free = 4 * sum(map(math.prod, shapes.values())), free_memory()
    # the values, their draw, and what the writer buffers
    if free is not None and 3 * needed > free:
        raise InputError(f'fc6 and fc7 of --fc-width {fc_width}'
                         + ('' if context else f' and --fc-kernel {fc_kernel}')
                         + f' take {human_size(3 * needed)} of memory to make, and '
                         f'{human_size(free)} are free; choose a smaller one')
    free_space_check(out, needed, f'writing {out}')


def main(argv=None):
    """The command: writes the graph."""
    parser = Parser(prog='python -m roadseg.networks.vgg16', description=__doc__)
    parser.add_argument('--weights', required=True, metavar='FILE',
                        help="Keras' .h5, with its top or without, or an .npz of the 13 "
                             "convolutions; 'imagenet' downloads Keras' 13 convolutions")
    parser.add_argument('--out', type=named_folder, default='data/vgg', metavar='DIR',
                        help='folder to write')
    parser.add_argument('--fc-width', type=number(int, 2, 16384), default=512, metavar='N',
                        help='channels of new layers fc6 and fc7')
    parser.add_argument('--fc-kernel', type=number(int, 1, 31), default=3, metavar='K',
                        help='spatial size of a new fc6')
    parser.add_argument('--context', action='store_true',
                        help='a new fc6 that looks near, far and at the whole image, which scores '
                             'better: see docs/experiments.md')
    args = parser.parse_args(argv)
    if args.context and args.fc_kernel != parser.get_default('fc_kernel'):
        raise InputError('--context has kernels of its own; leave --fc-kernel out')
    check_room(args.out, args.fc_width, args.fc_kernel, args.context)
    convert(args.weights, args.out, args.fc_width, args.fc_kernel, args.context)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    sys.exit(run_command(main))
