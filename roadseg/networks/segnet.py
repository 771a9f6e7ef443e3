"""SegNet's decoder: VGG16's 13 convolutions in mirror image, fed by the places of its maxima.

Badrinarayanan, Kendall and Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture
for Image Segmentation", PAMI 2017. The encoder is that of the frozen graph, without fc6 and fc7.
"""
import tensorflow.compat.v1 as tf

from roadseg.errors import InputError
from roadseg.training.variables import forward_operations, l2_regularizer

CONVOLUTIONS = (2, 2, 3, 3, 3)  # of VGG16's stages; the decoder goes through them backwards
EPSILON = 1e-3                  # added to a variance
MOVING_DECAY = 0.99             # of the moving averages of the moments


def pool_inputs(last):
    """Returns what precedes each of the max poolings that a tensor is computed through.

    Args:
        last: the frozen VGG16's layer 7.

    Returns:
        List of 5 float32 tensors [N, H/2**k, W/2**k, D_k], k = 0 to 4; sizes are rounded up.

    Raises:
        InputError: there are not 5 poolings of 2x2, one after the other.
    """
    found = [operation for operation in forward_operations(last) if operation.type == 'MaxPool']
    windows = [operation.get_attr('ksize') for operation in found]
    if windows != [[1, 2, 2, 1]] * len(CONVOLUTIONS):
        sizes = ', '.join(f'{rows}x{columns}' for _, rows, columns, _ in windows) or 'none'
        raise InputError(
            f'the frozen graph has {len(found)} max poolings ({sizes}), and SegNet is built on '
            'the 5 of 2x2 in VGG16; leave --encoder out, or build one with `python -m '
            'roadseg.networks.vgg16 --weights FILE`')
    return [operation.inputs[0] for operation in found]


def unpool(values, pool_input):
    """Puts each value where the maximum of its 2x2 window was, and zeros elsewhere.

    Of equal maxima, the first in the order of rows and columns counts, as in
    `tf.nn.max_pool_with_argmax`: after a ReLU whole windows are zero. Three comparisons decide,
    each made once, so that whatever their rounding just one position of the window is chosen.

    There is a gradient to the values alone. The obvious `tf.scatter_nd` by the indices of
    `max_pool_with_argmax` is several times slower on a CPU, see benchmarks/unpooling.py, and
    TFLite has no such pooling.

    Args:
        values: float32 tensor [N, ceil(H/2), ceil(W/2), D].
        pool_input: float32 tensor [N, H, W, D] without negative numbers, that which was pooled
            in windows of 2x2 with padding 'SAME'; D is known.

    Returns:
        float32 tensor [N, H, W, D].
    """
    size = tf.shape(pool_input)
    # The zeros added never win: a window's first position is in the picture, and not negative.
    even = tf.pad(pool_input, [[0, 0], [0, size[1] % 2], [0, size[2] % 2], [0, 0]])
    corners = tf.split(tf.nn.space_to_depth(even, 2), 4, axis=3)
    top_left, top_right, bottom_left, bottom_right = corners
    in_top = tf.maximum(top_left, top_right) >= tf.maximum(bottom_left, bottom_right)
    zeros = tf.zeros_like(values)
    cells = []
    for in_row, left, right in ((in_top, top_left, top_right),
                                (tf.logical_not(in_top), bottom_left, bottom_right)):
        row, in_left = tf.where(in_row, values, zeros), left >= right
        cells += [tf.where(in_left, row, zeros), tf.where(in_left, zeros, row)]
    outputs = tf.nn.depth_to_space(tf.concat(cells, axis=3), 2)
    # Not outputs[:, :H, :W], whose gradient takes 107 ms instead of 3 at 1x179x239x128.
    return tf.slice(outputs, [0, 0, 0, 0], size)


def batch_norm(inputs, is_training, moving_decay, reduce_mean=None):
    """Batch normalisation (Ioffe and Szegedy, 2015), each channel over the batch and its pixels.

    Variances are biased, the moving ones too: neighbouring pixels are no independent draws. The
    first moving averages go with the step, as in `tf.train.ExponentialMovingAverage`, so that
    they do not remember their initial values; the training must count the global step. In
    inference this is one product and one sum per number with what the variables hold.

    Adds one operation to UPDATE_OPS, which changes nothing where `is_training` is False.

    Args:
        inputs: float32 tensor [N, H, W, D], D known.
        is_training: bool tensor [], whether to use the moments of the batch.
        moving_decay: of the moving averages, 0-1.
        reduce_mean: see `layers`.

    Returns:
        float32 tensor [N, H, W, D].
    """
    depth = inputs.shape[-1]
    scale = tf.get_variable('scale', [depth], initializer=tf.ones_initializer)
    offset = tf.get_variable('offset', [depth], initializer=tf.zeros_initializer)
    moving_mean = tf.get_variable('moving_mean', [depth], initializer=tf.zeros_initializer,
                                  trainable=False)
    moving_variance = tf.get_variable('moving_variance', [depth], initializer=tf.ones_initializer,
                                      trainable=False)

    def normalised_by(mean, variance):
        factor = scale * tf.rsqrt(variance + EPSILON)
        return tf.nn.bias_add(inputs * factor, offset - mean * factor), mean, variance

    def training():
        if reduce_mean is None:     # half the time of what follows, forward and backward
            outputs, mean, unbiased = tf.nn.fused_batch_norm(inputs, scale, offset,
                                                             epsilon=EPSILON, is_training=True)
            count = tf.reduce_prod(tf.cast(tf.shape(inputs)[:-1], tf.float32))
            return outputs, mean, unbiased * (1 - 1 / count)
        mean, mean_square = reduce_mean([tf.reduce_mean(inputs, axis=[0, 1, 2]),
                                         tf.reduce_mean(tf.square(inputs), axis=[0, 1, 2])])
        # Rounding may leave less than nothing.
        return normalised_by(mean, tf.maximum(mean_square - tf.square(mean), 0.0))

    def inference():
        return normalised_by(tf.identity(moving_mean), tf.identity(moving_variance))

    outputs, mean, variance = tf.cond(is_training, training, inference)
    step = tf.cast(tf.train.get_or_create_global_step(), tf.float32)
    rate = 1 - tf.minimum(moving_decay, (1 + step) / (10 + step))
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.group(
        tf.assign_sub(moving_mean, rate * (moving_mean - mean)),
        tf.assign_sub(moving_variance, rate * (moving_variance - variance))))
    return outputs


def layers(pool_inputs, num_classes, is_training, *, weight_decay=5e-4, output_size=None,
           reduce_mean=None):
    """The decoder of SegNet, under the variable scope 'decoder'.

    Five times: unpooling by the encoder's maxima, then the convolutions of the encoder's stage
    in mirror image, `conv5_3_D` to `conv1_1_D` as in the authors' model, each followed by batch
    normalisation and a ReLU. The last one gives the classes and has neither.

    A training step must run the graph's UPDATE_OPS, and feed True to `is_training`.

    Args:
        pool_inputs: 5 float32 tensors [N, H/2**k, W/2**k, D_k], k = 0 to 4, what precedes each
            of the encoder's max poolings, see the function `pool_inputs`; the sizes are rounded
            up, each D_k is known, and no number is negative.
        num_classes: C.
        is_training: bool tensor [], whether batch normalisation takes its moments from the
            batch or from the moving averages.
        weight_decay: factor of the L2 loss of each kernel, which is added to the
            regularization losses of the graph.
        output_size: (H, W), int32 tensor [2] or pair, to cut the logits to; by default the size
            of `pool_inputs[0]`, which is that of the photograph.
        reduce_mean: for several workers, a function from a list of float32 tensors [D], E[x] and
            E[x^2] over this worker's batch, to the list of their means over the workers. Its
            gradient is the sum of the workers' gradients, times this worker's share in the mean.
            What it returns is only computed where `is_training` is True. None for one worker.

    Returns:
        Logits, float32 tensor [N, H, W, C].

    Raises:
        InputError: a depth is unknown, or a size, where it is known, leaves batch normalisation
            a single number per channel.
    """
    _check_shapes(pool_inputs)
    depths = [pool_input.shape[-1] for pool_input in pool_inputs]

    def convolution(inputs, depth, initializer):
        kernel = tf.get_variable('kernel', [3, 3, inputs.shape[-1], depth],
                                 initializer=initializer,
                                 regularizer=l2_regularizer(weight_decay))
        return tf.nn.conv2d(inputs, kernel, strides=1, padding='SAME')

    def normalised(inputs, depth, name):
        with tf.variable_scope(name):
            outputs = convolution(inputs, depth, tf.initializers.he_normal())
            return tf.nn.relu(batch_norm(outputs, is_training, MOVING_DECAY, reduce_mean))

    outputs = tf.nn.max_pool2d(pool_inputs[-1], ksize=2, strides=2, padding='SAME')
    with tf.variable_scope('decoder'):
        for stage in reversed(range(len(CONVOLUTIONS))):
            outputs = unpool(outputs, pool_inputs[stage])
            for number in range(CONVOLUTIONS[stage], 1, -1):
                outputs = normalised(outputs, depths[stage], f'conv{stage + 1}_{number}_D')
            if stage:       # on to the depth of the next one
                outputs = normalised(outputs, depths[stage - 1], f'conv{stage + 1}_1_D')
        with tf.variable_scope('conv1_1_D'):
            scores = convolution(outputs, num_classes, tf.truncated_normal_initializer(stddev=.01))
            bias = tf.get_variable('bias', [num_classes], initializer=tf.zeros_initializer)
            logits = tf.nn.bias_add(scores, bias)
    if output_size is None:
        return logits
    size = tf.stack([tf.shape(logits)[0], output_size[0], output_size[1], num_classes])
    return tf.slice(logits, [0, 0, 0, 0], size)


def _check_shapes(pool_inputs):
    """Raises InputError where `layers` does."""
    for stage, pool_input in zip(range(1, len(CONVOLUTIONS) + 1), pool_inputs, strict=True):
        if pool_input.shape[-1] is None:
            raise InputError(
                f"before the frozen graph's pooling {stage} there is a tensor of the shape "
                f'{pool_input.shape}, and SegNet needs to know its depth; build the graph with '
                '`python -m roadseg.networks.vgg16`')
        if pool_input.shape[:-1].num_elements() in (0, 1):
            raise InputError(
                f'before pooling {stage}, the shape is {pool_input.shape}, over which batch '
                'normalisation has less than two numbers per channel; choose a larger '
                '--image-size')
