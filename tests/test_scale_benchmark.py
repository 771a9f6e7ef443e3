"""The benchmark of sizes and numbers: what it prints of small ones."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_steps_and_frames_are_measured(tiny_vgg):
    done = subprocess.run(
        [sys.executable, 'benchmarks/scale.py', '--encoder', str(tiny_vgg), '--sizes', '32x96',
         '--batches', '1,3', '--frames', '30,90', '--frame-size', '47x155', '--cache-mb', '1'],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
        env={**os.environ, 'GLIBC_TUNABLES': ''})
    steps, frames = done.stdout.split('\n\n')
    rows = [line.split() for line in steps.splitlines()[1:]]
    assert [row[:2] for row in rows] == [['32x96', '1'], ['32x96', '3']]
    assert all(float(milliseconds) > 0 and float(memory) > 50 for *_, milliseconds, memory in rows)
    rows = [line.split() for line in frames.splitlines()[1:]]
    assert [row[0] for row in rows] == ['30', '90']
    for _, a_second, after_a_tenth, at_the_end in rows:
        assert float(a_second) > 1 and float(at_the_end) < float(after_a_tenth) + 20


def test_work_of_an_image_is_that_of_the_network(monkeypatch):
    """76.8 GFLOP, as a run says of FCN-8s with context layers at 192x640; less the decoder."""
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import peer
    assert peer.work((192, 640), training=False) == pytest.approx(76.8e9, rel=.02)
    first = 2 * 96 * 640 / 4 ** 2 * 9 * 128 * 256       # conv3_1, whose input needs no gradient
    assert peer.work((96, 640), training=True) == pytest.approx(91.1e9 - first, rel=.005)
