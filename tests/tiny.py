"""Runs and exports made in a moment, without training, whose network does something known."""
import tensorflow.compat.v1 as tf

from roadseg import runtimes
from roadseg.files import file_checksum, write_json
from roadseg.training import averages, checkpoints
from roadseg.training.options import parse_args
from roadseg.training.run_folder import Progress

NAMES = ('not road', 'road', 'sky', 'wall')
PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (99, 98, 97))


def save_run(folder, num_classes=2, image_size=(32, 96), gains=(0, 20, -20, -99), **changes):
    """Writes the folder of a run whose network knows a pixel by its brightness alone.

    Class 1, the road, is what is brighter than 127; of three classes, the last is what is darker.

    Args:
        folder: to be made.
        num_classes: C, from 2 to 4.
        image_size: (H, W), of the training.
        gains: logit of each class where a pixel is white; where it is black, the opposite. These
            are the averaged weights; the last weights are their opposites.
        changes: further options, by name.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True)
    with tf.Graph().as_default(), tf.Session() as sess:
        photographs = tf.placeholder(tf.uint8, [None, None, None, 3], 'photographs')
        keep_prob = tf.placeholder(tf.float32, [], 'keep_prob')
        # a convolution, as commands ask how much memory those take
        brightness = tf.nn.conv2d(tf.cast(photographs, tf.float32), tf.fill([1, 1, 3, 1], 1 / 3),
                                  1, 'SAME')
        weights = tf.get_variable('weights', initializer=tf.constant(gains[:num_classes],
                                                                     tf.float32))
        tf.reshape(tf.nn.dropout((brightness / 127.5 - 1) * weights, rate=1 - keep_prob),
                   [-1, num_classes], 'logits')
        averages.averaged(tf.no_op(), [weights], 0.5, tf.train.get_or_create_global_step())
        saver = checkpoints.make_saver()
        sess.run(tf.global_variables_initializer())
        sess.run(weights.assign(-weights))
        options = {**vars(parse_args([])), 'image_size': image_size, **changes}
        write_json(folder / 'options.json', {
            'id': '12ab', 'options': options, 'data': {
                'title': 'Brightness', 'classes': NAMES[:num_classes],
                'palette': PALETTE[:num_classes], 'road': 1,
                'best': 'val_maxf'}})
        checkpoints.save(sess, saver, folder, Progress())
    return folder


def save_export(folder, image_size=(32, 96), fixed_size=False):
    """Writes an export whose probability of class 1, the road, is a pixel's brightness.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True)
    with tf.Graph().as_default() as graph:
        size = image_size if fixed_size else (None, None)
        photographs = tf.placeholder(tf.uint8, [None, *size, 3], 'photographs')
        road = tf.reduce_mean(tf.cast(photographs, tf.float32), -1) / 255
        tf.stack([1 - road, road], -1, 'probabilities')
        (folder / 'frozen.pb').write_bytes(graph.as_graph_def().SerializeToString())
    write_json(folder / 'export.json', {
        'format_version': runtimes.FORMAT_VERSION, 'format': 'frozen', 'file': 'frozen.pb',
        'files': {'frozen.pb': file_checksum(folder / 'frozen.pb')},
        'input': 'photographs', 'output': 'probabilities', 'classes': NAMES[:2],
        'palette': PALETTE[:2], 'road': 1, 'image_size': image_size, 'fixed_size': fixed_size})
    return folder
