"""Compares exports with what they were made of: answers, score, file, time and memory.

`roadseg.export` writes them, and has each checked here.
"""
import math
import os
import platform
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from scipy.special import softmax
from tqdm import tqdm

from roadseg import model, runtimes
from roadseg.errors import InputError
from roadseg.files import human_size
from roadseg.images import resize
from roadseg.inference import Network
from roadseg.machine import processors
from roadseg.training.pipeline import read_pair
from roadseg.training.run_folder import describe_software

NATIVE = {'savedmodel': 'tensorflow', 'frozen': 'tensorflow', 'onnx': 'onnxruntime',
          'tflite': 'tflite'}           # what an export is checked on
# The largest difference of a probability, the least share of pixels of the same class, and the
# largest loss of the score, in points. Beside edges, where a probability is anything, an export
# of 8 bits may differ by anything.
LIMITS = {'none': (0.01, 0.999, 0.05), 'float16': (0.1, 0.995, 0.1), 'dynamic': (1, 0.98, 0.3),
          'int8': (1, 0.98, 0.3)}
LEFT_OUT = 'not good'       # where --compare says what an export runs on
CHECKED = 100               # photographs at most, evenly spaced
ROUNDS = 20                 # of the times, after `WARM_UP` more
WARM_UP = 3


# Answers --------------------------------------------------------------------------------------

class _Known(Network):
    """A network that has seen the photograph already: `sess` are its logits."""

    def run(self, image):
        return self.sess


def compare_answers(expected, found, dataset, pairs):
    """Compares two networks on labelled photographs, at the size of the training.

    Args:
        expected, found: `inference.Network`, of one size, without mirror image.
        dataset: `Dataset`.
        pairs: (image, label) paths.

    Returns:
        dict: 'photographs', 'largest_difference' of a probability, 'agreement', the share of the
        pixels of the same class, 'measure', 'before' and 'after', in per cent, which are None
        where the measure does not exist.
    """
    largest, same, pixels, counts = 0.0, 0, 0, [0, 0]
    for pair in tqdm(pairs, 'checking', leave=False, disable=None):
        photograph, truth = read_pair(pair, dataset.read_label)
        image = resize(photograph, expected.image_shape)
        logits = [network.run(image) for network in (expected, found)]
        before, after = (softmax(values, axis=-1) for values in logits)
        largest = float(np.maximum(largest, abs(before - after).max()))     # NaN, if it is once
        same += np.count_nonzero(before.argmax(axis=-1) == after.argmax(axis=-1))
        pixels += before[..., 0].size
        for number, values in enumerate(logits):
            network = _Known(values, None, None, None, expected.image_shape)
            prediction = dataset.measures.predict(network, photograph)
            counts[number] += dataset.measures.count(prediction, truth, len(dataset.classes))
    scores = [dataset.measures.measures(of, dataset.classes, dataset.road) for of in counts]
    best = dataset.measures.BEST
    return {'photographs': len(pairs), 'largest_difference': largest, 'agreement': same / pixels,
            'measure': best, 'before': scores[0].get(best), 'after': scores[1].get(best)}


def problems_of(check, precision):
    """What is wrong with an export, in words: [] where it is good."""
    difference, agreement, loss = LIMITS[precision]
    problems = []
    if not check['largest_difference'] <= difference:
        problems.append(f"a probability differs by {check['largest_difference']:.4f}, at most "
                        f'{difference} is allowed')
    if not check['agreement'] >= agreement:
        problems.append(f"{check['agreement']:.3%} of the pixels have the same class, at least "
                        f'{agreement:.1%} is expected')
    if check['before'] is not None and not check['before'] - (check['after'] or 0) <= loss:
        problems.append(f"{check['measure']} is {check['after'] or 0:.2f}, and was "
                        f"{check['before']:.2f}; at most {loss} less is allowed")
    return problems


def describe(check):
    """The result of the check in one line."""
    text = (f"{check['photographs']} photographs: largest difference "
            f"{check['largest_difference']:.2g}, same class {check['agreement']:.3%}")
    if None not in (check['before'], check['after']):
        text += f", {check['measure']} {check['before']:.2f} -> {check['after']:.2f}"
    return text


def spread(items, count):
    """At most `count` items of a list, evenly spaced."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def check_on(folder, runtime, opened, photographs):
    """Checks an export.

    Args:
        folder: of the export.
        runtime: that it runs on.
        opened: what `export.checkpoint_network` yields.
        photographs: what `export.photographs_of` returns.

    Returns:
        dict, see `compare_answers`.

    Raises:
        InputError: it can't be opened there.
    """
    _, network, _ = opened
    dataset, _, held_out = photographs
    with model.load(folder, runtime) as exported:
        return compare_answers(network, exported.network, dataset, spread(held_out, CHECKED))


# Measuring ------------------------------------------------------------------------------------

@contextmanager
def timing(code, *arguments):
    """Starts a process that times a network, see `runtimes.time_runs`.

    Args:
        code: Python, with the arguments in `sys.argv[1:]`.

    Yields:
        Function that takes one more time and returns milliseconds; or, when it is given 'memory',
        the most bytes that the process has had in memory.

    Raises:
        InputError: the process has ended.
    """
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')]))
    with subprocess.Popen([sys.executable, '-c', 'import sys\n' + code, *map(str, arguments)],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          start_new_session=True,       # Ctrl-C is for this process to answer
                          env={**os.environ, 'PYTHONPATH': path,
                               'CUDA_VISIBLE_DEVICES': ''}) as process:      # all on the CPU
        def ask(what='time'):
            try:
                print(what, file=process.stdin, flush=True)
                return float(process.stdout.readline())
            except (OSError, ValueError) as error:
                process.kill()
                raise InputError(f'the process that timed {arguments[0]} has ended with code '
                                 f'{process.wait()}; is there too little memory?') from error
        try:
            yield ask
        finally:
            process.kill()
            with suppress(OSError):         # what it was asked for last is still to be sent
                process.stdin.close()


def compare(run, which, opened, photographs, exports):
    """Measures exports beside the training graph.

    The networks take turns at one photograph, each in a process of its own on all processors.

    Args:
        run: folder.
        which: 'last' or 'best'.
        opened: what `export.checkpoint_network` yields.
        photographs: what `export.photographs_of` returns.
        exports: what `export.export_all` yields.

    Returns:
        dict, as it is in compare.json.

    Raises:
        InputError: the checkpoint has been removed, or the training graph can't be timed.
    """
    dataset, checkpoint = photographs[0], opened[0]
    rows, starts = [], []
    train = {'format': 'training graph', 'precision': 'float32', 'runtime': 'tensorflow',
             'bytes': _bytes_of(checkpoint)}
    for form, precision, folder, (about, problems) in exports:
        train['score'] = about['check']['before']
        for name in [NATIVE[form]] if problems else filter(runtimes.is_installed,
                                                           runtimes.RUNTIMES[form]):
            try:
                check = (about['check'] if name == NATIVE[form]
                         else check_on(folder, name, opened, photographs))
            except InputError as error:
                print(f'warning: {error}', file=sys.stderr)
                continue
            wrong = problems_of(check, precision)
            print('; '.join([f'{folder.name} on {name}: {describe(check)}', *wrong]), flush=True)
            rows.append({
                'format': form, 'precision': 'float32' if precision == 'none' else precision,
                'runtime': LEFT_OUT if problems else name, 'bytes': about['bytes'],
                'score': check['after'],
                'largest_difference': _finite(check['largest_difference']),
                'agreement': check['agreement'], 'problems': wrong})
            if not wrong:
                starts.append(('from roadseg import runtimes; runtimes.time_export(*sys.argv[1:])',
                               folder.resolve(), name))
    measure_in_turns([train, *(row for row in rows if not row['problems'])],
                     [('from roadseg import export; export.time_training(*sys.argv[1:])',
                       run.resolve(), which), *starts])
    _, training, checked = photographs
    return {'hardware': processor(), 'image_size': list(opened[1].image_shape),
            'photographs': min(len(checked), CHECKED), 'measure': dataset.measures.BEST,
            'which': 'trained on' if checked is training else 'held out',
            'rounds': ROUNDS, 'checkpoint': checkpoint.name, **describe_software(),
            'rows': [train, *rows]}


def _finite(value):
    """A number, None where it is none: JSON knows no NaN."""
    return value if math.isfinite(value) else None


def _bytes_of(checkpoint):
    try:
        return sum(file.stat().st_size for file in checkpoint.iterdir())
    except OSError as error:        # a training that goes on keeps the newest
        raise InputError(f'{checkpoint} has been removed meanwhile; run the command '
                         'again') from error


def measure_in_turns(rows, starts):
    """Adds 'ms', the median of `ROUNDS`, and 'peak_bytes' to the rows.

    Of one whose process ends, for lack of memory for instance, it adds 'lost'.

    Raises:
        InputError: that was the first one.
    """
    with ExitStack() as stack:
        askers = [stack.enter_context(timing(*start)) for start in starts]
        times = [[] for _ in askers]
        for _ in tqdm(range(WARM_UP + ROUNDS), 'timing', leave=False, disable=None):
            for row, asker, of_one in zip(rows, askers, times):
                time.sleep(0.02)        # until the threads of the one before have gone to sleep
                with losing(row, rows[0]):
                    of_one.append(asker())
        for row, asker, of_one in zip(rows, askers, times):
            with losing(row, rows[0]):
                row['peak_bytes'] = asker('memory')
                row['ms'] = float(np.median(of_one[WARM_UP:]))


@contextmanager
def losing(row, first):
    """Notes in a row, but the first one, that its process is lost."""
    try:
        yield
    except InputError as error:
        if row is first:        # which the others are compared with
            raise
        if 'lost' not in row:
            print(f'warning: {error}', file=sys.stderr)
        row['lost'] = True


def processor():
    """Name of the processor and number of its cores that are used."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
        name = next((line.split(':')[1].strip() for line in lines
                     if line.startswith('model name')), name)
    return f'{name}, {processors()} cores'


def table(result):
    """The comparison in Markdown: a line that says of what, and a table."""
    first = result['rows'][0]
    lines = [['format', 'precision', 'runs on', 'file', result['measure'], 'ms', 'speed',
              'peak memory']]
    lines.append(['---'] * 3 + ['---:'] * 5)
    for row in result['rows']:
        score = '-' if row['score'] is None else f"{row['score']:.2f}"
        why = LEFT_OUT if row.get('problems') else 'lost'
        measured = [why, '-', '-'] if 'ms' not in row else [
            f"{row['ms']:.1f}", f"{first['ms'] / row['ms']:.2f}x", human_size(row['peak_bytes'])]
        lines.append([row['format'], row['precision'], row['runtime'], human_size(row['bytes']),
                      score, *measured])
    widths = [max(map(len, column)) for column in zip(*lines)]
    height, width = result['image_size']
    return (f"{result['hardware']}, {height}x{width}, batch 1, median of {result['rounds']}; "
            f"{result['measure']} on {result['photographs']} photographs {result['which']}. "
            "The training graph's file and memory hold what training needs, too.\n\n"
            + ''.join('| ' + ' | '.join(
                cell.ljust(width) if number < 3 else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(line, widths))) + ' |\n'
                      for line in lines))
