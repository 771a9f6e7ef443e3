"""Held-out photographs that are scored by several workers, each its share."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roadseg import launch
from roadseg.datasets.description import IGNORED
from roadseg.scoring import score
from roadseg.training.held_out import EVERY_PANEL, HeldOut, share_of
from roadseg.training.pipeline import Cache
from test_score import COLOURS, KITTI, PAINTER

WORKER = Path(__file__).with_name('scoring_worker.py')


@pytest.mark.parametrize('count', [1, 2, 3, 7, 16, 17, 40])
@pytest.mark.parametrize('number', [0, 1, 2, 3, 16, 17, 33, 58, 100])
def test_shares_are_all_photographs_once_and_the_first_has_what_is_shown(number, count):
    pairs = list(range(number))
    shares = [share_of(pairs, index, count) for index in range(count)]
    assert sorted(sum(shares, [])) == pairs
    assert set(pairs[::EVERY_PANEL]) <= set(shares[0])
    largest = -(-number // min(count, EVERY_PANEL))
    assert max(map(len, shares)) == largest
    if count <= EVERY_PANEL:
        assert min(map(len, shares)) >= largest - 1


def test_photographs_are_decoded_once_in_a_run(tmp_path):
    """Where the cache has room, they are read from their files after the first epoch only."""
    pairs = []
    for number in range(3):
        pairs.append((tmp_path / f'um_{number}.png', tmp_path / f'um_{number}.npy'))
        Image.fromarray(np.full((3, 5, 3), number, np.uint8)).save(pairs[-1][0])
        np.save(pairs[-1][1], np.full((3, 5), number % 2, np.uint8))
    held_out = HeldOut(PAINTER, KITTI._replace(read_label=np.load), pairs, cache=Cache(10**6))
    first = list(held_out.samples(pairs))
    for image, label in pairs:
        image.unlink()
        label.unlink()
    for (name, *arrays), (expected_name, *expected) in zip(held_out.samples(pairs), first,
                                                           strict=True):
        assert name == expected_name
        np.testing.assert_array_equal(arrays[0], expected[0])
        np.testing.assert_array_equal(arrays[1], expected[1])


# Totals ---------------------------------------------------------------------------------------

@pytest.mark.parametrize('dataset', [KITTI, COLOURS])
def test_totals_of_shares_add_up_to_the_scores_of_all(dataset):
    rng = np.random.default_rng(0)
    samples = [(f'um_{number}', rng.integers(0, 256, (3, 5, 3), np.uint8),
                rng.choice(np.uint8([*range(len(dataset.classes)), IGNORED]), (3, 5)))
               for number in range(5)]
    whole = score.score(PAINTER._replace(image_shape=(3, 5)), dataset, samples)
    loss, measures = score.of_totals(sum(
        score.totals(score.score(PAINTER._replace(image_shape=(3, 5)), dataset, share))
        for share in (samples[:1], samples[1:4], samples[4:])), dataset)
    assert loss == pytest.approx(whole['loss'], rel=1e-14)
    assert measures == score.measures_by_group(whole['counts'], dataset)[dataset.pooled]


# Processes ------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Seventeen photographs: of these, the first and the last are shown."""
    folder, rng = tmp_path_factory.mktemp('photographs'), np.random.default_rng(1)
    for number in range(17):
        photograph = rng.integers(0, 256, (3, 5, 3), np.uint8)
        Image.fromarray(photograph).save(folder / f'um_{number:02d}.png')
        np.save(folder / f'um_{number:02d}.npy', rng.choice(np.uint8([0, 1, IGNORED]), (3, 5)))
    return folder


def of_all(folder, number):
    """Loss and measures of the first photographs, without workers."""
    paths = sorted(folder.glob('*.png'))[:number]
    result = score.score(PAINTER, KITTI, [
        (path.stem, np.array(Image.open(path)), np.load(path.with_suffix('.npy')))
        for path in paths])
    return result['loss'], score.measures_by_group(result['counts'], KITTI)['URBAN']


def start(folder, cases):
    """Starts three workers; returns their addresses and processes."""
    addresses = launch.free_addresses(3)
    return addresses, [subprocess.Popen(
        [sys.executable, str(WORKER), str(folder), json.dumps(cases)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=launch.environment_of(addresses, index)) for index in range(3)]


@pytest.mark.slow
def test_three_workers_score_their_shares_and_all_get_the_scores_of_all(folder):
    """Also of fewer photographs than workers, and after one of them was asked to end."""
    cases = [[17, -1, -1], [1, -1, -1], [2, -1, -1], [0, -1, -1], [17, 2, -1], [17, 0, -1],
             [5, -1, -1]]
    _, processes = start(folder, cases)
    outputs = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    said = [[json.loads(line) for line in output.splitlines()] for output, _ in outputs]
    assert [lines.pop(0) for lines in said] == [[True, True]] * 3      # the sums

    seen = [[len(answer['seen']) for answer in answers] for answers in zip(*said)]
    assert seen[:4] + seen[6:] == [[6, 6, 5], [1, 0, 0], [1, 1, 0], [0, 0, 0], [2, 2, 1]]
    assert seen[4][2] == seen[5][0] == 0        # those that were asked
    assert {'um_00', 'um_16'} <= set(said[0][0]['seen'])
    assert sorted(sum((lines[0]['seen'] for lines in said), [])) == [
        f'um_{number:02d}' for number in range(17)]

    for (number, *_), *answers in zip(cases, *(
            [line['answer'] for line in lines] for lines in said)):
        assert answers == [answers[0]] * 3
        if answers[0] is None:
            assert number == 0
        elif answers[0][0] != 'Stopped':
            loss, measures = of_all(folder, number)
            assert answers[0] == [pytest.approx(loss, rel=1e-14), measures]
    assert [lines['answer'][0] == 'Stopped' for lines in said[0] if lines['answer']] == [
        False, False, False, True, True, False]


@pytest.mark.slow
def test_a_worker_that_dies_while_it_scores_is_named_by_the_others(folder):
    addresses, processes = start(folder, [[5, -1, -1], [5, -1, 1]])
    outputs = [''.join(process.communicate(timeout=400)) for process in processes]
    assert processes[1].returncode == 9
    for output in (outputs[0], outputs[2]):
        assert f'worker 1 ({addresses[1]})' in output and 'is gone' in output, output
