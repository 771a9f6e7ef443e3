"""What is left of a training graph for inference, written so that every converter can read it.

Averaged weights are constants, dropout is gone, batch normalisation is folded into the kernels,
and what depends on the sizes alone is computed where the size is known. Four things are said in
other words, which any runtime has:

    dilation by SpaceToBatchND and BatchToSpaceND   a dilated convolution
    a transposed convolution                        a convolution and DepthToSpace
    MirrorPad by one cell                           slices and a concatenation
    BroadcastTo of the mean over an image           ResizeNearestNeighbor

None of them needs the number of images, so a graph of one image takes any number.
"""
import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

from roadseg.errors import InputError
from roadseg.inference import averaged_weights
from roadseg.training.device import open_session

INPUT, OUTPUT = 'photographs', 'probabilities'


# Freezing -------------------------------------------------------------------------------------

def freeze(sess):
    """The part of the session's training graph that gives the logits, averaged weights in place.

    Args:
        sess: session of a run's graph, restored.

    Returns:
        (GraphDef without variables, name of the tensor [N, H, W, C] that holds the logits).

    Raises:
        InputError: the graph is of another model.
    """
    try:
        logits = sess.graph.get_tensor_by_name('logits:0')
    except KeyError as error:
        raise InputError(f'the checkpoint is of another model: {error.args[0]}') from error
    scores = logits.op.inputs[0]        # before they are [pixels, C]
    return _frozen(sess, [scores]), scores.name


def _frozen(sess, tensors):
    """GraphDef of what gives the tensors, the averaged weights being constants in it."""
    with averaged_weights(sess):
        return tf.graph_util.convert_variables_to_constants(
            sess, sess.graph.as_graph_def(), [tensor.op.name for tensor in tensors])


def with_constants(network, config):
    """The same network in a session of its own, the averaged weights being constants there.

    TensorFlow lays out a constant kernel once for the processor; a variable's it takes as it lies
    where a float32 photograph comes alone, by a convolution half as fast on a CPU.

    Args:
        network: `inference.Network` of a run's graph, restored.
        config: ConfigProto of the new session.

    Returns:
        `inference.Network`; its session is to be closed.
    """
    tensors = network.logits, network.keep_prob, network.input_image
    frozen = _frozen(network.sess, tensors)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen, name='')
        logits, keep_prob, input_image = (graph.get_tensor_by_name(tensor.name)
                                          for tensor in tensors)
    graph.finalize()
    return network._replace(sess=open_session(config, graph=graph), logits=logits,
                            keep_prob=keep_prob, input_image=input_image)


# Rewriting ------------------------------------------------------------------------------------

def inference_graph(frozen, scores, image_size=None, quantized=False):
    """Builds the graph from photographs to probabilities.

    Args:
        frozen, scores: from `freeze`.
        image_size: (H, W), or None for any size.
        quantized: whether the input is to be float32 with values 0-255, which a converter makes
            uint8 itself.

    Returns:
        GraphDef with the placeholder `INPUT`, uint8 [N, H, W, 3] RGB, and the tensor `OUTPUT`,
        float32 [N, H, W, C]. With `image_size`, N is 1 in it, but nothing depends on it.
    """
    shape = [None, None, None, 3] if image_size is None else [1, *image_size, 3]
    graph = tf.Graph()
    with graph.as_default(), open_session() as sess:
        photographs = tf.placeholder(tf.float32 if quantized else tf.uint8, shape, INPUT)
        found = _Rewriter(sess, photographs).rewrite(frozen, {}, [scores])
        tf.nn.softmax(found[0], name=OUTPUT)
    return tf.graph_util.extract_sub_graph(graph.as_graph_def(), [OUTPUT])


class _Rewriter:
    """Copies a graph into that of a session, operation by operation."""

    def __init__(self, sess, photographs):
        self.sess, self.photographs = sess, photographs
        self.values = {}        # of new tensors that are constant: from name to ndarray

    def rewrite(self, graph_def, arguments, wanted):
        """Copies a GraphDef.

        Args:
            graph_def: GraphDef.
            arguments: dict from name of a placeholder to the new tensor that replaces it.
            wanted: names of tensors in it.

        Returns:
            List of the new tensors.
        """
        old = tf.Graph()
        with old.as_default():
            tf.import_graph_def(tf.graph_util.extract_sub_graph(
                graph_def, [name.split(':')[0] for name in wanted]), name='')
        library = {function.signature.name: function for function in graph_def.library.function}
        new = {}                # from name of an old tensor to the new one
        for op in old.get_operations():         # inputs come before what they go into
            inputs = [new[tensor.name] for tensor in op.inputs]
            if op.name in arguments:
                outputs = [arguments[op.name]]
            elif op.type in ('If', 'StatelessIf'):
                outputs = self.branch(op, inputs, graph_def, library)
            elif op.type in ('Switch', 'Merge', 'While', 'StatelessWhile'):
                raise InputError(f'{op.name} is a {op.type}, which no export can do without its '
                                 'training; train this model with the present version')
            else:
                rewrite = getattr(self, op.type, None)
                outputs = rewrite(op, inputs) if rewrite else None
                if outputs is None:
                    outputs = self.copy(op, inputs)
            new.update(zip((tensor.name for tensor in op.outputs), outputs))
        return [new[name] for name in wanted]

    def copy(self, op, inputs):
        """Copies an operation, or computes it where all that it depends on is known."""
        attributes = {key: value for key, value in op.node_def.attr.items() if key[0] != '_'}
        made = self.sess.graph.create_op(op.type, inputs, [x.dtype for x in op.outputs],
                                         name=op.name, attrs=attributes)
        if op.type == 'Const':
            self.values[made.outputs[0].name] = tf.make_ndarray(op.get_attr('value'))
        elif inputs and all(tensor.name in self.values for tensor in inputs):
            return [self.constant(value) for value in self.sess.run(made.outputs)]
        return made.outputs

    def constant(self, value):
        tensor = tf.constant(value)
        self.values[tensor.name] = np.asarray(value)
        return tensor

    def value(self, tensor):
        """Returns the value of a new tensor, None where it is not known."""
        return self.values.get(tensor.name)

    def branch(self, op, inputs, graph_def, library):
        """Goes on in the branch that a condition leads to."""
        name = op.get_attr('then_branch' if self.value(inputs[0]) else 'else_branch').name
        body, places = function_def_to_graph_def(library[name])
        body.library.CopyFrom(graph_def.library)
        signature = library[name].signature
        arguments = dict(zip((arg.name for arg in signature.input_arg), inputs[1:]))
        # What a gradient would need, and nothing else does, has no place in inference.
        used = [bool(tensor.consumers()) for tensor in op.outputs]
        wanted = [places[library[name].ret[arg.name]]
                  for arg, is_used in zip(signature.output_arg, used) if is_used]
        results = iter(self.rewrite(body, arguments, wanted))
        return [next(results) if is_used else None for is_used in used]

    # What is left out, by the names of the operations

    def Placeholder(self, op, inputs):
        if op.name == 'keep_prob':
            return [self.constant(np.float32(1))]
        return [self.photographs]

    def PlaceholderWithDefault(self, op, inputs):
        return [self.constant(np.float32(1))] if op.name == 'keep_prob' else inputs

    def Cast(self, op, inputs):
        return inputs if inputs[0].dtype == op.outputs[0].dtype else None

    def Identity(self, op, inputs):
        return inputs

    def StatelessRandomUniformV2(self, op, inputs):
        # Below a probability of 1, whatever it is: dropout's mask.
        return [self.constant(np.zeros((), op.outputs[0].dtype.as_numpy_dtype))]

    RandomUniform = StatelessRandomUniform = StatelessRandomUniformV2

    def Select(self, op, inputs):
        condition = self.value(inputs[0])
        if condition is not None and condition.all():
            return [inputs[1]]
        return [tf.where_v2(*inputs)]       # which takes one zero for all

    SelectV2 = Select

    def ZerosLike(self, op, inputs):
        return [self.constant(np.zeros((), op.outputs[0].dtype.as_numpy_dtype))]

    def RealDiv(self, op, inputs):
        return inputs[:1] if self.is_one(inputs[1]) else None

    def is_one(self, tensor):
        value = self.value(tensor)
        return value is not None and value.ndim == 0 and value == 1

    def Shape(self, op, inputs):
        if inputs[0].shape.is_fully_defined():
            return [self.constant(np.array(inputs[0].shape.as_list(), np.int32))]
        return None

    def Slice(self, op, inputs):
        begin, size = map(self.value, inputs[1:])
        if begin is None or size is None or begin.any():
            return None
        if inputs[0].shape.as_list() == size.tolist():
            return inputs[:1]
        return [tf.slice(inputs[0], begin, [-1, *size[1:]])]    # of all images

    def StridedSlice(self, op, inputs):
        outputs = self.copy(op, inputs)
        same = (outputs[0].shape.is_fully_defined() and outputs[0].shape == inputs[0].shape
                and (self.value(inputs[3]) == 1).all())
        return inputs[:1] if same and outputs[0].name not in self.values else outputs

    def Pad(self, op, inputs):
        paddings = self.value(inputs[1])
        return inputs[:1] if paddings is not None and not paddings.any() else None

    # What is said in other words

    def Mul(self, op, inputs):
        """Folds a factor per channel into the kernel of the convolution before it."""
        for tensor, factor in (inputs, inputs[::-1]):
            if self.is_one(factor):
                return [tensor]
            values, conv = self.value(factor), tensor.op
            if values is not None and values.ndim <= 1 and conv.type == 'Conv2D':
                kernel = self.value(conv.inputs[1])
                if kernel is not None and values.size in (1, kernel.shape[-1]):
                    return [self.convolution(conv.inputs[0], kernel * values,
                                             conv.get_attr('strides'), conv.get_attr('padding'),
                                             conv.get_attr('dilations'))]
        return None

    def convolution(self, inputs, kernel, strides=1, padding='SAME', dilations=1):
        return tf.nn.conv2d(inputs, self.constant(kernel), strides, padding, dilations=dilations)

    def BatchToSpaceND(self, op, inputs):
        """A convolution of each block is one whose kernel has gaps, padding 'SAME'."""
        block, conv = self.value(inputs[1]), inputs[0].op
        apart = conv.inputs[0].op if conv.type == 'Conv2D' else None
        if block is None or apart is None or apart.type != 'SpaceToBatchND':
            return None
        kernel = self.value(conv.inputs[1])
        if kernel is None or not (kernel.shape[0] % 2 and kernel.shape[1] % 2):
            return None
        return [self.dilated(apart.inputs[0], kernel, block.tolist())]

    def Conv2D(self, op, inputs):
        """Dilated ones alone need other words."""
        kernel, dilations = self.value(inputs[1]), op.get_attr('dilations')[1:3]
        if (kernel is None or dilations == [1, 1] or op.get_attr('padding') != b'SAME'
                or op.get_attr('strides')[1:3] != [1, 1]):
            return None
        return [self.dilated(inputs[0], kernel, dilations)]

    def dilated(self, inputs, kernel, dilations):
        """Pads by hand, as ONNX Runtime has no padding 'SAME' with gaps."""
        sums = [step * (side - 1) for step, side in zip(dilations, kernel.shape)]
        rows, columns = ([total // 2, total - total // 2] for total in sums)
        padded = tf.pad(inputs, [[0, 0], rows, columns, [0, 0]])
        return self.convolution(padded, kernel, 1, 'VALID', dilations)

    def Conv2DBackpropInput(self, op, inputs):
        """A transposed convolution whose kernel is twice its stride wide.

        A cell of the input makes f x f of the output, which its neighbours reach into, too. So
        they are f * f channels of a convolution of 3x3, see `phases`.
        """
        kernel, strides = self.value(inputs[1]), op.get_attr('strides')
        factor = strides[1]
        if (kernel is None or op.get_attr('padding') != b'SAME' or strides[2] != factor
                or kernel.shape[:2] != (2 * factor, 2 * factor) or factor % 2):
            return None
        return [tf.nn.depth_to_space(self.convolution(inputs[2], phases(kernel)), factor)]

    def MirrorPad(self, op, inputs):
        """A border of one cell that repeats the edge."""
        paddings = self.value(inputs[1])
        if paddings is None or op.get_attr('mode') != b'SYMMETRIC' or paddings.max() > 1:
            return None
        outputs = inputs[0]
        for axis, (before, after) in enumerate(paddings):
            first, last = ([slice(None)] * axis + [part] for part in (slice(0, 1),
                                                                      slice(-1, None)))
            parts = [outputs[tuple(first)]] * before + [outputs] + [outputs[tuple(last)]] * after
            outputs = tf.concat(parts, axis) if len(parts) > 1 else outputs
        return [outputs]

    def BroadcastTo(self, op, inputs):
        mean, shape = inputs
        if mean.shape.rank != 4 or mean.shape[1:3] != [1, 1]:
            return None
        known = self.value(shape)
        return [tf.image.resize_nearest_neighbor(mean, shape[1:3] if known is None
                                                 else known[1:3])]


def phases(kernel):
    """The kernel of a convolution that, before DepthToSpace, is a transposed convolution.

    With padding 'SAME', row o of the output gets, from row i of the input, row
    o - f * i + f / 2 of the kernel, where the kernel has that row.

    Args:
        kernel: float32 ndarray [2f, 2f, O, I] of a transposed convolution of stride f, f even.

    Returns:
        float32 ndarray [3, 3, I, f * f * O].
    """
    factor, _, outputs, inputs = kernel.shape[0] // 2, *kernel.shape[1:]
    rows = np.full((3, factor), -1)         # row of the kernel, by neighbour and phase
    for neighbour in range(3):
        for phase in range(factor):
            row = phase - factor * (neighbour - 1) + factor // 2
            rows[neighbour, phase] = row if 0 <= row < 2 * factor else -1
    padded = np.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))       # -1 is zero
    parts = padded[rows[:, :, None, None], rows[None, None]]        # [3, f, 3, f, O, I]
    return parts.transpose(0, 2, 5, 1, 3, 4).reshape(3, 3, inputs, factor ** 2 * outputs)
