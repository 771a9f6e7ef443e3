"""What the CPU can do, and which convolutions train fastest on it. No TensorFlow."""
import os
from pathlib import Path

ONEDNN = 'TF_ENABLE_ONEDNN_OPTS'        # by which TensorFlow is told, while it is imported


def flags():
    """Names of what this processor can do, such as 'avx2', as Linux lists them; else none."""
    try:
        return set(Path('/proc/cpuinfo').read_text(encoding='ascii', errors='replace').split())
    except OSError:
        return set()


def native_bfloat16():
    """Whether this CPU multiplies bfloat16 in hardware; where it doesn't, it is slower."""
    return bool(flags() & {'avx512_bf16', 'amx_bf16'})


def choose_convolutions():
    """Trains with Eigen's convolutions where they are faster. To be called before TensorFlow.

    Without AVX-512, a step of one photograph takes 0.79 of oneDNN's time with them, one of two
    0.91, see docs/experiments.md. Predictions with constant weights are faster by oneDNN, which
    `roadseg.quiet` switches on where nothing was chosen, and so are trainings of narrow networks.
    What the user has set stays.
    """
    known = flags()
    if 'avx2' in known and 'avx512f' not in known:
        os.environ.setdefault(ONEDNN, '0')


def is_without_onednn():
    """Whether oneDNN was switched off, and with it bfloat16 and gradients that Eigen lacks."""
    return os.environ.get(ONEDNN, '').lower() in ('0', 'false')
