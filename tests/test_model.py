"""A trained network as an object: its answers, its size, several at once, damaged folders."""
import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from scipy.special import expit
from tensorflow.python.eager import context as eager

import main
import roadseg
import tiny
from roadseg import model
from roadseg.datasets import demo, drawing
from roadseg.errors import InputError
from roadseg.images import read_image, resize, resize_planes

WHITE_LEFT = np.zeros((47, 141, 3), np.uint8)
WHITE_LEFT[:, :70] = 255


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return tiny.save_run(tmp_path_factory.mktemp('runs') / 'run [1] ä', precision='float32')


@pytest.fixture(scope='module')
def opened(run):
    with roadseg.load(run) as opened:
        yield opened


def test_import_takes_neither_tensorflow_nor_numpy():
    code = ('import sys, roadseg; roadseg.load; assert "numpy" not in sys.modules;'
            'import roadseg.predict; assert "tensorflow" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True)


def test_the_network_that_comes_with_the_package_knows_a_road():
    scene = drawing.draw_scene(np.random.default_rng(0), 'um', (188, 620))
    road = scene.classes <= 1
    with roadseg.load() as boxed:
        found = boxed.predict(scene.image)[..., 1] > 0.5
    assert (found & road).sum() / (found | road).sum() > 0.7        # 0.885


def test_probabilities_have_the_size_of_the_picture_and_add_up(opened):
    probabilities = opened.predict(WHITE_LEFT)
    assert probabilities.shape == (47, 141, 2) and probabilities.dtype == np.float32
    assert probabilities.sum(axis=-1) == pytest.approx(1, abs=1e-5)
    assert (probabilities[:, :65, 1] > 0.99).all() and (probabilities[:, 75:, 1] < 0.01).all()


def test_the_averages_are_used_and_not_the_last_weights(opened):
    white = np.full((32, 96, 3), 255, np.uint8)
    assert opened.predict(white)[..., 1] == pytest.approx(expit(20))


def test_its_weights_are_constants(opened):
    """On a CPU, a variable's kernel is convolved with half as fast."""
    kinds = {operation.type for operation in opened.network.sess.graph.get_operations()}
    assert kinds.isdisjoint({'VarHandleOp', 'VariableV2', 'ReadVariableOp'}) and 'Const' in kinds


def test_what_it_says_of_itself(opened):
    assert opened.classes == ('not road', 'road') and opened.road == 1
    assert opened.palette == tiny.PALETTE[:2]
    assert opened.image_size == (32, 96) and opened.name == 'step-000000'


def test_the_answer_before_it_is_enlarged(opened):
    assert opened.predict(WHITE_LEFT, full_size=False).shape == (32, 96, 2)


def test_any_size(opened):
    for shape in ((1, 1), (31, 33), (1, 900), (900, 1)):
        assert opened.predict(np.full((*shape, 3), 200, np.uint8)).shape == (*shape, 2)


def test_at_the_size_of_the_training_it_answers_as_in_validation(opened):
    picture = np.random.default_rng(3).integers(0, 256, (64, 192, 3), np.uint8)
    assert opened.predict(picture)[..., 1] == pytest.approx(
        opened.network.probability(picture), abs=1e-6)


def test_sizes_and_mirror_image_are_averaged_as_the_run_does(tmp_path):
    run = tiny.save_run(tmp_path / 'run', test_scale=[1.0, 2.0], flip_test=True)
    picture = np.random.default_rng(3).integers(0, 256, (32, 96, 3), np.uint8)
    with roadseg.load(run) as opened:
        assert opened.network.scales == (1.0, 2.0) and opened.network.flip is True
        plain = opened.network._replace(scales=(1,), flip=False)
        expected = (plain.probability(picture) + resize(expit(np.float32(
            plain.run(resize(picture, (64, 192))) @ [-1, 1])), (32, 96))) / 2
        assert opened.predict(picture)[..., 1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_a_run_that_was_trained(tiny_vgg, tmp_path):
    demo.write_scenes(tmp_path, train=6, test=3, held_out=1, size=(47, 155))
    shutil.copytree(tiny_vgg, tmp_path / 'vgg')
    run = main.run(main.parse_args([
        '--data-dir', str(tmp_path), '--runs-dir', str(tmp_path / 'runs'), '--split', 'tail:0.5',
        '--image-size', '32x96', '--max-steps', '1']))
    photo = read_image(tmp_path / 'data_road/testing/image_2/um_000000.png')
    with roadseg.load(run) as opened:
        assert opened.classes == ('not road', 'road')
        assert opened.predict(photo)[..., 1] == pytest.approx(opened.network.probability(photo),
                                                              abs=1e-6)
        assert opened.predict(photo.transpose(1, 0, 2)).shape == (155, 47, 2)


def test_of_more_classes(tmp_path):
    with roadseg.load(tiny.save_run(tmp_path / 'run', num_classes=3)) as opened:
        best = opened.predict(WHITE_LEFT).argmax(axis=-1)
    assert (best[:, :65] == 1).all() and (best[:, 75:] == 2).all()


@pytest.mark.parametrize('picture', [
    np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8),
    np.zeros((2, 8, 8, 3), np.uint8), np.zeros((0, 8, 3), np.uint8), 'photo.jpg', None])
def test_what_is_no_picture(opened, picture):
    with pytest.raises(InputError, match=r'expected uint8 \(H, W, 3\), RGB'):
        opened.predict(picture)


# Several ----------------------------------------------------------------------------------------

def test_several_at_once_and_closing_one_leaves_the_others(run, tmp_path):
    other = tiny.save_run(tmp_path / 'run', gains=(0, -20))
    first, second = roadseg.load(run), roadseg.load(other)
    white = np.full((8, 8, 3), 255, np.uint8)
    assert first.predict(white).min(axis=(0, 1))[1] > 0.99 > 0.01 > second.predict(white)[0, 0, 1]
    first.close()
    first.close()
    assert second.predict(white)[0, 0, 1] < 0.01
    with pytest.raises(ValueError, match='closed'):
        first.predict(white)
    second.close()


def test_within_somebody_elses_graph_nothing_is_added_to_it(run):
    with tf.Graph().as_default() as graph, tf.Session():
        with roadseg.load(run) as opened:
            opened.predict(WHITE_LEFT)
        assert not graph.get_operations()
    assert tf.get_default_graph() is not graph


def test_where_tensorflow_is_eager(run):
    with eager.eager_mode(), roadseg.load(run) as opened:
        assert tf.executing_eagerly()
        assert opened.predict(np.full((9, 7, 3), 255, np.uint8))[..., 1].min() > 0.99


def test_threads_share_one(opened):
    pictures = [np.full((8 + 8 * index, 24, 3), 17 * index, np.uint8) for index in range(12)]
    expected = [opened.predict(picture) for picture in pictures]
    wrong = []

    def look(index):
        for _ in range(5):
            if not np.array_equal(opened.predict(pictures[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=look, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Damage -----------------------------------------------------------------------------------------

def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(model, 'BOX', tmp_path / 'models')
    with pytest.raises(InputError, match='no network comes with this package'):
        roadseg.load()
    with pytest.raises(InputError, match='options.json'):
        roadseg.load(tmp_path)


def test_another_runtime_needs_an_export(run):
    with pytest.raises(InputError, match='python -m roadseg.export'):
        roadseg.load(run, runtime='onnxruntime')


@pytest.mark.parametrize('change, message', [
    ({'classes': ['road']}, "'classes' is"), ({'classes': 7}, "'classes' is"),
    ({'classes': ['a', 'b', 'c'], 'palette': [[0, 0, 0]] * 3}, 'names 3 classes, and the network'),
    ({'palette': [[0, 0, 0]]}, "'palette' is"), ({'palette': [[0, 0, 256], [0, 0, 0]]}, 'palette'),
    ({'road': 2}, "'road' is 2"), ({'road': True}, "'road' is True"), ({'palette': None}, 'None')])
def test_a_damaged_description(run, tmp_path, change, message):
    copy = shutil.copytree(run, tmp_path / 'copy')
    content = json.loads((copy / 'options.json').read_text())
    content['data'].update(change)
    (copy / 'options.json').write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        roadseg.load(copy)


def test_a_run_without_checkpoints(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / 'copy')
    next((copy / 'checkpoints/step-000000').glob('model.data*')).write_bytes(b'x')
    with pytest.raises(InputError, match='checkpoint'):
        roadseg.load(copy)
    shutil.rmtree(copy / 'checkpoints')
    with pytest.raises(InputError, match='no last checkpoint'):
        roadseg.load(copy)


# Exports ----------------------------------------------------------------------------------------

class Bright:
    """Stands for an export of one size: its probability of road is a pixel's brightness."""

    def run(self, images):
        assert images.dtype == np.uint8 and images.shape == (1, 64, 192, 3)
        road = images[..., 0].astype(np.float32) / 255
        return np.stack([1 - road, road], axis=-1)


@pytest.mark.parametrize('shape, fitted', [
    ((47, 141), (64, 192)), ((49, 141), (64, 192)), ((60, 80), (64, 85)), ((100, 50), (64, 32)),
    ((10, 90), (21, 192)), ((1, 1), (64, 64))])
def test_an_export_of_one_size_pads_and_does_not_squeeze(shape, fitted):
    """The left half of the picture is white, and so is that of the answer."""
    picture = np.zeros((*shape, 3), np.uint8)
    picture[:, :shape[1] // 2] = 255
    description = {'classes': ['a', 'b'], 'palette': [[0, 0, 0]] * 2, 'road': None}
    closed = []
    network = model._Exported(Bright(), None, None, None, (64, 192))
    with model.Model('x', network, description, 'x', lambda: closed.append(1), True) as opened:
        assert opened.predict(picture, full_size=False).shape == (*fitted, 2)
        road = opened.predict(picture)[..., 1]
    assert road.shape == shape
    assert road[0].mean() == pytest.approx(picture[0].mean() / 255, abs=0.02)
    assert closed == [1]


def test_a_checkpoint_is_the_last_or_the_best(run):
    with pytest.raises(InputError, match="^there is no checkpoint 'Best'; name last or best"):
        roadseg.load(run, checkpoint='Best')


def test_a_run_predicts_at_several_sizes_and_mirrored_where_asked(run, opened):
    picture = np.random.default_rng(1).integers(0, 256, (64, 192, 3), np.uint8)
    plain, mirrored = opened.predict(picture), opened.predict(picture[:, ::-1])[:, ::-1]
    with roadseg.load(run, flip_test=True) as flipping:
        assert flipping.predict(picture) == pytest.approx((plain + mirrored) / 2, abs=1e-5)
    with roadseg.load(run, test_scale=2) as finer:
        large = finer.predict(picture, full_size=False)
    assert large.shape == (64, 192, 2)
    small = opened.predict(picture, full_size=False)
    with roadseg.load(run, test_scale=[1, 2]) as both:
        mean = both.predict(picture, full_size=False)
    assert mean == pytest.approx((small + resize_planes(large, (32, 96))) / 2, abs=1e-5)
    assert abs(mean - small).max() > 0.1


@pytest.mark.parametrize('asked', ({'test_scale': (1, 1.5)}, {'flip_test': False}))
def test_an_export_sees_a_picture_once(asked):
    with pytest.raises(InputError, match='is an export, and sees a picture once'):
        roadseg.load(**asked)


@pytest.mark.parametrize('scales', ((), (1, 0), 9, (float('nan'),), '1,1.5', ('1', '2')))
def test_test_scales_are_factors(run, scales):
    with pytest.raises(InputError, match='expected factors from 0.1 to 8'):
        roadseg.load(run, test_scale=scales)


def test_rows_of_unequal_length_are_no_picture(opened):
    with pytest.raises(InputError, match='^the picture is no array: '):
        opened.predict([[1, 2], [3]])
