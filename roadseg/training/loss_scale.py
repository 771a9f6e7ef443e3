"""Training in float16: the loss is scaled up, lest small gradients round to nothing.

Micikevicius et al., "Mixed Precision Training", ICLR 2018. TensorFlow keeps the scale: halved when
a gradient overflows, doubled after 2000 steps without. A step whose gradients overflow changes
nothing but the scale and the global step.
"""
import tensorflow.compat.v1 as tf


def scaled_gradients(loss, variables, scaled=True, total=list):
    """Gradients of a loss, computed by way of a scaled one.

    Args:
        loss: float32 tensor [].
        variables: list.
        scaled: False for plain gradients.
        total: function from gradients to their sums over several workers, which must come to the
            same decision.

    Returns:
        (list of gradients, bool tensor [] that tells whether all of them are finite). The tensor
        is None where `scaled` is False; where it is evaluated, the scale is adjusted.
    """
    if not scaled:
        return total(tf.gradients(loss, variables)), None
    scale = tf.mixed_precision.DynamicLossScale(initial_loss_scale=2 ** 15, increment_period=2000)
    factor = tf.identity(scale(), name='loss_scale')
    gradients = [gradient / factor for gradient in total(tf.gradients(factor * loss, variables))]
    adjust, finite = scale.update(gradients)
    with tf.control_dependencies([adjust]):
        return gradients, tf.identity(finite, name='gradients_are_finite')


def only_if(condition, make):
    """Operations that run only where a condition holds.

    This is `tf.cond` taken apart: that makes a function of the operations, and a function cannot
    change the variables of graphs from TensorFlow 1, such as the course's VGG16.

    Args:
        condition: bool tensor []; None for always.
        make: function that adds the operations to the graph and returns one that ends with them.

    Returns:
        Operation or tensor that ends with them, in both cases.
    """
    if condition is None:
        return make()
    switch = tf.raw_ops.Switch(data=condition, pred=condition)
    with tf.control_dependencies([tf.identity(switch.output_true)]):
        done = make()
    with tf.control_dependencies([done]):
        held = tf.identity(switch.output_true)
    return tf.raw_ops.Merge(inputs=[switch.output_false, held]).output


def update_ops(condition):
    """The operations in UPDATE_OPS, which update batch normalisation's moving averages.

    Args:
        condition: bool tensor [], under which they run; None for always.

    Returns:
        List of operations or tensors.
    """
    updates = [getattr(update, 'op', update)
               for update in tf.get_collection(tf.GraphKeys.UPDATE_OPS)]
    if condition is None or not updates:
        return updates
    # They are in the graph already; what is conditional is a copy of them, or of a group's parts.
    parts = [part for update in updates
             for part in (update.control_inputs if update.type == 'NoOp' else [update])]
    return [only_if(condition, lambda: tf.group(*(
        part.graph.create_op(part.type, list(part.inputs), [], attrs=part.node_def.attr)
        for part in parts)))]
