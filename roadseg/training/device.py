"""What a network runs on: GPU or CPU, its precision, the session's configuration."""
import os
import sys
from pathlib import Path
from typing import NamedTuple

from roadseg.quiet import has_driver    # noqa: isort: skip; before TensorFlow
import tensorflow.compat.v1 as tf


class Device(NamedTuple):
    """What a network runs on."""
    name: str               # such as 'NVIDIA H200' or 'CPU, 2 cores'
    is_gpu: bool
    precision: str          # of the activations: 'float32' or 'bfloat16'


def find(precision='auto'):
    """Finds the device that will train, and the precision that it shall have.

    Args:
        precision: 'float32', 'bfloat16' or 'auto', which is bfloat16 on a CPU that multiplies
            it in hardware, and float32 elsewhere. TensorFlow's rewrite to bfloat16 touches only
            what runs on a CPU, so on a GPU it falls back to float32 with a warning.

    Returns:
        `Device`.
    """
    gpus = tf.config.list_physical_devices('GPU') if has_driver() else []
    if gpus:
        names = [tf.config.experimental.get_device_details(gpu).get('device_name', gpu.name)
                 for gpu in gpus]
        if precision == 'bfloat16':
            print('warning: on a GPU, --precision bfloat16 is not there; going on in float32, '
                  'whose convolutions use TF32', file=sys.stderr)
        return Device(', '.join(names), True, 'float32')
    if precision == 'auto':
        precision = 'bfloat16' if native_bfloat16() else 'float32'
    return Device(f'CPU, {os.cpu_count()} cores', False, precision)


def native_bfloat16():
    """Whether this CPU multiplies bfloat16 in hardware; where it doesn't, it is slower."""
    try:
        flags = Path('/proc/cpuinfo').read_text(encoding='ascii', errors='replace')
    except OSError:
        return False
    return 'avx512_bf16' in flags or 'amx_bf16' in flags


def describe(device):
    """Returns what a run says of its `Device` at the start: one to three lines."""
    if device.is_gpu:
        several = '; one of them is used' if ',' in device.name else ''
        return f'device: {device.name}{several}'
    lines = [f'device: {device.name}',
             'warning: no GPU was found; the expected time follows below']
    if sys.platform == 'linux' and 'hugetlb' not in os.environ.get('GLIBC_TUNABLES', ''):
        lines.append('hint: with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment, '
                     'training on a Linux CPU is about a quarter faster')
    return '\n'.join(lines)


def session_config(precision='float32'):
    """Configuration of a session.

    Args:
        precision: 'float32', or 'bfloat16', where the variables stay float32 and what oneDNN
            convolves and multiplies on a CPU is rounded.
    """
    config = tf.ConfigProto(allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    if not has_driver():
        config.device_count['GPU'] = 0
    if precision == 'bfloat16':
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = 1
    return config
