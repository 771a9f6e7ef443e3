"""Which variables a run trains, and the decay of their weights."""
import numpy as np
import tensorflow.compat.v1 as tf

DECODER = 'decoder/'        # what `main.layers` and `segnet.layers` create begins with it


def trained_variables(freeze_blocks, train='all'):
    """Returns the trainable variables of the default graph that a run trains.

    Args:
        freeze_blocks: the first blocks of the encoder, 0-5, that are left as they are.
        train: 'all', or 'decoder' to leave the whole encoder as it is: nothing is carried back
            through it.
    """
    frozen = tuple(f'conv{block}_' for block in range(1, freeze_blocks + 1))
    return [variable for variable in tf.trainable_variables()
            if not variable.name.startswith(frozen)
            and (train == 'all' or variable.name.startswith(DECODER))]


def forward_operations(fetch):
    """Operations that `fetch` depends on, inputs before what they go into."""
    found, waiting = set(), [fetch.op]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting.extend(tensor.op for tensor in operation.inputs)
    return [operation for operation in fetch.graph.get_operations() if operation in found]


def behind(fetch, variables):
    """Returns those of the variables that `fetch` depends on."""
    operations = set(forward_operations(fetch))
    return [variable for variable in variables if variable.op in operations]


def l2_regularizer(weight_decay):
    """L2: `weight_decay` times half the sum of squares."""
    return lambda kernel: weight_decay * tf.nn.l2_loss(kernel)


def add_weight_decay(variables, weight_decay):
    """Adds the L2 loss of the kernels among the variables to the regularization losses.

    Args:
        variables: list.
        weight_decay: factor of half the sum of squares.
    """
    for variable in variables:
        if variable.shape.ndims == 4:
            tf.add_to_collection(tf.GraphKeys.REGULARIZATION_LOSSES,
                                 l2_regularizer(weight_decay)(variable))


def initialize_new(sess):
    """Initialises the variables that hold no value yet, and leaves pretrained weights alone."""
    with sess.graph.as_default():
        variables = tf.global_variables()
        if variables:
            names = set(sess.run(tf.report_uninitialized_variables(variables)))
            new, loaded = [], {}
            for variable in variables:
                initial = variable.initial_value
                if variable.op.name.encode() in names:
                    new.append(variable.initializer)
                # A moving average begins with the value that its weights have, but TensorFlow
                # computes their initial value, too, which may be an error: see `encoder`.
                elif initial is not None and initial.op.type == 'CheckNumerics':
                    loaded[initial] = np.zeros(initial.shape, np.float32)
            sess.run(new, loaded)
