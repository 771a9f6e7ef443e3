"""The page that compares all runs of a folder: `runs/index.html`.

Runs stand in one table only if they were trained on the same data set and held out the same
photographs: a score on drawn scenes says nothing about one on real ones.
"""
import base64
import math
import os
from html import escape
from pathlib import Path
from typing import NamedTuple

from roadseg.errors import InputError
from roadseg.files import check_file, describe_os_error
from roadseg.scoring import contents, figures
from roadseg.scoring.page import (MEANINGS, NOTHING, epochs_done, link_to, measure, model, on,
                                  shown, write_document)
from roadseg.training.options import ALWAYS, build_parser
from roadseg.training.run_folder import column, read_photographs

# Options that a table need not show: the same in all its runs, or without effect on the result.
LEFT_OUT = ('dataset', 'demo', 'split', 'classes', 'resume', 'runs_dir', 'data_dir', 'own_data',
            'save_minutes', 'epochs')
HEADING = 'Runs in '        # as every version has it, followed by the folder's name
LONG = 16       # characters in a cell, from which on it may be broken into lines


class _Entry(NamedTuple):
    """A run in the comparison."""
    run: contents.Run
    options: dict       # name to value; with what those it is too old to have stood for

    @property
    def last(self):
        """The last row of its log."""
        return self.run.log[-1] if self.run.log else {}

    @property
    def rank(self):
        """Key to sort by: the last score, the highest first; runs without one come last."""
        scored = self.run.last_scored
        return (0, -scored[self.run.data['best']]) if scored else (1, 0)


def write_runs_page(runs_dir):
    """Writes `index.html` into a folder of runs: options that differ, curves, scores and links.

    Args:
        runs_dir: folder of the runs. What in it is no run, or a broken one, is named on the page.

    Returns:
        Path of the page.

    Raises:
        InputError: the folder does not exist or holds no folder, or the page cannot be written,
            or there is another `index.html`.
    """
    runs_dir = Path(runs_dir)
    paths = runs_dir.glob('*') if os.path.isdir(runs_dir) else ()      # [] where it is locked
    folders = sorted(path for path in paths if os.path.isdir(path) and path.name[0] != '.')
    if not folders:
        raise InputError(f'{runs_dir} holds no run; name a run or a folder of runs, such as runs/')
    _check_ours(runs_dir / 'index.html')
    tables, broken = {}, []
    # of runs that are older than an option
    defaults = {name: value for name, value in vars(build_parser().parse_args([])).items()
                if name not in ALWAYS}
    for folder in folders:
        try:
            run = contents.read(folder)
            kind = _kind(run)
        except InputError as error:
            broken.append(f'<li><a href="{link_to(folder.name)}/">{escape(folder.name)}</a>: '
                          f'{escape(str(error))}</li>')
            continue
        options = {**defaults, **run.chosen, 'device': run.options.get('device')}
        tables.setdefault(kind, []).append(_Entry(run, options))
    heading = f'{HEADING}{runs_dir.resolve().name}'
    sections = [f'<h1>{escape(heading)}</h1>', _summary(tables),
                *(_section(kind, sorted(tables[kind], key=lambda entry: entry.rank))
                  for kind in sorted(tables))]
    if broken:
        sections.append('<section>\n<h2>Not compared</h2>\n<p>These folders are no runs, or lack '
                        f'what a run has.</p>\n<ul>{"".join(broken)}</ul>\n</section>')
    write_document(runs_dir / 'index.html', heading, sections)
    return runs_dir / 'index.html'


def _check_ours(page):
    """Raises InputError where a page is there that is none of these: of a web site, for instance.

    Args:
        page: path.
    """
    if not os.path.lexists(page):
        return
    check_file(page, 'move it away')
    try:
        with open(page, encoding='utf-8', errors='replace') as file:
            ours = f'<title>{HEADING}' in file.read(10_000)
    except OSError as error:
        raise InputError(f'cannot read {page}: {describe_os_error(error)}') from error
    if not ours:
        raise InputError(f'{page} is no comparison of runs; move it away to have one written')


def _kind(run):
    """What runs must share to be compared: title and split, number of classes, measure, and the
    names of the photographs that are held out: a folder's title is only the end of its path."""
    return (on(run), len(run.data['classes']), run.data['best'],
            tuple(read_photographs(run.folder).get('validation', ())))


def _summary(tables):
    count = sum(map(len, tables.values()))
    plural = '' if count == 1 else 's'
    kinds = (f', in {len(tables)} tables: scores of different tables cannot be compared'
             if len(tables) > 1 else '')
    return f'<p class="summary">{count} run{plural}{kinds}</p>'


def _section(kind, entries):
    """A heading, the curves and the table of runs that can be compared, the best run first."""
    name, num_classes, best, _ = kind
    classes = f', {num_classes} classes' if num_classes > 2 else ''
    return '\n'.join(['<section>', f'<h2>{escape(name + classes)}</h2>',
                      _curves(entries, best), _table(entries, best), '</section>'])


def _curves(entries, best):
    """The course of the score over the epochs, or that of the loss where nothing is held out."""
    for key, what in ((best, f'{measure(best)}, per cent'), ('loss', 'training loss')):
        runs = [(number, [row['epoch'] for row in entry.run.log],
                 [row.get(key, math.nan) for row in entry.run.log])
                for number, entry in enumerate(entries, 1)]
        if any(math.isfinite(value) for _, _, values in runs for value in values):
            png = base64.b64encode(figures.comparison(runs, what)).decode()
            return (f'<img class="drawn comparison" src="data:image/png;base64,{png}" alt="'
                    f'{escape(what)}, over the epochs; numbers at the curves are those of the '
                    'table">')
    return ''


def _table(entries, best):
    """A row per run."""
    options = _differing([entry.options for entry in entries])
    keys = [best] + sorted({key for entry in entries for key in entry.run.last_scored
                            if key.startswith('val_') and key not in (best, 'val_loss')
                            and not key.startswith('val_iou_')},        # of one class
                           key=_place)
    models = [model(entry.run).strip(',') for entry in entries]
    several = len(set(models)) > 1
    columns = ['#', 'run', *(['model'] if several else []),
               *(name.replace('_', ' ') for name in options), 'epochs',
               *map(measure, keys), f'best {measure(best)} (epoch)', 'loss', 'images/s',
               'minutes']
    columns = [escape(name) for name in columns]
    body = []
    for number, entry in enumerate(entries, 1):
        run, last = entry.run, entry.last
        colour, _ = figures.line_of(number)
        cells = [*([escape(models[number - 1])] if several else []),
                 *(_value(entry.options.get(name)) for name in options),
                 escape(epochs_done(run)), *(shown(run.last_scored.get(key)) for key in keys),
                 f'{run.best[1]:.2f} ({run.best[0]:g})' if run.best else NOTHING,
                 shown(last.get('loss'), '.4f'), shown(last.get('images_per_second')),
                 shown(last.get('seconds', math.nan) / 60, '.0f')]
        page = '/index.html' if (run.folder / 'index.html').exists() else '/'
        link = f'<a href="{link_to(run.folder.name + page)}">{escape(run.folder.name)}</a>'
        cells = ''.join(f'<td data-label="{name}"{" class=text" if len(cell) > LONG else ""}>'
                        f'{cell}</td>' for name, cell in zip(columns[2:], cells))
        numbered = f'{number}<b class="drawn" style="background: {colour}"></b>'
        body.append(f'<tr><td data-label="#">{numbered}</td><th scope="row">{link}</th>{cells}'
                    '</tr>')
    head = ''.join(f'<th scope="col">{name}</th>' for name in columns)
    return ('<div class="scroll"><table class="stack sortable">'
            f'<thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>')


def _place(key):
    """Where a column of the log stands among those of other measures."""
    order = [column(name) for name in MEANINGS]
    return order.index(key) if key in order else len(order), key


def _differing(options):
    """Names of the options that are not the same in all of a list of dicts."""
    names = dict.fromkeys(name for of_run in options for name in of_run)
    return [name for name in names if name not in (*LEFT_OUT, 'model', 'encoder')
            and any(of_run.get(name) != options[0].get(name) for of_run in options)]


def _value(value):
    """An option as a cell shows it."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, list):
        is_size = len(value) == 2 and all(isinstance(part, int) for part in value)
        between = '\u00a0×\u00a0' if is_size else ', '
        return between.join(map(_value, value))
    return escape(f'{value:g}' if isinstance(value, float) else str(value))
