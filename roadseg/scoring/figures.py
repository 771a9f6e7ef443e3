"""The figures of a page, drawn with matplotlib: curves and the confusion matrix.

Colours are Okabe and Ito's, which the colour-blind can tell apart, and lines differ in their
markers or dashes, too. Names from files are drawn as they are, '$' and all.
"""
import io
import logging
import math
import os
import warnings
from contextlib import contextmanager

import numpy as np

os.environ.pop('MPLBACKEND', None)      # of no use here, and a wrong one is an error
logging.getLogger('matplotlib').setLevel(logging.ERROR)     # of a home it can't write to
from matplotlib import rc_context       # noqa: E402
from matplotlib.figure import Figure        # noqa: E402
from matplotlib.patches import Patch        # noqa: E402
from matplotlib.ticker import (LogLocator, MaxNLocator, NullLocator,      # noqa: E402
                               StrMethodFormatter)

BLUE, VERMILLION, GREEN, PURPLE = '#0072b2', '#d55e00', '#009e73', '#cc79a7'
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, '#56b4e9', '#e69f00', '#555555')
DASHES = ('-', '--', ':', '-.')
DPI, SIZE = 150, (5, 3.6)       # inches; 750 x 540 pixels
MARGINS = {'left': 0.15, 'right': 0.97, 'bottom': 0.14, 'top': 0.92}
NUMBERED = 20                   # a confusion matrix of more classes has no numbers in its cells
NAMED = 50                      # names beside it; of more classes, every second, third, ...
LARGEST = 1e30                  # a loss beyond is not drawn; matplotlib's axes overflow


def losses(epochs, training, validation):
    """Draws the loss over the epochs, on a log scale where it falls a lot.

    Args:
        epochs: list of float.
        training, validation: lists of float, as long; what is NaN or infinite is not drawn.

    Returns:
        PNG, bytes.
    """
    with _figure('epoch', 'loss (no unit)', 'Loss') as (axes, png):
        for values, label, colour, marker in ((training, 'training', BLUE, 'o'),
                                              (validation, 'validation', VERMILLION, 's')):
            _draw_over_epochs(axes, epochs, values, label, colour, marker)
        drawn = [value for value in training + validation if abs(value) < LARGEST]
        if drawn and min(drawn) > 0 and max(drawn) > 5 * min(drawn):
            axes.set_yscale('log')
            axes.set_ylabel('loss (no unit, log scale)')
            if max(drawn) < 1e4 * min(drawn):       # beyond, there would be a hundred labels
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
    return png.getvalue()


def scores(epochs, curves):
    """Draws validation scores over the epochs.

    Args:
        epochs: list of float.
        curves: dict from label to list of float in per cent, as long; what is NaN or infinite is
            not drawn.

    Returns:
        PNG, bytes.
    """
    with _figure('epoch', 'per cent', 'Validation scores') as (axes, png):
        for (label, values), colour, marker in zip(curves.items(), (GREEN, PURPLE, BLUE), 'o^s'):
            _draw_over_epochs(axes, epochs, values, label, colour, marker)
    return png.getvalue()


def precision_recall(precision, recall, best=None):
    """Draws precision over recall, the corner in which the best threshold lies.

    Args:
        precision, recall: lists of float in per cent, one number per threshold k on the 8-bit
            confidence: a pixel is taken if it has k or more.
        best: index of the best threshold; None marks none.

    Returns:
        PNG, bytes.
    """
    count = len(precision)
    with _figure('recall (per cent)', 'precision (per cent)', 'Precision and recall') as (
            axes, png):
        pairs = [pair for pair in zip(recall, precision) if any(pair)]  # 0, 0: nothing is taken
        axes.plot(*zip(*pairs), color=BLUE, linewidth=1.8)
        marks = [(count // 2, 'probability 0.5', PURPLE, 's')]
        if best is not None and 0 <= best < count:
            marks.append((best, f'best: probability {best / count:.2f}', VERMILLION, 'o'))
        for index, label, colour, marker in marks:
            axes.plot(recall[index], precision[index], color=colour, marker=marker, markersize=8,
                      linestyle='', label=label)
        worst = min(min(recall[index], precision[index]) for index, *_ in marks)
        low = min(90, max(0, 10 * math.floor((2 * worst - 100) / 10 - 1)))
        axes.set_xlim(low, 100 + (100 - low) / 50)
        axes.set_ylim(low, 100 + (100 - low) / 50)
    return png.getvalue()


def confusion(matrix, classes):
    """Draws a confusion matrix, each row in per cent of its true class.

    Args:
        matrix: (C, C) numbers, rows truth, columns prediction, in pixels.
        classes: names of the C classes.

    Returns:
        PNG, bytes.
    """
    counts = np.asarray(matrix, np.float64)
    pixels = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100 * counts, pixels, out=np.full_like(counts, np.nan), where=pixels > 0)
    names = [_shortened(name, 24) for name in classes]
    side = 1.2 + 0.1 * max(map(len, names)) + 0.42 * min(len(classes), NUMBERED)
    with _figure('predicted class', 'true class', 'Confusion, per cent of each true class',
                 (side + 0.8, side)) as (axes, png):
        axes.figure.set_layout_engine('constrained')    # names may be long
        image = axes.imshow(shares, cmap='cividis', vmin=0, vmax=100)
        axes.figure.colorbar(image, ax=axes, shrink=0.8)
        axes.grid(False)
        every = math.ceil(len(names) / NAMED)
        axes.set_xticks(range(0, len(names), every), names[::every], rotation=90)
        axes.set_yticks(range(0, len(names), every), names[::every])
        axes.tick_params(length=0, labelsize=10 if len(names) <= NUMBERED else 8)
        if len(names) <= NUMBERED:
            for (row, column), share in np.ndenumerate(shares):
                if share >= 0.5:
                    axes.text(column, row, f'{share:.0f}', ha='center', va='center', fontsize=8,
                              color='black' if share > 55 else 'white')
    return png.getvalue()


def legend(names, palette):
    """Draws the colours of classes beside their names.

    Args:
        names: of the C classes.
        palette: C colours (R, G, B), 0-255.

    Returns:
        PNG, bytes.
    """
    png, columns = io.BytesIO(), math.ceil(len(names) / NUMBERED)
    names = [_shortened(name, 24) for name in names]
    with _as_they_are():
        figure = Figure(figsize=(columns * (0.8 + 0.1 * max(map(len, names))),
                                 0.3 + 0.25 * min(len(names), NUMBERED)), dpi=DPI)
        figure.legend([Patch(facecolor=[part / 255 for part in colour], edgecolor='0.5')
                       for colour in palette], names, loc='center', ncols=columns, frameon=False)
        figure.savefig(png, format='png')
    return png.getvalue()


def comparison(runs, ylabel):
    """Draws the curves of several runs in one figure, numbered at their ends.

    Args:
        runs: list of (number of the run, epochs, values); what is NaN is not drawn.
        ylabel: what the values are.

    Returns:
        PNG, bytes.
    """
    ends = []
    with _figure('epoch', ylabel, '', (6.4, 4)) as (axes, png):
        for number, epochs, values in runs:
            points = [point for point in zip(epochs, values) if abs(point[1]) < LARGEST]
            if points:
                colour, dashes = line_of(number)
                axes.plot(*zip(*points), color=colour, linestyle=dashes, linewidth=1.6,
                          marker='o' if len(points) == 1 else None)
                ends.append((points[-1], str(number)))
        _show_epochs(axes, [epoch for _, epochs, _ in runs for epoch in epochs])
        _number(axes, ends)
    return png.getvalue()


def line_of(number):
    """(colour, dashes) of a run's curve in `comparison`, by its number from 1."""
    return (COLOURS[(number - 1) % len(COLOURS)],
            DASHES[(number - 1) // len(COLOURS) % len(DASHES)])


# Pieces ---------------------------------------------------------------------------------------

@contextmanager
def _figure(xlabel, ylabel, title, size=SIZE):
    """Yields (axes, BytesIO), into which the figure is written as PNG at the end."""
    png = io.BytesIO()
    with _as_they_are():
        figure = Figure(figsize=size, dpi=DPI)
        axes = figure.subplots(gridspec_kw=MARGINS)     # a layout engine takes twice the time
        axes.set_xlabel(xlabel)
        axes.set_ylabel(_shortened(ylabel))
        axes.set_title(title)
        axes.grid(which='both', color='0.9', linewidth=0.7)
        axes.spines[['top', 'right']].set_visible(False)
        yield axes, png
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
        figure.savefig(png, format='png')


@contextmanager
def _as_they_are():
    """Within it, text is drawn as it is."""
    with rc_context({'text.parse_math': False, 'text.usetex': False}), warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*[Gg]lyph')     # names in other scripts
        yield


def _draw_over_epochs(axes, epochs, values, label, colour, marker):
    points = [(epoch, value) for epoch, value in zip(epochs, values) if abs(value) < LARGEST]
    if points:
        axes.plot(*zip(*points), color=colour, label=_shortened(label), linewidth=1.8,
                  marker=marker if len(points) <= 40 else None, markersize=4.5)
    _show_epochs(axes, epochs)


def _number(axes, ends):
    """Writes numbers at the ends of curves; of those that end together, one above the other.

    Args:
        axes: whose limits are final.
        ends: list of (point, number).
    """
    axes.autoscale_view(scalex=False)
    column, free = None, 0
    for point, number in sorted(ends):
        height = axes.transData.transform(point)[1] * 72 / DPI      # in points, as a font's size
        free = height if point[0] != column else max(height, free)
        axes.annotate(number, point, (5, free - height), textcoords='offset points', va='center',
                      fontsize=9)
        column, free = point[0], free + 10


def _show_epochs(axes, epochs):
    """All epochs are on the axis, whether or not they have a point; ticks are whole numbers."""
    margin = (max(epochs) - min(epochs)) / 20 or 1
    axes.set_xlim(min(epochs) - margin, max(epochs) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _shortened(name, length=40):
    """A name that can be drawn: not too long, and without half characters (lone surrogates)."""
    name = name.encode('utf-8', 'replace').decode()
    return name if len(name) <= length else name[:length - 1] + '…'
