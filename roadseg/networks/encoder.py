"""What every frozen encoder has: variables, dropout, how it is saved and what is asked of it.

A SavedModel with the tag `TAG` and the tensors `image_input`, `keep_prob`, `layer3_out`,
`layer4_out` and `layer7_out`, as in the course's archive; with a `seed`, dropout and new layers
are repeatable.
"""
import math
import sys
import zlib
from pathlib import Path

import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
import numpy as np
import tensorflow.compat.v1 as tf

from roadseg.errors import InputError
from roadseg.files import check_free, describe_os_error, move_into_place, part_folder, write_error
from roadseg.tf_errors import as_os_error, explain_gpu, naming_lack_of_memory

TAG = 'vgg16'
NEW_KERNELS = 'new_kernels'     # collection of the names of kernels that are drawn from the seed


# Building one ---------------------------------------------------------------------------------

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


def dropout(inputs, keep_prob, layer, seed):
    """Dropout whose mask depends on the seed, the layer's number and the global step alone.

    So a run that was interrupted and resumed draws the masks it would have drawn. The
    training step must count the global step, as `main.optimize` does.

    Args:
        inputs: float32 tensor [N, H, W, D].
        keep_prob: float32 tensor [], 0-1.
        layer: int, 0-15, makes the masks of two layers differ.
        seed: int64 tensor [].

    Returns:
        float32 tensor [N, H, W, D].
    """
    step = tf.cast(tf.train.get_or_create_global_step(), tf.int64)
    draw = tf.random.stateless_uniform(tf.shape(inputs), seed=tf.stack([16 * seed + layer, step]))
    return tf.where(draw < keep_prob, inputs / keep_prob, tf.zeros_like(inputs))


def he_normal(shape, seed, name):
    """Values of a new kernel for a ReLU layer (He et al., "Delving Deep into Rectifiers", 2015).

    Args:
        shape: [K, K, I, O].
        seed: int64 tensor [].
        name: of the layer; two layers of a seed differ.

    Returns:
        float32 tensor [K, K, I, O], normal, variance 2 / (K * K * I).
    """
    draw = tf.random.stateless_normal(shape, seed=tf.stack([seed, zlib.crc32(name.encode())]))
    return draw * math.sqrt(2 / math.prod(shape[:3]))


def convolution_variables(shape, drawn=None):
    """Creates the variables of a convolution, in the variable scope that is open.

    Args:
        shape: [K, K, I, O] of the kernel.
        drawn: float32 tensor of that shape, the initial value of a new kernel, whose name is
            added to the graph's collection `NEW_KERNELS`; its bias begins with zeros. None for
            a pretrained layer, which is to be loaded and refuses to be initialised.

    Returns:
        (kernel, bias [O]) variables, float32.
    """
    if drawn is None:
        return (tf.get_variable('kernel', initializer=_none_but_loaded(shape)),
                tf.get_variable('bias', initializer=_none_but_loaded(shape[-1:])))
    kernel = tf.get_variable('kernel', initializer=drawn)
    tf.add_to_collection(NEW_KERNELS, kernel.op.name)
    return kernel, tf.get_variable('bias', shape[-1:], initializer=tf.zeros_initializer)


def _none_but_loaded(shape):
    """An initial value that is an error: `tf.global_variables_initializer()` wipes what is loaded.

    NaN alone would not do: oneDNN's max pooling with AVX-512 passes over it, and the training
    would go on, silently, on features of zeros.
    """
    return tf.debugging.check_numerics(
        tf.fill(shape, np.float32(np.nan)), 'pretrained weights are loaded, and initialising them '
        'would wipe them; call main.initialize_new(sess) instead of '
        'tf.global_variables_initializer()')


def fill(sess, variables, weights):
    """Loads the weights into the variables, and draws those of which there are none.

    Args:
        sess: session of the variables' graph.
        variables: dict from layer name to (kernel, bias) variables.
        weights: dict from layer name to (kernel HWIO, bias [O]), or {}.
    """
    initializers = {name: [variable.initializer for variable in pair]
                    for name, pair in variables.items()}
    # An initializer assigns its second input; one run of all takes a second, 106 runs several.
    feed = {initializer.inputs[1]: value for name, values in weights.items()
            for initializer, value in zip(initializers[name], values)}
    step = tf.train.get_or_create_global_step()     # which dropout depends on
    sess.run([step.initializer, *initializers.values()], feed)


def save(sess, out):
    """Writes the session's graph and variables as a SavedModel with the tag of an encoder.

    Args:
        sess: session whose variables have values.
        out: folder to be made; it appears when it is whole.

    Raises:
        InputError: `out` is there already, or cannot be written.
    """
    out = Path(out)
    check_free(out)
    try:
        with part_folder(out) as part:
            builder = tf.saved_model.Builder(str(part))
            builder.add_meta_graph_and_variables(sess, [TAG])
            builder.save()
            move_into_place(part, out)
    except (OSError, tf.errors.OpError) as error:
        raise write_error(out, as_os_error(error)) from error


# Using it -------------------------------------------------------------------------------------

def check_layers(sess, path, image, keep_prob, layers):
    """Checks that a frozen graph, which may be anybody's, gives what decoders are built on.

    Args:
        sess: session that the graph was loaded into.
        path: of the graph, for messages.
        image: placeholder [N, H, W, 3].
        keep_prob: tensor [].
        layers: tensors of layers 3, 4 and 7.

    Raises:
        InputError: they are not float32 [N, H/8, W/8, D3], [N, H/16, W/16, D4] and [N, H/32, W/32,
            D7], the sizes rounded up, with known D; or not finite.
    """
    size, strides = (72, 104), (8, 16, 32)
    photographs = np.zeros((2, *size, 3), image.dtype.as_numpy_dtype)
    try:
        with naming_lack_of_memory(f'the graph in {path} was tried'):
            values = sess.run(layers, {image: photographs, keep_prob: 1})
    except tf.errors.OpError as error:
        explain_gpu(error)
        raise InputError(f'the graph in {path} does not take photographs of {size[0]}x{size[1]} '
                         f'pixels: {describe_os_error(as_os_error(error))}; it should take any '
                         'size') from error
    except ValueError as error:         # of another shape than the graph has
        raise InputError(f'the graph in {path} does not take photographs and a keep probability: '
                         f'{str(error).splitlines()[0]}; the latter should be a scalar') from error
    for layer, value, stride in zip(layers, values, strides):
        found = value.shape
        expected = tuple(math.ceil(side / stride) for side in size)
        if layer.dtype != tf.float32 or layer.shape.rank != 4 or not layer.shape[-1] or \
                found[1:3] != expected or not layer.shape.is_compatible_with(found):
            raise InputError(
                f'the graph in {path} gives {layer.name} as {layer.dtype.name} {layer.shape}, and '
                f'{found[1:3]} of photographs of {size}; expected float32 [N, H, W, D], of which '
                f'D is known and the others are not, and {expected}')
        if not np.isfinite(value).all():
            raise InputError(f'the graph in {path} gives {layer.name} values that are not finite: '
                             'its weights are damaged; make or fetch it anew')


def draw_new_kernels(sess, seed):
    """Draws the frozen graph's kernels that are not pretrained, if it has some, from the seed.

    Returns:
        dict from the graph's seed tensor, on which its dropout depends, to the seed, to feed; {}
        for a graph without one, such as the course's.
    """
    try:
        feed = {sess.graph.get_tensor_by_name('seed:0'): seed}
    except KeyError:
        if any(operation.type == 'RandomUniform' for operation in sess.graph.get_operations()):
            print('warning: this frozen graph draws its dropout by itself, which neither --seed '
                  'nor --resume repeats', file=sys.stderr)
        return {}
    names = {name.decode() for name in tf.get_collection(NEW_KERNELS)}
    sess.run([variable.initializer for variable in tf.global_variables()
              if variable.op.name in names], feed)
    return feed
