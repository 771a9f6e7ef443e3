"""Tests of roadseg.scoring.page on tiny made-up runs, and of the page in a real browser."""
import copy
import io
import json
import math
import random
import re
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
from made_up_runs import (BROWSER, CURVES, IOU, KINDS, KITTI, STREET, Page, measure_in_browser,
                          write_evaluation, write_log, write_options, write_picture, write_street)
from PIL import Image

from roadseg.errors import InputError
from roadseg.scoring import classes, contents, figures, page, road, score
from roadseg.training import tensorboard

HOSTILE = '<script>alert("x")</script>&\''
DRAWN = {**KITTI, 'title': 'drawn scenes'}


@pytest.fixture
def bare(tmp_path):
    """A run of which only options and log are there."""
    run = tmp_path / '2025-01-31-120000'
    run.mkdir()
    write_options(run)
    write_log(run)
    return run


@pytest.fixture
def full(bare):
    """A run with everything, but for the log, whose curves take time, and some pictures."""
    (bare / 'log.csv').unlink()
    write_evaluation(bare)
    for name in IOU:
        for kind in KINDS:
            if (name, kind) != ('uu_000003', 'probability') and name != 'uu_000004':
                write_picture(bare / 'validation' / f'{name}_{kind}.jpg')
    for number in range(15):
        write_picture(bare / 'overlays' / f'um_{number:06}.png')
    return bare


def written(run):
    return Page(page.write_page(run))


# What was trained -----------------------------------------------------------------------------

@pytest.mark.parametrize('data, chosen, expected', [
    (KITTI, {}, 'FCN-8s on KITTI Road, val3: MaxF 93.00 % at best'),
    (DRAWN, {'split': 'held-out'}, 'FCN-8s on drawn scenes, held-out: MaxF 93.00 % at best'),
    (DRAWN, {'split': 'kfold:5:0'}, 'FCN-8s on drawn scenes, kfold:5:0: MaxF 93.00 % at best'),
    (KITTI, {'split': 'none'}, 'FCN-8s on KITTI Road, nothing held out: MaxF 93.00 % at best'),
    (KITTI, {'model': 'segnet', 'encoder': 'data/resnet50'},
     'SegNet, encoder resnet50, on KITTI Road, val3: MaxF 93.00 % at best')])
def test_title_says_what_was_trained_and_how_good_it_became(bare, data, chosen, expected):
    write_options(bare, data, chosen)
    assert page.title(contents.read(bare)) == expected


def test_the_title_stands_above_the_page_and_in_its_tab(bare):
    source, expected = written(bare).source, 'FCN-8s on KITTI Road, val3: MaxF 93.00 % at best'
    assert f'<title>{expected}</title>' in source and f'<h1>{expected}</h1>' in source


def test_summary_says_what_was_run_and_how_good_it_is(full):
    write_log(full)
    text = written(full).text
    assert ('run 2025-01-31-120000 · input 160 × 576 pixels (height × width) · 241 photographs '
            'trained on, 48 held out · 3 epochs · CPU, 2 cores · trained in 3 min · URBAN MaxF '
            '94.50 %, IoU 90.75 % on val3, perspective view, checkpoint step-000723') in text


def test_summary_tells_an_unfinished_run(bare):
    write_log(bare, epochs=1)
    text = written(bare).text
    assert '1 of 3 epochs' in text
    assert 'validation MaxF 91.00 %, IoU 87.00 % after epoch 1' in text


def test_epochs_without_a_score_leave_the_last_one(bare):
    write_log(bare, epochs=3)
    lines = (bare / 'log.csv').read_text().splitlines()
    (bare / 'log.csv').write_text('\n'.join([*lines[:2], *(
        ','.join(line.split(',')[:6]) + ',,,,,' for line in lines[2:])]))
    text = written(bare).text
    assert '3 epochs' in text and 'validation MaxF 91.00 %, IoU 87.00 % after epoch 1' in text


def test_the_title_has_the_score_of_the_table_and_not_a_better_one(full):
    write_log(full, top=98.0)
    assert written(full).text.startswith('FCN-8s on KITTI Road, val3: MaxF 94.50 % ')
    write_evaluation(full, split='search')
    assert written(full).text.startswith('FCN-8s on KITTI Road, val3: MaxF 101.00 % at best')


def test_photographs_that_were_learned_from_are_told(full):
    write_evaluation(full, split='all', seen=3, interval=[94.0, 95.0])
    text = written(full).text
    assert 'has learned from 3 of these 4 photographs' in text and '95 of 100' not in text
    assert 'Photographs of all' in text and 'Validation photographs' not in text


def test_a_few_photographs_tell_nothing_of_others(full):
    assert 'Only 4 photographs: too few' in written(full).text


def test_summary_tells_what_else_was_learned_from(bare):
    write_options(bare, start_from={'run': 'runs/earlier', 'checkpoint': 'step-000723'})
    write_picture(bare / 'pseudo_labels/a.png')
    text = written(bare).text
    assert '1 more with pseudo-labels' in text and 'started from earlier' in text


def test_two_classes_without_road_have_a_confidence_and_no_score_of_road(bare):
    palette = [[0, 0, 0], [9, 99, 9]]
    write_street(bare, classes=['crop', 'weed'], palette=palette, road=None, detail={},
                 scores={'all': {'mIoU': 71.5, 'IoU crop': 60.0}})
    write_picture(bare / 'validation/a_probability.jpg')
    text = written(bare).text
    assert 'confidence' in text and 'probability' not in text.replace('from probability 0.5', '')
    assert 'road IoU' not in text.split('Training')[0].split('Scores')[1]


def test_pictures_of_a_scoring_that_was_killed(bare):
    write_picture(bare / 'validation/a_input.jpg')
    assert 'did not come to its end' in written(bare).text


def test_best_epoch_is_the_earliest_of_equal_ones(bare):
    (bare / 'log.csv').write_text('epoch,step,loss,val_maxf\n1,1,3,\n2,2,2,90\n3,3,1,90\n4,4,1,nan\n',
                                  encoding='utf-8')
    assert contents.read(bare).best == (2, 90.0)


def test_after_ctrl_c_before_the_first_epoch_there_is_a_page(bare):
    (bare / 'log.csv').unlink()
    seen = written(bare)
    assert 'FCN-8s on KITTI Road, val3 run' in seen.text and '0 of 3 epochs' in seen.text
    for absent in ('Training', 'Scores', 'log.csv', 'loss.png'):
        assert absent not in seen.text and absent not in str(seen.elements)


def test_a_log_of_names_alone_is_one_without_an_epoch(bare):
    (bare / 'log.csv').write_text('epoch,step,loss\n', encoding='utf-8')
    assert '0 of 3 epochs' in written(bare).text


# Scores ---------------------------------------------------------------------------------------

def test_scores_have_a_row_per_category_and_explain_themselves(full):
    seen = written(full)
    assert 'um 95.25 92.00 95.00 95.50 2.50 4.50 90.75' in seen.text
    assert 'uu – – – – – – –' in seen.text
    assert 'URBAN 94.50 92.00' in seen.text
    titles = [cell['title'] for cell in seen.all('th') if 'is better' in cell.get('title', '')]
    assert len(titles) == 7 and sum('Lower' in title for title in titles) == 2
    assert "bird's-eye view" not in seen.text
    assert 'by class' not in seen.text and 'confusion' not in seen.source


@pytest.mark.parametrize('frames', [47, [{'name': 'um_000001'}] * 47])
def test_birds_eye_view_has_its_own_table(full, frames):
    write_evaluation(full, bev={'scores': {'URBAN': {'MaxF': 93.75}}, 'frames': frames})
    text = written(full).text
    assert "per cent, bird's-eye view, 47 photographs" in text
    assert 'URBAN 93.75' in text and 'URBAN 93.75 –' not in text


def test_the_best_threshold_is_named(full):
    write_evaluation(full, detail=CURVES)
    seen = written(full)
    assert ('URBAN reaches its MaxF where a pixel counts as road from probability 0.43 on. '
            'By itself, um 0.51.') in seen.text
    assert 'best threshold 0.43' in seen.text and 'left: 43.0%' in seen.source
    assert 'precision_recall.png' in [picture['src'] for picture in seen.all('img')]


def test_without_road_there_is_no_threshold_and_no_curve(full):
    write_evaluation(full, scores={'URBAN': {}}, detail={})
    seen = written(full)
    assert 'URBAN – – – – – – –' in seen.text
    assert 'threshold' not in seen.text.split('Validation photographs')[0].split('What the')[0]
    assert 'precision_recall.png' not in seen.source


def test_many_classes_have_scores_of_their_own(bare):
    write_street(bare)
    seen = written(bare)
    assert 'SegNet on Street, val: mIoU 71.50 %' in seen.text
    assert 'mIoU 71.50 %, road IoU 75.25 % on val, checkpoint' in seen.text
    assert 'all 71.50 88.00 80.00 75.25' in seen.text
    assert 'road 75.25 91.67 84.62 60.00' in seen.text      # 55 of 60, 55 of 65, 60 of 100
    assert 'car – – – 0.00' in seen.text
    strong = [row for row in seen.all('tr') if row.get('class') == 'strong']
    assert len(strong) == 1 and '<tr class=strong><th scope="row" class="narrow"><i' in seen.source
    assert 'confusion.png' in [picture['src'] for picture in seen.all('img')]
    assert 'threshold' not in seen.text


def test_pictures_of_many_classes_have_the_palette_beside_them(bare):
    write_street(bare)
    for kind in KINDS:
        write_picture(bare / 'validation' / f'a_{kind}.jpg')
    write_picture(bare / 'overlays' / 'b.png')
    seen = written(bare)
    assert 'truth and prediction sky road car confidence 0 1 darkened not evaluated' in seen.text
    assert [picture['alt'] for picture in seen.all('img') if 'a: ' in picture['alt']] == [
        'a: input', 'a: truth', 'a: confidence', 'a: prediction']
    for colour in STREET['palette']:    # of validation, tests and the table
        assert seen.source.count(f"rgb({' '.join(map(str, colour))})") == 3


def test_two_classes_have_the_colours_of_the_pictures(full):
    seen = written(full)
    assert ('truth road overlay, from probability 0.5 on road found road missed taken as road, and '
            'is none probability of road 0 1 best threshold 0.43 darkened not evaluated') in seen.text
    for colour in (score.FOUND, score.MISSED, score.WRONG):
        assert f"rgb({' '.join(map(str, colour))})" in seen.source


# Pictures -------------------------------------------------------------------------------------

def test_frames_are_worst_first_and_those_without_a_score_last(full):
    assert page.write_page(full) == full / 'index.html'
    seen = Page(full / 'index.html')
    assert seen.frames() == ['umm_000002', 'uu_000003', 'um_000001', 'uu_000004']
    assert 'Validation photographs , worst IoU first' in seen.text
    assert 'umm_000002 IoU 80.25 MaxF 90.00 FPR 1.00 FNR 2.00' in seen.text
    assert 'uu_000004 IoU – MaxF 90.00' in seen.text


def test_the_worst_of_a_measure_that_should_be_low_is_the_highest(full):
    write_evaluation(full, frame_columns=['FPR'], frames=[
        {'name': name, 'FPR': value} for name, value in (('a', 1.0), ('b', 3.0), ('c', 2.0))])
    seen = written(full)
    assert seen.frames()[:3] == ['b', 'c', 'a']
    assert [option['value'] for option in seen.all('option')] == ['0 down', '0 up', 'name up']


def test_pictures_are_lazy_sized_and_described(full):
    seen = written(full)
    pictures = [picture for picture in seen.all('img') if picture.get('class') != 'drawn']
    assert len(pictures) == 3 * 4 - 1 + page.TEST_OVERLAYS
    for picture in pictures:
        assert picture['loading'] == 'lazy' and picture['alt']
        assert (picture['width'], picture['height']) == ('62', '19')
    assert 'all 15 in overlays/' in seen.text
    assert seen.text.count('no picture ') == 1 and seen.text.count('no pictures') == 1


def test_an_unreadable_picture_shows_as_missing(full):
    (full / 'validation' / 'um_000001_truth.jpg').write_bytes(b'half')
    assert written(full).text.count('no picture ') == 2


def test_pictures_without_evaluation_are_shown_by_name(bare):
    for name in ('uu_000002', 'um_000001'):
        write_picture(bare / 'validation' / f'{name}_overlay.jpg')
    seen = written(bare)
    assert seen.frames() == ['um_000001', 'uu_000002']
    assert 'Validation photographs , by name' in seen.text and 'worst' not in seen.text


def test_pseudo_labels_are_shown_where_there_are_some(full):
    assert 'Pseudo-labels' not in written(full).text
    for number in range(8):
        write_picture(full / 'pseudo_labels' / f'{number}.png')
    for number in range(0, 8, 2):
        write_picture(full / 'pseudo_labels/shown' / f'{number}.jpg')
    seen = written(full)
    assert 'Pseudo-labels' in seen.text and 'All of them are in pseudo_labels/' in seen.text
    assert 'pseudo_labels/ . road unsure' in seen.text
    assert [picture['src'] for picture in seen.all('img') if 'pseudo' in picture['src']] == [
        f'pseudo_labels/shown/{number}.jpg' for number in range(0, 8, 2)]


# One file that can be moved -------------------------------------------------------------------

def test_local_links_exist_and_nothing_else_is_linked(full):
    write_log(full)
    write_evaluation(full, detail=CURVES)
    write_picture(full / 'validation' / 'um 5#%?_input.jpg')  # signs with a meaning in links
    seen = written(full)
    links = [attributes[key] for _, attributes in seen.elements for key in ('href', 'src')
             if key in attributes]
    assert {'loss.png', 'scores.png', 'precision_recall.png', 'overlays/', 'options.json',
            'log.csv', 'evaluation.json'} <= set(links)
    anchors = {attributes.get('id') for _, attributes in seen.elements}
    for link in links:
        if link.startswith('#'):
            assert unquote(link[1:]) in anchors
        elif link != 'data:,':
            assert '?' not in link and '#' not in link
            assert (full / unquote(link)).exists(), link
    assert not re.search(r'@import|url\(|srcset|https?:', seen.source)


def test_style_and_script_are_files_of_their_own_and_stand_in_the_page(bare):
    source = written(bare).source
    for ending in ('.css', '.js'):
        file = Path(page.__file__).with_suffix(ending)
        assert file.read_text(encoding='utf-8') in source


def test_options_are_shown_whatever_they_are(bare):
    write_options(bare, chosen={'decoder': {'scale': {'pool3': 1e-4}}})
    text = written(bare).text
    assert 'decoder.scale.pool3 0.0001' in text
    assert 'image_size [160, 576]' in text
    assert 'commit –' in text


def test_hostile_text_stays_text(full):
    run = full.rename(full.with_name('<script>run&'))
    write_options(run, {**KITTI, 'title': HOSTILE, 'classes': [HOSTILE, HOSTILE]},
                  {'model': HOSTILE}, command=HOSTILE, **{HOSTILE: {HOSTILE: [HOSTILE]}})
    write_evaluation(run, title=HOSTILE, classes=[HOSTILE, HOSTILE], split=HOSTILE,
                     checkpoint=HOSTILE, view=HOSTILE, columns=[HOSTILE],
                     groups={HOSTILE: HOSTILE}, frame_columns=[HOSTILE],
                     scores={HOSTILE: {'MaxF': HOSTILE}, 'URBAN': {}},
                     frames=[{'name': f'um_" onload="{HOSTILE}', 'group': HOSTILE,
                              'IoU': HOSTILE}])
    (run / 'log.csv').write_text('epoch,step,loss,val_<script>$\\foo$ iou\n1,1,2,3\n', encoding='utf-8')
    clean = written(run)
    assert len(clean.all('script')) == 1  # the page's own
    assert not any('onload' in attributes for _, attributes in clean.elements)
    assert clean.text.startswith(f'{HOSTILE} on {HOSTILE}, val3')
    assert f'command {HOSTILE}' in clean.text
    assert f'um_" onload="{HOSTILE}' in clean.frames()


def test_options_and_log_are_enough(bare):
    write_log(bare, epochs=1, validation=False)
    seen = written(bare)
    assert '1 of 3 epochs' in seen.text
    for absent in ('Scores', 'Validation photographs', 'Test photographs', 'evaluation.json'):
        assert absent not in seen.text
    assert 'scores.png' not in seen.source


def test_nothing_is_left_beside_the_page(full):
    write_log(full)
    write_evaluation(full, detail=CURVES)
    before = {path.name for path in full.iterdir()}
    page.write_page(full)
    page.write_page(full)
    assert {path.name for path in full.iterdir()} - before == {
        'index.html', 'loss.png', 'scores.png', 'precision_recall.png'}


# What is not as it should be ------------------------------------------------------------------

@pytest.mark.parametrize('file, content, complaint', [
    ('options.json', None, 'options.json'),
    ('options.json', '{"options": ', 'options.json is not JSON'),
    ('options.json', '[1]', 'holds a list, expected an object'),
    ('options.json', '{"options": 3}', "'options' is a int, expected an object"),
    ('options.json', '{}', 'options.json lacks "title"'),
    ('options.json', '{"data": {}}', 'options.json lacks "title"'),
    ('log.csv', '', "log.csv has no column 'epoch'"),
    ('log.csv', 'epoch,step,loss\n1,5,much\n', "log.csv, line 2: loss is 'much'"),
    ('log.csv', 'epoch,step,loss\n1e300,5,0.5\n', "line 2: epoch is '1e300'"),
    ('evaluation.json', '{"scores": {"um": {"MaxF": NaN}}}', 'NaN is no finite number'),
    ('evaluation.json', '{}', 'evaluation.json lacks "title"'),
])
def test_a_bad_file_is_one_line_and_leaves_the_page_as_it_was(bare, file, content, complaint):
    (bare / file).unlink(missing_ok=True)
    if content is not None:
        (bare / file).write_text(content, encoding='utf-8')
    complained(bare, complaint)


@pytest.mark.parametrize('key, value, complaint', [
    ('title', 3, '"title" should be text such as "KITTI Road"'),
    ('classes', ['road'], '"classes" should be'),
    ('palette', [[0, 0, 256], [0, 0, 0]], '"palette" should be'),
    ('road', 2, '"road" should be the number of a class, 0 to 1')])
def test_what_is_wrong_of_the_data_is_one_line(bare, key, value, complaint):
    write_options(bare, {**KITTI, key: value})
    complained(bare, 'options.json: ' + complaint)
    write_options(bare)
    write_evaluation(bare, **{key: value})
    complained(bare, 'evaluation.json: ' + complaint)


@pytest.mark.parametrize('key, value', [
    ('scores', {'um': 95}), ('frames', [{'IoU': 95}]), ('frames', 7), ('bev', [1]),
    ('columns', 'MaxF'), ('groups', {'um': 1}), ('detail', {'confusion': [[1, 2], [3]]}),
    ('detail', {'precision': [1.0], 'recall': []}),
    ('detail', {'precision': [1e308], 'recall': [1]}), ('interval', [1]), ('interval', ['a', 2])])
def test_what_is_wrong_of_the_scores_is_one_line(bare, key, value):
    write_evaluation(bare, **{key: value})
    complained(bare, f'evaluation.json: "{key}" should be')


def complained(run, complaint):
    with pytest.raises(InputError) as caught:
        page.write_page(run)
    assert complaint in str(caught.value) and '\n' not in str(caught.value)
    assert not (run / 'index.html').exists()


@pytest.mark.parametrize('seed', range(3))
def test_edited_files_never_end_in_a_traceback(bare, seed):
    """Puts odd values anywhere into options and evaluation: a page, or one line."""
    odd = [None, True, -1, 1e308, 10**18, '', '$\\foo$', '\ud800', '漢', [], [None], [[1]], {},
           {'a': {'b': [1]}}, [{}]]
    chance = random.Random(seed)
    write_street(bare) if seed % 2 else write_evaluation(bare)
    (bare / 'log.csv').unlink()
    files = {name: json.loads((bare / name).read_text(encoding='utf-8'))
             for name in ('options.json', 'evaluation.json')}
    files['evaluation.json']['detail'] = {}         # which takes time to draw
    pages = 0
    for _ in range(60):
        edited = copy.deepcopy(files)
        place = edited[chance.choice(list(edited))]
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = chance.choice(keys)
            if not isinstance(place[key], (dict, list)) or not place[key] or chance.random() < .3:
                place[key] = chance.choice(odd)
                break
            place = place[key]
        for name, content in edited.items():
            (bare / name).write_text(json.dumps(content), encoding='utf-8')
        try:
            page.write_page(bare)
            pages += 1
        except InputError as error:
            assert '\n' not in str(error)
    assert 0 < pages < 60


def test_a_failed_write_keeps_the_old_page(bare):
    page.write_page(bare)
    old = (bare / 'index.html').read_text(encoding='utf-8')
    (bare / 'loss.png').unlink()
    (bare / 'loss.png').mkdir()         # where the curve should go
    write_log(bare, epochs=1)
    with pytest.raises(InputError, match='loss.png'):
        page.write_page(bare)
    assert (bare / 'index.html').read_text(encoding='utf-8') == old
    assert not list(bare.glob('*.part'))


# The figures ----------------------------------------------------------------------------------

def opened(png, tmp_path):
    """Decodes a PNG; returns (its size, the number of its colours)."""
    (tmp_path / 'figure.png').write_bytes(png)
    with Image.open(tmp_path / 'figure.png') as image:
        return image.size, len(image.convert('RGB').getcolors(1 << 24))


@pytest.mark.parametrize('epochs, training, validation', [
    ([1., 2., 3.], [.5, .2, .01], [.6, .3, .3]),
    ([1.], [.5], [float('nan')]),
    ([1., 2.], [float('nan'), float('inf')], [0., -1.]),
    ([3., 3.], [1e308, -1e308], [1e-320, 1.]),
    ([float(epoch) for epoch in range(200)], [10.0 ** -epoch for epoch in range(200)], [1.] * 200),
])
def test_losses_are_drawn_whatever_they_are(tmp_path, epochs, training, validation):
    assert opened(figures.losses(epochs, training, validation), tmp_path)[0] == (750, 540)


def test_epochs_are_whole_numbers_and_a_point_among_many_is_seen(monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.Figure, 'savefig', lambda figure, *_, **__: drawn.append(figure))
    for count in (7, 50):
        values = [math.nan] * (count - 1) + [90.0]
        figures.scores(list(range(1, count + 1)), {'MaxF': values})
        axes, = drawn.pop().axes
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert low < 1 and high > count and ticks and all(tick == int(tick) for tick in ticks)
        assert axes.lines[0].get_marker() == 'o'


def test_numbers_of_curves_that_end_together_do_not_overlap(monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.Figure, 'savefig', lambda figure, *_, **__: drawn.append(figure))
    figures.comparison([(number, [1, 2, 3], [90, 95, 96.2 + number / 50])
                        for number in range(1, 4)], 'MaxF')
    axes, = drawn[0].axes
    drawn[0].canvas.draw()
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 3
    assert all(below.y1 <= above.y0 + 1 for below, above in zip(boxes, boxes[1:]))


def test_a_confusion_matrix_of_very_many_classes_names_some(monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.Figure, 'savefig', lambda figure, *_, **__: drawn.append(figure))
    figures.confusion(np.ones((254, 254)), [f'class {number}' for number in range(254)])
    axes, *_ = drawn[0].axes
    assert 20 < len(axes.get_xticks()) <= 50


def test_curves_take_gaps_and_names_with_dollars(tmp_path):
    curves = {'$\\foo$': [float('nan'), 90.0], '\ud800 漢': [80.0, float('inf')]}
    size, colours = opened(figures.scores([1., 2.], curves), tmp_path)
    assert size == (750, 540) and colours > 20


@pytest.mark.parametrize('precision, recall, best', [
    ([30., 90., 100.], [100., 95., 10.], 1), ([30., 0.], [100., 0.], None), ([5.], [100.], 9)])
def test_precision_and_recall_are_drawn(tmp_path, precision, recall, best):
    size, colours = opened(figures.precision_recall(precision, recall, best), tmp_path)
    assert size == (750, 540) and colours > 20


def test_both_thresholds_are_in_the_picture(monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.Figure, 'savefig', lambda figure, *_, **__: drawn.append(figure))
    figures.precision_recall([30., 97., 99.], [100., 97., 70.], best=1)
    figures.precision_recall([30., 97., 99., 99.], [100., 97., 70., 60.], best=1)
    for figure, lowest in zip(drawn, (97, 70)):
        (low, high), _ = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
        assert low < lowest < high


@pytest.mark.parametrize('chosen, said', [
    ({}, 'taken with dropout and the weights of that moment, the validation loss without, with '
         'averaged weights'),
    ({'model': 'segnet', 'flip': True, 'class_weights': 'median', 'average_decay': 0.99},
     'taken with distorted photographs, class weights and the weights of that moment, the '
     'validation loss without, with averaged weights'),
    ({'keep_prob': 1, 'flip': False, 'scale': 0, 'colour': 0, 'average_decay': 0},
     "taken with the weights of that moment, the validation loss with those of the epoch's end")])
def test_the_page_says_of_the_losses_what_the_options_make_true(chosen, said):
    assert said in page._why_losses_differ(chosen)


def test_the_panel_of_two_classes_without_a_road_shows_the_prediction():
    photograph, truth = np.zeros((8, 12, 3), np.uint8), np.zeros((8, 12), np.uint8)
    scores = np.zeros((4, 6, 2), np.float32), truth
    data = SimpleNamespace(measures=classes, classes=('sky', 'ground'), palette=((1, 2, 3), (4, 5, 6)))
    of_road = SimpleNamespace(**{**vars(data), 'measures': road})
    for dataset, prediction, rows in ((data, scores, 4), (of_road, np.zeros((8, 12)), 3)):
        with Image.open(io.BytesIO(tensorboard.panel(photograph, truth, prediction, dataset,
                                                     width=12))) as drawn:
            assert drawn.size == (12, 8 * rows)


@pytest.mark.parametrize('count', [2, 30])
def test_a_confusion_matrix_is_drawn_with_empty_classes(tmp_path, count):
    matrix = [[0] * count for _ in range(count)]
    matrix[0][0], matrix[0][1] = 3, 1
    _, colours = opened(figures.confusion(matrix, ['$' * 50] * count), tmp_path)
    assert colours > 20


# In a browser ---------------------------------------------------------------------------------

LOOK = """async () => {
  const shown = () => Array.from(document.querySelectorAll('.frame'))
    .filter(frame => frame.offsetParent).map(frame => frame.dataset.name);
  const heading = () => document.querySelector('.frames-section h2').textContent;
  const tops = Array.from(document.querySelector('.pictures').children).map(
    picture => Math.round(picture.getBoundingClientRect().top));
  const result = { columns: tops.filter(top => top === tops[0]).length };
  document.querySelector('[data-group=uu]').click();
  result.uu = shown();
  result.ofUu = heading();
  document.querySelector('[data-group=""]').click();
  const order = document.querySelector('select');
  order.value = '0 down'; order.dispatchEvent(new Event('change'));
  result.best = shown();
  result.heading = heading();
  const dialog = document.querySelector('dialog'), large = dialog.querySelector('img');
  const next = dialog.querySelector('[aria-label="next picture"]');
  document.querySelector('.frame a.zoom').click();
  result.large = dialog.open && large.alt;
  result.legend = dialog.textContent.includes('road missed');
  await large.decode();
  result.fitted = large.getBoundingClientRect().width;
  large.click();
  result.full = large.getBoundingClientRect().width;
  next.click();
  result.next = large.alt;
  return result;
}"""


@pytest.mark.skipif(BROWSER is None, reason='no chromium or google-chrome on the PATH')
def test_page_in_a_browser_on_a_phone_and_on_a_desk(full):
    write_options(full, command='main.py --' + 'x' * 300)  # one word, wider than any screen
    write_log(full)
    write_evaluation(full, bev={'scores': {'URBAN': {'MaxF': 93.75}}}, detail=CURVES)
    write_picture(full / 'validation' / 'um_000001_input.jpg', (2000, 600))
    page.write_page(full)
    (phone, desk), lacking = measure_in_browser(full, 'index.html', LOOK,
                                                [(360, 740), (1280, 900)])
    assert not lacking
    assert (phone['width'], desk['width']) == (360, 1280)
    for result in (phone, desk):
        assert result['scroll'] <= result['width']
        assert not result['cut']
        assert result['images'] == result['loaded'] == 3 + 3 * 4 - 1 + page.TEST_OVERLAYS
        assert result['uu'] == ['uu_000003', 'uu_000004']
        assert result['ofUu'] == 'Validation photographs of uu, worst IoU first'
        assert result['best'] == ['um_000001', 'uu_000003', 'umm_000002', 'uu_000004']
        assert result['heading'] == 'Validation photographs, best IoU first'
        assert result['large'] == 'um_000001: input'
        assert result['legend']
        assert result['fitted'] <= result['width'] and result['full'] == 2000
        assert result['next'] == 'um_000001: truth'
    assert phone['columns'] == 1 and desk['columns'] == 4


@pytest.mark.skipif(BROWSER is None, reason='no chromium or google-chrome on the PATH')
def test_many_classes_in_a_browser_on_a_phone(bare):
    write_street(bare)
    page.write_page(bare)
    (phone, desk), lacking = measure_in_browser(bare, 'index.html', 'async () => ({})',
                                                [(360, 740), (1280, 900)])
    assert not lacking
    for result in (phone, desk):
        assert result['scroll'] <= result['width'] and not result['cut']
        assert result['images'] == result['loaded'] == 3
