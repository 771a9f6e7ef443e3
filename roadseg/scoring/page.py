"""The page of a training run: scores, curves and pictures, to be opened in a browser.

The page is `index.html` in the run folder. It holds its style and script, `page.css` and `page.js`
beside this module, refers to the pictures beside it and to nothing else, so the folder can be
moved, zipped or put on any web server.
"""
import json
import math
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np

from roadseg.commands import duration
from roadseg.files import write_whole
from roadseg.scoring import contents, figures
from roadseg.scoring.score import (FEW, FOUND, KINDS, MISSED, WRONG, colour_map,
                                   count_of_photographs)
from roadseg.training.run_folder import column

TEST_OVERLAYS, PSEUDO_LABELS = 12, 6                    # shown on the page; a link has the rest
NOTHING = '–'                                           # a number that is missing or NaN
MODELS = {'fcn8s': 'FCN-8s', 'segnet': 'SegNet'}
VIEWS = {'bev': "bird's-eye view", 'perspective': 'perspective view'}
THRESHOLDS = 256                                        # of an 8-bit confidence

MEANINGS = {
    'MaxF': ('↑', 'Largest F-measure (harmonic mean of precision and recall) over all thresholds '
                  'on the road probability. Higher is better, 100 is perfect.'),
    'AP': ('↑', 'Average precision: mean of the best precision at recall 0, 10 … 100 %. '
                'Higher is better, 100 is perfect.'),
    'PRE': ('↑', 'Precision at the threshold of MaxF: share of the pixels taken as road that are '
                 'road. Higher is better, 100 is perfect.'),
    'REC': ('↑', 'Recall at the threshold of MaxF: share of the road pixels that are found. '
                 'Higher is better, 100 is perfect.'),
    'FPR': ('↓', 'False positive rate at the threshold of MaxF: share of the other pixels that '
                 'are taken as road. Lower is better, 0 is perfect.'),
    'FNR': ('↓', 'False negative rate at the threshold of MaxF: share of the road pixels that are '
                 'missed. Lower is better, 0 is perfect.'),
    'IoU': ('↑', 'Intersection over union of predicted and true road at probability 0.5. '
                 'Higher is better, 100 is perfect.'),
    'F1': ('↑', 'F-measure (harmonic mean of precision and recall) at probability 0.5. '
                'Higher is better, 100 is perfect.'),
    'mIoU': ('↑', 'Mean over the classes of intersection over union, pixels pooled over all '
                  'photographs. Higher is better, 100 is perfect.'),
    'accuracy': ('↑', 'Global accuracy: share of the pixels that have their true class. Higher is '
                      'better, 100 is perfect.'),
    'class accuracy': ('↑', 'Mean over the classes of the share of their pixels that are found. '
                            'Higher is better, 100 is perfect.'),
    'road IoU': ('↑', 'Intersection over union of predicted and true road. Higher is better, 100 '
                      'is perfect.'),
}
OF_FRAME = {**MEANINGS, 'mIoU': (
    '↑', 'Mean of intersection over union over the classes that are in this photograph or predicted '
         'in it. Higher is better, 100 is perfect.')}
OF_CLASS = {
    'IoU': ('↑', 'Intersection over union of the class. Higher is better, 100 is perfect.'),
    'found': ('↑', "Recall: share of the class's pixels that are found. Higher is better, 100 is "
                   'perfect.'),
    'right': ('↑', 'Precision: share of the pixels taken as this class that are of it. Higher is '
                   'better, 100 is perfect.'),
    'pixels': ('', 'Share of the evaluated pixels that are of this class.'),
}
NAMES = {column(name): name for name in MEANINGS}       # val_maxf -> MaxF


def write_page(run_dir):
    """Writes the page of a run, `index.html`, and its figures into the run's folder.

    What the folder lacks beyond `options.json`, the page leaves out. In `log.csv`, `seconds` are
    those spent training since the start of the run, so that the last row has the training time.

    Args:
        run_dir: folder of a run, holding `options.json` and, where there are any, `log.csv`,
            `evaluation.json`, `validation/NAME_{input,truth,probability,overlay}.jpg`,
            `overlays/*.png` and `pseudo_labels/shown/*.jpg`.

    Returns:
        Path of the page.

    Raises:
        InputError: a file is missing, or is not what it should be, or cannot be written.
    """
    run = contents.read(run_dir)
    frames = _frames_section(run)
    sections = [
        f'<h1>{escape(title(run))}</h1>',
        f'<p class="summary">{escape(_summary(run))}</p>',
        _scores_section(run),
        _curves_section(run),
        frames,
        _overlays_section(run),
        _pseudo_labels_section(run),
        _options_section(run.options),
        _notes_section(run, with_frames=bool(frames)),
    ]
    write_document(run.folder / 'index.html', title(run), sections)
    return run.folder / 'index.html'


def write_document(path, heading, sections):
    """Writes an HTML file with the style and the script of all pages in it.

    Args:
        path: of the file.
        heading: text, its title.
        sections: list of HTML; '' is left out.

    Raises:
        InputError: it cannot be written.
    """
    beside = Path(__file__)
    document = '\n'.join([
        '<!DOCTYPE html>', '<html lang="en">', '<head>', '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',      # or the browser asks the server for one
        f'<title>{escape(heading)}</title>',
        f"<style>{beside.with_suffix('.css').read_text(encoding='utf-8')}</style>",
        '</head>', '<body>', *filter(None, sections),
        f"<script>{beside.with_suffix('.js').read_text(encoding='utf-8')}</script>",
        '</body>', '</html>', ''])
    # a lone surrogate, from JSON or an odd file name, is no valid UTF-8
    write_whole(path, document.encode('utf-8', 'replace'))


def title(run):
    """What was trained, and how good it became: as in the table, or else at best.

    Args:
        run: `contents.Run`.

    Returns:
        str, such as 'FCN-8s on KITTI Road, val3: MaxF 96.28 %'.
    """
    evaluation, score = run.evaluation, ''
    value = evaluation.get('scores', {}).get(evaluation.get('pooled'), {}).get(
        evaluation.get('best'))
    if contents.is_number(value) and evaluation.get('split') == run.chosen.get('split'):
        score = f': {evaluation["best"]} {value:.2f} %'
    elif run.best:
        score = f': {measure(run.data["best"])} {run.best[1]:.2f} % at best'
    return f'{model(run)} on {on(run)}{score}'


def model(run):
    """The model of a `contents.Run`, such as 'FCN-8s' or 'SegNet, encoder resnet50'."""
    name, encoder = run.chosen.get('model', 'fcn8s'), run.chosen.get('encoder')
    name = MODELS.get(name, name) if isinstance(name, str) else 'a network'
    return f'{name}, encoder {Path(encoder).name},' if isinstance(encoder, str) else name


def on(run):
    """Data set and split of a `contents.Run`, such as 'KITTI Road, val3'."""
    split = 'nothing held out' if run.split == 'none' else run.split
    return ', '.join(filter(None, (run.data['title'], split)))


def measure(name):
    """Name of the measure in a column of the log: 'val_maxf' -> 'MaxF'."""
    return NAMES.get(name, name.removeprefix('val_').replace('_', ' '))


def shown(value, form='.2f'):
    """A number as text, or a dash if it is missing, no number, or not finite."""
    return format(value, form) if contents.is_number(value) else NOTHING


def epochs_done(run):
    """Text such as '10' or '3 of 10'."""
    planned, done = run.chosen.get('epochs'), run.log[-1]['epoch'] if run.log else 0
    return f'{done:g}' if planned in (None, done) else f'{done:g} of {planned}'


# Scores ---------------------------------------------------------------------------------------

def _summary(run):
    """One line of text on the run and how good it became."""
    size, counts = run.chosen.get('image_size'), run.data
    epochs, last = epochs_done(run), run.log[-1] if run.log else {}
    parts = [f'run {run.folder.resolve().name}']
    if isinstance(size, list):
        parts.append(f"input {' × '.join(map(str, size))} pixels (height × width)")
    if contents.is_number(counts.get('training')):
        parts.append(f"{counts['training']} photographs trained on, "
                     f"{shown(counts.get('validation'), '.0f')} held out")
    if pseudo := len(contents.picture_paths(run.folder / 'pseudo_labels')):
        parts.append(f'{pseudo} more with pseudo-labels')
    parts.append(f"{epochs} epoch{'' if epochs == '1' else 's'}")
    start = run.options.get('start_from')
    if isinstance(start, dict) and start.get('run'):
        parts.append(f"started from {Path(str(start['run'])).name}")
    if run.options.get('device'):
        parts.append(str(run.options['device']))
    if math.isfinite(last.get('seconds', math.nan)):
        parts.append(f"trained in {duration(last['seconds'])}")
    evaluation = run.evaluation
    pooled = evaluation.get('scores', {}).get(evaluation.get('pooled'))
    if pooled is not None:
        of = '' if evaluation['pooled'] == 'all' else f"{evaluation['pooled']} "
        parts.append(f"{of}{_named_scores(pooled, evaluation['best'])} "
                     f"{_circumstances(run)}")
    elif scored := run.last_scored:
        of_last = {measure(key): value for key, value in scored.items() if key.startswith('val_')}
        parts.append(f"validation {_named_scores(of_last, measure(run.data['best']))} after epoch "
                     f"{scored['epoch']:g}")
    return ' · '.join(parts)


def _named_scores(scores, best):
    """'MaxF 94.50 %, IoU 90.75 %': the measure that counts, and IoU of the road."""
    names = [best] + [name for name in ('road IoU', 'IoU') if name in scores and name != best]
    return ', '.join(f'{name} {shown(scores.get(name))} %' for name in names[:2])


def _circumstances(run):
    """Where scores come from: text such as 'on val3, perspective view, step-002892'."""
    evaluation = run.evaluation
    view, scales = evaluation.get('view'), evaluation['test_scale']
    split, checkpoint = evaluation.get('split'), evaluation.get('checkpoint')
    scales = [f'{scale:g}' for scale in scales if contents.is_number(scale)] if isinstance(
        scales, list) else []
    parts = [f'on {split}' if split else '',
             VIEWS.get(str(view), str(view)) if view and evaluation['groups'] else '',
             f'checkpoint {checkpoint}' if checkpoint else '',
             f"seen at {' and '.join(scales)} times the training's size"
             if scales not in ([], ['1']) else '',
             'averaged with the mirrored photographs' if evaluation.get('flip_test') else '']
    return ', '.join(filter(None, parts))


def _scores_section(run):
    """The tables of scores by group and by class, what the columns mean, and a figure."""
    evaluation = run.evaluation
    if not evaluation.get('scores'):
        return ''
    count, speed = len(evaluation['frames']), shown(evaluation.get('ms_per_image'), '.0f')
    caption = [f"per cent, {evaluation['title']}", _circumstances(run),
               count_of_photographs(count) if count else '',
               f'{speed} ms per image' if speed != NOTHING else '']
    tables = [_scores_table(evaluation, evaluation['scores'], ', '.join(filter(None, caption)))]
    bev = evaluation['bev'] or {}
    if bev.get('scores'):
        count = bev.get('frames')
        count = len(count) if isinstance(count, list) else count
        caption = f"per cent, {VIEWS['bev']}" + (f', {count} photographs' if count else '')
        tables.append(_scores_table(evaluation, bev['scores'], caption))
    tables.append(_classes_table(evaluation))
    terms = [(f'{name} {arrow}', meaning) for name, (arrow, meaning) in MEANINGS.items()
             if name in _with_numbers(evaluation['columns'], evaluation['scores'].values())]
    if tables[-1]:
        terms += [(f'{name} {arrow} of a class', meaning)
                  for name, (arrow, meaning) in OF_CLASS.items()]
    terms += [(name, f'{meaning[:1].upper()}{meaning[1:]}.')
              for name, meaning in _rows_meanings(evaluation).items()
              if name in evaluation['scores']]
    legend = ''.join(f'<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>'
                     for term, meaning in terms)
    seen = evaluation['seen']
    warning = (f'<p><strong>The network has learned from {seen} of these '
               f"{len(evaluation['frames'])} photographs: their score says little about new ones."
               '</strong></p>' if seen else '')
    return '\n'.join(['<section>', f'<h2>Scores</h2>{warning}', '<div class="tables">', '<div>',
                      *tables, _interval(evaluation), _thresholds(evaluation), '</div>',
                      _detail_figure(run), '</div>',
                      '<details><summary>What the numbers say</summary>'
                      f'<dl>{legend}</dl></details>', '</section>'])


def _rows_meanings(evaluation):
    """What the rows of the table are: dict from name to text."""
    return {**evaluation['groups'], evaluation['pooled']: 'all photographs, pixels pooled'}


def _scores_table(evaluation, scores, caption):
    """One table; scores is a dict {row: {column: number}}."""
    meanings, pooled = _rows_meanings(evaluation), evaluation['pooled']
    names = [name for name in evaluation['groups'] if name in scores]
    names += [name for name in scores if name not in (*names, pooled)]
    names += [pooled] if pooled in scores else []
    columns = _with_numbers(evaluation['columns'], scores.values())
    head, body = _heads(columns, MEANINGS), []
    for name in names:
        cells = ''.join(f'<td>{shown(scores[name].get(key))}</td>' for key in columns)
        body.append(f'<tr{" class=pooled" if name == pooled else ""}>'
                    f'<th scope="row" title="{escape(meanings.get(name, ""))}">{escape(name)}</th>'
                    f'{cells}</tr>')
    corner = 'category' if evaluation['groups'] else ''
    return _table(f'<tr><th scope="col">{corner}</th>{head}</tr>', body, caption)


def _with_numbers(columns, rows):
    """Those columns that have a number in a row; all of them, where none has."""
    rows = list(rows)
    return [key for key in columns if any(contents.is_number(row.get(key)) for row in rows)] or (
        columns)


def _classes_table(evaluation):
    """Scores of each class; '' where there are none. The road's row is bold."""
    pooled, matrix = evaluation['scores'].get(evaluation['pooled'], {}), None
    if not any(f'IoU {name}' in pooled for name in evaluation['classes']):
        return ''
    if evaluation['detail'].get('confusion'):
        matrix = np.asarray(evaluation['detail']['confusion'], np.float64)
    body = []
    for number, (name, colour) in enumerate(zip(evaluation['classes'], evaluation['palette'])):
        found = {'IoU': pooled.get(f'IoU {name}')}
        if matrix is not None:
            hits, truth, taken = (matrix[number, number], matrix[number].sum(),
                                  matrix[:, number].sum())
            found |= {key: 100 * float(part / whole) for key, part, whole in (
                ('found', hits, truth), ('right', hits, taken), ('pixels', truth, matrix.sum()))
                if whole > 0}
        cells = ''.join(f'<td>{shown(found.get(key))}</td>' for key in OF_CLASS)
        strong = ' class=strong' if number == evaluation['road'] else ''
        body.append(f'<tr{strong}><th scope="row" class="narrow">{_swatch(colour)} '
                    f'{escape(name)}</th>{cells}</tr>')
    return _table(f'<tr><th scope="col">class</th>{_heads(OF_CLASS, OF_CLASS)}</tr>', body,
                  'per cent, by class, all photographs')


def _heads(names, meanings):
    """Heads of columns, with arrows that tell whether higher is better."""
    heads = []
    for name in names:
        arrow, meaning = meanings.get(name, ('', ''))
        heads.append(f'<th scope="col" title="{escape(meaning)}">{escape(name)} {arrow}</th>')
    return ''.join(heads)


def _table(head, body, caption):
    return (f'<figure><figcaption>{escape(caption)}</figcaption>'
            f'<div class="scroll"><table class="scores"><thead>{head}</thead>'
            f'<tbody>{"".join(body)}</tbody></table></div></figure>')


def _best_threshold(evaluation, row=None):
    """The best threshold on the 8-bit confidence, of a row or of all together; None without."""
    scores = evaluation.get('scores', {}).get(row or evaluation.get('pooled'), {})
    threshold = scores.get('threshold')
    is_one = contents.is_number(threshold) and 0 <= threshold < THRESHOLDS
    return int(threshold) if is_one else None


def _interval(evaluation):
    """How far the choice of photographs moves the score, in a sentence; '' if unknown."""
    count = len(evaluation['frames'])
    if evaluation['seen']:
        return ''
    if 0 < count < FEW:
        return (f'<p>Only {count_of_photographs(count)}: too few to tell how far the score '
                'depends on their choice. Differences of some per cent may be chance.</p>')
    if evaluation['interval'] is None:
        return ''
    low, high = map(shown, evaluation['interval'])
    return (f"<p>{escape(evaluation['best'])} depends on which photographs were held out: drawn "
            f'anew from these, with neighbours together, it lies between {low} and {high} in 95 of '
            '100 cases. A smaller difference from another network’s may be chance.</p>')


def _thresholds(evaluation):
    """A sentence that names the best threshold; '' where there is none."""
    best = _best_threshold(evaluation)
    if best is None:
        return ''
    others = [f'{name} {_best_threshold(evaluation, name) / THRESHOLDS:.2f}'
              for name in evaluation['groups'] if _best_threshold(evaluation, name) is not None]
    others = f" By itself, {', '.join(others)}." if others else ''
    return (f"<p>Best threshold: {escape(evaluation['pooled'])} reaches its "
            f"{escape(evaluation['best'])} where a pixel counts as "
            f"{escape(evaluation['classes'][1])} from probability "
            f'{best / THRESHOLDS:.2f} on.{escape(others)}</p>')


def _detail_figure(run):
    """The precision-recall curve or the confusion matrix."""
    detail = run.evaluation['detail']
    if detail.get('confusion'):
        write_whole(run.folder / 'confusion.png',
                    figures.confusion(detail['confusion'], run.evaluation['classes']))
        alt = 'confusion matrix: rows are the true classes, columns what was predicted'
        return f'<figure class="matrix">{_drawn(run.folder / "confusion.png", alt, "")}</figure>'
    if detail.get('precision'):
        write_whole(run.folder / 'precision_recall.png', figures.precision_recall(
            detail['precision'], detail['recall'], _best_threshold(run.evaluation)))
        alt = 'precision over recall, with the best threshold and 0.5 marked'
        drawn = _drawn(run.folder / 'precision_recall.png', alt)
        return f'<figure class="beside">{drawn}</figure>'
    return ''


# Training -------------------------------------------------------------------------------------

def _curves_section(run):
    """The curves, and the log they show as a table."""
    if not run.log:
        return ''
    columns, best = list(run.log[0]), run.data['best']
    values = {key: [row.get(key, math.nan) for row in run.log] for key in columns}
    epochs, nowhere = values['epoch'], [math.nan] * len(run.log)
    write_whole(run.folder / 'loss.png', figures.losses(
        epochs, values['loss'], values.get('val_loss', nowhere)))
    drawn = [_drawn(run.folder / 'loss.png', 'curves of the losses over the epochs')]
    keys = [key for key in columns
            if key == best or key.startswith('val_') and key.endswith('iou')]
    curves = {measure(key) + (f', best {run.best[1]:.2f} in epoch {run.best[0]:g}'
                              if run.best and key == best else ''): values[key]
              for key in sorted(keys, key=lambda key: key != best)[:3]
              if any(map(math.isfinite, values[key]))}
    if curves:
        write_whole(run.folder / 'scores.png', figures.scores(epochs, curves))
        drawn.append(_drawn(run.folder / 'scores.png', 'curves of the scores over the epochs'))
    names = [escape(key.replace('_', ' ')) for key in columns]
    head = ''.join(f'<th scope="col">{name}</th>' for name in names)
    body = ''.join('<tr>' + ''.join(f'<td data-label="{name}">{_logged(row[key])}</td>'
                                    for key, name in zip(columns, names)) + '</tr>'
                   for row in run.log)
    return (f'<section>\n<h2>Training</h2>\n<div class="curves">{"".join(drawn)}</div>\n'
            '<details><summary>The log, epoch by epoch</summary><div class="scroll">'
            f'<table class="stack"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
            '</div></details>\n</section>')


def _logged(value):
    """A number of the log in few characters: 28920, 0.0396, 3.333e-05."""
    is_whole = contents.is_number(value) and (value.is_integer() or abs(value) >= 1000)
    return shown(value, '.0f' if is_whole and abs(value) < 1e9 else '.4g')


def _drawn(path, alt, style='drawn'):
    """A figure beside the page, which links to itself."""
    width, height = contents.picture_size(path)
    return (f'<a class="zoom" href="{path.name}"><img class="{style}" src="{path.name}" '
            f'width="{width}" height="{height}" alt="{escape(alt)}"></a>')


# Pictures -------------------------------------------------------------------------------------

def _frames_section(run):
    """A row per photograph, the worst first; those with pictures only come last."""
    evaluation = run.evaluation
    pictures = contents.pictures(contents.picture_paths(run.folder / 'validation'))
    frames = [{**frame, 'name': str(frame['name'])} for frame in evaluation.get('frames', [])]
    names = {frame['name'] for frame in frames}
    drawn = dict.fromkeys(file.rsplit('_', 1)[0] for file in pictures
                          if file.endswith(tuple(f'_{kind}.jpg' for kind in KINDS)))
    frames += [{'name': name} for name in drawn if name not in names]
    if not frames:
        return ''
    columns = _with_numbers(evaluation.get('frame_columns', []), frames) if names else []
    frames.sort(key=lambda frame: _worst_first(frame, columns))
    groups = sorted({str(frame['group']) for frame in frames if frame.get('group') is not None})
    buttons = ''.join(
        f'<button aria-pressed="{"false" if group else "true"}" data-group="{escape(group)}">'
        f'{escape(group) or "all"}</button>'
        for group in ['', *groups]) if 1 < len(groups) <= 8 else ''
    orders = _orders(columns)
    choices = ''.join(f'<option value="{value}">{escape(text)}</option>'
                      for value, text in orders.items())
    rows = [_frame_row(frame, columns, pictures, _kinds(run)) for frame in frames]
    split = evaluation.get('split') or run.chosen.get('split')
    heading = ('Validation photographs' if split == run.chosen.get('split') else
               f'Photographs of {split}')
    note = '' if names else (
        '<p>The scoring did not come to its end: these are the pictures that were drawn. <code>'
        f'python -m roadseg.evaluate {escape(str(Path(*run.folder.resolve().parts[-2:])))}</code> '
        'scores the run.'
        '</p>')
    return '\n'.join([
        '<section class="frames-section">',
        f'<h2>{escape(heading)}<span class="shown">, {escape(next(iter(orders.values())))}'
        f'</span></h2>{note}',
        f'<div class="controls" hidden>{buttons}<select aria-label="order" autocomplete="off">'
        f'{choices}</select></div>',
        _legend(run), '<ol class="frames">', *rows, '</ol>', '</section>'])


def _orders(columns):
    """What photographs can be sorted by: dict from value of an option to its text."""
    orders = {}
    for index, name in enumerate(columns):
        ways = ('down', 'up') if MEANINGS.get(name, ('↑',))[0] == '↓' else ('up', 'down')
        orders[f'{index} {ways[0]}'] = f'worst {name} first'
        orders[f'{index} {ways[1]}'] = f'best {name} first'
    return {**orders, 'name up': 'by name'}


def _worst_first(frame, columns):
    """Key to sort photographs by: the first of the columns; those without that come last."""
    value = frame.get(columns[0]) if columns else None
    missing = not contents.is_number(value)
    falling = bool(columns) and MEANINGS.get(columns[0], ('↑',))[0] == '↓'
    return missing, 0 if missing else -value if falling else value, frame['name']


def _kinds(run):
    """What the pictures of a photograph are called: dict from `KINDS` to text."""
    names = ('input', 'truth', 'probability' if _is_of_road(run) else 'confidence',
             'overlay' if len(_classes(run)[0]) == 2 else 'prediction')
    return dict(zip(KINDS, names))


def _is_of_road(run):
    """Whether the confidence is the probability of road, not of the class that was taken."""
    return len(_classes(run)[0]) == 2 and run.evaluation.get('best', 'MaxF') == 'MaxF'


def _classes(run):
    """(names, colours) of the classes in the pictures."""
    source = run.evaluation or run.data
    return source['classes'], source['palette']


def _frame_row(frame, columns, pictures, kinds):
    """One photograph: its name, numbers and pictures."""
    name = frame['name']
    values = ' '.join(shown(frame.get(key), '.4f') for key in columns)
    numbers = ''.join(f'<span class="number" title="{escape(OF_FRAME.get(key, ("", ""))[1])}">'
                      f'<span>{escape(key)}</span> {shown(frame.get(key))}</span>'
                      for key in columns)
    if any(f'{name}_{kind}.jpg' in pictures for kind in kinds):
        grid = ''.join(_figure(pictures.get(f'{name}_{kind}.jpg'), 'validation', text,
                               f'{name}: {text}')
                       for kind, text in kinds.items())
        grid = f'<div class="pictures">{grid}</div>'
    else:
        grid = '<p class="soft">no pictures</p>'
    anchor, group = f'frame-{name}', frame.get('group')
    # a lone surrogate, which JSON may have, becomes '?' in the anchor, too
    anchor, link = escape(anchor), escape(quote(anchor.encode('utf-8', 'replace')))
    group = '' if group is None else str(group)
    return (f'<li class="frame" id="{anchor}" data-name="{escape(name)}" '
            f'data-group="{escape(group)}" data-values="{values}"><div class="head">'
            f'<h3><a href="#{link}">{escape(name)}</a></h3>{numbers}'
            f'</div>{grid}</li>')


def _legend(run):
    """What the colours of the validation pictures mean."""
    names, palette = _classes(run)
    if len(names) == 2:
        name, found = escape(names[1]), _swatch(FOUND)
        what = f'probability of {name}' if _is_of_road(run) else 'confidence'
        parts = [('truth', f'{found} {name}'),
                 ('overlay, from probability 0.5 on',
                  f'{found} {name} found</span><span>{_swatch(MISSED)} {name} missed'
                  f'</span><span>{_swatch(WRONG)} taken as {name}, and is none'),
                 (what, _colour_bar(run.evaluation))]
    else:
        parts = [('truth and prediction', _swatches(names, palette)),
                 ('confidence', _colour_bar(run.evaluation))]
    parts.append(('darkened', '<i class="swatch dark"></i> not evaluated'))
    return '<div class="legend">' + ''.join(
        f'<span><b>{what}</b> <span>{colours}</span></span>' for what, colours in parts) + '</div>'


def _colour_bar(evaluation):
    """The colours of the probability, and the best threshold on it."""
    colours = colour_map(np.linspace(0, 255, 9).astype(np.uint8)[np.newaxis])[0].tolist()
    stops = ', '.join(f"rgb({' '.join(map(str, colour[:3]))})" for colour in colours)
    best, mark, text = _best_threshold(evaluation), '', ''
    if best is not None:
        mark = f'<i style="left: {100 * best / THRESHOLDS:.1f}%"></i>'
        text = f'</span><span>best threshold {best / THRESHOLDS:.2f}'
    bar = f'<span class="bar" style="background: linear-gradient(90deg, {stops})">{mark}</span>'
    return f'0 {bar} 1{text}'


def _swatches(names, palette):
    return '</span><span>'.join(f'{_swatch(colour)} {escape(name)}'
                                for name, colour in zip(names, palette))


def _swatch(colour):
    return f'<i class="swatch" style="background: rgb({" ".join(map(str, colour))})"></i>'


def _painted_classes(run):
    """(names, colours) of the classes that are painted on photographs: of two, the second."""
    first = 1 if len(run.data['classes']) == 2 else 0
    return run.data['classes'][first:], run.data['palette'][first:]


def _overlays_section(run):
    """The first test photographs with what was found in colour, and a link to all of them."""
    names, palette = _painted_classes(run)
    what = 'What the network finds is painted.'
    if len(names) == 1:
        what = 'What the network finds, from probability 0.5 on, is painted.'
    return _gallery(run, 'Test photographs', f'{what} There are no '
                    'labels to compare with; look for holes, ragged borders, and colour where it '
                    'does not belong.', 'overlays', TEST_OVERLAYS, _swatches(names, palette))


def _pseudo_labels_section(run):
    """Some of the labels that a network made, on their photographs."""
    names, palette = _painted_classes(run)
    return _gallery(run, 'Pseudo-labels', 'Labels that a trained network made for photographs '
                    'without one, and that were learned from. Where it was unsure, nothing was '
                    'learned. All of them are in <a href="pseudo_labels/">pseudo_labels/</a>.',
                    'pseudo_labels/shown', PSEUDO_LABELS,
                    _swatches([*names, 'unsure'], [*palette, (0, 0, 0)]))


def _gallery(run, heading, text, folder, count, legend):
    """The first pictures of a folder, and a link to all of them; '' without any."""
    paths = contents.picture_paths(run.folder / folder)
    if not paths:
        return ''
    # The others are not even opened: there may be thousands, and the page is written each epoch.
    shown_here = ''.join(_figure(picture, folder, picture[0].stem, picture[0].stem)
                         for picture in contents.pictures(paths[:count]).values())
    rest = (f'<p><a href="{folder}/">all {len(paths)} in {folder}/</a></p>'
            if len(paths) > count else '')
    return '\n'.join(['<section>', f'<h2>{heading}</h2>', f'<p>{text}</p>',
                      f'<div class="legend"><span><span>{legend}</span></span></div>',
                      f'<div class="pictures tests">{shown_here}</div>', rest, '</section>'])


def _figure(picture, folder, caption, alt):
    """A captioned picture in a folder of the run, which links to itself.

    Args:
        picture: (path, width, height); None where there is none.
        folder: relative to the run's.
        caption, alt: str.
    """
    if picture is None:
        return (f'<figure><div class="none">no picture</div><figcaption>{escape(caption)}'
                '</figcaption></figure>')
    path, width, height = picture
    link = link_to(f'{folder}/{path.name}')
    return (f'<figure><a class="zoom" href="{link}"><img src="{link}" width="{width}" '
            f'height="{height}" loading="lazy" alt="{escape(alt)}"></a>'
            f'<figcaption>{escape(caption)}</figcaption></figure>')


def link_to(path):
    """A relative path as it stands in a link, whatever bytes are in the names of its files."""
    return escape(quote(path, errors='surrogateescape'))


# What made it ---------------------------------------------------------------------------------

def _options_section(options):
    """All of options.json, a table per section; what stands alone comes first."""
    alone = {key: value for key, value in options.items() if not isinstance(value, dict)}
    sections = [('run', alone), *((key, value) for key, value in options.items()
                                  if isinstance(value, dict))]
    tables = []
    for heading, section in sections:
        rows = ''.join(f'<tr><th scope="row">{escape(key)}</th><td>{escape(text)}</td></tr>'
                       for key, text in flat(section))
        if rows:
            tables.append(f'<h3>{escape(heading)}</h3><table>{rows}</table>')
    return ('<h2>Options</h2>\n<details class="options"><summary>What made this run: options, '
            f'versions, machine, data</summary>{"".join(tables)}</details>')


def flat(section, prefix=''):
    """Yields pairs of text (key, value) of nested dicts; keys of inner ones are joined by dots."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from flat(value, f'{prefix}{key}.')
        elif value is None:
            yield f'{prefix}{key}', NOTHING
        else:
            yield f'{prefix}{key}', value if isinstance(value, str) else json.dumps(value)


def _why_losses_differ(chosen):
    """What the options put into the training loss and not into that of validation."""
    dropout = chosen.get('model') != 'segnet' and chosen.get('keep_prob') != 1
    distorted = any(chosen.get(name) for name in ('flip', 'scale', 'colour'))
    weighted = chosen.get('class_weights') not in (None, 'none')
    averaged = chosen.get('average_decay') != 0
    parts = ['dropout'] * dropout + ['distorted photographs'] * distorted + [
        'class weights'] * weighted + ['the weights of that moment']
    listed = ', '.join(parts[:-1]) + ' and ' * bool(parts[:-1]) + parts[-1]
    return (f'the training loss is taken with {listed}, the validation loss '
            + ('without, ' if parts[:-1] else '')
            + ('with averaged weights' if averaged else "with those of the epoch's end"))


def _notes_section(run, with_frames):
    """How to read the page, and the files it was made from."""
    frames = ''
    if with_frames:
        kinds = list(_kinds(run).values())
        overlay = ('where it is right and wrong' if len(_classes(run)[0]) == 2
                   else 'the class of the highest probability')
        frames = (
            f'<p>Each photograph ({kinds[0]}) stands beside its label ({kinds[1]}), how sure the '
            f'network is ({kinds[2]}) and {overlay} ({kinds[3]}). The {kinds[2]} tells whether a '
            'mistake was a close call. A click enlarges a picture, another shows it at full size; '
            'the arrow keys go through the pictures.</p>\n')
        if 'MaxF' in run.evaluation.get('frame_columns', ()):
            frames += (
                "<p>A photograph's IoU is taken at probability 0.5; its MaxF, FPR and FNR at the "
                'threshold that is best for this one photograph, so they tend to look better than '
                'in the table, where a category shares one threshold and its pixels are '
                'pooled.</p>\n')
        elif 'mIoU' in run.evaluation.get('frame_columns', ()):
            frames += (
                "<p>A photograph's mIoU is the mean over the classes that are in it or predicted "
                'in it: a few stray pixels of another class lower it much. Their mean is not the '
                "table's, where the pixels are pooled.</p>\n")
    files = [file for file in ('options.json', 'log.csv', 'evaluation.json')
             if (run.folder / file).exists()]
    links = ', '.join(f'<a href="{file}">{file}</a>' for file in files)
    losses = f"""<p>The validation loss is on photographs the network never learned from: when it
rises while the training loss falls, training has gone on for too long. Compare their courses, not
their levels: {_why_losses_differ(run.chosen)}.</p>
""" if any(math.isfinite(row.get('val_loss', math.nan)) for row in run.log) else ''
    return f"""<h2>How to read this page</h2>
{frames}{losses}<p>“{NOTHING}” is a number that does not exist. This page was made from
{links}.</p>"""
