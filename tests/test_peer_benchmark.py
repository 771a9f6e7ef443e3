"""The benchmarks against PyTorch and Keras: what they print of small photographs."""
import subprocess
import sys
from pathlib import Path

import pytest

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
def test_pytorchs_network_has_the_weights_of_ours(tmp_path, monkeypatch):
    """VGG16's 13 convolutions, three dilated ones, a mean, fc7, three scores, three upsamplings."""
    torch = pytest.importorskip('torch', reason='PyTorch is not installed')
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import peer
    counted = []
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, 'Adam', lambda trained, *args, **options: (
        counted.append(sum(p.numel() for p in trained)), adam(trained, *args, **options))[1])
    peer.torch_peer(1, (64, 96), 'float32', True, False, False)
    assert counted == [18_710_000]
