"""What runs at which precision: on the graph that TensorFlow's rewrite makes for a GPU."""
from collections import Counter
from types import SimpleNamespace

import pytest
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import device_properties_pb2
from tensorflow.python.grappler import cluster, tf_optimizer

import main
from roadseg import driver, launch, machine, tf_errors
from roadseg.errors import InputError
from roadseg.training import checkpoints, device, workers

GPU = '/job:localhost/replica:0/task:0/device:GPU:0'


def options(precision):
    return main.parse_args(['--score-channels', '4', '--freeze-blocks', '1', '--precision',
                            precision])


def rewritten(net, precision, capability='8.0'):
    """The graph of a training step as a GPU would get it: TensorFlow optimises for one on paper.

    Returns:
        `tf.GraphDef`.
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
    return tf_optimizer.OptimizeGraph(config, meta, verbose=False,
                                      cluster=cluster.Cluster(devices=[gpu]))


def types(graph_def, *operations):
    """How many of these kinds of operations have which type."""
    return Counter(tf.as_dtype(node.attr['T'].type).name for node in graph_def.node
                   if node.op in operations)


CONVOLUTIONS = ('Conv2D', '_FusedConv2D', 'Conv2DBackpropInput', 'Conv2DBackpropFilter')


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
            node.attr['dtype'].type for node in half.node if node.op == 'VarHandleOp'}
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
    assert configs[0].experimental.collective_nccl


AMPERE, PASCAL = (8, 6), (6, 1)


@pytest.mark.parametrize('precision, capability, expected, warning', [
    ('auto', AMPERE, 'float32', None),
    ('float32', AMPERE, 'float32', None),
    ('float16', AMPERE, 'float16', None),
    ('float16', (7, 0), 'float16', None),
    ('float16', PASCAL, 'float32', 'compute capability below 7.0'),
    ('bfloat16', AMPERE, 'float32', '--precision bfloat16 is not there on a GPU'),
    ('float16', None, None, '--precision float16 is not there on a CPU'),
    ('bfloat16', None, 'bfloat16', None),
    ('float32', None, 'float32', None),
])
def test_what_a_device_lacks_is_said_and_not_done(precision, capability, expected, warning,
                                                  monkeypatch):
    monkeypatch.delenv('TF_ENABLE_ONEDNN_OPTS', raising=False)
    found, xla, warnings = device.supported(precision, False, capability)
    of_cpu = 'bfloat16' if device.native_bfloat16() else 'float32'
    assert found == (expected or of_cpu) and xla is False
    assert len(warnings) == (warning is not None)
    if warning:
        assert warning in warnings[0] and f'going on in {found}' in warnings[0]


def test_bfloat16_on_a_cpu_takes_onednn(monkeypatch):
    monkeypatch.setattr(device, 'native_bfloat16', lambda: False)
    monkeypatch.setenv('TF_ENABLE_ONEDNN_OPTS', '0')
    assert device.supported('bfloat16', False, None) == ('float32', False, [
        '--precision bfloat16 is not there on a CPU with TF_ENABLE_ONEDNN_OPTS=0 in this '
        'TensorFlow; going on in float32'])
    assert device.supported('float32', False, None) == ('float32', False, [])


@pytest.mark.parametrize('capability, warns', [
    ((6, 1), False), ((7, 5), False), ((8, 9), False), ((9, 0), True), ((12, 0), True)])
def test_a_gpu_that_the_driver_compiles_for_is_told(capability, warns, monkeypatch):
    monkeypatch.setattr(tf.sysconfig, 'get_build_info', lambda: {
        'cuda_compute_capabilities': ['sm_60', 'sm_70', 'sm_80', 'sm_89', 'compute_90']})
    _, _, warnings = device.supported('float32', False, capability)
    assert ['half an hour' in warning for warning in warnings] == [True] * warns
    monkeypatch.setattr(tf.sysconfig, 'get_build_info', dict)       # of a build without CUDA
    assert device.supported('float32', False, capability)[2] == []


def test_one_gpu_of_several_is_opened(monkeypatch):
    monkeypatch.setattr(device, 'offers_gpu', lambda: True)
    gpus = [tf.config.PhysicalDevice(f'/physical_device:GPU:{number}', 'GPU') for number in (0, 1)]
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind=None: gpus)
    monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda found: {
        'device_name': found.name[-5:], 'compute_capability': AMPERE if found == gpus[0]
        else PASCAL})
    assert device.find('float16')[:3] == ('GPU:0, the first of 2 GPUs', True, 'float16')
    assert device.session_config().gpu_options.visible_device_list == '0'


@pytest.mark.parametrize('error', [tf.errors.InternalError, tf.errors.UnknownError,
                                   tf.errors.ResourceExhaustedError])
def test_a_gpu_that_others_have_is_a_line(monkeypatch, error):
    def fail(*arguments, **options):
        raise error(None, None, 'cudaSetDevice() on GPU:0 failed. Status: out of memory\nmore')

    monkeypatch.setattr(device, 'offers_gpu', lambda: True)
    monkeypatch.setattr(tf, 'Session', fail)
    with pytest.raises(InputError, match='^the GPU cannot be used: cudaSetDevice.* memory; see n'):
        device.open_session()
    monkeypatch.setattr(device, 'offers_gpu', lambda: False)        # it is something else
    with pytest.raises(error):
        device.open_session()


@pytest.mark.parametrize('kind, text', [
    (tf.errors.FailedPreconditionError, 'DNN library initialization failed. Look at the errors'),
    (tf.errors.InvalidArgumentError, 'No DNN in stream executor'),
    (tf.errors.InternalError, "'cuLaunchKernel(function)' failed with 'CUDA_ERROR_INVALID_HANDLE'")])
def test_a_gpu_that_cannot_compute_is_not_taken_for_a_damaged_file(kind, text, tmp_path, capsys,
                                                                   monkeypatch):
    monkeypatch.setattr(tf_errors, 'offers_gpu', lambda: True)
    error = kind(None, None, text)
    with pytest.raises(InputError, match='^the GPU cannot compute: .*; see nvidia-smi and'), \
            checkpoints._naming_damage(tmp_path):
        raise error
    assert 'damaged' not in capsys.readouterr().err
    tf_errors.explain_gpu(kind(None, None, 'Input to reshape is a tensor with 3 values'))
    damage = tf.errors.DataLossError(None, None, 'Unable to open table file /a/CUDA/b')
    with checkpoints._naming_damage(tmp_path):
        raise damage
    monkeypatch.setattr(tf_errors, 'offers_gpu', lambda: False)
    tf_errors.explain_gpu(error)
    assert 'is damaged' in capsys.readouterr().err


def test_each_worker_gets_a_gpu_of_its_own_or_none(monkeypatch):
    for found, expected in ((['0', '1', '3'], ['0', '1', '3']), (['0', '1'], ['-1'] * 3),
                            ([], [None] * 3)):
        monkeypatch.setattr(launch, 'gpus', lambda found=found: found)
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        environments = [launch.environment_of(['a:1', 'a:2', 'a:3'], index) for index in range(3)]
        assert [one.get('CUDA_VISIBLE_DEVICES') for one in environments] == expected
    monkeypatch.setattr(driver, 'has_driver', lambda: True)
    for value, expected in (('2,0', ['2', '0']), ('-1', []), ('', []), ('GPU-8a', ['GPU-8a']),
                            ('0,1,', ['0', '1']), ('0,-1,1', ['0'])):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', value)
        assert driver.gpus() == expected


def test_a_gpu_is_known_by_its_uuid(monkeypatch):
    def get_device(device, number):
        assert number == 0
        device._obj.value = 3
        return 0

    def get_uuid(found, device):
        found._obj[:] = [device.value] * 15 + [255]
        return 0

    library = SimpleNamespace(cuInit=lambda flags: 0, cuDeviceGet=get_device,
                              cuDeviceGetUuid=get_uuid)
    monkeypatch.setattr(driver.ctypes, 'CDLL', lambda name: library)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    assert driver.first_gpu() == '03' * 15 + 'ff'
    library.cuInit = lambda flags: 100      # no device
    assert driver.first_gpu() is None
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')
    library.cuInit = pytest.fail
    assert driver.first_gpu() is None


def test_numbers_travel_between_cpus_whatever_trains():
    """Of workers one of which has no GPU, the first exchange says so, instead of TensorFlow."""
    with tf.Graph().as_default() as graph:
        team = workers.Workers(['a:1', 'b:1'], 1)
        team.sum([tf.get_variable('weights', [3])])
        team.prepare()
        groups = {operation.get_attr('group_key'): operation.device for operation in
                  graph.get_operations() if operation.type == 'CollectiveReduce'}
    assert groups[workers.GROUP] == '' and 'CPU:0' in groups[workers.NUMBERS].upper()


def test_xla_is_for_a_gpu():
    assert device.supported('float32', True, AMPERE)[1:] == (True, [])
    _, xla, warnings = device.supported('float32', True, None)
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


@pytest.mark.skipif(driver.has_driver(), reason='there is a GPU')
def test_the_processors_that_are_named_are_those_that_may_be_used(monkeypatch):
    monkeypatch.setattr(machine.os, 'sched_getaffinity', lambda process: {0, 3, 5}, raising=False)
    monkeypatch.setattr(machine, 'control_groups', lambda controller: [])
    assert device.find().name == 'CPU, 3 cores'


@pytest.mark.skipif(driver.has_driver(), reason='there is a GPU')
def test_a_run_without_a_gpu_notes_what_it_does(capsys):
    found = device.find('float16', xla=True)
    assert not found.is_gpu and not found.xla and found.precision != 'float16'
    assert capsys.readouterr().err.count('warning: ') == 2
    assert device.describe(found).splitlines()[0].startswith('device: CPU, ')
