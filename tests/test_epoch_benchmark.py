"""The benchmark of a whole run: what it prints of a short one on a device that only sleeps."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_run_on_a_fake_device_is_taken_apart(tiny_vgg):
    """Two epochs of 18 photographs at 10 ms: 0.36 s of steps."""
    done = subprocess.run(
        [sys.executable, 'benchmarks/epoch.py', '--draw', '18', '--draw-size', '47x155',
         '--epochs', '2', '--fake-device', '10', '--image-size', '32x96', '--encoder', str(tiny_vgg)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
        env={**os.environ, 'GLIBC_TUNABLES': ''})
    lines = done.stdout.splitlines()
    header = next(number for number, line in enumerate(lines) if 'per cent' in line
                  and line.startswith('of the run'))
    seconds, percent = {}, []
    for line in lines[header + 1:-2]:
        label, numbers = line[:45].strip(), [float(word) for word in line[45:].split()]
        seconds[label] = numbers[0]
        percent += numbers[1:]
    assert set(seconds) == {
        'training steps', 'waiting for batches', 'scoring', 'waiting for checkpoints',
        'between steps', 'pages', 'overlays', 'start, before the first step', 'the rest of the run',
        'predictions of the network (beside the above)',
        'writing of checkpoints (beside the above)'}
    assert seconds['training steps'] >= 0.36
    # 3 held out, scored twice and once more; the overlays' are not in a thread of the scoring
    assert seconds['predictions of the network (beside the above)'] >= 9 * 0.010 / 3
    assert seconds['writing of checkpoints (beside the above)'] > 0
    assert abs(sum(percent) - 100) < 1
    assert 0 < float(lines[-2].split()[0]) <= 100 and 'images/s in the steps, ' in lines[-2]
    assert lines[-1].startswith('2 epochs took ') and lines[-1].endswith(' cores')
    assert float(lines[-1].split()[3]) > 1


@pytest.mark.slow
def test_what_the_run_refuses_ends_the_benchmark(tmp_path):
    done = subprocess.run(
        [sys.executable, 'benchmarks/epoch.py', '--data-dir', str(tmp_path), '--split', 'odd'],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2 and done.stderr.startswith('error: ')
    assert 'epochs took' not in done.stdout
