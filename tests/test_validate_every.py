"""--validate-every: which epochs are scored, saved and logged."""
import csv
import json

import numpy as np
import pytest

import main
from conftest import save_tiny_vgg
from roadseg.commands import run_command
from roadseg.datasets import demo
from roadseg.errors import InputError
from roadseg.scoring import score
from roadseg.training import checkpoints, recorder
from roadseg.training.run_folder import read_options


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    demo.write_scenes(folder, train=6, test=3, held_out=1, size=(47, 155))
    save_tiny_vgg(folder / 'vgg', fc_width=8)
    return folder


def arguments(data, runs, *options):
    return ['--data-dir', str(data), '--runs-dir', str(runs), '--image-size', '32x96',
            '--batch-size', '2', '--precision', 'float32', '--train', 'decoder', '--average-decay',
            '0', *options]


def rows_of(runs):
    """The only run in a folder, and the rows of its log."""
    [run] = (path for path in runs.glob('[!.]*') if path.is_dir())
    with open(run / 'log.csv', newline='') as file:
        return run, list(csv.DictReader(file))


def train(data, runs, *options):
    assert run_command(main.main, arguments(data, runs, *options)) == 0
    return rows_of(runs)


def test_other_epochs_are_logged_but_neither_scored_nor_saved(data, tmp_path, monkeypatch):
    saved, save = [], recorder.Recorder.save
    monkeypatch.setattr(recorder.Recorder, 'save', lambda self: (
        saved.append(self.progress.epoch), save(self)))
    monkeypatch.setattr(checkpoints.Writer, 'is_busy', lambda writer: False)
    run, rows = train(data, tmp_path, '--epochs', '5', '--validate-every', '2')
    scored = {int(row['epoch']): row['val_maxf'] for row in rows}
    assert list(scored) == [1, 2, 3, 4, 5]
    assert [epoch for epoch, value in scored.items() if value] == [2, 4, 5] == saved
    assert all(row['val_loss'] == '' for row in rows if int(row['epoch']) in (1, 3))
    assert all(float(row['loss']) > 0 for row in rows)
    best = max((epoch for epoch in scored if scored[epoch]),
               key=lambda epoch: float(scored[epoch]))
    assert int(rows[best - 1]['step']) in map(checkpoints.step_of, checkpoints.saved(run))
    assert checkpoints.best_step(run) == int(rows[best - 1]['step'])
    assert (run / 'index.html').exists() and (run / 'scores.png').exists()


def test_the_last_epoch_is_scored_once_and_a_run_that_was_resumed_at_its_end_anew(
        data, tmp_path, monkeypatch):
    scored, of_photographs = [], score.score
    monkeypatch.setattr(score, 'score', lambda network, dataset, samples, pictures=None, **more: (
        scored.append(pictures), of_photographs(network, dataset, samples, pictures, **more))[1])
    run, rows = train(data, tmp_path, '--epochs', '2')
    assert scored == [None, None]       # their pictures are drawn beside
    found = json.loads((run / 'evaluation.json').read_text())
    assert found['loss'] == pytest.approx(float(rows[-1]['val_loss']), abs=1e-5)
    assert len(list((run / 'validation').glob('*_overlay.jpg'))) == len(found['frames']) == 3
    (run / 'evaluation.json').unlink()
    assert run_command(main.main, ['--resume', str(run)]) == 0
    assert scored[2:] == [run / 'validation']
    again = json.loads((run / 'evaluation.json').read_text())
    assert {**again, 'ms_per_image': 0} == {**found, 'ms_per_image': 0}


def test_pictures_that_cannot_be_written_cost_no_row_of_the_log(data, tmp_path, monkeypatch,
                                                                capsys):
    def full(*_):
        raise InputError('no space left')

    monkeypatch.setattr(score, 'write_pictures', full)
    assert run_command(main.main, arguments(data, tmp_path, '--epochs', '1')) == 2
    assert capsys.readouterr().err.count('error: no space left') == 1
    [row] = rows_of(tmp_path)[1]
    assert row['epoch'] == '1' and float(row['val_maxf']) > 0


def test_class_weights_reach_the_training_step(data):
    options = main.parse_args(['--data-dir', str(data), '--precision', 'float32'])
    with main.tf.Graph().as_default(), main.tf.Session() as sess:
        net = main.build(sess, data / 'vgg', 2, options, class_weights=np.float32([1, 0]))
        main.initialize_new(sess)
        loss = [sess.run(net.cross_entropy_loss, {
            net.input_image: np.full((1, 32, 64, 3), 90, np.uint8), net.keep_prob: 1,
            net.classes: np.full((1, 32, 64), number, np.uint8), **net.feed})
            for number in (0, 1)]
    assert loss[0] > 0.1 and loss[1] == 0


def test_the_decoder_alone_is_trained_and_an_end_by_max_steps_scored(data, tmp_path, monkeypatch,
                                                                   capsys):
    """The encoder keeps its values to the last bit, and the averages with it."""
    monkeypatch.setattr(main.preflight, 'seconds_per_image', lambda *_: 60.0)
    run, rows = train(data, tmp_path, '--epochs', '9', '--validate-every', '4', '--max-steps', '3',
                      '--average-decay', '0.99')
    assert [bool(row['val_maxf']) for row in rows] == [False, True]
    assert '0.0167 images/s, 6 min of training' in capsys.readouterr().out
    assert read_options(run)['train'] == 'decoder'
    first, last = (main.tf.train.load_checkpoint(str(path / 'model'))
                   for path in checkpoints.saved(run))
    names = last.get_variable_to_shape_map()
    adam = {name for name in names if name.endswith('/Adam')}
    assert adam and all(name.startswith('decoder/') for name in adam)
    changed = {name for name in names
               if (first.get_tensor(name) != last.get_tensor(name)).any()}
    kernels = {name for name in names if name.endswith('/kernel')}
    assert {name for name in kernels if name.startswith('decoder/')} == kernels & changed
    assert not any(name.startswith('conv') for name in changed)
