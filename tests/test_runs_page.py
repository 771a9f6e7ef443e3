"""Tests of roadseg.scoring.runs_page and of the command on tiny made-up runs."""
import base64
import json
import re

import pytest
from made_up_runs import (BROWSER, KITTI, MANY, STREET, Page, measure_in_browser, write_log,
                          write_options)

from roadseg import report
from roadseg.commands import run_command
from roadseg.errors import InputError
from roadseg.scoring.runs_page import write_runs_page

DRAWN = {**KITTI, 'title': 'drawn scenes'}
HOSTILE = '<script>alert("x")</script>&\''


def make(runs, name, data=KITTI, epochs=3, top=90.0, **chosen):
    """A run's folder with options and log."""
    run = runs / name
    run.mkdir(parents=True)
    write_options(run, data, chosen)
    if epochs:
        measures = MANY if data is STREET else ('val_maxf', 'val_ap', 'val_iou', 'val_f1')
        write_log(run, epochs, measures, top=top)
    return run


def written(runs):
    return Page(write_runs_page(runs))


def tables(seen):
    """Heading and text of each table, by heading: dict."""
    parts = re.split(r'<h2>(.*?)</h2>', seen.source)
    return dict(zip(parts[1::2], parts[2::2]))


def rows(table):
    """The cells' text of a table's rows, the heads first."""
    table = table.replace('\u00a0', ' ')
    return [[re.sub('<.*?>', '', cell) for cell in re.findall(r'<t[dh][^>]*>(.*?)</t[dh]>', row)]
            for row in re.findall('<tr>(.*?)</tr>', table)]


def test_the_classes_of_a_run_are_on_its_own_page_alone(tmp_path):
    write_log(make(tmp_path, 'a', STREET), measures=(*MANY, 'val_iou_sky', 'val_iou_road'))
    [heads, _] = rows(next(iter(tables(written(tmp_path)).values())))
    assert 'road IoU' in heads and not {'iou sky', 'iou road'} & set(heads)


def test_runs_are_compared_the_best_first_with_what_differs(tmp_path):
    make(tmp_path, 'a', top=90, seed=1)
    make(tmp_path, 'b', top=92, seed=2, image_size=[192, 640])
    make(tmp_path, 'c', top=95, seed=3, epochs=1)
    make(tmp_path, 'd', epochs=0)
    seen = written(tmp_path)
    table = rows(tables(seen)['KITTI Road, val3'])
    assert table[0] == ['#', 'run', 'image size', 'seed', 'epochs', 'MaxF', 'AP', 'IoU', 'F1',
                        'best MaxF (epoch)', 'loss', 'images/s', 'minutes']
    assert [row[1] for row in table[1:]] == ['c', 'b', 'a', 'd']
    assert table[1] == ['1', 'c', '160 × 576', '3', '1 of 3', '96.00', '94.00', '92.00', '90.00',
                        '96.00 (1)', '0.5000', '3.90', '1']
    assert table[2][2:6] == ['192 × 640', '2', '3', '95.00']
    assert table[4][2:] == ['160 × 576', '–', '0 of 3', *['–'] * 8]
    assert '4 runs' in seen.text


def test_runs_of_folders_of_one_name_with_other_photographs_are_not_compared(tmp_path):
    for name, held_out in (('a', ['1.png', '2.png']), ('b', ['1.png', '3.png']),
                           ('c', ['1.png', '2.png'])):
        run = make(tmp_path, name, dataset='folder')
        (run / 'photographs.json').write_text(json.dumps({'validation': held_out}))
    (make(tmp_path, 'd') / 'photographs.json').write_text('{"validation": 3}')
    seen = written(tmp_path)
    found = [[row[1] for row in rows(part)[1:]]
             for part in re.split('<h2>', seen.source) if '<table' in part]
    assert found == [['a', 'c'], ['b']] and "d/photographs.json" in seen.text.split('Not compared')[1]


def test_another_page_is_left_alone_and_an_earlier_comparison_replaced(tmp_path):
    make(tmp_path, 'a')
    (tmp_path / 'index.html').write_text('<title>my own</title>')
    with pytest.raises(InputError, match='index.html is no comparison of runs; move it away'):
        write_runs_page(tmp_path)
    assert (tmp_path / 'index.html').read_text() == '<title>my own</title>'
    (tmp_path / 'index.html').unlink()
    earlier = written(tmp_path).source
    make(tmp_path, 'b')
    assert written(tmp_path).source != earlier


def test_a_run_whose_last_epoch_was_not_scored_has_the_score_before(tmp_path):
    for name, top in (('a', 90.0), ('b', 80.0)):
        make(tmp_path, name, top=top)
    lines = (tmp_path / 'a/log.csv').read_text().splitlines()
    (tmp_path / 'a/log.csv').write_text(
        '\n'.join([*lines[:3], ','.join(lines[3].split(',')[:6]) + ',,,,,']))
    first, second = rows(tables(written(tmp_path))['KITTI Road, val3'])[1:]
    assert first[1] == 'a' and second[1] == 'b' and '92.00' in first[3:5]


def test_a_dropped_score_is_told_from_the_best(tmp_path):
    run = make(tmp_path, 'a')
    (run / 'log.csv').write_text('epoch,step,loss,val_maxf\n1,1,1,90\n2,2,1,95\n3,3,1,93\n', encoding='utf-8')
    row = rows(tables(written(tmp_path))['KITTI Road, val3'])[1]
    assert row[3] == '93.00' and row[4] == '95.00 (2)'


def test_drawn_scenes_never_stand_in_a_table_with_photographs(tmp_path):
    make(tmp_path, 'real')
    make(tmp_path, 'drawn', DRAWN, split='held-out', dataset='demo')
    make(tmp_path, 'other split', split='kfold:5:0')
    make(tmp_path, 'classes', STREET, split='val')
    found = {heading: [row[1] for row in rows(table)[1:]]
             for heading, table in tables(written(tmp_path)).items()}
    assert found == {'KITTI Road, val3': ['real'],
                     'KITTI Road, kfold:5:0': ['other split'],
                     'drawn scenes, held-out': ['drawn'],
                     'Street, val, 3 classes': ['classes']}


def test_each_table_has_its_curves(tmp_path):
    make(tmp_path, 'a')
    make(tmp_path, 'b', STREET, split='val')
    make(tmp_path, 'c', split='none', epochs=0)
    pictures = written(tmp_path).all('img')
    assert sorted(picture['alt'].split(',')[0] for picture in pictures) == ['MaxF', 'mIoU']
    for picture in pictures:
        head, png = picture['src'].split(',')
        assert head == 'data:image/png;base64' and base64.b64decode(png).startswith(b'\x89PNG')


def test_without_held_out_photographs_the_loss_is_compared(tmp_path):
    run = make(tmp_path, 'a', split='none')
    write_log(run, validation=False)
    seen = written(tmp_path)
    assert 'KITTI Road, nothing held out' in seen.text
    assert seen.all('img')[0]['alt'].startswith('training loss')


def test_models_are_named_where_they_differ(tmp_path):
    make(tmp_path, 'a')
    assert 'model' not in rows(tables(written(tmp_path))['KITTI Road, val3'])[0]
    make(tmp_path, 'b', model='segnet', encoder='data/resnet50')
    table = rows(tables(written(tmp_path))['KITTI Road, val3'])
    assert table[0][2] == 'model'
    assert {row[2] for row in table[1:]} == {'FCN-8s', 'SegNet, encoder resnet50'}


def test_a_run_that_is_older_than_an_option_has_its_default(tmp_path):
    make(tmp_path, 'earlier', flip_test=True, batch_size='many')
    make(tmp_path, 'now', flip_test=False, batch_size=1, test_scale=[1.0], classes=None)
    table = rows(tables(written(tmp_path))['KITTI Road, val3'])
    assert table[0][2:5] == ['flip test', 'batch size', 'epochs']
    assert {tuple(row[1:4]) for row in table[1:]} == {('earlier', 'yes', 'many'),
                                                      ('now', 'no', '1')}


def test_links_lead_to_the_pages_or_else_to_the_folders(tmp_path):
    (make(tmp_path, 'a 5#%?') / 'index.html').write_text('', encoding='utf-8')
    make(tmp_path, 'b')
    links = {link['href'] for link in written(tmp_path).all('a')}
    assert links == {'a%205%23%25%3F/index.html', 'b/'}


def test_what_is_no_run_is_named_and_harms_nothing(tmp_path):
    make(tmp_path, 'a')
    (tmp_path / 'empty').mkdir()
    (tmp_path / '.hidden').mkdir()
    (tmp_path / 'README.md').write_text('runs', encoding='utf-8')
    (make(tmp_path, 'half') / 'options.json').write_text('{"options": ', encoding='utf-8')
    (make(tmp_path, HOSTILE.replace('/', '')) / 'log.csv').write_text('x', encoding='utf-8')
    seen = written(tmp_path)
    left_out = tables(seen)['Not compared']
    assert re.findall(r'<li><a[^>]*>(.*?)</a>', left_out) == [
        '&lt;script&gt;alert(&quot;x&quot;)&lt;script&gt;&amp;&#x27;', 'empty', 'half']
    assert 'half/options.json is not JSON' in seen.text
    assert '1 run' in seen.text and len(seen.all('script')) == 1


def test_hostile_options_stay_text(tmp_path):
    data = {**KITTI, 'title': HOSTILE, 'best': 'val_<i>$'}
    run = make(tmp_path, 'a', data, **{HOSTILE: [HOSTILE]})
    make(tmp_path, 'b', data)
    (run / 'log.csv').write_text('epoch,step,loss,val_<i>$\n1,1,2,3\n', encoding='utf-8')
    seen = written(tmp_path)
    assert len(seen.all('script')) == 1 and not seen.all('i')


@pytest.mark.parametrize('place', ['none', '.'])
def test_a_folder_without_runs_is_one_line(tmp_path, place):
    with pytest.raises(InputError, match='holds no run; name a run or a folder of runs'):
        write_runs_page(tmp_path / place)


def test_names_that_are_too_long(tmp_path):
    with pytest.raises(InputError, match='holds no run'):
        write_runs_page(tmp_path / ('x' * 5000))


# The command ----------------------------------------------------------------------------------

def test_command_writes_pages_of_runs_and_the_one_that_compares_them(tmp_path, capsys):
    run, other = make(tmp_path, 'a', epochs=1), make(tmp_path, 'b', epochs=0)
    assert run_command(report.main, [str(run), str(other), str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(folder / 'index.html') for folder in (run, other, tmp_path)]
    assert 'Training' in Page(run / 'index.html').text
    assert 'Runs in' in Page(tmp_path / 'index.html').text


@pytest.mark.parametrize('name', ['none', 'empty', 'half'])
def test_a_bad_folder_is_one_line_and_exit_code_2(tmp_path, capsys, name):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'half').mkdir()
    (tmp_path / 'half' / 'options.json').write_text('{', encoding='utf-8')
    assert run_command(report.main, [str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith('error: ') and err.count('\n') == 1
    assert f'{name}/options.json' in err
    assert not list(tmp_path.rglob('index.html'))


# In a browser ---------------------------------------------------------------------------------

LOOK = """async () => {
  const names = () => Array.from(document.querySelectorAll('tbody th')).map(
    cell => cell.textContent);
  const heads = Array.from(document.querySelectorAll('thead th'));
  const loss = heads.find(head => head.textContent.startsWith('loss'));
  const result = { before: names() };
  loss.querySelector('button').click();
  result.falling = names();
  result.told = loss.getAttribute('aria-sort');
  loss.querySelector('button').click();
  result.rising = names();
  return result;
}"""


@pytest.mark.skipif(BROWSER is None, reason='no chromium or google-chrome on the PATH')
def test_runs_in_a_browser_on_a_phone_and_on_a_desk(tmp_path):
    make(tmp_path, '2025-01-31_12-00-00', epochs=1, learning_rate=3e-5)
    make(tmp_path, '2025-01-31_13-00-00', epochs=3)
    make(tmp_path, '2025-01-31_14-00-00', epochs=0)
    write_runs_page(tmp_path)
    (phone, desk), lacking = measure_in_browser(tmp_path, 'index.html', LOOK,
                                                [(360, 740), (1280, 900)])
    first, second, third = (f'2025-01-31_{hour}-00-00' for hour in (12, 13, 14))
    assert not lacking
    for result in (phone, desk):
        assert result['scroll'] <= result['width'] and not result['cut']
        assert result['before'] == [second, first, third]
        assert (result['falling'], result['told']) == ([first, second, third], 'descending')
        assert result['rising'] == [second, first, third]
