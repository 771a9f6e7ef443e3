"""Tests of roadseg.report on tiny made-up runs, and of its page in a real browser."""
import csv
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from PIL import Image

from helper import InputError
from roadseg import report

COLUMNS = ('epoch,step,loss,learning_rate,seconds,images_per_second,'
           'val_loss,val_maxf,val_ap,val_iou,val_f1').split(',')
IOU = {'um_000001': 91.5, 'umm_000002': 80.25, 'uu_000003': 85.0, 'uu_000004': float('nan')}
HOSTILE = '<script>alert("x")</script>&\''
BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
               None)


class Page(HTMLParser):
    """The elements of a page, as (tag, dict of attributes), and its text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.words = [], []
        self.source = path.read_text(encoding='utf-8')
        self.feed(self.source)
        self.text = ' '.join(' '.join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, wanted):
        return [attributes for tag, attributes in self.elements if tag == wanted]

    def frames(self):
        return [attributes['data-name'] for attributes in self.all('li')]


def write_log(run, epochs=3, validation=True):
    with open(run / 'log.csv', 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for epoch in range(1, epochs + 1):
            scores = [0.3 / epoch, 90 + epoch, 88 + epoch, 82 + epoch, 89 + epoch]
            writer.writerow([epoch, 241 * epoch, 0.5 / epoch ** 2, 1e-4 / epoch, 61.5 * epoch, 3.9,
                             *(scores if validation else [''] * 5)])


def write_options(run, **more):
    (run / 'options.json').write_text(json.dumps({
        'options': {'epochs': 3, 'image_size': [160, 576], 'decoder': {'scale': {'pool3': 1e-4}}},
        'device': 'CPU, 2 cores', 'commit': None, **more}), encoding='utf-8')


def write_evaluation(run, **more):
    scores = {'MaxF': 95.25, 'AP': 92.0, 'PRE': 95.0, 'REC': 95.5, 'FPR': 2.5, 'FNR': 4.5,
              'IoU': 90.75, 'F1': 95.0, 'threshold': 131}
    (run / 'evaluation.json').write_text(json.dumps({
        'checkpoint': 'step-000723', 'split': 'val3', 'view': 'perspective', 'ms_per_image': 182.0,
        'scores': {'um': scores, 'uu': {'MaxF': None, 'IoU': float('nan')},
                   'URBAN': {**scores, 'MaxF': 94.5}},
        'frames': [{'name': name, 'MaxF': 90.0, 'IoU': iou, 'FPR': 1.0, 'FNR': 2.0}
                   for name, iou in IOU.items()], **more}), encoding='utf-8')


def write_picture(path, size=(62, 19)):
    path.parent.mkdir(exist_ok=True)
    Image.new('RGB', size, (40, 160, 40)).save(path)


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
    """A run with everything, but for some pictures."""
    write_evaluation(bare)
    for name in IOU:
        for kind in report.PICTURES:
            if (name, kind) != ('uu_000003', 'probability') and name != 'uu_000004':
                write_picture(bare / 'validation' / f'{name}_{kind}.jpg')
    for number in range(15):
        write_picture(bare / 'overlays' / f'um_{number:06}.png')
    return bare


# --- the page

def test_frames_are_worst_first_and_nan_last(full):
    assert report.write_report(full) == full / 'index.html'
    page = Page(full / 'index.html')
    assert page.frames() == ['umm_000002', 'uu_000003', 'um_000001', 'uu_000004']
    assert 'umm_000002 IoU 80.25 MaxF 90.00 FPR 1.00 FNR 2.00' in page.text
    assert 'uu_000004 IoU – MaxF 90.00' in page.text


def test_summary_says_what_was_run_and_how_good_it_is(full):
    text = Page(report.write_report(full)).text
    assert ('input 160 × 576 pixels (height × width) · 3 epochs · CPU, 2 cores · trained in 3 min '
            '· URBAN MaxF 94.50 %, IoU 90.75 % on val3, perspective view, checkpoint step-000723'
            ) in text


def test_summary_tells_an_unfinished_run(bare):
    write_log(bare, epochs=1)
    text = Page(report.write_report(bare)).text
    assert '1 of 3 epochs' in text
    assert 'validation MaxF 91.00 %, IoU 83.00 % after the last epoch' in text


def test_scores_have_a_row_per_category_and_explain_themselves(full):
    page = Page(report.write_report(full))
    assert 'um 95.25 92.00 95.00 95.50 2.50 4.50 90.75' in page.text
    assert 'uu – – – – – – –' in page.text
    assert 'URBAN 94.50 92.00' in page.text
    titles = [cell['title'] for cell in page.all('th') if 'is better' in cell.get('title', '')]
    assert len(titles) == 7 and sum('Lower' in title for title in titles) == 2
    assert "bird's-eye view" not in page.text


@pytest.mark.parametrize('frames', [47, [{'name': 'um_000001'}] * 47])
def test_birds_eye_view_has_its_own_table(full, frames):
    write_evaluation(full, bev={'scores': {'URBAN': {'MaxF': 93.75}}, 'frames': frames})
    text = Page(report.write_report(full)).text
    assert "per cent, bird's-eye view, 47 images" in text
    assert 'URBAN 93.75 – – – – – –' in text


def test_pictures_are_lazy_sized_and_described(full):
    page = Page(report.write_report(full))
    pictures = [picture for picture in page.all('img') if picture['src'] != 'loss.png']
    assert len(pictures) == 3 * 4 - 1 + report.TEST_OVERLAYS
    for picture in pictures:
        assert picture['loading'] == 'lazy' and picture['alt']
        assert (picture['width'], picture['height']) == ('62', '19')
    assert 'all 15 in overlays/' in page.text
    assert page.text.count('no picture ') == 1 and page.text.count('no pictures') == 1


def test_an_unreadable_picture_shows_as_missing(full):
    (full / 'validation' / 'um_000001_truth.jpg').write_bytes(b'half')
    assert Page(report.write_report(full)).text.count('no picture ') == 2


def test_local_links_exist_and_nothing_else_is_linked(full):
    write_picture(full / 'validation' / 'um 5#%?_input.jpg')  # signs with a meaning in links
    page = Page(report.write_report(full))
    links = [attributes[key] for _, attributes in page.elements for key in ('href', 'src')
             if key in attributes]
    assert {'loss.png', 'overlays/', 'options.json', 'log.csv', 'evaluation.json'} <= set(links)
    anchors = {attributes.get('id') for _, attributes in page.elements}
    for link in links:
        if link.startswith('#'):
            assert unquote(link[1:]) in anchors
        elif link != 'data:,':
            assert '?' not in link and '#' not in link
            assert (full / unquote(link)).exists(), link
    assert '//' not in page.source
    assert not re.search(r'@import|url\(|srcset', page.source)


def test_options_are_shown_whatever_they_are(bare):
    text = Page(report.write_report(bare)).text
    assert 'decoder.scale.pool3 0.0001' in text
    assert 'image_size [160, 576]' in text
    assert 'commit –' in text


def test_hostile_text_stays_text(full):
    run = full.rename(full.with_name('<script>run&'))
    write_options(run, command=HOSTILE, **{HOSTILE: {HOSTILE: [HOSTILE]}})
    write_evaluation(run, split=HOSTILE, checkpoint=HOSTILE, view=HOSTILE,
                     scores={HOSTILE: {'MaxF': HOSTILE}, 'URBAN': {}},
                     frames=[{'name': f'um_" onload="{HOSTILE}', 'IoU': HOSTILE}])
    clean = Page(report.write_report(run))
    assert len(clean.all('script')) == 1  # the page's own
    assert not any('onload' in attributes for _, attributes in clean.elements)
    assert clean.text.startswith('<script>run&')
    assert f'command {HOSTILE}' in clean.text
    assert f'um_" onload="{HOSTILE}' in clean.frames()


def test_options_and_log_are_enough(bare):
    (bare / 'options.json').write_text('{}', encoding='utf-8')
    write_log(bare, epochs=1, validation=False)
    page = Page(report.write_report(bare))
    assert '1 epoch · trained in 62 s' in page.text
    for absent in ('Scores', 'Validation frames', 'Test photographs', 'evaluation.json'):
        assert absent not in page.text


def test_pictures_without_evaluation_are_shown_by_name(bare):
    for name in ('uu_000002', 'um_000001'):
        write_picture(bare / 'validation' / f'{name}_overlay.jpg')
    page = Page(report.write_report(bare))
    assert page.frames() == ['um_000001', 'uu_000002']
    assert 'worst first' not in page.text.split('Options')[0].replace('worst IoU first', '')


def test_nothing_is_left_beside_the_page(full):
    before = {path.name for path in full.iterdir()}
    report.write_report(full)
    report.write_report(full)
    assert {path.name for path in full.iterdir()} - before == {'index.html', 'loss.png'}


def test_a_failed_write_keeps_the_old_page_and_no_half_file(bare, monkeypatch):
    (bare / 'index.html').write_text('old', encoding='utf-8')

    def full_disk(self, content):
        open(self, 'wb').close()
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(report.Path, 'write_bytes', full_disk)
    with pytest.raises(InputError, match='No space left'):
        report.write_report(bare)
    assert (bare / 'index.html').read_text(encoding='utf-8') == 'old'
    assert not list(bare.glob('*.part'))


# --- the curve

@pytest.mark.parametrize('epochs, validation, panels', [
    (12, True, 2), (1, True, 2), (12, False, 1), (1, False, 1), (200, True, 2)])
def test_curve_opens_and_has_a_sensible_size(bare, epochs, validation, panels):
    write_log(bare, epochs, validation)
    with open(bare / 'log.csv', newline='', encoding='utf-8') as file:
        report.write_curve(list(csv.DictReader(file)), bare / 'curve.png')
    with Image.open(bare / 'curve.png') as image:
        image.load()
        assert image.size == (750 * panels, 540)
        assert len(image.convert('RGB').getcolors(1 << 24)) > 20


def test_curve_takes_numbers_and_gaps(tmp_path):
    nan = float('nan')
    report.write_curve([{'epoch': 1, 'loss': nan}, {'epoch': 2, 'loss': 0.0, 'val_iou': 80.0},
                        {'epoch': 3, 'loss': float('inf'), 'val_maxf': None}],
                       tmp_path / 'curve.png')
    with Image.open(tmp_path / 'curve.png') as image:
        assert image.size == (1500, 540)


# --- the command

def test_command_rewrites_the_page(bare, capsys):
    (bare / 'index.html').write_text('old', encoding='utf-8')
    assert report.main([str(bare)]) == 0
    assert capsys.readouterr().out.strip() == str(bare / 'index.html')
    assert 'Training' in Page(bare / 'index.html').text


@pytest.mark.parametrize('file, content, complaint', [
    ('options.json', None, 'options.json'),
    ('log.csv', None, 'log.csv'),
    ('options.json', '{"options": ', 'options.json is not JSON'),
    ('options.json', '[1]', 'holds a list, expected an object'),
    ('log.csv', '', 'the first line lacks epoch, loss'),
    ('log.csv', 'epoch,loss\n', 'holds no epoch'),
    ('log.csv', 'epoch,loss\n1,0.5\n2,much\n', "log.csv, line 3: expected numbers"),
    ('log.csv', 'epoch,loss\n,0.5\n', 'line 2: expected numbers: no epoch'),
    ('evaluation.json', '{"scores": {"um": 95}}', '"scores" should be'),
    ('evaluation.json', '{"frames": [{"IoU": 95}]}', '"frames" should be'),
    ('evaluation.json', '{"bev": [1]}', '"scores" should be'),
])
def test_a_bad_folder_is_one_line_and_exit_code_2(bare, capsys, file, content, complaint):
    (bare / file).unlink(missing_ok=True)
    if content is not None:
        (bare / file).write_text(content, encoding='utf-8')
    assert report.main([str(bare)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith('error: ') and err.count('\n') == 1
    assert complaint in err
    assert not (bare / 'index.html').exists()


def test_no_folder_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert report.main([str(tmp_path / 'none')]) == 2
    assert 'options.json (No such file or directory)' in capsys.readouterr().err


# --- in a browser

MEASURE = """<script>addEventListener('load', async () => {
  const images = Array.from(document.images).filter(image => image.getAttribute('src'));
  images.forEach(image => { image.loading = 'eager'; });
  document.querySelectorAll('details').forEach(details => { details.open = true; });
  await Promise.allSettled(images.map(image => image.decode()));
  const shown = () => Array.from(document.querySelectorAll('.frame'))
    .filter(frame => frame.offsetParent).map(frame => frame.dataset.name);
  const tops = Array.from(document.querySelector('.pictures').children).map(
    picture => Math.round(picture.getBoundingClientRect().top));
  const result = {
    width: innerWidth, scroll: document.documentElement.scrollWidth,
    images: images.length, loaded: images.filter(image => image.naturalWidth > 0).length,
    columns: tops.filter(top => top === tops[0]).length };
  document.querySelector('[data-category=uu]').click();
  result.uu = shown();
  document.querySelector('[data-category=""]').click();
  const order = document.querySelector('select');
  order.value = 'iou down'; order.dispatchEvent(new Event('change'));
  result.best = shown();
  const dialog = document.querySelector('dialog');
  document.querySelector('.frame a.zoom').click();
  result.large = dialog.open && dialog.querySelector('img').alt;
  dialog.querySelectorAll('button')[2].click();
  result.next = dialog.querySelector('img').alt;
  fetch('/result', {method: 'POST', body: JSON.stringify(result)});
});</script>"""


def results_in_browser(folder, page, count):
    """Opens a page of a folder in a browser until it has posted `count` results.

    The browser comes to a server in this process, which tells the results and what was not there;
    waiting for them in real time leaves nothing to chance when the machine is busy.
    """
    results, lacking = queue.Queue(), []

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self):
            results.put(json.loads(self.rfile.read(int(self.headers['Content-Length']))))
            self.send_response(204)
            self.end_headers()

        def send_error(self, *args, **kwargs):
            lacking.append(self.path)
            super().send_error(*args, **kwargs)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(
        ('127.0.0.1', 0), lambda *args: Handler(*args, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = subprocess.Popen(
        [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync',
         f"--user-data-dir={folder / 'profile'}", '--window-size=1400,1000',
         f'http://127.0.0.1:{server.server_port}/{page}'],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        return [results.get(timeout=30) for _ in range(count)], lacking
    finally:
        os.killpg(browser.pid, signal.SIGKILL)  # the group is the browser and its children
        browser.wait()
        server.shutdown()
        server.server_close()


@pytest.mark.skipif(BROWSER is None, reason='no chromium or google-chrome on the PATH')
def test_page_in_a_browser_on_a_phone_and_on_a_desk(full, tmp_path):
    write_options(full, command='main.py --' + 'x' * 300)  # one word, wider than any screen
    write_evaluation(full, bev={'scores': {'URBAN': {'MaxF': 93.75}}})
    page = report.write_report(full).read_text(encoding='utf-8')
    (full / 'measured.html').write_text(page.replace('</body>', f'{MEASURE}</body>'),
                                        encoding='utf-8')
    # in frames, as a window of a headless browser is never narrower than 500 pixels
    (tmp_path / 'wrapper.html').write_text(
        '<!DOCTYPE html><link rel="icon" href="data:,">'
        + ''.join(f'<iframe src="{full.name}/measured.html" width="{width}" height="{height}" '
                  'style="border: 0"></iframe>' for width, height in ((390, 844), (1280, 900))),
        encoding='utf-8')
    results, lacking = results_in_browser(tmp_path, 'wrapper.html', 2)
    phone, desk = sorted(results, key=lambda result: result['width'])

    assert not lacking
    assert (phone['width'], desk['width']) == (390, 1280)
    for result in (phone, desk):
        assert result['scroll'] <= result['width']
        assert result['images'] == result['loaded'] == 1 + 3 * 4 - 1 + report.TEST_OVERLAYS
        assert result['uu'] == ['uu_000003', 'uu_000004']
        assert result['best'] == ['um_000001', 'uu_000003', 'umm_000002', 'uu_000004']
        assert result['large'] == 'um_000001: input'
        assert result['next'] == 'um_000001: truth'
    assert phone['columns'] == 1 and desk['columns'] == 4
