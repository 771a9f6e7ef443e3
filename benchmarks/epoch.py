"""Where the time of a whole training run goes: steps, and what keeps the device waiting.

    python benchmarks/epoch.py --data-dir data --epochs 40
    python benchmarks/epoch.py --draw 24 --epochs 4 --fake-device 20      a minute, without data

Everything of a run is done, from reading the photographs to overlays and page; what is not named
here are options of main.py. With --fake-device MS, a training step is a sleep of so many
milliseconds a photograph and a prediction one of a third of that, and all else is real: it tells
whether a device as fast as that would wait. Drawn scenes are trained on with drawn weights, as many
as those of the real encoder, as checkpoints are written.

Then the images a second, and, of a real device, what they make of its peak (--peak TFLOPS): the
forward pass's work, and twice that for what the backward pass goes through.
"""
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np      # noqa: E402

import main         # noqa: E402
from roadseg.commands import Parser, image_size, number, run_command        # noqa: E402
from roadseg.datasets import demo       # noqa: E402
from roadseg.machine import processors      # noqa: E402
from roadseg.scoring import score     # noqa: E402
from roadseg.training import checkpoints, pipeline      # noqa: E402

tf = main.tf
START, STEPS, REST = 'start, before the first step', 'training steps', 'the rest of the run'
# What threads do:
NETWORK = 'predictions of the network (beside the above)'
WRITING = 'writing of checkpoints (beside the above)'


class Stopwatch:
    """Adds up what the main thread does; within a part of the run, another may be timed."""

    def __init__(self):
        self.seconds, self.label, self.began = defaultdict(float), START, time.perf_counter()
        self.images, self.flop_per_image = 0, None      # trained on; of a training step

    def switch(self, label):
        """Goes over to another part; returns the one that was on."""
        now = time.perf_counter()
        self.seconds[self.label] += now - self.began
        before, self.label, self.began = self.label, label, now
        return before

    @contextmanager
    def timing(self, label):
        before = self.switch(label)
        try:
            yield
        finally:
            self.switch(before)

    def wrap(self, owner, name, label):
        """Times a function wherever it is called by this name."""
        function = getattr(owner, name)

        def timed(*arguments, **options):
            with self.timing(label):
                return function(*arguments, **options)

        setattr(owner, name, timed)

    def wrap_beside(self, owner, name, label):
        """Times a function wherever a thread calls it."""
        function = getattr(owner, name)

        def timed(*arguments, **options):
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                if threading.current_thread() is not threading.main_thread():
                    self.seconds[label] += time.perf_counter() - began

        setattr(owner, name, timed)


def watched_session(watch, fake_ms):
    """A class of sessions that times training steps and predictions, and may only sleep them."""
    original = tf.Session

    class Watched(original):
        def run(self, fetches, feed_dict=None, **options):
            by_name = {getattr(tensor, 'name', tensor): value
                       for tensor, value in (feed_dict or {}).items()}
            images = by_name.get('photographs:0')
            if 'learning_rate:0' in by_name:
                watch.images += len(images)
                with watch.timing(STEPS):
                    if fake_ms is None:
                        return super().run(fetches, feed_dict, **options)
                    time.sleep(1e-3 * fake_ms * len(images))
                    return [np.float32(0.5), None]
            if getattr(fetches, 'name', '') != 'logits:0':
                return super().run(fetches, feed_dict, **options)
            began = time.perf_counter()
            if fake_ms is None:
                result = super().run(fetches, feed_dict, **options)
            else:
                time.sleep(1e-3 * fake_ms / 3)
                result = np.zeros((np.prod(images.shape[:3]), fetches.shape[-1]), np.float32)
            if threading.current_thread() is not threading.main_thread():
                watch.seconds[NETWORK] += time.perf_counter() - began
            return result

    return Watched


def watch_batches(watch):
    """Times how long the training waits for its batches."""
    make = pipeline.gen_batch_function

    def gen_batch_function(*arguments, **options):
        get_batches_fn = make(*arguments, **options)

        def watched(*which):
            batches = get_batches_fn(*which)
            while True:
                with watch.timing('waiting for batches'):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch

        return watched

    pipeline.gen_batch_function = gen_batch_function


def watch_cost(watch):
    """Notes the work of a training step, as the run itself estimates it."""
    estimate = main.preflight.estimate

    def noted(*arguments):
        cost, *others = estimate(*arguments)
        watch.flop_per_image = 1e9 * cost.gflop_per_image * (1 + 2 * cost.carried_back)
        return cost, *others

    main.preflight.estimate = noted


def table(watch, epochs, peak=None):
    """Text of what the run's time went into, the longest first.

    Args:
        watch: `Stopwatch`.
        epochs: of the run.
        peak: of the device, TFLOP/s; None where it sleeps or is not known.
    """
    seconds = watch.seconds
    if not watch.images:
        return 'the run had no step'
    parts = {label: time_of for label, time_of in seconds.items()
             if label not in (START, NETWORK, WRITING)}
    whole = sum(parts.values())
    lines = [f'{"of the run from its first step on":45} {"seconds":>8} {"per cent":>9}']
    for label in sorted(parts, key=lambda label: -parts[label]):
        lines.append(f'{label:45} {parts[label]:8.2f} {100 * parts[label] / whole:9.1f}')
    lines += [f'{label:45} {seconds[label]:8.2f}' for label in (NETWORK, WRITING, START)]
    rate = watch.images / parts[STEPS]
    lines.append(f'{rate:.1f} images/s in the steps, {watch.images / whole:.1f} in all')
    if peak:
        done = 1e-12 * rate * watch.flop_per_image
        lines.append(f'{done:.2f} TFLOP/s in the steps, {done / peak:.2f} of {peak:g}')
    return '\n'.join([*lines, f'{epochs} epochs took {whole / parts[STEPS]:.3f} times as long as '
                              f'their steps, on {processors()} cores'])


def command(argv=None):
    parser = Parser(prog='python benchmarks/epoch.py', description=__doc__)
    parser.add_argument('--fake-device', type=number(float, 0, 1e5), metavar='MS',
                        help='sleep so long a photograph instead of a training step')
    parser.add_argument('--peak', type=number(float, 1e-3, 1e6), metavar='TFLOPS',
                        help='peak of a real device at the precision of the training')
    parser.add_argument('--draw', type=number(int, 6, 3000), metavar='N',
                        help='train on so many drawn scenes of the size of KITTI Road, with as '
                             'many test photographs and a sixth of them held out; KITTI Road: 241')
    parser.add_argument('--draw-size', type=image_size, default=(375, 1242), metavar='HxW',
                        help='of drawn scenes')
    parser.add_argument('--epochs', type=number(int, 1, 100_000), default=40)
    args, others = parser.parse_known_args(argv)

    watch = Stopwatch()
    watch_batches(watch)
    watch_cost(watch)
    tf.Session = watched_session(watch, args.fake_device)
    watch.wrap(main, 'train_nn', 'between steps')
    watch.wrap(main.Recorder, 'score_last', REST)
    watch.wrap(main.Recorder, 'finish', REST)
    watch.wrap(checkpoints.Writer, 'save', 'waiting for checkpoints')
    watch.wrap(checkpoints.Writer, 'wait', 'waiting for checkpoints')
    watch.wrap_beside(checkpoints, '_write', WRITING)
    watch.wrap(score, 'score', 'scoring')
    watch.wrap(main.Recorder, 'write_page', 'pages')
    watch.wrap(main.helper, 'write_overlays', 'overlays')
    with tempfile.TemporaryDirectory() as folder:
        if args.draw:
            held_out = max(1, args.draw // 18)      # of each of three kinds
            demo.write_scenes(Path(folder), train=args.draw // 3 * 3 + 3 * held_out,
                              test=args.draw // 3 * 3, held_out=held_out, size=args.draw_size)
            others += ['--data-dir', folder]
            if '--encoder' not in others:
                others += ['--encoder', str(drawn_encoder(Path(folder) / 'vgg'))]
        watch.began = time.perf_counter()
        code = run_command(main.main, ['--runs-dir', str(Path(folder) / 'runs'), '--epochs',
                                       str(args.epochs), *others])
        watch.switch(START)
    if code == 0:
        print(table(watch, args.epochs, None if args.fake_device else args.peak))
    return code


def drawn_encoder(path):
    """Writes a VGG16 with the weights drawn, as large as that of `--context`."""
    from roadseg.networks import vgg16
    shapes = vgg16.convolution_shapes()
    top = vgg16.top_shapes(shapes['conv5_3'][-1], fc_width=512, context=True)
    vgg16.save({}, {**shapes, **top}, vgg16.torch_input, path)
    return path


if __name__ == '__main__':
    sys.exit(run_command(command))
