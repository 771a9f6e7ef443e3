"""Tiny made-up runs, and eyes for their pages: a parser and a real browser."""
import csv
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

ROAD = ('val_maxf', 'val_ap', 'val_iou', 'val_f1')
MANY = ('val_miou', 'val_accuracy', 'val_class_accuracy', 'val_road_iou')
IOU = {'um_000001': 91.5, 'umm_000002': 80.25, 'uu_000003': 85.0, 'uu_000004': None}
GROUPS = {'um': 'urban, marked', 'umm': 'urban, multi-lane', 'uu': 'urban, unmarked'}
KITTI = {'title': 'KITTI Road', 'classes': ['not road', 'road'],
         'palette': [[255, 0, 0], [0, 255, 0]], 'road': 1, 'best': 'val_maxf'}
STREET = {'title': 'Street', 'classes': ['sky', 'road', 'car'],
          'palette': [[70, 130, 180], [128, 64, 128], [0, 0, 142]], 'road': 1, 'best': 'val_miou'}
CURVES = {'precision': np.linspace(30, 99, 256).tolist(),
          'recall': np.linspace(100, 31, 256).tolist()}
KINDS = ('input', 'truth', 'probability', 'overlay')
BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
               None)


class Page(HTMLParser):
    """The elements of a page, as (tag, dict of attributes), and its text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.words, self.silent = [], [], False
        self.source = path.read_text(encoding='utf-8')
        self.feed(self.source)
        self.text = ' '.join(' '.join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.silent = tag in ('style', 'script')

    def handle_endtag(self, tag):
        self.silent = False

    def handle_data(self, data):
        if not self.silent:
            self.words.append(data)

    def all(self, wanted):
        return [attributes for tag, attributes in self.elements if tag == wanted]

    def frames(self):
        return [attributes['data-name'] for attributes in self.all('li')]


# The files of a run ---------------------------------------------------------------------------

def write_options(run, data=KITTI, chosen=None, **more):
    """`options.json`."""
    (run / 'options.json').write_text(json.dumps({
        'options': {'epochs': 3, 'image_size': [160, 576], 'split': 'val3', **(chosen or {})},
        'device': 'CPU, 2 cores', 'commit': None,
        'data': {**data, 'training': 241, 'validation': 48, 'testing': 290}, **more}),
        encoding='utf-8')


def write_log(run, epochs=3, measures=ROAD, validation=True, top=90.0):
    with open(run / 'log.csv', 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['epoch', 'step', 'loss', 'learning_rate', 'seconds', 'images_per_second',
                         'val_loss', *measures])
        for epoch in range(1, epochs + 1):
            scores = [0.3 / epoch, *(top - 2 * index + epoch for index in range(len(measures)))]
            writer.writerow([epoch, 241 * epoch, 0.5 / epoch ** 2, 1e-4 / epoch, 61.5 * epoch, 3.9,
                             *(scores if validation else [''] * len(scores))])


def write_evaluation(run, **more):
    """`evaluation.json` of two classes, KITTI Road's."""
    scores = {'MaxF': 95.25, 'AP': 92.0, 'PRE': 95.0, 'REC': 95.5, 'FPR': 2.5, 'FNR': 4.5,
              'IoU': 90.75, 'F1': 95.0, 'threshold': 131}
    (run / 'evaluation.json').write_text(json.dumps({
        **{key: KITTI[key] for key in ('title', 'classes', 'palette', 'road')},
        'columns': ['MaxF', 'AP', 'PRE', 'REC', 'FPR', 'FNR', 'IoU'],
        'frame_columns': ['IoU', 'MaxF', 'FPR', 'FNR'], 'best': 'MaxF', 'groups': GROUPS,
        'pooled': 'URBAN', 'test_scale': [1.0], 'flip_test': False,
        'detail': {}, 'interval': None,
        'checkpoint': 'step-000723', 'split': 'val3', 'view': 'perspective', 'ms_per_image': 182.0,
        'scores': {'um': scores, 'uu': {'MaxF': None},
                   'URBAN': {**scores, 'MaxF': 94.5, 'threshold': 110}},
        'frames': [{'name': name, 'group': name.split('_')[0], 'MaxF': 90.0, 'IoU': iou,
                    'FPR': 1.0, 'FNR': 2.0} for name, iou in IOU.items()], **more}),
        encoding='utf-8')


def write_street(run, **more):
    """Options, log and evaluation of three classes, of which 'car' was neither seen nor taken."""
    write_options(run, STREET, {'model': 'segnet', 'split': 'val'})
    write_log(run, measures=MANY, top=60.0)
    scores = {'mIoU': 71.5, 'accuracy': 88.0, 'class accuracy': 80.0, 'road IoU': 75.25,
              'IoU sky': 67.75, 'IoU road': 75.25}
    (run / 'evaluation.json').write_text(json.dumps({
        **{key: STREET[key] for key in ('title', 'classes', 'palette', 'road')},
        'columns': ['mIoU', 'accuracy', 'class accuracy', 'road IoU'],
        'frame_columns': ['mIoU', 'accuracy', 'road IoU'], 'best': 'mIoU', 'groups': {},
        'pooled': 'all', 'checkpoint': 'step-000723', 'split': 'val', 'view': 'perspective',
        'test_scale': [1.0], 'interval': None,
        'scores': {'all': scores}, 'detail': {'confusion': [[30, 10, 0], [5, 55, 0], [0, 0, 0]]},
        'frames': [{'name': 'a', 'group': None, 'mIoU': 70.0}], **more}), encoding='utf-8')


def write_picture(path, size=(62, 19)):
    path.parent.mkdir(exist_ok=True)
    Image.new('RGB', size, (40, 160, 40)).save(path)


# A browser ------------------------------------------------------------------------------------

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
        [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic',
         '--no-first-run', '--disable-background-networking', '--disable-component-update',
         '--disable-sync', f"--user-data-dir={folder / 'profile'}", '--window-size=1400,1000',
         f'http://127.0.0.1:{server.server_port}/{page}'],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        return [results.get(timeout=300) for _ in range(count)], lacking
    finally:
        os.killpg(browser.pid, signal.SIGKILL)  # the group is the browser and its children
        browser.wait()
        server.shutdown()
        server.server_close()


def measure_in_browser(folder, page, script, sizes):
    """Opens a page in windows of several sizes, and runs a script in each.

    Args:
        folder: of the page.
        page: its name.
        script: JavaScript, an expression of an object; `cut` is the number of tables that are
            cut off, `scroll` the width of the page.
        sizes: list of (width, height).

    Returns:
        (list of the objects, in the order of the widths, list of what was not there).
    """
    source = (folder / page).read_text(encoding='utf-8')
    measuring = f"""<script>addEventListener('load', async () => {{
      const images = Array.from(document.images).filter(image => image.getAttribute('src'));
      images.forEach(image => {{ image.loading = 'eager'; }});
      document.querySelectorAll('details').forEach(details => {{ details.open = true; }});
      await Promise.allSettled(images.map(image => image.decode()));
      const result = {{
        width: innerWidth, scroll: document.documentElement.scrollWidth,
        cut: Array.from(document.querySelectorAll('.scroll'))
          .filter(box => box.scrollWidth > box.clientWidth).map(box => box.textContent),
        images: images.length, loaded: images.filter(image => image.naturalWidth > 0).length }};
      Object.assign(result, await ({script})());
      fetch('/result', {{method: 'POST', body: JSON.stringify(result)}});
    }});</script>"""
    (folder / 'measured.html').write_text(source.replace('</body>', f'{measuring}</body>'),
                                          encoding='utf-8')
    # in frames, as a window of a headless browser is never narrower than 500 pixels
    (folder / 'wrapper.html').write_text(
        '<!DOCTYPE html><link rel="icon" href="data:,">'
        + ''.join(f'<iframe src="measured.html" width="{width}" height="{height}" '
                  'style="border: 0"></iframe>' for width, height in sizes), encoding='utf-8')
    results, lacking = results_in_browser(folder, 'wrapper.html', len(sizes))
    return sorted(results, key=lambda result: result['width']), lacking
