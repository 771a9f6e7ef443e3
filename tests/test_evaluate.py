"""The evaluation command, from a trained run to its table and the server's archive."""
import io
import json
import shutil
import zipfile

import imageio.v3 as imageio
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import helper
import main
from roadseg import evaluate, metrics, scoring, synthetic, vgg16
from roadseg.run_folder import read_log

OPTIONS = ('--image-size', '32x96', '--epochs', '2', '--batch-size', '2', '--warmup', '5',
           '--learning-rate', '1e-2')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    synthetic.write_kitti(folder, train=18, test=3, held_out=2, size=(94, 310))
    vgg16.save(vgg16.random_weights(width_divisor=32, fc_width=16, fc_kernel=3),
               vgg16.torch_input, folder / 'vgg')
    return folder


def train(data, runs, *arguments):
    assert main.main(['--data-dir', str(data), '--runs-dir', str(runs), *OPTIONS, *arguments]) == 0
    return next(runs.iterdir())


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp('runs'))


def error_of(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith('error: ')
    return lines[-1]


def test_evaluation_repeats_what_the_training_said(run, capsys):
    before = json.loads((run / 'evaluation.json').read_text())
    assert evaluate.main([str(run)]) == 0
    after = json.loads((run / 'evaluation.json').read_text())
    assert before['split'] == after['split'] == 'val3'
    assert len(after['frames']) == 6
    for category in ('um', 'umm', 'uu', 'URBAN'):
        assert after['scores'][category]['MaxF'] == pytest.approx(
            before['scores'][category]['MaxF'], abs=0.2)
    assert 'URBAN' in capsys.readouterr().out


def test_training_leaves_scalars_pictures_and_the_graph_for_tensorboard(run):
    tags, graph = {}, False
    for path in (run / 'tensorboard').iterdir():
        for event in tf.train.summary_iterator(str(path)):
            graph = graph or event.HasField('graph_def')
            for value in event.summary.value:
                tags.setdefault(value.tag, []).append((event.step, value))
    assert graph
    log = read_log(run)
    for column in ('loss', 'learning_rate', 'val_maxf'):
        assert [step for step, _ in tags[column]] == [int(row['step']) for row in log]
        assert [value.simple_value for _, value in tags[column]] == pytest.approx(
            [float(row[column]) for row in log], rel=1e-5)
    panel = tags['input, truth, probability/um_000079'][-1][1].image
    picture = imageio.imread(panel.encoded_image_string)
    assert picture.shape == (3 * 194, 640, 3)       # 94 x 310, widened to 640, one above the other


def test_all_photographs_are_scored_with_a_warning(run, capsys):
    assert evaluate.main([str(run), '--split', 'all']) == 0
    assert 'was trained on 12 of these 18' in capsys.readouterr().err


def test_birds_eye_view_is_scored_and_kept(run, capsys):
    assert evaluate.main([str(run), '--bev']) == 0
    assert "bird's-eye view" in capsys.readouterr().out
    content = json.loads((run / 'evaluation.json').read_text())
    assert content['bev']['frames'] == 6
    assert content['bev']['scores']['URBAN'] != content['scores']['URBAN']
    assert "bird" in (run / 'index.html').read_text()


def test_missing_calibration_is_told(run, data, tmp_path, capsys):
    copy = tmp_path / 'data'
    shutil.copytree(data, copy)
    for path in sorted((copy / 'data_road/training/calib').glob('*.txt'))[1:]:
        path.unlink()
    assert evaluate.main([str(run), '--data-dir', str(copy), '--bev', '--split', 'all']) == 0
    assert 'without 17 of 18 photographs' in capsys.readouterr().err
    assert evaluate.main([str(run), '--data-dir', str(copy), '--bev']) == 2
    assert 'none of 6 photographs has a calibration' in error_of(capsys)


def test_submission_has_the_names_and_sizes_that_the_server_takes(run, tmp_path, capsys):
    target = tmp_path / 'submission.zip'
    assert evaluate.main([str(run), '--submission', str(target)]) == 0
    with zipfile.ZipFile(target) as archive:
        assert sorted(archive.namelist()) == [
            'um_road_000000.png', 'umm_road_000000.png', 'uu_road_000000.png']
        for name in archive.namelist():
            confidence = imageio.imread(io.BytesIO(archive.read(name)))
            assert confidence.shape == (800, 400) and confidence.dtype == np.uint8
            assert confidence.max() > 0


def test_submission_names_missing_calibrations_and_writes_nothing(run, data, tmp_path, capsys):
    copy = tmp_path / 'data'
    shutil.copytree(data, copy)
    (copy / 'data_road/testing/calib/umm_000000.txt').unlink()
    target = tmp_path / 'submission.zip'
    assert evaluate.main([str(run), '--data-dir', str(copy), '--submission', str(target)]) == 2
    error = error_of(capsys)
    assert '1 of 3 are missing' in error and 'umm_000000' in error
    assert not target.exists()


def test_folds_are_pooled_over_their_runs(data, tmp_path, capsys):
    runs = [train(data, tmp_path / str(fold), '--split', f'kfold:2:{fold}', '--epochs', '1')
            for fold in range(2)]
    capsys.readouterr()
    assert evaluate.main([*map(str, runs), '--split', 'kfold:2']) == 0
    printed = capsys.readouterr()
    assert '18 photographs, perspective' in printed.out and 'warning' not in printed.err


def test_run_that_was_not_trained_for_the_folds(run, capsys):
    assert evaluate.main([str(run), '--split', 'kfold:3']) == 2
    assert 'was trained with --split val3' in error_of(capsys)


def test_bad_folders(run, data, tmp_path, capsys):
    assert evaluate.main([str(tmp_path)]) == 2
    assert 'options.json' in error_of(capsys)
    empty = tmp_path / 'empty'
    (empty / 'data_road/training/image_2').mkdir(parents=True)
    assert evaluate.main([str(run), '--data-dir', str(empty)]) == 2
    assert 'no .png file' in error_of(capsys)
    unlabelled = tmp_path / 'unlabelled'
    shutil.copytree(data, unlabelled)
    shutil.rmtree(unlabelled / 'data_road/training/gt_image_2')
    assert evaluate.main([str(run), '--data-dir', str(unlabelled)]) == 2
    assert 'have no road label' in error_of(capsys)
    stripped = shutil.copytree(run, tmp_path / 'stripped')
    shutil.rmtree(stripped / 'checkpoints')
    assert evaluate.main([str(stripped)]) == 2
    assert 'no last checkpoint' in error_of(capsys)


def test_malformed_calibration(run, data, tmp_path, capsys):
    copy = tmp_path / 'data'
    shutil.copytree(data, copy)
    path = copy / 'data_road/training/calib/um_000079.txt'
    path.write_text(path.read_text().replace('R0_rect', 'R1_rect'))
    assert evaluate.main([str(run), '--data-dir', str(copy), '--bev']) == 2
    assert 'um_000079.txt' in error_of(capsys)


# scoring, without a network

class Painter(scoring.Network):
    """Sees road where a photograph is brighter than 127, with that confidence."""

    def look(self, photograph):
        return np.float32(photograph[..., 0]) / 255


def test_scores_of_a_network_that_is_known():
    classes = np.array([[1, 1, 0, 0, helper.IGNORED]], np.uint8)
    photograph = np.zeros((1, 5, 3), np.uint8)
    photograph[0, :, 0] = 255, 102, 153, 0, 255
    painter = Painter(*[None] * 4, (1, 5))
    result = scoring.score(painter, [('um_000001', photograph, classes)])
    assert result['loss'] == pytest.approx(-np.log(0.4) * 2 / 4, rel=1e-5)
    urban = metrics.measures_by_category(result['histograms'])['URBAN']
    assert urban['F1'] == pytest.approx(50) and urban['IoU'] == pytest.approx(100 / 3)
    assert urban['MaxF'] == pytest.approx(80)      # at 0.4: two of two, and one that is none


def test_confidence_of_a_half_is_128():
    probabilities = np.array([[0, 0.4999, 0.5, 1]])
    assert scoring.confidence(probabilities).tolist() == [[0, 127, 128, 255]]


def test_runs_on_the_same_photographs_give_mean_and_sample_standard_deviation():
    """Two runs find 3 and 1 of 4 road pixels and nothing else: F1 is 6/7 and 2/5."""
    def run(hits):
        histogram = np.zeros((2, 256), np.int64)
        histogram[0, 0], histogram[1, 255], histogram[1, 0] = 96, hits, 4 - hits
        return {'histograms': {'um_000001': histogram}, 'bev_histograms': {}, 'loss': hits / 10,
                'ms_per_image': 5.0}

    lines = scoring.text([run(3), run(1)]).splitlines()
    first, second = 600 / 7, 40
    assert lines[0] == '1 photographs, perspective, per cent, mean of 2 runs'
    urban = [line.split() for line in lines if line.startswith('URBAN')]
    assert [float(row[1]) for row in urban] == [
        pytest.approx((first + second) / 2, abs=0.01),
        pytest.approx((first - second) / 2 ** 0.5, abs=0.01)]
    assert 'MaxF of the runs: 85.71, 40.00' in lines
    assert lines[-1].startswith('cross entropy 0.2000')


def test_runs_that_share_a_part_of_their_photographs_are_an_error():
    frame = np.ones((2, 256), np.int64)
    results = [{'histograms': dict.fromkeys(names, frame), 'bev_histograms': {}, 'loss': 0.1,
                'ms_per_image': 5.0} for names in (('um_000001', 'um_000002'), ('um_000002',))]
    with pytest.raises(helper.InputError, match='share some'):
        scoring.text(results)


def test_size_and_mirroring_can_be_other_than_in_the_training(run, capsys):
    def pictured():
        return json.loads((run / 'evaluation.json').read_text())

    assert evaluate.main([str(run)]) == 0
    before = pictured()
    assert evaluate.main(['--flip-test', '--test-scale', '1,1.5', str(run)]) == 0
    after = pictured()
    assert after['test_scale'] == [1, 1.5] and after['flip_test'] is True
    assert after['loss'] != before['loss']
    page = (run / 'index.html').read_text()
    assert 'seen at 1 and 1.5 times' in page and 'mirrored' in page
    assert evaluate.main([str(run)]) == 0
    assert pictured()['test_scale'] == [1] and pictured()['flip_test'] is False
    assert pictured()['loss'] == pytest.approx(before['loss'])
    assert 'seen at' not in (run / 'index.html').read_text()


def test_nothing_to_score_is_an_error():
    with pytest.raises(helper.InputError, match='no labelled photograph'):
        scoring.score(None, [])
