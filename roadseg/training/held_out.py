"""The photographs that are held out, scored after an epoch by all workers, each its share."""
import numpy as np
from tqdm import tqdm

from roadseg.inference import averaged_weights
from roadseg.scoring import score
from roadseg.training.pipeline import read_ahead
from roadseg.training.workers import Workers

EVERY_PANEL = 16        # every so many of them, one is shown in TensorBoard


class Stopped(KeyboardInterrupt):
    """Some worker was asked to end before its share was scored."""


class HeldOut:
    """The photographs that are held out.

    Args:
        network: `inference.Network`.
        dataset: `Dataset`.
        pairs: list of (image, label) paths, the same for all workers; [] for none.
        stopped: function that says whether this worker was asked to end.
        team: the workers.
        cache: `pipeline.Cache` of decoded photographs; None keeps none.
    """

    def __init__(self, network, dataset, pairs, stopped=lambda: False, team=Workers(),
                 cache=None):
        self.network, self.dataset, self.pairs = network, dataset, pairs
        self.stopped, self.team, self.cache = stopped, team, cache
        self.shown = {image.stem for image, _ in pairs[::EVERY_PANEL]}
        self.result = None      # of the last `score.score` here, if it was of all of them

    def scored(self, due=False, also=None):
        """Scores them with the averaged weights, if the first worker says so.

        All workers call this at the same time, and go on together.

        Args:
            due: whether to score them; what the first worker says counts.
            also: see `score.score`; of this worker's share, which is all that is shown on the
                first one.

        Returns:
            (mean cross entropy, dict of the measures) of all the photographs, the same on all
            workers; None where they were not to be scored.

        Raises:
            InputError: one is unreadable.
            Stopped: on all workers, where one of them was asked to end.
        """
        sess, share = self.network.sess, share_of(self.pairs, self.team.index, self.team.count)
        if not self.pairs or not self.team.of_first(sess, [due])[0]:
            return None
        totals, stopping, self.result = np.zeros(0), False, None
        try:
            if share:
                with averaged_weights(sess):
                    result = score.score(self.network, self.dataset, self.samples(share),
                                         also=also)
                totals = score.totals(result)
                self.result = result if len(share) == len(self.pairs) else None
        except Stopped:
            stopping = True
        # The first worker's share is never empty, and says how long the others' zeros are.
        stopping, length = self.team.exchange(sess, [stopping, len(totals) * self.team.is_first])
        if stopping:
            self.team.part()        # the first worker's checkpoint may take a while
            raise Stopped('stopped; the first worker has saved')
        return score.of_totals(self.team.exchange(
            sess, totals if share else np.zeros(int(length))), self.dataset)

    def samples(self, pairs):
        """Yields (name, photograph, classes) of each pair, from the cache where it is kept.

        Raises:
            InputError: one is unreadable.
            Stopped: this worker was asked to end.
        """
        shown = tqdm(pairs, 'scoring', leave=False, disable=None)
        for sample in read_ahead(shown, self.dataset.read_label, self.cache):
            if self.stopped():
                raise Stopped
            yield sample


def share_of(pairs, index, count):
    """A worker's share of the photographs, such that the first has all that are shown.

    Args:
        pairs: list.
        index: of the worker.
        count: of the workers. Up to `EVERY_PANEL`, no share exceeds another by more than one.

    Returns:
        List.
    """
    shown = pairs[::EVERY_PANEL]
    others = [pair for number, pair in enumerate(pairs) if number % EVERY_PANEL]
    kept = max(-(-len(pairs) // count) - len(shown), 0)     # of the others, by the first worker
    return shown + others[:kept] if index == 0 else others[kept:][index - 1::count - 1]
