"""Report of a training run: a page of scores, curve and pictures, to be opened in a browser.

    python -m roadseg.report runs/2025-01-31-120000

Training writes the page at its end; the command writes it anew. The page is `index.html` in the run
folder. It refers to the pictures beside it and to nothing else, so the folder can be moved, zipped
or put on any web server.
"""
import argparse
import csv
import io
import json
import math
import sys
from html import escape
from pathlib import Path
from urllib.parse import quote

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from PIL import Image

from roadseg.errors import InputError
from roadseg.files import read_json, write_whole

PICTURES = ('input', 'truth', 'probability', 'overlay')  # validation/NAME_input.jpg ...
FRAME_COLUMNS = ('IoU', 'MaxF', 'FPR', 'FNR')
TEST_OVERLAYS = 12                                       # shown on the page; a link has the rest
NOTHING = '–'                                            # a number that is missing or NaN
COLUMNS = ('MaxF', 'AP', 'PRE', 'REC', 'FPR', 'FNR', 'IoU')   # of runs that name none
CATEGORIES, POOLED = ('um', 'umm', 'uu'), 'URBAN'
VIEWS = {'bev': "bird's-eye view", 'perspective': 'perspective view'}

MEANINGS = {
    'MaxF': ('↑', 'Largest F-measure (harmonic mean of precision and recall) over all thresholds '
                  'on the road probability. Higher is better, 100 is perfect.'),
    'AP': ('↑', 'Average precision: mean of the best precision at recall 0, 10 … 100 %. '
                'Higher is better, 100 is perfect.'),
    'PRE': ('↑', 'Precision at the threshold of MaxF: share of the pixels taken as road that are '
                 'road. Higher is better, 100 is perfect.'),
    'REC': ('↑', 'Recall at the threshold of MaxF: share of the road pixels that are found. '
                 'Higher is better, 100 is perfect.'),
    'FPR': ('↓', 'False positive rate at the threshold of MaxF: share of the other pixels that are '
                 'taken as road. Lower is better, 0 is perfect.'),
    'FNR': ('↓', 'False negative rate at the threshold of MaxF: share of the road pixels that are '
                 'missed. Lower is better, 0 is perfect.'),
    'IoU': ('↑', 'Intersection over union of predicted and true road at probability 0.5. '
                 'Higher is better, 100 is perfect.'),
}
ROWS = {
    'um': 'urban, two-way road with lane markings',
    'umm': 'urban, multi-lane road with lane markings',
    'uu': 'urban, road without lane markings',
    POOLED: 'all three categories, pixels pooled',
}

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1c2024; --soft: #5d666f; --line: #dfe3e8;
  --panel: #f6f7f9; --accent: #0b64c0; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171a; --text: #e4e7ea; --soft: #9aa4ae; --line: #31373d; --panel: #1d2125;
    --accent: #6db3ff; }
  .curve img { filter: invert(.91) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(.9rem, 2.5vw, 2.5rem) 3rem; max-width: 110rem;
  background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.25; }
h2 { margin: 2.6rem 0 .6rem; font-size: 1.25rem; }
h3 { margin: .6rem 0 0; font-size: 1rem; }
.head h3 { margin: 0; }
p { margin: .4rem 0; max-width: 48rem; }
a { color: var(--accent); }
.summary { max-width: none; font-size: 1.05rem; }
.soft, figcaption, dt, summary { color: var(--soft); }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
.tables { display: flex; flex-wrap: wrap; gap: .4rem 4rem; }
.tables figure { max-width: 100%; }
th, td { padding: .3rem .8rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: .2rem; position: sticky; left: 0;
  background: var(--ground); }
thead th { color: var(--soft); font-weight: 600; }
th[title] { cursor: help; }
tbody th { font-weight: 500; }
tr.pooled > * { font-weight: 700; border-top: 2px solid var(--soft); }
.options td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.options table { width: 100%; max-width: 48rem; margin: .2rem 0 1rem; }
.options th { color: var(--soft); width: 12rem; white-space: normal; vertical-align: top; }
details { margin: .6rem 0; }
summary { cursor: pointer; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; max-width: 52rem; }
dt { font-weight: 600; }
dd { margin: 0; }
img { display: block; width: 100%; height: auto; background: var(--panel); }
.curve img { max-width: 62rem; min-width: 40rem; }
.frames { list-style: none; margin: 0; padding: 0; }
.frame { padding: .8rem 0; border-top: 1px solid var(--line); }
.head { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; align-items: baseline; }
.head a { color: inherit; text-decoration: none; }
.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.number span { color: var(--soft); font-size: .85rem; }
.pictures { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: .6rem;
  margin-top: .4rem; }
.tests { grid-template-columns: repeat(3, minmax(0, 1fr)); }
figure { margin: 0; }
figcaption { font-size: .85rem; }
.none { display: grid; place-items: center; aspect-ratio: 3.3; color: var(--soft);
  border: 1px dashed var(--line); font-size: .85rem; }
.controls { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin: .6rem 0 1rem; }
.controls[hidden] { display: none; }
button, select { font: inherit; color: inherit; background: var(--panel); cursor: pointer;
  border: 1px solid var(--line); border-radius: .4rem; padding: .25rem .8rem; min-height: 2.3rem; }
button[aria-pressed=true] { background: var(--accent); border-color: var(--accent);
  color: var(--ground); }
dialog { width: 100vw; max-width: 100vw; height: 100dvh; max-height: 100dvh; padding: .6rem;
  border: 0; background: #0c0e10; color: #e4e7ea; }
dialog[open] { display: flex; flex-direction: column; gap: .6rem; }
dialog img { flex: 1; min-height: 0; object-fit: contain; background: none; }
dialog .controls { margin: 0; justify-content: center; }
dialog .controls span { flex-basis: 100%; text-align: center; }
dialog button { color: inherit; background: #23282d; border-color: #3a4148; }
@media (max-width: 60rem) { .pictures { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (max-width: 32rem) { .pictures { grid-template-columns: minmax(0, 1fr); }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; }
  .options th { width: 9rem; } th, td { padding: .3rem .5rem; } }
"""

# Everything is on the page without it; it adds choosing, sorting and a large view.
SCRIPT = """
(function () {
  var list = document.querySelector('.frames');
  var controls = document.querySelector('.controls');
  if (list && controls) {
    var frames = Array.from(list.children);
    var buttons = controls.querySelectorAll('button');
    controls.hidden = false;
    buttons.forEach(function (button) {
      button.onclick = function () {
        buttons.forEach(function (b) { b.setAttribute('aria-pressed', b === button); });
        frames.forEach(function (frame) {
          var wanted = button.dataset.category;
          frame.hidden = Boolean(wanted) && frame.dataset.category !== wanted;
        });
      };
    });
    controls.querySelector('select').onchange = function () {
      var key = this.value.split(' ')[0], sign = this.value.split(' ')[1] === 'up' ? 1 : -1;
      frames.slice().sort(function (a, b) {
        if (key === 'name') return a.dataset.name < b.dataset.name ? -1 : 1;
        var x = parseFloat(a.dataset[key]), y = parseFloat(b.dataset[key]);
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
        return sign * (x - y);
      }).forEach(function (frame) { list.appendChild(frame); });
    };
  }

  var box = document.createElement('dialog'), current;
  if (!box.showModal) return;
  box.innerHTML = '<img alt=""><div class="controls"><span></span>' +
    '<button aria-label="previous picture">\\u2190</button><button>close</button>' +
    '<button aria-label="next picture">\\u2192</button></div>';
  document.body.appendChild(box);
  function show(link) {
    var picture = link.querySelector('img');
    current = link;
    box.querySelector('img').src = link.href;
    box.querySelector('img').alt = picture.alt;
    box.querySelector('span').textContent = picture.alt;
    if (!box.open) box.showModal();
  }
  function step(by) {
    var links = Array.from(document.querySelectorAll('a.zoom')).filter(function (link) {
      return link.offsetParent;
    });
    show(links[(links.indexOf(current) + by + links.length) % links.length]);
  }
  document.addEventListener('click', function (event) {
    var link = event.target.closest('a.zoom');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    show(link);
  });
  box.addEventListener('keydown', function (event) {
    if (event.key === 'ArrowLeft') step(-1);
    if (event.key === 'ArrowRight') step(1);
  });
  var keys = box.querySelectorAll('button');
  keys[0].onclick = function () { step(-1); };
  keys[1].onclick = box.querySelector('img').onclick = function () { box.close(); };
  keys[2].onclick = function () { step(1); };
})();
"""


def write_page(run_dir):
    """Writes the page of a run, `index.html`, and its curve, `loss.png`, into the run's folder.

    What the folder lacks beyond `options.json` and `log.csv`, the page leaves out. In `log.csv`,
    `seconds` counts from the start of the run, so that the last row has the training time.

    Args:
        run_dir: folder of a run, holding `options.json`, `log.csv` and, where there are any,
            `evaluation.json`, `validation/NAME_{input,truth,probability,overlay}.jpg` and
            `overlays/*.png`.

    Returns:
        Path of the page.

    Raises:
        InputError: a file is missing, or is not what it should be, or cannot be written.
    """
    run_dir = Path(run_dir)
    options = read_json(run_dir / 'options.json')
    rows = _read_log(run_dir / 'log.csv')
    evaluation = _read_evaluation(run_dir / 'evaluation.json')
    if rows:
        write_curve(rows, run_dir / 'loss.png')

    name = run_dir.resolve().name
    files = [file for file in ('options.json', 'log.csv', 'evaluation.json')
             if (run_dir / file).exists()]
    frames = _frames_section(evaluation.get('frames', []), _pictures(run_dir / 'validation'))
    sections = [
        f'<h1>{escape(name)}</h1>',
        f'<p class="summary">{escape(_summary(options, rows, evaluation))}</p>',
        _scores_section(evaluation),
        _curve_section(rows, run_dir / 'loss.png'),
        frames,
        _overlays_section(_pictures(run_dir / 'overlays')),
        _options_section(options),
        _notes_section(files, with_frames=bool(frames)),
    ]
    page = '\n'.join([
        '<!DOCTYPE html>', '<html lang="en">', '<head>', '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',  # or the browser asks the server for one
        f'<title>{escape(name)}</title>', f'<style>{STYLE}</style>', '</head>', '<body>',
        *filter(None, sections), f'<script>{SCRIPT}</script>', '</body>', '</html>', ''])
    # a lone surrogate, from JSON or an odd file name, is no valid UTF-8
    write_whole(run_dir / 'index.html', page.encode('utf-8', 'replace'))
    return run_dir / 'index.html'


def write_curve(log_rows, path):
    """Draws loss (left) and validation MaxF and IoU (right) over the epochs, as a PNG.

    Args:
        log_rows: list of dicts with keys as in `log.csv`, at least 'epoch'; values are numbers or
            their text. What is missing, empty or NaN is not drawn. Without any validation score
            there is no right panel.
        path: the PNG.

    Raises:
        InputError: the file cannot be written.
    """
    epochs = [_number(row['epoch']) for row in log_rows]
    curves = {key: [_number(row.get(key)) for row in log_rows]
              for key in ('loss', 'val_loss', 'val_maxf', 'val_iou')}
    best = max(((score, -epoch) for score, epoch in zip(curves['val_maxf'], epochs)
                if math.isfinite(score)), default=None)  # the earliest of equal ones
    maxf = f'MaxF, best {best[0]:.2f} in epoch {-best[1]:g}' if best else ''
    panels = [(('loss', 'training', 'tab:blue'), ('val_loss', 'validation', 'tab:orange'))]
    if any(map(math.isfinite, curves['val_maxf'] + curves['val_iou'])):
        panels.append((('val_maxf', maxf, 'tab:green'), ('val_iou', 'IoU', 'tab:purple')))

    figure = Figure(figsize=(5 * len(panels), 3.6), dpi=150, layout='constrained')
    for axes, lines in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        drawn = [line for line in lines if any(map(math.isfinite, curves[line[0]]))]
        for key, label, colour in drawn:
            axes.plot(epochs, curves[key], color=colour, label=label, linewidth=1.8,
                      marker='o' if len(epochs) <= 40 else None, markersize=4)
        if len(epochs) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel('epoch')
        axes.grid(which='both', color='0.9', linewidth=0.7)
        axes.spines[['top', 'right']].set_visible(False)
        if drawn:
            axes.legend(frameon=False)
    left, *right = figure.axes
    values = [value for key in ('loss', 'val_loss') for value in curves[key]
              if math.isfinite(value)]
    left.set_title('Loss')
    left.set_ylabel('loss (no unit)')
    if values and min(values) > 0 and max(values) > 5 * min(values):
        left.set_yscale('log')
        left.set_ylabel('loss (no unit, log scale)')
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_minor_locator(NullLocator())
        left.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
    for axes in right:
        axes.set_title('Validation scores')
        axes.set_ylabel('per cent')

    png = io.BytesIO()
    figure.savefig(png, format='png')
    write_whole(path, png.getvalue())


def main(argv=None):
    """The command: returns the exit code, 2 for a folder that is not a run's."""
    parser = argparse.ArgumentParser(
        prog='python -m roadseg.report', description='Writes the page and the curve of a run anew.')
    parser.add_argument('run', metavar='RUN', help='folder of the run, such as runs/<date-time>')
    try:
        print(write_page(parser.parse_args(argv).run))
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


# --- reading

def _read_log(path):
    """The rows of log.csv as dicts {column: float, NaN where empty}; at least one row."""
    rows = []
    if not path.exists():
        return rows
    try:
        with open(path, newline='', encoding='utf-8') as file:
            reader = csv.DictReader(file)
            lacking = {'epoch', 'loss'} - set(reader.fieldnames or ())
            if lacking:
                raise InputError(f"{path}: the first line lacks {', '.join(sorted(lacking))}; "
                                 "expected names of columns, epoch,step,loss,...")
            for row in reader:
                row.pop(None, None)  # cells beyond the header
                try:
                    rows.append({key: _number(value) for key, value in row.items()})
                    if not math.isfinite(rows[-1]['epoch']):
                        raise ValueError('no epoch')
                except ValueError as error:
                    raise InputError(f"{path}, line {reader.line_num}: expected numbers: "
                                     f"{error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); expected the folder of a run, "
                         "as training writes it into runs/") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text: {error}") from error
    return rows


def _read_evaluation(path):
    """evaluation.json, checked as far as the page leans on it; {} where there is none."""
    if not path.exists():
        return {}
    evaluation = read_json(path)
    for section in (evaluation, evaluation.get('bev') or {}):
        scores = section.get('scores', {}) if isinstance(section, dict) else None
        if not (isinstance(scores, dict)
                and all(isinstance(row, dict) for row in scores.values())):
            raise InputError(f'{path}: "scores" should be {{"um": {{"MaxF": 95.2, ...}}, ...}}; '
                             "evaluate the run again")
    frames = evaluation.get('frames', [])
    if not (isinstance(frames, list)
            and all(isinstance(frame, dict) and 'name' in frame for frame in frames)):
        raise InputError(f'{path}: "frames" should be [{{"name": "um_000079", ...}}, ...]; '
                         "evaluate the run again")
    return evaluation


def _pictures(folder):
    """The pictures in a folder that open: dict {file name: (path, width, height)}, by name."""
    found = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix in ('.jpg', '.png'):
                try:
                    with Image.open(path) as image:
                        found[path.name] = (path, *image.size)
                except OSError:
                    pass  # shown as missing; one bad picture should not cost the page
    return found


def _number(value):
    """float of a number or its text; NaN for None and ''."""
    return float('nan') if value is None or value == '' else float(value)


# --- sections of the page, as HTML; '' where there is nothing to show

def _summary(options, rows, evaluation):
    """One line of text on the run and how good it became."""
    chosen = options.get('options')
    chosen = chosen if isinstance(chosen, dict) else {}
    size, planned = chosen.get('image_size'), chosen.get('epochs')
    last = rows[-1] if rows else {'epoch': 0}
    done = last['epoch']
    epochs = f'{done:g}' if planned in (None, done) else f'{done:g} of {planned}'
    seconds = last.get('seconds', math.nan)
    parts = []
    if isinstance(size, list):
        parts.append(f"input {' × '.join(map(str, size))} pixels (height × width)")
    parts.append(f"{epochs} epoch{'' if epochs == '1' else 's'}")
    if options.get('device'):
        parts.append(str(options['device']))
    if math.isfinite(seconds):
        parts.append(f'trained in {_duration(seconds)}')
    pooled = evaluation.get('scores', {}).get(POOLED)
    if pooled is not None:
        parts.append(f"{POOLED} MaxF {_shown(pooled.get('MaxF'))} %, "
                     f"IoU {_shown(pooled.get('IoU'))} % {_circumstances(evaluation, ', ')}")
    elif math.isfinite(last.get('val_maxf', math.nan)):
        parts.append(f"validation MaxF {_shown(last['val_maxf'])} %, "
                     f"IoU {_shown(last.get('val_iou'))} % after the last epoch")
    return ' · '.join(parts)


def _circumstances(evaluation, separator):
    """Where scores come from: text such as 'on val3, perspective view, step-002892'."""
    view, scales = evaluation.get('view'), evaluation.get('test_scale')
    parts = [f"on {evaluation['split']}" if evaluation.get('split') else '',
             VIEWS.get(view, str(view)) if view else '',
             f"checkpoint {evaluation['checkpoint']}" if evaluation.get('checkpoint') else '',
             f"seen at {' and '.join(f'{scale:g}' for scale in scales)} times the training's size"
             if isinstance(scales, list) and scales != [1] else '',
             'averaged with the mirrored photographs' if evaluation.get('flip_test') else '']
    return separator.join(filter(None, parts))


def _scores_section(evaluation):
    """The tables of scores by category, and what the columns mean."""
    if not evaluation.get('scores'):
        return ''
    count = len(evaluation.get('frames', []))
    speed = _shown(evaluation.get('ms_per_image'), '.0f')
    caption = [f'per cent, {_circumstances(evaluation, ", ")}',
               f'{count} frames' if count else '',
               f'{speed} ms per image' if speed != NOTHING else '']
    tables = [_scores_table(evaluation['scores'], ', '.join(filter(None, caption)))]
    bev = evaluation.get('bev') or {}
    if bev.get('scores'):
        count = bev.get('frames')
        count = len(count) if isinstance(count, list) else count
        caption = f"per cent, {VIEWS['bev']}" + (f', {count} images' if count else '')
        tables.append(_scores_table(bev['scores'], caption))
    terms = [(f'{key} {arrow}', meaning) for key, (arrow, meaning) in MEANINGS.items()]
    rows = [(name, f'{meaning[0].upper()}{meaning[1:]}.') for name, meaning in ROWS.items()]
    legend = ''.join(f'<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>'
                     for term, meaning in terms + rows)
    return '\n'.join(['<h2>Scores</h2>', '<div class="tables">', *tables, '</div>',
                      '<details><summary>What the numbers say</summary>'
                      f'<dl>{legend}</dl></details>'])


def _scores_table(scores, caption):
    """One table; scores is a dict {row: {column: number}}."""
    names = [name for name in (*CATEGORIES, POOLED) if name in scores]
    names += [name for name in scores if name not in names]
    head = ''.join(f'<th scope="col" title="{escape(meaning)}">{key} {arrow}</th>'
                   for key, (arrow, meaning) in MEANINGS.items())
    body = []
    for name in names:
        cells = ''.join(f'<td>{_shown(scores[name].get(key))}</td>' for key in COLUMNS)
        body.append(f'<tr{" class=pooled" if name == POOLED else ""}>'
                    f'<th scope="row" title="{escape(ROWS.get(name, ""))}">{escape(name)}</th>'
                    f'{cells}</tr>')
    return (f'<figure><figcaption>{escape(caption)}</figcaption>'
            '<div class="scroll"><table>'
            f'<thead><tr><th scope="col">category</th>{head}</tr></thead>'
            f'<tbody>{"".join(body)}</tbody></table></div></figure>')


def _curve_section(rows, path):
    """The curve, and the log it shows as a table."""
    if not rows:
        return ''
    with Image.open(path) as image:
        width, height = image.size
    columns = list(rows[0])
    head = ''.join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = ''.join(
        '<tr>' + ''.join(f'<td>{_shown(row[column], "g")}</td>' for column in columns) + '</tr>'
        for row in rows)
    return (f'<h2>Training</h2>\n<div class="scroll curve"><a class="zoom" href="{path.name}">'
            f'<img src="{path.name}" width="{width}" height="{height}" '
            'alt="curves of loss and validation scores over the epochs"></a></div>\n'
            '<details><summary>The log, epoch by epoch</summary><div class="scroll"><table>'
            f'<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>')


def _frames_section(frames, pictures):
    """A row per frame, the worst first; frames with pictures only come last."""
    frames = [{**frame, 'name': str(frame['name'])} for frame in frames]
    scored = {frame['name'] for frame in frames}
    drawn = dict.fromkeys(file.rsplit('_', 1)[0] for file in pictures
                          if file.endswith(tuple(f'_{kind}.jpg' for kind in PICTURES)))
    frames += [{'name': name} for name in drawn if name not in scored]
    if not frames:
        return ''
    frames.sort(key=_worst_first)
    categories = sorted({_category(frame['name']) for frame in frames})
    buttons = ''.join(
        f'<button aria-pressed="{"false" if category else "true"}" '
        f'data-category="{escape(category)}">{escape(category) or "all"}</button>'
        for category in ['', *categories]) if 1 < len(categories) <= 8 else ''
    choices = ''.join(f'<option value="{value}">{text}</option>' for value, text in (
        ('iou up', 'worst IoU first'), ('iou down', 'best IoU first'), ('maxf up', 'least MaxF'),
        ('fpr down', 'most false positives'), ('fnr down', 'most missed road'),
        ('name up', 'name')))
    order = ', worst first' if scored else ''
    return '\n'.join([
        f'<h2>Validation frames{order}</h2>',
        f'<div class="controls" hidden>{buttons}'
        f'<select aria-label="order">{choices}</select></div>',
        '<ol class="frames">', *(_frame_row(frame, pictures) for frame in frames), '</ol>'])


def _worst_first(frame):
    """Key to sort frames by: IoU, ascending; those without one last."""
    missing = _shown(frame.get('IoU')) == NOTHING
    return missing, 0 if missing else frame['IoU'], frame['name']


def _frame_row(frame, pictures):
    """One frame: its name, numbers and pictures."""
    name = frame['name']
    data = ' '.join(f'data-{key.lower()}="{_shown(frame.get(key), ".4f")}"'
                    for key in FRAME_COLUMNS)
    numbers = ''.join(f'<span class="number" title="{escape(MEANINGS[key][1])}">'
                      f'<span>{key}</span> {_shown(frame.get(key))}</span>'
                      for key in FRAME_COLUMNS)
    shown = [_figure(pictures.get(f'{name}_{kind}.jpg'), kind, f'{name}: {kind}')
             for kind in PICTURES]
    if any(f'{name}_{kind}.jpg' in pictures for kind in PICTURES):
        grid = f'<div class="pictures">{"".join(shown)}</div>'
    else:
        grid = '<p class="soft">no pictures</p>'
    anchor = escape(f'frame-{name}')
    return (f'<li class="frame" id="{anchor}" data-name="{escape(name)}" '
            f'data-category="{escape(_category(name))}" {data}><div class="head">'
            f'<h3><a href="#{escape(quote(f"frame-{name}"))}">{escape(name)}</a></h3>{numbers}'
            f'</div>{grid}</li>')


def _overlays_section(pictures):
    """The first test photographs with the road in green, and a link to all of them."""
    if not pictures:
        return ''
    shown = [_figure(picture, picture[0].stem, f'{picture[0].stem}: road in green')
             for picture in list(pictures.values())[:TEST_OVERLAYS]]
    rest = (f'<p><a href="overlays/">all {len(pictures)} in overlays/</a></p>'
            if len(pictures) > TEST_OVERLAYS else '')
    return ('<h2>Test photographs</h2>\n<p>What the network takes as road is green. There are no '
            'labels to compare with; look for holes, ragged borders and pavements in green.</p>\n'
            f'<div class="pictures tests">{"".join(shown)}</div>\n'
            f'{rest}')


def _options_section(options):
    """All of options.json, a table per section; what stands alone comes first."""
    alone = {key: value for key, value in options.items() if not isinstance(value, dict)}
    sections = [('run', alone), *((key, value) for key, value in options.items()
                                  if isinstance(value, dict))]
    tables = []
    for title, section in sections:
        rows = ''.join(f'<tr><th scope="row">{escape(key)}</th><td>{escape(text)}</td></tr>'
                       for key, text in _flat(section))
        if rows:
            tables.append(f'<h3>{escape(title)}</h3><table>{rows}</table>')
    return ('<h2>Options</h2>\n<details class="options"><summary>What made this run: options, '
            f'versions, machine, data</summary>{"".join(tables)}</details>')


def _notes_section(files, with_frames):
    """How to read the page, and the files it was made from."""
    frames = """<p>Each frame shows the photograph (input), the label (truth), the network's road
probability (the brighter, the surer) and where it is right and wrong (overlay): green is road
found, red is road missed, blue is taken as road and is none. The probability tells whether a
mistake was a close call. A click enlarges a picture; the arrow keys then flip between the four.</p>
<p>A frame's IoU is taken at probability 0.5; its MaxF, FPR and FNR at the threshold that is best
for this one frame, so they tend to look better than in the table, where a category shares
one threshold and its pixels are pooled.</p>
""" if with_frames else ''
    links = ', '.join(f'<a href="{file}">{file}</a>' for file in files)
    return f"""<h2>How to read this page</h2>
{frames}<p>The validation loss is on photographs the network never learned from: when it rises while
the training loss falls, training has gone on for too long. “{NOTHING}” is a number that is missing.
This page was made from {links}.</p>"""


# --- pieces

def _figure(picture, caption, alt):
    """A captioned picture that links to itself; picture is (path, width, height) or None."""
    if picture is None:
        return (f'<figure><div class="none">no picture</div><figcaption>{escape(caption)}'
                '</figcaption></figure>')
    path, width, height = picture
    link = escape(quote(f'{path.parent.name}/{path.name}', errors='surrogateescape'))
    return (f'<figure><a class="zoom" href="{link}"><img src="{link}" width="{width}" '
            f'height="{height}" loading="lazy" alt="{escape(alt)}"></a>'
            f'<figcaption>{escape(caption)}</figcaption></figure>')


def _flat(section, prefix=''):
    """Pairs of text (key, value) of nested dicts; keys of inner ones are joined by dots."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{key}.')
        elif value is None:
            yield f'{prefix}{key}', NOTHING
        else:
            yield f'{prefix}{key}', value if isinstance(value, str) else json.dumps(value)


def _category(name):
    """'umm' of 'umm_000012'; data sets other than KITTI Road may have other ones."""
    return name.split('_')[0]


def _shown(value, form='.2f'):
    """A number as text, or a dash if it is missing, no number, or not finite."""
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    return format(value, form) if is_number else NOTHING


def _duration(seconds):
    """Text such as '48 s', '13 min' or '2 h 05 min'."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f'{seconds:.0f} s'
    return f'{minutes} min' if minutes < 100 else f'{minutes // 60} h {minutes % 60:02} min'


if __name__ == '__main__':
    sys.exit(main())
