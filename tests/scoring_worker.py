"""A worker that scores its share of drawn photographs, with a network that is known.

    TF_CONFIG=... python tests/scoring_worker.py FOLDER CASES

CASES is JSON, a list of [number of photographs, index of the worker that is asked to end in their
middle or -1, index of the worker that dies or -1]. Prints a line of JSON of each: what was scored
here, and either the loss and the measures or what was raised. Before that, it prints whether
two tensors of known values, which are sent in several pieces, add up.
"""
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np      # noqa: E402

import roadseg.quiet        # noqa: E402, F401, isort: skip; before TensorFlow
import tensorflow.compat.v1 as tf       # noqa: E402
from test_score import KITTI, Painter       # noqa: E402

from roadseg.errors import InputError       # noqa: E402
from roadseg.training import workers        # noqa: E402
from roadseg.training.held_out import HeldOut, Stopped      # noqa: E402


def main(folder, cases):
    pairs = sorted((path, path.with_suffix('.npy')) for path in Path(folder).glob('*.png'))
    team = workers.join()
    team.start()
    with tf.Graph().as_default() as graph, team.session(tf.ConfigProto()) as sess:
        values = [tf.cast(tf.range(size) % 97, tf.float32)
                  for size in (5, 3 * team.count * workers.PIECE + 7)]
        right = [tf.reduce_all(tf.equal(found, sum(range(1, team.count + 1)) * value))
                 for value, found in zip(values, team.sum([
                     (team.index + 1) * value for value in values]))]
        team.prepare()
        graph.finalize()
        print(json.dumps([bool(answer) for answer in sess.run(right)]), flush=True)
        network = Painter(sess, None, None, None, (3, 5), (1,), False)
        for number, asked, dead in cases:
            print(json.dumps(case(team, network, pairs[:number], asked, dead)), flush=True)
        if all(dead < 0 for *_, dead in cases):
            team.finish(sess)


def case(team, network, pairs, asked, dead):
    seen = []

    def also(name, *of_frame):
        seen.append(name)
        if team.index == dead:
            os._exit(9)

    held_out = HeldOut(network, KITTI._replace(read_label=np.load), pairs,
                       lambda: team.index == asked, team)
    try:
        with team.naming_lost():
            assert held_out.scored(False) is None
            answer = held_out.scored(team.is_first, also)
    except (Stopped, InputError) as error:
        answer = [type(error).__name__, str(error)]
    return {'seen': sorted(seen), 'answer': answer}


if __name__ == '__main__':
    main(sys.argv[1], json.loads(sys.argv[2]))
