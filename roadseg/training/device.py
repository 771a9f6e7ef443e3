"""What a network runs on: GPU or CPU, its precision, the session's configuration."""
import sys
from contextlib import contextmanager
from typing import NamedTuple

import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from roadseg.driver import offers_gpu
from roadseg.errors import InputError
from roadseg.machine import bound_processors, processors
from roadseg.training.processor import is_without_onednn, native_bfloat16

FIRST_TENSOR_CORES = (7, 0)     # compute capability from which TensorFlow rewrites to float16


class Device(NamedTuple):
    """What a network runs on."""
    name: str               # such as 'NVIDIA H200' or 'CPU, 2 cores'
    is_gpu: bool
    precision: str          # of the activations: 'float32', 'float16' or 'bfloat16'
    xla: bool = False       # whether XLA compiles the graph


def find(precision='auto', xla=False):
    """Finds the device that will train, and what it shall do of what it can.

    Args:
        precision: 'float32', 'float16', 'bfloat16' or 'auto', see `supported`.
        xla: whether XLA shall compile, which it does on a GPU only.

    Returns:
        `Device`.
    """
    gpus = tf.config.list_physical_devices('GPU') if offers_gpu() else []
    capability, name = None, f'CPU, {processors()} cores'
    if gpus:        # the first is used, see `session_config`
        details = tf.config.experimental.get_device_details(gpus[0])
        capability = details.get('compute_capability', (0, 0))
        name = details.get('device_name', gpus[0].name)
        name += f', the first of {len(gpus)} GPUs' if len(gpus) > 1 else ''
    precision, xla, warnings = supported(precision, xla, capability)
    for warning in warnings:
        print(f'warning: {warning}', file=sys.stderr)
    return Device(name, bool(gpus), precision, xla)


def supported(precision, xla, capability):
    """What a device can do of what is wanted.

    TensorFlow 2.21 rewrites a graph to float16 for a GPU with tensor cores, and to bfloat16 for
    a CPU only, where it has oneDNN. 'auto' is bfloat16 on a CPU that multiplies it in hardware, and
    float32 elsewhere, whose convolutions use TF32 on a GPU that has it.

    Args:
        precision: 'float32', 'float16', 'bfloat16' or 'auto'.
        xla: whether XLA shall compile.
        capability: the GPU's compute capability, such as (9, 0); None for a CPU.

    Returns:
        (precision, xla, list of warnings).
    """
    warnings, is_gpu = [], capability is not None
    lacking = {'float16': not is_gpu or capability < FIRST_TENSOR_CORES,
               'bfloat16': is_gpu or is_without_onednn()}
    best = 'bfloat16' if native_bfloat16() and not lacking['bfloat16'] else 'float32'
    if lacking.get(precision):
        kind = 'GPU' if is_gpu else 'CPU'
        where = {('float16', 'GPU'): 'with a compute capability below 7.0 ',
                 ('bfloat16', 'CPU'): 'with TF_ENABLE_ONEDNN_OPTS=0 '}.get((precision, kind), '')
        warnings.append(f'--precision {precision} is not there on a {kind} {where}'
                        + f"in this TensorFlow; going on in {best}"
                        + (', whose convolutions use TF32 where the GPU has it'
                           if is_gpu else ''))
    if xla and not is_gpu:
        warnings.append('--xla compiles for a GPU, and there is none; going on without')
        xla = False
    if is_gpu and capability[0] > _latest_compiled():
        warnings.append('this TensorFlow has no compiled kernels for this GPU, and the driver '
                        'makes them at their first use: that may take half an hour, once, as they '
                        'are kept in ~/.nv')
    return best if precision == 'auto' or lacking.get(precision) else precision, xla, warnings


def _latest_compiled():
    """The latest compute capability that TensorFlow has compiled kernels for: its first number.

    Those of later GPUs come as PTX, an assembler, which the driver translates.
    """
    names = tf.sysconfig.get_build_info().get('cuda_compute_capabilities', ())
    return max((int(name[3:-1]) for name in names if name.startswith('sm_')), default=99)


def describe(device):
    """Returns what a run says of its `Device` at the start: a line or two."""
    if device.is_gpu:
        return f'device: {device.name}'
    if offers_gpu():
        remedy = ('TensorFlow uses no GPU on Windows; run it in WSL2' if sys.platform == 'win32'
                  else 'pip install -r requirements-gpu.txt, or see the reason with '
                       'TF_CPP_MIN_LOG_LEVEL=0')
        return (f"device: {device.name}\nwarning: no GPU was found, although NVIDIA's driver is "
                f'there; {remedy}')
    return f'device: {device.name}\nwarning: no GPU was found; the expected time follows below'


def session_config(precision='float32', xla=False):
    """Configuration of a session.

    The numbers of threads are TensorFlow's own choice, which are those of the processors, unless
    a container gives fewer; so is cuDNN's search for the fastest convolutions, which is on.

    Args:
        precision: 'float32'; 'bfloat16' on a CPU or 'float16' on a GPU, where the variables stay
            float32 and what is convolved and multiplied is rounded.
        xla: whether XLA compiles what it can of the graph.
    """
    config = tf.ConfigProto(allow_soft_placement=True)
    if processors() < bound_processors():       # which TensorFlow would take
        config.intra_op_parallelism_threads = config.inter_op_parallelism_threads = processors()
    config.gpu_options.allow_growth = True
    if offers_gpu():        # opened, each takes memory, and a full one would end the run
        config.gpu_options.visible_device_list = '0'
    else:
        config.device_count['GPU'] = 0
    if precision == 'bfloat16':
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = \
            RewriterConfig.ON
    if precision == 'float16':
        config.graph_options.rewrite_options.auto_mixed_precision = RewriterConfig.ON
    if xla:
        config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.ON_1
    return config


def open_session(config=None, target='', graph=None):
    """Opens a session, and with the first one of a process the GPU.

    Args:
        config: `tf.ConfigProto`; None for that of `session_config`.
        target: of a server.
        graph: `tf.Graph`; None for the default one.

    Returns:
        `tf.Session`.

    Raises:
        InputError: the GPU cannot be used, as where other processes have it.
    """
    with naming_gpu():
        return tf.Session(target, graph, session_config() if config is None else config)


@contextmanager
def naming_gpu():
    """Where a GPU cannot be opened, says so in a line."""
    try:
        yield
    except (tf.errors.InternalError, tf.errors.UnknownError,
            tf.errors.ResourceExhaustedError) as error:
        if not offers_gpu():
            raise
        raise InputError('the GPU cannot be used: ' + str(error).splitlines()[0] + '; see '
                         'nvidia-smi; CUDA_VISIBLE_DEVICES chooses another, or none by '
                         '-1') from error
