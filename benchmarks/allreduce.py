"""How fast workers add up their gradients: the all-reduce of a step, alone.

    python benchmarks/allreduce.py                      two processes on this machine
    python benchmarks/allreduce.py --workers 4 --mb 75 0.4
    TF_CONFIG=... python benchmarks/allreduce.py        on each of several machines

The operation is that of `roadseg.training.workers`. In a ring, each of n workers sends 2 (n-1)
messages one after the other, 2 (n-1)/n of the bytes together; GB/s is that over the median time.
By default: 4 bytes for each weight of FCN-8s, and of its decoder alone, and next to nothing, which
tells how long a message takes. On one machine, the processes share its cores, and no network is
measured.
"""
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from roadseg.training import allocator      # noqa: E402
if __name__ == '__main__':
    allocator.use_huge_pages()      # as main.py does; may start Python anew
import roadseg.quiet        # noqa: F401, E402, isort: skip; before TensorFlow
import tensorflow.compat.v1 as tf       # noqa: E402

from roadseg import launch      # noqa: E402
from roadseg.commands import Parser, number, run_command        # noqa: E402
from roadseg.training import workers        # noqa: E402

WARM_UP = 3     # rounds left out


def measure(team, sizes, rounds):
    """Adds up tensors with the other workers, and prints the table on the first one.

    Args:
        team: `Workers`, several.
        sizes: megabytes of each tensor.
        rounds: how often.
    """
    team.start()
    with tf.Graph().as_default() as graph, team.session(tf.ConfigProto()) as sess:
        inputs = [tf.get_variable(f'gradient{place}', [round(1e6 * size / 4)],
                                  initializer=tf.ones_initializer)
                  for place, size in enumerate(sizes)]
        sums = [team.sum([tensor])[0] for tensor in inputs]
        initialize = tf.global_variables_initializer()
        team.prepare()
        graph.finalize()
        sess.run(initialize)
        if team.is_first:
            print(f'{team.count} workers, median of {rounds} all-reduces\n'
                  f'{"MB":>8} {"ms":>9} {"least":>9} {"GB/s sent by each":>18}')
        for size, summed in zip(sizes, sums):
            seconds = []
            for _ in range(WARM_UP + rounds):
                began = time.perf_counter()
                sess.run(summed.op)     # the sum itself stays where it is
                seconds.append(time.perf_counter() - began)
            median = statistics.median(seconds[WARM_UP:])
            sent = 2 * (team.count - 1) / team.count * size / 1e3
            if team.is_first:
                print(f'{size:>8g} {1e3 * median:>9.1f} {1e3 * min(seconds[WARM_UP:]):>9.1f} '
                      f'{sent / median:>18.2f}', flush=True)
        team.finish(sess)


def main(argv=None):
    """The command: returns the exit code of the workers."""
    parser = Parser(prog='python benchmarks/allreduce.py', description=__doc__)
    parser.add_argument('--workers', type=number(int, 2, 64), default=2, metavar='N',
                        help='processes on this machine, without TF_CONFIG')
    parser.add_argument('--mb', type=number(float, 1e-5, 1e5), nargs='+', default=[75, 0.4, 0.001],
                        help='sizes of the tensors, in megabytes')
    parser.add_argument('--rounds', type=number(int, 1, 10**6), default=20)
    args = parser.parse_args(argv)
    team = workers.join()
    if team.count > 1:
        return measure(team, args.mb, args.rounds)
    addresses = launch.free_addresses(args.workers)
    command = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)]
    started = [subprocess.Popen(command, env=launch.environment_of(addresses, index))
               for index in range(args.workers)]
    return max(abs(process.wait()) for process in started)      # negative: by a signal


if __name__ == '__main__':
    sys.exit(run_command(main))
