"""Moving averages of the weights, which are validated and saved."""
import tensorflow.compat.v1 as tf

from roadseg.training.loss_scale import only_if


def averaged(train_op, variables, decay, step, condition=None):
    """Extends a training step by moving averages of the weights (Polyak and Juditsky, 1992).

    Adds the operation 'swap_averages', which exchanges weights and averages.

    Args:
        train_op: operation or tensor of the step.
        variables: list of the weights to average.
        decay: of the averages, 0-1; less in the first steps, see `num_updates` of
            `tf.train.ExponentialMovingAverage`.
        step: the global step.
        condition: bool tensor [] without which the averages stay; None for always.

    Returns:
        Operation or tensor that does the step and moves the averages.
    """
    averages = tf.train.ExponentialMovingAverage(decay, num_updates=step)
    with tf.control_dependencies([train_op]):
        train_op = only_if(condition, lambda: averages.apply(variables))
    pairs = [(variable, averages.average(variable)) for variable in variables]
    # Copies, as the identity of a reference variable would change with the variable.
    values = [(tf.raw_ops.DeepCopy(x=first), tf.raw_ops.DeepCopy(x=second))
              for first, second in pairs]
    with tf.control_dependencies([value for pair in values for value in pair]):
        tf.group(*(tf.group(tf.assign(first, new_first), tf.assign(second, new_second))
                   for (first, second), (new_second, new_first) in zip(pairs, values)),
                 name='swap_averages')
    return train_op


def statistics():
    """Returns the moving moments of the graph's batch normalisations, which go with weights."""
    return [variable for variable in tf.global_variables()
            if variable.op.name.endswith(('/moving_mean', '/moving_variance'))]
