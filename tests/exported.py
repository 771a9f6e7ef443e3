"""Runs as the training would leave them, made without training, to be exported."""
import numpy as np
import tensorflow.compat.v1 as tf

import main
from conftest import save_tiny_vgg
from roadseg.datasets import demo, kitti
from roadseg.files import write_json
from roadseg.networks import resnet50, segnet
from roadseg.networks.encoder import draw_new_kernels
from roadseg.training import checkpoints
from roadseg.training.options import parse_args
from roadseg.training.run_folder import Progress

SIZE = (40, 72)


def save_data(folder):
    """Draws twelve labelled scenes, of which val3 holds out three. Returns the folder."""
    demo.write_scenes(folder, train=12, test=0, seed=0, held_out=1, size=(47, 155))
    return folder


def save_run(folder, data, kind):
    """Writes the folder of a run of a new network whose moments and biases are drawn, too.

    Args:
        folder: to be made, as one beside it for the encoder.
        data: from `save_data`.
        kind: 'fcn8s', 'segnet' or 'resnet50'.

    Returns:
        The folder.
    """
    encoder = folder.with_name(folder.name + '-encoder')
    if kind == 'resnet50':
        resnet50.convert('random', encoder, width_divisor=16)
    else:
        save_tiny_vgg(encoder, context=kind == 'fcn8s')
    arguments = ['--model', 'segnet'] if kind == 'segnet' else []
    options = parse_args(['--data-dir', str(data), '--encoder', str(encoder), '--precision',
                          'float32', '--image-size', '{}x{}'.format(*SIZE), *arguments])
    rng = np.random.default_rng(5)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.set_random_seed(3)       # lest the errors of eight bits differ from run to run
        # As `main.build` does, without the training step, which takes several times longer.
        images = tf.placeholder(tf.uint8, [None, None, None, 3], 'photographs')
        encoded = main.load_vgg(sess, encoder, tf.cast(images, tf.float32))[2:]
        draw_new_kernels(sess, 0)
        size = tf.shape(images)[1:3]
        if kind == 'segnet':
            is_training = tf.placeholder_with_default(False, [], 'is_training')
            last = segnet.layers(segnet.pool_inputs(encoded[-1]), 2, is_training, output_size=size)
        else:
            last = main.layers(*encoded, 2, score_channels=6, output_size=size)
        tf.reshape(last, [-1, 2], 'logits')
        tf.train.get_or_create_global_step()
        saver = checkpoints.make_saver()
        main.initialize_new(sess)
        for variable in tf.global_variables():
            shape, name = variable.shape.as_list(), variable.op.name
            if name.endswith(('/moving_variance', '/scale')):
                variable.load(rng.uniform(.5, 2, shape), sess)
            elif name.endswith(('/moving_mean', '/bias', '/offset')):
                variable.load(rng.normal(0, .3, shape), sess)
            elif name.startswith('decoder/score'):      # else it would say next to nothing
                variable.load(rng.normal(0, .3, shape), sess)
        folder.mkdir(parents=True)
        write_json(folder / 'options.json', {
            'id': 'ab12', 'options': vars(options),
            'data': {'classes': kitti.CLASSES, 'palette': kitti.PALETTE, 'road': 1}})
        checkpoints.save(sess, saver, folder, Progress())
    return folder
