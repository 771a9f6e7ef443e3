"""What a training run will take, told before it starts: size, work, memory and time."""
import math
import time
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from roadseg.commands import duration
from roadseg.driver import offers_gpu
from roadseg.errors import InputError
from roadseg.machine import free_memory
from roadseg.training.processor import is_without_onednn
from roadseg.training.variables import behind, forward_operations

CONVOLUTIONS = ('Conv2D', 'DepthwiseConv2dNative', 'Conv2DBackpropInput')       # and transposed
KEPT_FOR_BACKWARD = ('Relu', 'Relu6', 'MaxPool')
PROBE = 96                  # rows and columns at which the layers' shapes are asked for
WORKSPACE = 2 ** 28          # bytes of buffers whatever the size; benchmarks/memory.py measures
TRANSIENT = 4               # copies of the largest layer that live at a time, likewise


class Cost(NamedTuple):
    """What a training step takes."""
    parameters: int             # of the trainable variables
    gflop_per_image: float      # of the forward pass; a multiplication and an addition are two
    memory: int                 # bytes, estimated, of a training step
    memory_of_image: int        # bytes of it that each image of a batch adds
    memory_to_predict: int = 0  # bytes, estimated, of a prediction at the largest test scale
    test_scale: float = 1.0     # that scale
    carried_back: float = 1.0   # share of the work that the backward pass goes through, too

    @property
    def at_most(self):
        """Bytes, estimated, of a training step or a prediction, whichever takes more."""
        return max(self.memory, self.memory_to_predict)


def layer_shapes(sess, fetch, input_image, feed_dict):
    """The layers behind a tensor that take work or memory, at a small size.

    Args:
        sess: session; the variables have values.
        fetch: tensor.
        input_image: placeholder [N, H, W, 3].
        feed_dict: what else to feed, the keep probability.

    Returns:
        List of (operation, shape of its output for an image of `PROBE` by `PROBE`).
    """
    layers = [operation for operation in forward_operations(fetch)
              if operation.type in KEPT_FOR_BACKWARD + CONVOLUTIONS]
    image = np.zeros((1, PROBE, PROBE, 3), input_image.dtype.as_numpy_dtype)
    outputs = sess.run([layer.outputs[0] for layer in layers], {**feed_dict, input_image: image})
    return [(layer, output.shape) for layer, output in zip(layers, outputs)]


def cost(sess, logits, input_image, image_shape, batch_size, variables, precision, feed_dict,
         test_scale=1.0):
    """Work and memory of a training step, from the layers' shapes at a small size.

    The backward pass needs the outputs of the layers from the first trained one on; before it,
    and for gradients, a few copies of the largest layer come and go.

    Args:
        sess: session; the variables have values.
        logits: tensor.
        input_image: placeholder [N, H, W, 3].
        image_shape: (H, W) of the training.
        batch_size: N.
        variables: those that are trained.
        precision: of the activations, 'float32', 'float16' or 'bfloat16'.
        feed_dict: what else to feed, the keep probability.
        test_scale: largest factor of the size at which is predicted.

    Returns:
        `Cost`.
    """
    variables = behind(logits, variables)
    trained = {variable.op for variable in variables}
    for operation in forward_operations(logits):
        if any(tensor.op in trained for tensor in operation.inputs):
            trained.add(operation)
    work, carried_back, kept, largest = 0, 0, 0, 0
    for operation, size in layer_shapes(sess, logits, input_image, feed_dict):
        if operation.type in CONVOLUTIONS:
            kernel = math.prod(operation.inputs[1].shape.as_list())
            meets = math.prod(size[:3])     # dilation puts pixels into the batch
            if operation.type == 'Conv2DBackpropInput':     # each input pixel meets the kernel
                meets //= math.prod(operation.get_attr('strides'))
            of_layer = 2 * meets * kernel
            work += of_layer
            carried_back += of_layer if operation in trained else 0
        elif operation in trained:
            kept += math.prod(size)
        largest = max(largest, math.prod(size))
    scale = image_shape[0] * image_shape[1] / PROBE ** 2
    width = 4 if precision == 'float32' else 2
    of_image = int(width * (kept + TRANSIENT * largest) * scale)
    parameters, of_all = (sum(math.prod(variable.shape.as_list()) for variable in some)
                          for some in (variables, behind(logits, tf.trainable_variables())))
    # weights, gradients, two moments of Adam and the moving averages, 4 bytes each; and the
    # weights that are left as they are
    fixed = 20 * parameters + 4 * (of_all - parameters) + WORKSPACE
    return Cost(parameters, work * scale / 1e9, fixed + batch_size * of_image, of_image,
                fixed + to_predict(largest, image_shape, test_scale, precision), test_scale,
                carried_back / max(work, 1))


def to_predict(largest, image_shape, test_scale, precision):
    """Bytes that the layers of a forward pass of one image take.

    Args:
        largest: numbers in the output of the largest layer, of an image of `PROBE` by `PROBE`.
        image_shape: (H, W) of the training.
        test_scale: factor of that size.
        precision: of the activations.
    """
    scale = image_shape[0] * image_shape[1] / PROBE ** 2 * test_scale ** 2
    return int((4 if precision == 'float32' else 2) * TRANSIENT * largest * scale)


def seconds_per_image(sess, logits, input_image, image_shape, feed_dict, carried_back):
    """Estimates the time of a training step from a forward pass of one image.

    The backward pass is taken as twice the forward pass, as far as it goes: see `Cost`.
    """
    image = np.zeros((1, *image_shape, 3), input_image.dtype.as_numpy_dtype)
    feed_dict = {**feed_dict, input_image: image}
    sess.run(logits, feed_dict)         # the first one also plans
    began = time.perf_counter()
    sess.run(logits, feed_dict)
    return (1 + 2 * carried_back) * (time.perf_counter() - began)


def available_memory(sess, sharing=1):
    """Bytes that the session's device can give, None where that is not known.

    Of a GPU, that is TensorFlow's limit; of a CPU, what the system has left, shared by as many
    processes as will take it.
    """
    limits = [device.memory_limit_bytes for device in sess.list_devices()
              if device.device_type == 'GPU']
    if limits:
        return limits[0]
    free = free_memory()
    return free and free // sharing


def memory_advice(cost, batch_size, available):
    """One line saying what would fit, or where the memory has gone since the start.

    Args:
        cost: `Cost` of a step with `batch_size` images.
        batch_size: N.
        available: bytes, None for unknown.
    """
    what = f'about {cost.memory / 2**30:.1f} GiB are needed for batches of {batch_size}'
    if available is None:
        return f'{what}; choose a smaller --batch-size or --image-size'
    fixed = cost.memory - batch_size * cost.memory_of_image
    fits = min((available - fixed) // cost.memory_of_image, batch_size - 1)
    what += f' and {available / 2**30:.1f} GiB are free'
    if cost.memory <= available:        # so it was at the start
        return (f'{what} at the start; end what else uses the memory, nvidia-smi shows it of a '
                'GPU, or choose a smaller --batch-size or --image-size')
    if fits >= 1:
        return f'{what}; --batch-size {fits} will do'
    if fixed >= available:
        return (f'{what}; {fixed / 2**30:.1f} GiB are for the weights, whatever the photographs: '
                'choose a smaller --encoder')
    return f'{what}; not even one image will fit: choose a smaller --image-size'


def check(cost, batch_size, available):
    """Refuses a training that won't fit, or whose predictions won't.

    Args:
        cost: `Cost` of a step with `batch_size` images.
        batch_size: N.
        available: bytes, None for unknown.

    Raises:
        InputError: the memory will not do; says what batch size will.
    """
    if available is not None and cost.memory > available:
        raise InputError(f'out of memory: {memory_advice(cost, batch_size, available)}')
    check_to_predict(cost.memory_to_predict, cost.test_scale, available)


def check_to_predict(needed, test_scale, available):
    """Refuses predictions that won't fit, at the largest test scale.

    Args:
        needed: bytes.
        test_scale: for the message.
        available: bytes, None for unknown.

    Raises:
        InputError: the memory will not do.
    """
    if available is not None and needed > available:
        raise InputError(
            f'out of memory: about {needed / 2**30:.1f} GiB are needed to predict at --test-scale '
            f'{test_scale:g} and {available / 2**30:.1f} GiB are free; choose a smaller one')


def check_dilation(graph):
    """Raises InputError where the gradient of a dilated convolution is wanted and not there.

    Eigen has none; the frozen graphs of this project do without, by rearrangement.
    """
    dilated = [operation.name for operation in graph.get_operations()
               if operation.type in ('Conv2DBackpropInput', 'Conv2DBackpropFilter')
               and set(operation.get_attr('dilations')) != {1}]
    if dilated and is_without_onednn() and not offers_gpu():
        raise InputError(f'the network has dilated convolutions ({len(dilated)} gradients, the '
                         f'first being {dilated[0]}), which a CPU trains with oneDNN alone: set '
                         'TF_ENABLE_ONEDNN_OPTS=1, or dilate as roadseg/networks/vgg16.py does')


def check_prediction(network):
    """Refuses test scales at which a network's prediction won't fit into memory.

    Args:
        network: `inference.Network` in a session with all values.

    Raises:
        InputError: the memory will not do.
    """
    shapes = layer_shapes(network.sess, network.logits, network.input_image,
                          {network.keep_prob: 1.0})
    scale, largest = max(network.scales), max(math.prod(shape) for _, shape in shapes)
    check_to_predict(WORKSPACE + to_predict(largest, network.image_shape, scale, 'float32'), scale,
                     available_memory(network.sess))


@contextmanager
def advising(cost, batch_size, available):
    """Turns a lack of memory, TensorFlow's or Python's, into an InputError that says what fits."""
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError, InputError) as error:
        if isinstance(error, InputError) and not isinstance(
                error.__cause__, tf.errors.ResourceExhaustedError):
            raise
        raise InputError('out of memory: ' + memory_advice(
            cost, batch_size, available)) from error


def describe(cost, seconds, images, precision, workers=1):
    """Text of a few lines for the start of a run.

    Args:
        cost: `Cost`.
        seconds: estimate per image.
        images: that each worker is still to train on.
        precision: 'float32', 'float16' or 'bfloat16'.
        workers: how many train at the same time.
    """
    return (f'{cost.parameters / 1e6:.1f} million parameters to train, '
            f'{cost.gflop_per_image:.1f} GFLOP per image forward, {precision}\n'
            f'expected: {cost.memory / 2**30:.1f} GiB of memory beside the photographs, '
            f'{workers / max(seconds, 1e-9):.3g} images/s, {duration(images * seconds)} of training')


def describe_epoch(row, epochs, max_steps):
    """The line that an epoch ends with, from its row of the log: loss, speed, the time to go."""
    left = row['seconds'] * (1 / max(row['epoch'] / epochs, row['step'] / max_steps) - 1)
    speed = row['images_per_second']
    return (f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}"
            + (f', {speed:.2f} images/s' if speed else '')
            + (f', {duration(left)} to go' if left > 60 else ''))


def estimate(sess, net, variables, options, team):
    """Finds out what a training run will take, and checks that the memory will do.

    Args:
        sess: session; the variables have values.
        net: `main.Training`.
        variables: those that are trained.
        options: namespace with `image_size`, `batch_size`, `precision` and `test_scale`.
        team: the workers.

    Returns:
        (`Cost`, seconds per image, bytes available or None).

    Raises:
        InputError: the memory will not do; says what batch size will. Or see `check_dilation`.
    """
    check_dilation(sess.graph)
    inference = {net.keep_prob: 1.0}
    found = cost(sess, net.logits, net.input_image, options.image_size, options.batch_size,
                 variables, options.precision, inference, max(options.test_scale))
    available = available_memory(sess, team.count_here)
    check(found, options.batch_size, available)
    with advising(found, options.batch_size, available):
        seconds = seconds_per_image(sess, net.logits, net.input_image, options.image_size,
                                    inference, found.carried_back)
    return found, seconds, available
