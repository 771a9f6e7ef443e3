"""Every operation of the graphs has a kernel for a GPU: read from TensorFlow's registry.

The wheel that pip installs on Linux is built with CUDA, so its registry tells, without a GPU,
what would run there. An operation without a kernel would run on the CPU, and its tensors would
travel to and fro in every step.
"""
import functools
from argparse import Namespace

import pytest
import tensorflow.compat.v1 as tf
from tensorflow.python.framework.kernels import get_registered_kernels_for_op

import main
from conftest import save_tiny_vgg
from roadseg.inference_graph import OUTPUT, freeze, inference_graph
from roadseg.networks import resnet50
from roadseg.training.workers import Workers

if not tf.test.is_built_with_cuda():
    pytest.skip('this TensorFlow is built without CUDA', allow_module_level=True)

# No kernel of their own on a GPU, and none needed: resource handles and the control flow of
# saving and loading are placed, not computed, and strings live on the host.
HOST = {'VarHandleOp', 'NoOp', 'Placeholder', 'PlaceholderWithDefault', 'SaveV2', 'RestoreV2',
        'MergeV2Checkpoints', 'ShardedFilename', 'StringJoin', 'Assert'}
# Shape arithmetic: int32 of a few elements, which TensorFlow keeps on the host on purpose.
SMALL = {tf.int32, tf.int64, tf.bool, tf.string}


def options(**changes):
    return Namespace(**{**vars(main.parse_args([])), 'score_channels': 4, 'freeze_blocks': 1,
                        'precision': 'float32', **changes})


@functools.cache        # asking takes a millisecond, and a graph has thousands of operations
def kernels_for_gpu(kind):
    """Of each kernel of an operation for a GPU: dict from attribute to the types it may have."""
    return [{constraint.name: set(constraint.allowed_values.list.type)
             for constraint in kernel.constraint}
            for kernel in get_registered_kernels_for_op(kind).kernel
            if kernel.device_type in ('GPU', 'DEFAULT')]        # DEFAULT: on whatever there is


def has_gpu_kernel(operation):
    """Whether the registry has a kernel for a GPU with the operation's types."""
    return any(all(_type_of(operation, name) in types for name, types in kernel.items())
               for kernel in kernels_for_gpu(operation.type))


def _type_of(operation, name):
    value = operation.get_attr(name)
    return value.as_datatype_enum if isinstance(value, tf.DType) else value


def without_kernel(graph, targets):
    """(type, data type of the output) of what runs for the targets and has no GPU kernel."""
    found, waiting = set(), [getattr(target, 'op', target) for target in targets]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting += [tensor.op for tensor in operation.inputs] + operation.control_inputs
    missing = set()
    for operation in found:
        kind = operation.outputs[0].dtype.base_dtype if operation.outputs else None
        if operation.type not in HOST and not has_gpu_kernel(operation):
            if kind not in SMALL and kind != tf.resource:
                missing.add((operation.type, kind))
    return missing


@pytest.fixture(scope='module')
def encoders(tmp_path_factory):
    """Paths of the frozen graphs by name."""
    folder = tmp_path_factory.mktemp('encoders')
    save_tiny_vgg(folder / 'vgg', context=True)
    resnet50.convert('random', folder / 'resnet50', width_divisor=16)
    return folder


@pytest.mark.parametrize('encoder, model, num_classes, precision', [
    ('vgg', 'fcn8s', 2, 'float32'), ('resnet50', 'fcn8s', 19, 'float32'),
    ('vgg', 'segnet', 13, 'float16')])      # with what scales the loss
def test_every_operation_of_training_and_inference_has_a_gpu_kernel(encoders, encoder, model,
                                                                   num_classes, precision):
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        net = main.build(sess, encoders / encoder, num_classes,
                         options(model=model, precision=precision),
                         scale_loss=precision == 'float16')
        swap = graph.get_operation_by_name('swap_averages')
        assert not without_kernel(graph, [net.train_op, net.cross_entropy_loss, net.logits, swap])
        if (encoder, model) != ('vgg', 'fcn8s'):    # the others' have operations of the same kinds
            return
        main.initialize_new(sess)
        frozen = freeze(sess)
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(inference_graph(*frozen), name='')
    assert not without_kernel(graph, [graph.get_tensor_by_name(OUTPUT + ':0')])


def test_every_operation_of_several_workers_has_a_gpu_kernel(encoders):
    team = Workers(['a:1', 'b:1'], 1)
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        net = main.build(sess, encoders / 'vgg', 3, options(train='decoder'), team=team)
        assert not without_kernel(graph, [net.train_op, net.cross_entropy_loss])


def test_an_operation_without_a_gpu_kernel_is_found():
    """The test above can fail."""
    with tf.Graph().as_default() as graph:
        labels = tf.unique(tf.placeholder(tf.float32, [None])).y
        words = tf.strings.as_string(labels)
        assert without_kernel(graph, [tf.strings.to_number(words)]) == {
            ('StringToNumber', tf.float32)}
