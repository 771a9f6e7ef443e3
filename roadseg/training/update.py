"""What a training step does with its gradients."""
from functools import partial

import tensorflow.compat.v1 as tf

from roadseg.training import averages, loss_scale
from roadseg.training.variables import DECODER


def adam_step(gradients, variables, learning_rate, decoder_rate=1.0, average_decay=0.0,
              finite=None):
    """One step of Adam, of what goes with it, and of the global step.

    Args:
        gradients: list of float32 tensors, one a variable.
        variables: those that are trained.
        learning_rate: float32 tensor [].
        decoder_rate: factor of the learning rate of the decoder.
        average_decay: of the moving averages of the weights, 0 for none.
        finite: bool tensor []; where it is False, only the global step changes. None for True.

    Returns:
        Operation or tensor to run.
    """
    step = tf.train.get_or_create_global_step()
    updates = []
    for of_decoder, rate in ((False, learning_rate), (True, decoder_rate * learning_rate)):
        group = [(gradient, variable) for gradient, variable in zip(gradients, variables)
                 if variable.name.startswith(DECODER) == of_decoder]
        if group:
            updates.append(loss_scale.only_if(
                finite, partial(tf.train.AdamOptimizer(rate).apply_gradients, group)))
    # Batch normalisation's moving averages are updated by operations of their own.
    with tf.control_dependencies(updates + loss_scale.update_ops(finite)):
        train_op = tf.assign_add(step, 1, name='train')
    if average_decay:
        train_op = averages.averaged(train_op, variables + averages.statistics(), average_decay,
                                     step, finite)
    return train_op
