"""What runs at which precision: on the graph that TensorFlow's rewrite makes for a GPU."""
from collections import Counter
from types import SimpleNamespace

import pytest
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import device_properties_pb2
from tensorflow.python.grappler import cluster, tf_optimizer

import main
from roadseg import launch, threads
from roadseg.training import device, workers

GPU = '/job:localhost/replica:0/task:0/device:GPU:0'


def options(precision):
    return SimpleNamespace(
        seed=0, model='fcn8s', score_channels=4, weight_decay=1e-4, clip_norm=1.0, train='all',
        freeze_blocks=1, decoder_rate=2.0, average_decay=0.9, precision=precision)


def rewritten(net, precision, capability='8.0'):
    """The graph of a training step as a GPU would get it: TensorFlow optimises for one on paper.

    Returns:
        dict from name to `tf.NodeDef`.
    """
    gpu = device_properties_pb2.NamedDevice(name=GPU)
    gpu.properties.MergeFrom(device_properties_pb2.DeviceProperties(
        type='GPU', vendor='NVIDIA', num_cores=100, frequency=1000, memory_size=16 << 30,
        environment={'architecture': capability, 'cuda': '12050', 'cudnn': '90000'}))
    train_op = getattr(net.train_op, 'op', net.train_op).name
    meta = tf.train.export_meta_graph(graph=tf.get_default_graph())
    for fetch in (train_op, 'loss'):
        meta.collection_def['train_op'].node_list.value.append(fetch)
    for node in meta.graph_def.node:
        node.device = GPU
    config = device.session_config(precision)
    config.graph_options.rewrite_options.min_graph_nodes = -1
    graph = tf_optimizer.OptimizeGraph(config, meta, verbose=False,
                                       cluster=cluster.Cluster(devices=[gpu]))
    return {node.name: node for node in graph.node}


def types(nodes, *operations):
    """How many of these kinds of operations have which type."""
    return Counter(tf.as_dtype(node.attr['T'].type).name for node in nodes.values()
                   if node.op in operations)


CONVOLUTIONS = ('Conv2D', 'Conv2DBackpropInput', 'Conv2DBackpropFilter')


@pytest.mark.skipif(not tf.test.is_built_with_cuda(), reason='this TensorFlow knows no GPU')
def test_on_a_gpu_float16_convolves_in_it_and_keeps_weights_and_loss_in_float32(tiny_vgg):
    with tf.Graph().as_default(), tf.Session() as sess:
        net = main.build(sess, tiny_vgg, 2, options('float16'), scale_loss=True)
        plain, half = rewritten(net, 'float32'), rewritten(net, 'float16')
        convolutions = types(plain, *CONVOLUTIONS)
        assert set(convolutions) == {'float32'} and convolutions['float32'] > 40
        # those of the backward pass included
        assert types(half, *CONVOLUTIONS) == {'float16': convolutions['float32']}
        exact = types(half, 'ResourceApplyAdam', 'SoftmaxCrossEntropyWithLogits')
        assert set(exact) == {'float32'}
        assert tf.float16.as_datatype_enum not in {
            node.attr['dtype'].type for node in half.values() if node.op == 'VarHandleOp'}
        # a GPU without tensor cores: TensorFlow changes nothing, so `find` must not promise it
        assert set(types(rewritten(net, 'float16', '6.1'), *CONVOLUTIONS)) == {'float32'}
        # the rewrite to bfloat16 is for a CPU
        assert set(types(rewritten(net, 'bfloat16'), *CONVOLUTIONS)) == {'float32'}


def test_a_driver_without_a_gpu_for_tensorflow_says_what_to_install(monkeypatch):
    cpu = device.Device('CPU, 2 cores', False, 'float32', False)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    for there in (False, True):
        monkeypatch.setattr('roadseg.driver.has_driver', lambda there=there: there)
        assert ('requirements-gpu.txt' in device.describe(cpu)) == there
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert 'requirements-gpu.txt' not in device.describe(cpu)


def test_several_workers_with_gpus_are_told_what_their_gradients_cost():
    gpu = device.Device('H200', True, 'float32', False)
    assert 'warning' in device.describe(gpu, 2) and 'warning' not in device.describe(gpu)


def test_a_servers_memory_grows_as_a_sessions_does(monkeypatch):
    """Else the first of two workers on a GPU takes all of it."""
    team, configs = workers.Workers(launch.free_addresses(2), 0), []
    monkeypatch.setattr(team, 'silent', lambda: [])
    monkeypatch.setattr(team, '_call_the_roll', lambda: None)       # of servers that are none
    monkeypatch.setattr(workers.tf.train, 'Server', lambda *arguments, config, **others: (
        configs.append(config), SimpleNamespace(target='grpc://localhost:1'))[1])
    team.start()
    team._watching.clear()
    assert configs[0].gpu_options.allow_growth and configs[0].device_filters


HOPPER, PASCAL = (9, 0), (6, 1)


@pytest.mark.parametrize('precision, capabilities, expected, warning', [
    ('auto', [HOPPER], 'float32', None),
    ('float32', [HOPPER], 'float32', None),
    ('float16', [HOPPER], 'float16', None),
    ('float16', [(7, 0)], 'float16', None),
    ('float16', [HOPPER, PASCAL], 'float32', 'compute capability below 7.0'),
    ('bfloat16', [HOPPER], 'float32', '--precision bfloat16 is not there on a GPU'),
    ('float16', [], None, '--precision float16 is not there on a CPU'),
    ('bfloat16', [], 'bfloat16', None),
    ('float32', [], 'float32', None),
])
def test_what_a_device_lacks_is_said_and_not_done(precision, capabilities, expected, warning,
                                                  monkeypatch):
    monkeypatch.delenv('TF_ENABLE_ONEDNN_OPTS', raising=False)
    found, xla, warnings = device.supported(precision, False, capabilities)
    of_cpu = 'bfloat16' if device.native_bfloat16() else 'float32'
    assert found == (expected or of_cpu) and xla is False
    assert len(warnings) == (warning is not None)
    if warning:
        assert warning in warnings[0] and f'going on in {found}' in warnings[0]


def test_bfloat16_on_a_cpu_takes_onednn(monkeypatch):
    monkeypatch.setattr(device, 'native_bfloat16', lambda: False)
    monkeypatch.setenv('TF_ENABLE_ONEDNN_OPTS', '0')
    assert device.supported('bfloat16', False, []) == ('float32', False, [
        '--precision bfloat16 is not there on a CPU with TF_ENABLE_ONEDNN_OPTS=0 in this '
        'TensorFlow; going on in float32'])
    assert device.supported('float32', False, []) == ('float32', False, [])


def test_xla_is_for_a_gpu():
    assert device.supported('float32', True, [HOPPER])[1:] == (True, [])
    _, xla, warnings = device.supported('float32', True, [])
    assert not xla and warnings == [
        '--xla compiles for a GPU, and there is none; going on without']
    assert device.session_config(xla=True).graph_options.optimizer_options.global_jit_level == \
        tf.OptimizerOptions.ON_1
    assert device.session_config().graph_options.optimizer_options.global_jit_level == \
        tf.OptimizerOptions.DEFAULT


def test_the_session_takes_memory_as_it_needs_it():
    for precision in ('float32', 'float16', 'bfloat16'):
        config = device.session_config(precision)
        assert config.gpu_options.allow_growth and config.allow_soft_placement


@pytest.mark.skipif(device.has_driver(), reason='there is a GPU')
def test_the_processors_that_are_named_are_those_that_may_be_used(monkeypatch):
    monkeypatch.setattr(threads.os, 'sched_getaffinity', lambda process: {0, 3, 5}, raising=False)
    assert device.find().name == 'CPU, 3 cores'


@pytest.mark.skipif(device.has_driver(), reason='there is a GPU')
def test_a_run_without_a_gpu_notes_what_it_does(capsys):
    found = device.find('float16', xla=True)
    assert not found.is_gpu and not found.xla and found.precision != 'float16'
    assert capsys.readouterr().err.count('warning: ') == 2
    assert device.describe(found).splitlines()[0].startswith('device: CPU, ')
