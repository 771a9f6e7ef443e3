"""Scores a network on labelled photographs, and draws the pictures that explain the scores.

What is counted, and which scores follow, comes from the data set's description.
"""
import math
import os
from pathlib import Path

import numpy as np

from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError
from roadseg.files import delete, make_folder
from roadseg.images import paint, resize, thumbnail_size, write_image
from roadseg.inference import TURNS
from roadseg.machine import processors
from roadseg.scoring import bev
from roadseg.threads import prepared_ahead

FOUND, MISSED, WRONG = (0, 158, 115), (213, 94, 0), (0, 114, 178)   # Okabe and Ito's palette
PICTURE_WIDTH = 1242        # pixels, of a photograph of KITTI Road
FEW = 10            # photographs, below which their choice is all there is to a score
SAMPLES = 1000      # of the photographs, by which `interval` tells what their choice makes
KINDS = ('input', 'truth', 'probability', 'overlay')    # of the pictures of a photograph


def check_names(pairs):
    """Checks that the pictures of photographs can be named after them, before minutes of work.

    Args:
        pairs: list of (image, label) paths.

    Raises:
        InputError: a name is too long.
    """
    most = 255 - max(len(f'_{kind}.jpg') for kind in KINDS)     # bytes, of file systems
    for image, _ in pairs:
        if len(os.fsencode(image.stem)) > most:
            raise InputError(f'the name of {image} is too long for those of its pictures: shorten '
                             f'it to {most} bytes without its ending')


def score(network, dataset, samples, pictures=None, calibrations=None, also=None):
    """Scores a network on labelled photographs.

    The network sees one photograph after the other. All else, from resizing to drawing, is done
    in threads meanwhile.

    Args:
        network: `inference.Network`.
        dataset: `Dataset`.
        samples: iterable of (name, photograph uint8 (H, W, 3), classes uint8 (H, W)).
        pictures: folder for the pictures of `write_pictures`, from which those of other
            photographs are removed; None writes none.
        calibrations: dict from name to `bev.Calibration`; the photographs in it are scored in
            bird's-eye view, too. For measures of road only.
        also: function of (name, photograph, classes, prediction) that is called of each, in one
            of the threads.

    Returns:
        dict of 'loss' (mean cross entropy over the evaluated pixels), 'pixels' (their number),
        'ms_per_image' (network and resizing; the median), 'counts' and 'bev_counts' (dicts from
        name to what the data set's measures count).

    Raises:
        InputError: there is no photograph.
    """
    measures, num_classes = dataset.measures, len(dataset.classes)

    def look_at(sample):
        name, photograph, truth = sample
        began = TURNS.clock()
        prediction = measures.predict(network, photograph)
        seconds, bev_count = TURNS.clock() - began, None
        if name in (calibrations or {}):
            values, road, evaluated = (
                bev.to_bev(view, calibrations[name])[0]
                for view in (measures.confidence(prediction), truth == 1, truth != IGNORED))
            bev_count = measures.confidence_histograms(values, road, evaluated)
        if pictures is not None:
            write_pictures(pictures, name, photograph, truth, prediction, dataset)
        if also is not None:
            also(name, photograph, truth, prediction)
        return (name, seconds, *measures.cross_entropy(prediction, truth),
                measures.count(prediction, truth, num_classes), bev_count)

    counts, bev_counts, times, loss, pixels = {}, {}, [], 0.0, 0
    threads = processors() + 1          # one of them waits for the network
    for name, seconds, frame_loss, frame_pixels, count, bev_count in prepared_ahead(
            look_at, samples, threads, ahead=threads):
        times.append(seconds)
        loss, pixels = loss + frame_loss, pixels + frame_pixels
        counts[name] = count
        if bev_count is not None:
            bev_counts[name] = bev_count
    if not counts:
        raise InputError('there is no labelled photograph to score')
    if pictures is not None:
        remove_other_pictures(pictures, counts)
    return {'loss': loss / max(pixels, 1), 'pixels': pixels,
            'ms_per_image': 1e3 * float(np.median(times)),
            'counts': counts, 'bev_counts': bev_counts}


def totals(result):
    """What a result of `score` amounts to: those of several shares may be added up.

    Args:
        result: dict, of at least one photograph.

    Returns:
        float64 ndarray (2 + K,): the cross entropy summed over the evaluated pixels, their number
        and the K counts of all photographs. Counts are whole numbers, and exact up to 2^53.
    """
    counts = sum(result['counts'].values())
    return np.float64([result['loss'] * result['pixels'], result['pixels'], *counts.ravel()])


def of_totals(totals, dataset):
    """What follows from `totals`.

    Args:
        totals: float64 ndarray (2 + K,).
        dataset: `Dataset`.

    Returns:
        (mean cross entropy, dict from name of a measure to float).
    """
    loss, pixels, *counts = totals
    counts = np.int64(counts).reshape(len(dataset.classes), -1)     # a row for each class
    return float(loss / max(pixels, 1)), dataset.measures.measures(counts, dataset.classes,
                                                                   dataset.road)


def measures_by_group(counts, dataset):
    """The data set's measures of each group of photographs, and of all of them.

    Args:
        counts: dict from name of a photograph to its counts.
        dataset: `Dataset`.

    Returns:
        dict from name of a group to dict from name of a measure to float, without groups that
        have no photograph; all together, under the name `dataset.pooled`, come last. A measure
        that does not exist, such as the recall of road where there is none, is left out.
    """
    pooled = {}
    for name, of_frame in counts.items():
        for group in {dataset.group(name), dataset.pooled} - {None}:
            pooled[group] = pooled.get(group, 0) + of_frame
    return {group: dataset.measures.measures(pooled[group], dataset.classes, dataset.road)
            for group in (*dataset.groups, dataset.pooled) if group in pooled}


def interval(counts, dataset):
    """How far the choice of the photographs moves their score: 95 of 100 samples lie between.

    Samples of as many photographs are drawn with replacement, in blocks of neighbours, as frames
    of one street are alike (circular block bootstrap: Politis and Romano, "A circular
    block-resampling procedure for stationary data", 1992). A block has the cube root of the
    number of photographs. Another training's seed is not in it.

    Args:
        counts: dict from name of a photograph to its counts, neighbours being neighbours.
        dataset: `Dataset`.

    Returns:
        [low, high] of the measure that counts, in per cent: the 2.5th and the 97.5th percentile;
        None where it does not exist in some sample, or of fewer than `FEW` photographs, which say
        nothing of others.
    """
    if len(counts) < FEW:
        return None
    frames = np.stack(list(counts.values()))
    photographs, shape = len(frames), frames.shape[1:]
    frames = np.float64(frames.reshape(photographs, -1))
    length = round(photographs ** (1 / 3))
    starts = np.random.default_rng(0).integers(
        photographs, size=(SAMPLES, math.ceil(photographs / length), 1))
    scores = []
    for part in np.array_split(starts, 20):     # lest memory grows with all samples' photographs
        drawn = ((part + np.arange(length)) % photographs).reshape(len(part), -1)[:, :photographs]
        times = np.stack([np.bincount(of_sample, minlength=photographs) for of_sample in drawn])
        scores += [dataset.measures.measures(np.int64(pooled.reshape(shape)), dataset.classes,
                                             dataset.road)
                   for pooled in np.float64(times) @ frames]
    if not all(dataset.measures.BEST in found for found in scores):
        return None
    return np.percentile([found[dataset.measures.BEST] for found in scores], [2.5, 97.5]).tolist()


def summary(result, dataset, checkpoint, split, network):
    """What `evaluation.json` holds, from what `score` returns; the page needs no more.

    Args:
        result: dict.
        dataset: `Dataset`.
        checkpoint: name, such as 'step-002892'.
        split: name of the photographs' split.
        network: the `inference.Network` that was scored.

    Returns:
        dict of numbers and text.
    """
    measures = dataset.measures
    frames = []
    for name, counts in result['counts'].items():
        found = measures.measures(counts, dataset.classes, dataset.road)
        frames.append({'name': name, 'group': dataset.group(name),
                       **{key: found[key] for key in measures.FRAME_COLUMNS if key in found}})
    content = {'dataset': dataset.name, 'title': dataset.title, 'classes': list(dataset.classes),
               'palette': [list(colour) for colour in dataset.palette], 'road': dataset.road,
               'columns': list(measures.COLUMNS), 'frame_columns': list(measures.FRAME_COLUMNS),
               'best': measures.BEST, 'groups': dataset.groups, 'pooled': dataset.pooled,
               'checkpoint': checkpoint, 'split': split, 'view': 'perspective',
               'test_scale': list(network.scales), 'flip_test': network.flip,
               'loss': result['loss'], 'ms_per_image': result['ms_per_image'],
               'scores': measures_by_group(result['counts'], dataset),
               'interval': interval(result['counts'], dataset),
               'detail': measures.detail(sum(result['counts'].values())),
               'frames': frames}
    if result['bev_counts']:
        content['bev'] = {'scores': measures_by_group(result['bev_counts'], dataset),
                          'frames': len(result['bev_counts'])}
    return content


# Text -----------------------------------------------------------------------------------------

def format_table(rows, columns):
    """Aligned text table of measures.

    Args:
        rows: dict from row name to dict of numbers.
        columns: names of the measures, from left to right; a missing one shows as '-'.

    Returns:
        str of one line per row, a header first; numbers have two decimals.
    """
    lines = [['', *columns]]
    lines += [[name, *(f'{row[column]:.2f}' if column in row else '-' for column in columns)]
              for name, row in rows.items()]
    widths = [max(map(len, cells)) for cells in zip(*lines)]
    return '\n'.join(
        '  '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines)


def are_pooled(names):
    """Whether runs were scored on different photographs, as folds are, and not on the same.

    Args:
        names: list of the sets of the photographs' names.

    Raises:
        InputError: they share some photographs, but not all.
    """
    if len(names) == 1 or sum(map(len, names)) == len(set.union(*names)):
        return True
    if any(of_run != names[0] for of_run in names):
        raise InputError('these runs are scored on photographs of which they share some; score '
                         'them one by one, or with a --split that is the same for all')
    return False


def tables(results, dataset):
    """The tables of one or several results of `score`, as text.

    Runs on different photographs, as the folds of a cross-validation, are pooled; runs on the
    same photographs, as with several seeds, give mean and sample standard deviation.

    Raises:
        InputError: the runs share some photographs, but not all.
    """
    if are_pooled([set(result['counts']) for result in results]):
        describe = _pooled_tables
        # with labels that evaluate nothing, there is no pixel to weigh by
        pixels = [max(result['pixels'], 1) for result in results]
    else:
        describe, pixels = _spread_tables, None
    lines = []
    for key, view in (('counts', 'perspective'), ('bev_counts', "bird's-eye view")):
        counts = [result[key] for result in results if result[key]]
        if counts:
            lines += describe(counts, dataset, view)
    loss = np.average([result['loss'] for result in results], weights=pixels)
    speed = np.median([result['ms_per_image'] for result in results])
    return '\n'.join([*lines, f'cross entropy {loss:.4f}, {speed:.0f} ms per image'])


def _pooled_tables(counts, dataset, view):
    pooled = {name: of_frame for run in counts for name, of_frame in run.items()}
    scores = measures_by_group(pooled, dataset)
    return [f'{dataset.title}: {len(pooled)} photographs, {view}, per cent',
            format_table(scores, dataset.measures.COLUMNS), *_interval_line(pooled, dataset),
            *_by_class(scores[dataset.pooled], dataset), *_at_half(scores[dataset.pooled])]


def _spread_tables(counts, dataset, view):
    runs = [measures_by_group(run, dataset) for run in counts]
    mean, deviation = {}, {}
    for group in runs[0]:
        values = {key: [run[group][key] for run in runs] for key in runs[0][group]
                  if all(key in run[group] for run in runs)}
        mean[group] = {key: float(np.mean(value)) for key, value in values.items()}
        deviation[group] = {key: float(np.std(value, ddof=1)) for key, value in values.items()}
    columns, best = dataset.measures.COLUMNS, dataset.measures.BEST
    of_runs = ', '.join(f'{run[dataset.pooled][best]:.2f}' if best in run[dataset.pooled] else '-'
                        for run in runs)
    return [f'{dataset.title}: {len(counts[0])} photographs, {view}, per cent, mean of '
            f'{len(runs)} runs', format_table(mean, columns),
            'sample standard deviation', format_table(deviation, columns),
            f'{best} of the runs: {of_runs}',
            *_interval_line({name: sum(run[name] for run in counts) for name in counts[0]},
                            dataset), *_by_class(mean[dataset.pooled], dataset),
            *_at_half(mean[dataset.pooled])]


def _interval_line(counts, dataset):
    if len(counts) < FEW:
        return [f'{count_of_photographs(len(counts))}: too few to tell how far their choice moves '
                'the score']
    bounds = interval(counts, dataset)
    return [] if bounds is None else [
        f'{dataset.measures.BEST}, 95 % interval by the choice of photographs: '
        f'{bounds[0]:.2f} to {bounds[1]:.2f}']


def count_of_photographs(count):
    """'1 photograph', '2 photographs'."""
    return f"{count} photograph{'s' * (count != 1)}"


def _by_class(scores, dataset):
    """IoU of each class, where the measures have that."""
    rows = {name: {'IoU': scores[f'IoU {name}']} if f'IoU {name}' in scores else {}
            for name in dataset.classes}
    return [format_table(rows, ['IoU'])] if any(rows.values()) else []


def _at_half(scores):
    if 'F1' not in scores:
        return []
    return ['at threshold 0.5: F1 {F1:.2f}, IoU {IoU:.2f}'.format(**scores)]


# Pictures -------------------------------------------------------------------------------------

def write_pictures(folder, name, photograph, truth, prediction, dataset):
    """Writes four JPEGs of a frame: NAME_input, _truth, _probability and _overlay.

    Pixels that are not evaluated have half their brightness. Of two classes, the road of the truth
    is painted in `FOUND`; in the overlay, `FOUND` is road found, `MISSED` road missed and `WRONG`
    road that is none. Of more classes, both have the data set's palette, and the overlay is what
    was predicted.

    Raises:
        InputError: one cannot be written.
    """
    make_folder(folder, parents=False)      # in a run that is still there
    height, width = thumbnail_size(photograph.shape[:2],
                                   min(PICTURE_WIDTH, photograph.shape[1]))
    numbers = dataset.measures.decide(prediction)
    seen = np.where((truth == IGNORED)[..., np.newaxis], photograph // 2, photograph)
    if len(dataset.classes) == 2:
        kinds = np.select([truth == IGNORED, (truth == 1) & (numbers == 1), truth == 1,
                           numbers == 1], [255, 0, 1, 2], 255).astype(np.uint8)
        errors = paint(seen, kinds, (FOUND, MISSED, WRONG))
        shown = paint(seen, np.where(truth == 1, truth, 255).astype(np.uint8),
                      (FOUND, FOUND))
    else:
        errors, shown = (paint(seen, classes, dataset.palette) for classes in (numbers, truth))
    probability = colour_map(dataset.measures.confidence(prediction))
    for kind, picture in zip(KINDS, (photograph, shown, probability, errors), strict=True):
        write_image(Path(folder) / f'{name}_{kind}.jpg', resize(picture, (height, width)))


def remove_other_pictures(folder, names):
    """Removes what `write_pictures` wrote of other photographs, such as those of another split.

    Raises:
        InputError: one cannot be removed.
    """
    wanted = {f'{name}_{kind}.jpg' for name in names for kind in KINDS}
    there = {path for kind in KINDS for path in Path(folder).glob(f'*_{kind}.jpg')}
    for path in there:
        if path.name not in wanted:
            delete(path)


def colour_map(confidence):
    """Paints an 8-bit confidence in matplotlib's 'cividis', dark blue to yellow.

    It can be told apart by the colour-blind (Nunez, Anderton and Renslow, PLOS ONE, 2018).

    Args:
        confidence: uint8 ndarray (H, W).

    Returns:
        uint8 ndarray (H, W, 3).
    """
    from matplotlib import colormaps        # takes a while, and is needed at the end
    return colormaps['cividis'](np.arange(256), bytes=True)[confidence, :3]
