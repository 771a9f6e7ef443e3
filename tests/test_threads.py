"""Scoring and overlays in threads beside a network that is asked for one photograph at a time."""
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from roadseg import threads
from roadseg.datasets import kitti
from roadseg.datasets.description import Dataset
from roadseg.inference import Network
from roadseg.scoring import road, score
from roadseg.threads import Turns, prepared_ahead

FRAMES, SIZE = 24, (6, 9)
KITTI = Dataset(
    name='kitti', title='KITTI Road', classes=kitti.CLASSES, palette=kitti.PALETTE, road=1,
    measures=road, labelled=[], tests=[], read_label=None, split=None, default_split='val3',
    groups=kitti.GROUPS, group=kitti.category, pooled='URBAN')


class Sleeper:
    """A session that takes its time, and notes how many threads are in it at once."""

    def __init__(self, seconds=0.0):
        self.seconds, self.inside, self.most, self.calls = seconds, 0, 0, 0

    def run(self, fetch, feed):
        self.inside += 1
        self.most, self.calls = max(self.most, self.inside), self.calls + 1
        time.sleep(self.seconds)
        self.inside -= 1
        red = np.float32(feed['image'][0, ..., 0]).ravel() - 128
        return np.stack([np.zeros_like(red), red], axis=-1)


def network(sess, size=SIZE):
    return Network(sess, 'logits', 'keep_prob', 'image', size)


def frames(count=FRAMES):
    rng = np.random.default_rng(3)
    for number in range(count):
        yield (f'um_{number:06}', rng.integers(0, 256, (*SIZE, 3), np.uint8),
               rng.integers(0, 2, SIZE, np.uint8))


def test_scores_in_threads_are_those_of_one_photograph_after_the_other():
    sess = Sleeper(0.002)
    seen = {}
    scored = score.score(network(sess), KITTI, frames(),
                         also=lambda name, *of_frame: seen.update({name: of_frame}))
    assert sess.most == 1 and sess.calls == FRAMES
    expected = {name: road.count(road.predict(network(Sleeper()), photograph), truth)
                for name, photograph, truth in frames()}
    assert list(scored['counts']) == list(expected)         # in their order, too
    for name, count in expected.items():
        np.testing.assert_array_equal(scored['counts'][name], count)
    losses = [road.cross_entropy(road.predict(network(Sleeper()), photograph), truth)
              for _, photograph, truth in frames()]
    assert scored['loss'] == sum(loss for loss, _ in losses) / sum(size for _, size in losses)
    assert set(seen) == set(expected)
    np.testing.assert_array_equal(seen['um_000005'][0], list(frames())[5][1])


def test_the_time_of_an_image_is_by_the_clock_that_does_not_wait_for_others(monkeypatch):
    of_thread = threading.local()

    def clock():
        of_thread.now = getattr(of_thread, 'now', 0) + 0.02
        return of_thread.now

    monkeypatch.setattr(score, 'TURNS', SimpleNamespace(clock=clock))
    assert score.score(network(Sleeper()), KITTI, frames())['ms_per_image'] == pytest.approx(20)


def test_drawing_does_not_keep_the_network_waiting():
    """While one photograph is drawn, the network sees the next ones."""
    drawing, most = [], []

    def draw(name, *of_frame):
        drawing.append(name)
        most.append(len(drawing))
        time.sleep(0.03)
        drawing.remove(name)

    score.score(network(Sleeper()), KITTI, frames(), also=draw)
    assert max(most) > 1


def test_an_error_in_a_thread_ends_the_scoring():
    def fail(name, *of_frame):
        if name == 'um_000002':
            raise OSError('no space left')

    with pytest.raises(OSError, match='no space left'):
        score.score(network(Sleeper()), KITTI, frames(), also=fail)


def test_a_request_to_end_while_photographs_come_ends_the_scoring():
    def stopping():
        yield from frames(5)
        raise KeyboardInterrupt('stopped')

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt, match='stopped'):
        score.score(network(Sleeper()), KITTI, stopping())
    assert threading.active_count() <= before


def test_the_clock_of_turns_stands_still_while_a_thread_waits(monkeypatch):
    now, asked, waits, found = [0.0], [], threading.Event(), []

    def perf_counter():
        if threading.current_thread() is not threading.main_thread():
            asked.append(1)
            if len(asked) == 2:         # as it comes, before it waits
                waits.set()
        return now[0]

    monkeypatch.setattr(threads, 'time', SimpleNamespace(perf_counter=perf_counter))
    turns = Turns()

    def second():
        began = turns.clock()
        with turns:
            now[0] += 2
        found.append(turns.clock() - began)

    with turns:
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(60)
        now[0] += 50
    thread.join()
    assert found == [2]


def test_what_is_prepared_keeps_its_order_and_is_not_prepared_too_early():
    asked = []

    def arguments():
        for number in range(50):
            asked.append(number)
            yield number

    made = prepared_ahead(lambda number: time.sleep(0.001 * (number % 3)) or number, arguments(),
                          threads=4, ahead=6)
    for number in range(50):
        assert next(made) == number
        assert len(asked) <= number + 8


def test_an_error_in_a_thread_ends_what_comes_before_it():
    closed = []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    with pytest.raises(ZeroDivisionError):
        list(prepared_ahead(lambda item: 1 / (item - 5), items()))
    assert closed == [True]
