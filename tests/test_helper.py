"""A student's script on the course's names, called as the course calls them."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

import helper
import main
from conftest import save_tiny_vgg
from roadseg.datasets import demo
from roadseg.errors import InputError

ROOT = Path(helper.__file__).parent
SCRIPT = """
import os
import sys
from pathlib import Path

import tensorflow.compat.v1 as tf

import helper
from main import layers, load_vgg, optimize, train_nn


def run(data_dir, runs_dir):
    num_classes = 2
    image_shape = (64, 96)
    tf.disable_eager_execution()
    vgg_path = helper.maybe_download_pretrained_vgg(data_dir)
    with tf.Session() as sess:
        get_batches_fn = helper.gen_batch_function(os.path.join(data_dir, 'data_road/training'),
                                                   image_shape)
        input_image, keep_prob, layer3_out, layer4_out, layer7_out = load_vgg(sess, Path(vgg_path))
        layer_output = layers(layer3_out, layer4_out, layer7_out, num_classes)
        correct_label = tf.placeholder(tf.int32, [None, None, None, num_classes])
        learning_rate = tf.placeholder(tf.float32)
        logits, train_op, loss = optimize(layer_output, correct_label, learning_rate, num_classes)
        train_nn(sess, 2, 4, get_batches_fn, train_op, loss, input_image, correct_label,
                 keep_prob, learning_rate)
        helper.save_inference_samples(runs_dir, data_dir, sess, image_shape, logits, keep_prob,
                                      input_image)
        for name, picture in helper.gen_test_output(
                sess, logits, keep_prob, input_image,
                os.path.join(data_dir, 'data_road/testing'), image_shape):
            print('painted', name, picture.shape)


run(*sys.argv[1:])
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Drawn scenes and a tiny VGG16 in the places where the course has them."""
    folder = tmp_path_factory.mktemp('student') / 'data'
    demo.write_scenes(folder, train=6, test=3, held_out=1, size=(47, 155))
    save_tiny_vgg(folder / 'vgg')
    return folder


def test_a_students_script_runs_from_its_own_folder(data, tmp_path):
    (tmp_path / 'student.py').write_text(SCRIPT)
    answer = subprocess.run([sys.executable, 'student.py', str(data), str(tmp_path / 'runs')],
                            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
                            env={'PATH': '', 'PYTHONPATH': str(ROOT)})
    assert answer.returncode == 0, answer.stderr
    assert 'epoch 2/2: loss ' in answer.stdout
    painted = sorted(line for line in answer.stdout.splitlines() if line.startswith('painted'))
    tests = sorted(path.name for path in (data / 'data_road/testing/image_2').iterdir())
    assert painted == [f'painted {name} (47, 155, 3)' for name in tests]
    folder, = (tmp_path / 'runs').iterdir()
    assert sorted(path.name for path in folder.iterdir()) == tests
    assert {Image.open(path).size for path in folder.iterdir()} == {(155, 47)}
    assert 'Traceback' not in answer.stderr


def test_the_pretrained_network_is_where_the_course_has_it(data, tmp_path, no_network):
    assert helper.maybe_download_pretrained_vgg(str(data)) == data / 'vgg'
    with pytest.raises(InputError, match='no VGG16'):
        helper.maybe_download_pretrained_vgg(str(tmp_path))


def test_batches_feed_a_one_hot_label_of_any_kind(data):
    """What pixels are not evaluated has no class at all."""
    for images, labels in helper.gen_batch_function(str(data / 'data_road/training'),
                                                    (16, 24))(4):
        assert images.shape[1:] == (16, 24, 3) and labels.shape[1:] == (16, 24, 2)
        assert set(labels.sum(axis=-1).ravel()) <= {0, 1} and labels[..., 1].any()


@pytest.mark.parametrize('spoil, message', [
    (lambda folder: (folder / 'training/image_2/um_000078.png').write_bytes(b'no'), 'um_000078'),
    (lambda folder: (folder / 'training/gt_image_2/um_road_000078.png').unlink(),
     '1 of 6 photographs have no road label')])
def test_bad_files_are_named(tmp_path, spoil, message):
    folder = demo.write_scenes(tmp_path, train=6, test=0, held_out=1, size=(20, 30))
    spoil(folder)
    with pytest.raises(InputError, match=message):
        list(helper.gen_batch_function(folder / 'training', (8, 12))(2))


def test_overlays_go_where_they_are_told(data, tmp_path):
    with tf.Graph().as_default(), tf.Session() as sess:
        image, keep_prob, *outputs = main.load_vgg(sess, data / 'vgg')
        logits = tf.reshape(main.layers(*outputs, 2), [-1, 2])
        main.initialize_new(sess)
        folder = tmp_path / 'there/overlays'
        helper.write_overlays(str(folder), helper.gen_test_output(
            sess, logits, keep_prob, image, data / 'data_road/testing', (32, 64)))
    assert len(list(folder.iterdir())) == 3


def test_overlays_into_a_file(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot write .*file'):
        helper.write_overlays(tmp_path / 'file', iter([]))


def test_overlays_of_many_classes_have_the_palettes_colours(tmp_path):
    """The lower class on the left, and one without a colour of its own in the middle."""
    from roadseg.inference import Network
    from roadseg.scoring import classes
    path = tmp_path / 'street 1.jpg'
    Image.fromarray(np.full((40, 90, 3), 100, np.uint8)).save(path)
    with tf.Graph().as_default(), tf.Session() as sess:
        image = tf.placeholder(tf.float32, [None, None, None, 3])
        number = 3 * tf.range(tf.shape(image)[2]) // tf.shape(image)[2]
        logits = tf.reshape(tf.broadcast_to(10 * tf.one_hot(number, 3),
                                            [1, tf.shape(image)[1], tf.shape(image)[2], 3]),
                            [-1, 3])
        network = Network(sess, logits, tf.placeholder(tf.float32, []), image, (20, 45))
        (name, painted), = helper.overlays(network, [path], classes,
                                           ((200, 0, 0), (0, 0, 0), (0, 0, 200)))
    assert name == 'street 1.png' and painted.shape == (40, 90, 3)
    for column, colour in ((10, (150, 50, 50)), (80, (50, 50, 150))):
        assert abs(painted[20, column].astype(int) - colour).max() < 10
