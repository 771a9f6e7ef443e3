"""Every operation of the graphs has a kernel for a GPU: read from TensorFlow's registry.

The wheel that pip installs on Linux is built with CUDA, so its registry tells, without a GPU,
what would run there. An operation without a kernel would run on the CPU, and its tensors would
travel to and fro in every step.
"""
import functools
from argparse import Namespace
from pathlib import Path

import pytest
import tensorflow.compat.v1 as tf
from tensorflow.python.framework import op_def_registry
from tensorflow.python.framework.kernels import get_registered_kernels_for_op

import main
import roadseg
from conftest import save_tiny_vgg
from roadseg.inference_graph import freeze, inference_graph
from roadseg.networks import resnet50
from roadseg.training.workers import Workers
from test_device import rewritten

if not tf.test.is_built_with_cuda():
    pytest.skip('this TensorFlow is built without CUDA', allow_module_level=True)

# What workers agree upon once, before the first step, in int64: where Adam's step stands.
ALLOWED = {('SplitV', tf.int64)}


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


def has_gpu_kernel(node):
    """Whether the registry has a kernel for a GPU with the types of a `tf.NodeDef`."""
    return any(all(_type_of(node, name) in types for name, types in kernel.items())
               for kernel in kernels_for_gpu(node.op))


def _type_of(node, name):
    if name in node.attr:
        return node.attr[name].type
    return next(attr.default_value.type for attr in op_def_registry.get(node.op).attr
                if attr.name == name)


def without_kernel(graph_def):
    """(type, data type) of each operation of a graph and its functions that has no GPU kernel."""
    nodes = [*graph_def.node, *(node for function in graph_def.library.function
                                for node in function.node_def)]
    return {(node.op, tf.as_dtype(_type_of(node, 'T')) if 'T' in node.attr else None)
            for node in nodes if not has_gpu_kernel(node)}


def running(graph, *targets):
    """The `tf.GraphDef` of what runs for some tensors and operations, functions included."""
    return tf.graph_util.extract_sub_graph(
        graph.as_graph_def(), [getattr(target, 'op', target).name for target in targets])


@pytest.fixture(scope='module')
def encoders(tmp_path_factory):
    """Paths of the frozen graphs by name."""
    folder = tmp_path_factory.mktemp('encoders')
    save_tiny_vgg(folder / 'vgg', context=True)
    save_tiny_vgg(folder / 'course', fc_kernel=7)
    resnet50.convert('random', folder / 'resnet50', width_divisor=16)
    return folder


@pytest.mark.parametrize('encoder, model, num_classes', [
    ('vgg', 'fcn8s', 2), ('course', 'fcn8s', 2), ('resnet50', 'fcn8s', 19), ('vgg', 'segnet', 13)])
def test_every_operation_of_training_and_inference_has_a_gpu_kernel(encoders, encoder, model,
                                                                   num_classes):
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        net = main.build(sess, encoders / encoder, num_classes, options(model=model))
        swap = graph.get_operation_by_name('swap_averages')
        training = running(graph, net.train_op, net.cross_entropy_loss, net.logits, swap)
        assert len(training.node) > 500 and not without_kernel(training)
        main.initialize_new(sess)
        frozen = freeze(sess)
    assert not without_kernel(inference_graph(*frozen))


@pytest.mark.parametrize('encoder, model', [
    ('vgg', 'fcn8s'), ('vgg', 'segnet'), ('resnet50', 'fcn8s')])
def test_every_operation_of_half_precision_has_a_gpu_kernel(encoders, encoder, model):
    """As TensorFlow rewrites the graph, with what scales the loss."""
    with tf.Graph().as_default(), tf.Session() as sess:
        net = main.build(sess, encoders / encoder, 3, options(model=model, precision='float16'),
                         scale_loss=True)
        graph_def = rewritten(net, 'float16')
    halves = sum(node.op == 'Conv2D' and node.attr['T'].type == tf.float16.as_datatype_enum
                 for node in graph_def.node)
    assert halves > 5 and not without_kernel(graph_def)


@pytest.mark.parametrize('model', ['fcn8s', 'segnet'])
def test_every_operation_of_several_workers_has_a_gpu_kernel(encoders, model):
    team = Workers(['a:1', 'b:1'], 1)
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        net = main.build(sess, encoders / 'vgg', 3, options(model=model), team=team)
        team.prepare()
        assert not without_kernel(running(graph, net.train_op, net.cross_entropy_loss))
        assert without_kernel(running(graph, team._agree)) <= ALLOWED


def test_the_network_in_the_box_has_gpu_kernels():
    graph_def = tf.GraphDef.FromString((Path(roadseg.__file__).parent / 'models/road/frozen.pb').read_bytes())
    assert len(graph_def.node) > 50 and not without_kernel(graph_def)


def test_an_operation_without_a_gpu_kernel_is_found():
    """The tests above can fail, also within a function."""
    with tf.Graph().as_default() as graph:
        labels = tf.unique(tf.placeholder(tf.float32, [None])).y
        numbers = tf.strings.to_number(tf.strings.as_string(labels))
        assert ('StringToNumber', None) in without_kernel(running(graph, numbers))
    with tf.Graph().as_default() as graph:
        fed = tf.placeholder(tf.float32, [None])
        found = tf.cond(fed[0] > 0, lambda: tf.strings.to_number(tf.strings.as_string(fed)),
                        lambda: fed)
        assert ('StringToNumber', None) in without_kernel(running(graph, found))
