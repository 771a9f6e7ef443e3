"""What a network runs on: GPU or CPU, its precision, the session's configuration."""
import sys
from typing import NamedTuple

import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from roadseg.driver import has_driver, offers_gpu
from roadseg.threads import processors
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
    gpus = tf.config.list_physical_devices('GPU') if has_driver() else []
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    precision, xla, warnings = supported(
        precision, xla, [detail.get('compute_capability', (0, 0)) for detail in details])
    for warning in warnings:
        print(f'warning: {warning}', file=sys.stderr)
    names = [detail.get('device_name', gpu.name) for gpu, detail in zip(gpus, details)]
    return Device(', '.join(names) or f'CPU, {processors()} cores', bool(gpus), precision, xla)


def supported(precision, xla, capabilities):
    """What a device can do of what is wanted.

    TensorFlow 2.21 rewrites a graph to float16 for a GPU with tensor cores, and to bfloat16 for
    a CPU only, where it has oneDNN. 'auto' is bfloat16 on a CPU that multiplies it in hardware, and
    float32 elsewhere, whose convolutions use TF32 on a GPU that has it.

    Args:
        precision: 'float32', 'float16', 'bfloat16' or 'auto'.
        xla: whether XLA shall compile.
        capabilities: list of the GPUs' compute capabilities, such as (9, 0); [] for a CPU.

    Returns:
        (precision, xla, list of warnings).
    """
    warnings = []
    lacking = {'float16': not capabilities or min(capabilities) < FIRST_TENSOR_CORES,
               'bfloat16': capabilities or is_without_onednn()}
    best = 'bfloat16' if native_bfloat16() and not lacking['bfloat16'] else 'float32'
    if lacking.get(precision):
        kind = 'GPU' if capabilities else 'CPU'
        where = {('float16', 'GPU'): 'with a compute capability below 7.0 ',
                 ('bfloat16', 'CPU'): 'with TF_ENABLE_ONEDNN_OPTS=0 '}.get((precision, kind), '')
        warnings.append(f'--precision {precision} is not there on a {kind} {where}'
                        + f"in this TensorFlow; going on in {best}"
                        + (', whose convolutions use TF32 where the GPU has it'
                           if capabilities else ''))
    if xla and not capabilities:
        warnings.append('--xla compiles for a GPU, and there is none; going on without')
        xla = False
    return best if precision == 'auto' or lacking.get(precision) else precision, xla, warnings


def describe(device, workers=1):
    """Returns what a run says of its `Device` at the start, as one of `workers`: a line or two."""
    if device.is_gpu:
        several = '; one of them is used' if ',' in device.name else ''
        slow = ("\nwarning: the workers' gradients travel through the hosts' memory, by gRPC, "
                'which may take longer than a step; benchmarks/allreduce.py measures it'
                if workers > 1 else '')
        return f'device: {device.name}{several}{slow}'
    if offers_gpu():
        remedy = ('TensorFlow uses no GPU on Windows; run it in WSL2' if sys.platform == 'win32'
                  else 'pip install -r requirements-gpu.txt, or see the reason with '
                       'TF_CPP_MIN_LOG_LEVEL=0')
        return (f"device: {device.name}\nwarning: no GPU was found, although NVIDIA's driver is "
                f'there; {remedy}')
    return f'device: {device.name}\nwarning: no GPU was found; the expected time follows below'


def session_config(precision='float32', xla=False):
    """Configuration of a session.

    The numbers of threads are TensorFlow's own choice, which are those of the processors; so is
    cuDNN's search for the fastest convolutions, which is on.

    Args:
        precision: 'float32'; 'bfloat16' on a CPU or 'float16' on a GPU, where the variables stay
            float32 and what is convolved and multiplied is rounded.
        xla: whether XLA compiles what it can of the graph.
    """
    config = tf.ConfigProto(allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    if not has_driver():
        config.device_count['GPU'] = 0
    if precision == 'bfloat16':
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = \
            RewriterConfig.ON
    if precision == 'float16':
        config.graph_options.rewrite_options.auto_mixed_precision = RewriterConfig.ON
    if xla:
        config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.ON_1
    return config
