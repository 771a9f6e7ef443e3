"""The benchmarks against PyTorch and Keras: what they print of small photographs."""
import math
import subprocess
import sys
from pathlib import Path

import pytest

from roadseg.networks import vgg16

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize('kind', ('train', 'infer'))
def test_every_peer_takes_its_turn(kind, tiny_vgg):
    pytest.importorskip('torch', reason='PyTorch is not installed')
    done = subprocess.run(
        [sys.executable, f'benchmarks/{kind}.py', '--encoder', str(tiny_vgg), '--image-size',
         '64x96', '--batches', '1', '2', '--precisions', 'float32', '--rounds', '2'],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=True)
    title, *lines = done.stdout.splitlines()
    assert title.startswith(f'{kind}, 64x96')
    assert sum(line.startswith('float32   the peak') for line in lines) == 2
    cells = [line.split()[2:5] for line in lines if 'the peak' not in line]
    peers = [peer for batch, peer, _ in cells if batch == '1']
    assert {'ours', 'torch', 'torch-channels_last', 'keras'} <= set(peers)
    assert [peer for batch, peer, _ in cells if batch == '2'] == peers
    assert all(float(milliseconds) > 0 for *_, milliseconds in cells)


@pytest.mark.parametrize('kind', ('train', 'infer'))
def test_a_missing_encoder_is_told_before_anything_starts(kind, tmp_path):
    done = subprocess.run([sys.executable, f'benchmarks/{kind}.py', '--encoder', 'nowhere'],
                          cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and 'nowhere is no folder' in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.slow
def test_pytorchs_network_has_as_many_weights_as_ours(monkeypatch):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed')
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import peer
    trained, adam = [], torch.optim.Adam
    monkeypatch.setattr(torch.optim, 'Adam', lambda weights, *args, **options: (
        trained.extend(weights), adam(weights, *args, **options))[1])
    peer.torch_peer(1, (64, 96), 'float32', True, False, False)
    kernels = [shape for name, shape in vgg16.convolution_shapes().items() if name > 'conv3']
    kernels += vgg16.top_shapes(512, 512, context=True).values()
    kernels += [[1, 1, depth, 32] for depth in (512, 512, 256)]         # the scores
    upsampling = 2 * 4 * 4 * 32 * 32 + 16 * 16 * 32 * peer.CLASSES      # without a bias
    assert sum(weight.numel() for weight in trained) == upsampling + sum(
        math.prod(shape) + shape[-1] for shape in kernels)
