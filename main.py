"""FCN-8s on KITTI Road, from the frozen VGG16 graph to labelled overlays.

    python main.py --demo       drawn road scenes, nothing to download, two minutes on a CPU
    python main.py              KITTI Road

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", 2015.
"""
import argparse
import itertools
import math
import os
import signal
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

import helper
from helper import InputError
from roadseg import augment, checkpoints, preflight, scoring, synthetic, vgg16
from roadseg.run_folder import Progress, describe_software, read_options, write_json
from roadseg.watch import Watch

NUM_CLASSES = 2
DEMO = {'image_size': (128, 416), 'epochs': 30, 'batch_size': 2, 'learning_rate': 1e-3,
        'decoder_rate': 1.0, 'freeze_blocks': 0, 'data_dir': 'data/demo'}


# The network ----------------------------------------------------------------------------------

def load_vgg(sess, vgg_path):
    """Loads the frozen FCN-VGG16 graph into the session's graph, weights included.

    Args:
        sess: session.
        vgg_path: folder of a SavedModel with the tag 'vgg16'.

    Returns:
        Tensors (image_input [N, H, W, 3] RGB 0-255, keep_prob [],
        layer3_out [N, H/8, W/8, D3], layer4_out [N, H/16, W/16, D4],
        layer7_out [N, H/32, W/32, D7]), float32; the sizes are rounded up.

    Raises:
        InputError: the folder is no SavedModel, or lacks the tag or a tensor.
    """
    try:
        tf.saved_model.loader.load(sess, ['vgg16'], vgg_path)
    except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{vgg_path} holds no frozen graph with the tag 'vgg16' ({reason}); move "
                         'it away to fetch it anew, or see `python -m roadseg.vgg16`') from error
    names = ('image_input', 'keep_prob', 'layer3_out', 'layer4_out', 'layer7_out')
    try:
        return tuple(sess.graph.get_tensor_by_name(name + ':0') for name in names)
    except KeyError as error:
        raise InputError(f'the graph in {vgg_path} lacks a tensor that the decoder is built '
                         f'on: {error.args[0]}') from error


def l2_regularizer(weight_decay):
    """L2: `weight_decay` times half the sum of squares."""
    return lambda kernel: weight_decay * tf.nn.l2_loss(kernel)


def bilinear_kernel(size, channels):
    """Kernel of a transposed convolution that upsamples each channel bilinearly.

    Args:
        size: rows and columns, twice the upsampling factor.
        channels: C.

    Returns:
        float32 ndarray [size, size, C, C].
    """
    centre, radius = (size - 1) / 2, size // 2
    ramp = 1 - abs(np.arange(size) - centre) / radius
    kernel = np.zeros((size, size, channels, channels), np.float32)
    for channel in range(channels):
        kernel[:, :, channel, channel] = np.outer(ramp, ramp)
    return kernel


def layers(vgg_layer3_out, vgg_layer4_out, vgg_layer7_out, num_classes, *, score_channels=None,
           weight_decay=5e-5, output_size=None):
    """The decoder of FCN-8s: scores of three layers, upsampled and added.

    Pools 3 and 4 are scaled by 1e-4 and 1e-2 first, as in the authors' one-pass FCN-8s: their
    activations are that much larger than those of layer 7.

    In the paper, a score is one number per class, and nothing finer can be drawn than a bilinear
    surface on layer 3's grid of 8 pixels. With `score_channels`, it is that many numbers, which
    the last transposed convolution turns into classes after a ReLU: each has a kernel of its own.

    Args:
        vgg_layer3_out: float32 tensor [N, H/8, W/8, D3].
        vgg_layer4_out: float32 tensor [N, H/16, W/16, D4].
        vgg_layer7_out: float32 tensor [N, H/32, W/32, D7]; D3, D4 and D7 are known, and the
            sizes are rounded up.
        num_classes: C.
        score_channels: K, channels of the three scores; None or 0 for the paper's C.
        weight_decay: factor of the L2 loss of each kernel created here, which is added to
            the regularization losses of the graph.
        output_size: (H, W), int32 tensor [2] or pair; by default 8 times the size of layer 3.

    Returns:
        Logits, float32 tensor [N, H, W, C].
    """
    regularizer = l2_regularizer(weight_decay)
    channels = score_channels or num_classes

    def score(inputs, name):
        with tf.variable_scope(name):
            kernel = tf.get_variable('kernel', [1, 1, inputs.shape[-1], channels],
                                     initializer=tf.truncated_normal_initializer(stddev=0.01),
                                     regularizer=regularizer)
            bias = tf.get_variable('bias', [channels], initializer=tf.zeros_initializer)
            return tf.nn.bias_add(tf.nn.conv2d(inputs, kernel, strides=1, padding='SAME'), bias)

    def upsample(inputs, kernel, size, name):
        factor, depth = kernel.shape[0] // 2, kernel.shape[2]
        with tf.variable_scope(name):
            kernel = tf.get_variable('kernel', initializer=kernel, regularizer=regularizer)
            shape = tf.concat([tf.shape(inputs)[:1], size, [depth]], axis=0)
            outputs = tf.nn.conv2d_transpose(inputs, kernel, shape, factor, padding='SAME')
            outputs.set_shape([None, None, None, depth])
            return outputs

    size3, size4 = tf.shape(vgg_layer3_out)[1:3], tf.shape(vgg_layer4_out)[1:3]
    with tf.variable_scope('decoder'):
        score7 = score(vgg_layer7_out, 'score7')
        score4 = score(1e-2 * vgg_layer4_out, 'score4')
        score3 = score(1e-4 * vgg_layer3_out, 'score3')
        fused4 = upsample(score7, bilinear_kernel(4, channels), size4, 'upsample2') + score4
        fused3 = upsample(fused4, bilinear_kernel(4, channels), size3, 'upsample4') + score3
        if score_channels:
            fused3 = tf.nn.relu(fused3)
            last = bilinear_kernel(16, 1) * tf.random.normal(
                [num_classes, channels], stddev=(2 * channels) ** -0.5)
        else:
            last = bilinear_kernel(16, num_classes)
        scores = upsample(fused3, last, 8 * size3, 'upsample32')
        if output_size is None:
            return scores
        # Cut here: a transposed convolution of odd size would shift the scores by up to 3 pixels.
        return scores[:, :output_size[0], :output_size[1]]


# Training -------------------------------------------------------------------------------------

def trained_variables(freeze_blocks):
    """Returns the trainable variables but those of VGG16's first `freeze_blocks` blocks, 0-5."""
    frozen = tuple(f'conv{block}_' for block in range(1, freeze_blocks + 1))
    return [variable for variable in tf.trainable_variables()
            if not variable.name.startswith(frozen)]


def optimize(nn_last_layer, correct_label, learning_rate, num_classes, *, clip_norm=None,
             freeze_blocks=0, decoder_rate=1.0, average_decay=0.0):
    """The loss and one step of Adam that lowers it and the regularization losses.

    Args:
        nn_last_layer: float32 tensor [N, H, W, C].
        correct_label: tensor [N, H, W, C] of any dtype, one-hot; a pixel whose row is all
            zero is ignored.
        learning_rate: float32 tensor [].
        num_classes: C.
        clip_norm: upper bound of the gradient's global norm; None leaves it as it is.
        freeze_blocks: the first blocks of VGG16, 0-5, whose weights are left as they are.
        decoder_rate: factor of the learning rate of what `layers` creates. Adam's steps are as
            small as the learning rate whatever the gradient's size, so that weights which see
            the scaled pools 3 and 4 would take an age to matter.
        average_decay: decay of the moving averages of the weights, 0 for none. The operation
            'swap_averages' exchanges weights and averages.

    Returns:
        (logits [pixels, C], train_op, cross_entropy_loss []): the loss is the mean over the
        pixels that are not ignored, without the regularization losses.
    """
    logits = tf.reshape(nn_last_layer, [-1, num_classes], name='logits')
    labels = tf.cast(tf.reshape(correct_label, [-1, num_classes]), tf.float32)
    # An all-zero row has loss 0 but the gradient softmax(logits): it must be masked.
    evaluated = tf.reduce_sum(labels, axis=1)
    cross_entropy = tf.nn.softmax_cross_entropy_with_logits_v2(
        labels=tf.stop_gradient(labels), logits=logits)
    cross_entropy_loss = tf.divide(tf.reduce_sum(evaluated * cross_entropy),
                                   tf.maximum(tf.reduce_sum(evaluated), 1.0), name='loss')

    variables = trained_variables(freeze_blocks)
    total_loss = cross_entropy_loss + tf.losses.get_regularization_loss()
    gradients = tf.gradients(total_loss, variables)
    if clip_norm is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
    step = tf.train.get_or_create_global_step()
    updates = []
    for of_decoder, rate in ((False, learning_rate), (True, decoder_rate * learning_rate)):
        group = [(gradient, variable) for gradient, variable in zip(gradients, variables)
                 if variable.name.startswith('decoder/') == of_decoder]
        if group:
            updates.append(tf.train.AdamOptimizer(rate).apply_gradients(group))
    with tf.control_dependencies(updates):
        train_op = tf.assign_add(step, 1, name='train')
    if average_decay:
        train_op = averaged(train_op, variables, average_decay, step)
    return logits, train_op, cross_entropy_loss


def averaged(train_op, variables, decay, step):
    """Extends a training step by moving averages of the weights (Polyak and Juditsky, 1992).

    Adds the operation 'swap_averages', which exchanges weights and averages.
    """
    averages = tf.train.ExponentialMovingAverage(decay, num_updates=step)
    with tf.control_dependencies([train_op]):
        train_op = averages.apply(variables)
    pairs = [(variable, averages.average(variable)) for variable in variables]
    # Copies, as the identity of a reference variable would change with the variable.
    values = [(tf.raw_ops.DeepCopy(x=first), tf.raw_ops.DeepCopy(x=second))
              for first, second in pairs]
    with tf.control_dependencies([value for pair in values for value in pair]):
        tf.group(*(tf.group(tf.assign(first, new_first), tf.assign(second, new_second))
                   for (first, second), (new_second, new_first) in zip(pairs, values)),
                 name='swap_averages')
    return train_op


def learning_rate_at(step, steps, peak, schedule='cosine', warmup=100):
    """Learning rate of a step: a linear rise, then a constant or half a cosine down to 0.

    Args:
        step: from 0.
        steps: of the whole run.
        peak: highest rate.
        schedule: 'cosine' (Loshchilov and Hutter, "SGDR", 2017) or 'constant'.
        warmup: steps of the rise.
    """
    rate = peak * min(1, (step + 1) / max(warmup, 1))
    if schedule == 'cosine':
        rate *= 0.5 * (1 + math.cos(math.pi * min(1, step / steps)))
    return rate


def initialize_new(sess):
    """Initialises the variables that hold no value yet, and leaves pretrained weights alone."""
    with sess.graph.as_default():
        variables = tf.global_variables()
        if variables:
            names = set(sess.run(tf.report_uninitialized_variables(variables)))
            sess.run([variable.initializer for variable in variables
                      if variable.op.name.encode() in names])


def train_nn(sess, epochs, batch_size, get_batches_fn, train_op, cross_entropy_loss, input_image,
             correct_label, keep_prob, learning_rate, *, keep_probability=0.5,
             schedule=lambda step: 1e-4, progress=None, steps_per_epoch=None, max_steps=math.inf,
             after_epoch=None, stopped=lambda: False):
    """Trains, and prints the loss of each epoch.

    Variables without a value are initialised first; a finalized graph is taken to be so.

    Args:
        sess: session.
        epochs: how many in all.
        batch_size: N, handed to `get_batches_fn`.
        get_batches_fn: function of the batch size that yields an epoch's (images, labels).
        train_op: operation or tensor that does one step.
        cross_entropy_loss: tensor [].
        input_image, correct_label, keep_prob, learning_rate: placeholders to feed.
        keep_probability: of the dropout, above 0, at most 1.
        schedule: function from the step's number, from 0, to its learning rate.
        progress: `Progress` to go on from and to keep up to date.
        steps_per_epoch: for the estimate of the time left.
        max_steps: end after so many steps in all.
        after_epoch: function of a dict (epoch, step, loss, learning_rate, seconds,
            images_per_second), called at the end of each epoch.
        stopped: function that says whether to end now, between two steps.

    Returns:
        `Progress`.

    Raises:
        InputError: the loss is not finite.
    """
    if not sess.graph.finalized:
        initialize_new(sess)
    progress = progress or Progress()
    bar = tqdm(total=steps_per_epoch and steps_per_epoch * epochs, initial=progress.step,
               unit='step', desc='training', dynamic_ncols=True, disable=None)
    with bar:
        while progress.epoch < epochs and not stopped() and progress.step < max_steps:
            began, images_seen, seconds_before = time.perf_counter(), 0, progress.seconds
            rate, elapsed = schedule(max(progress.step - 1, 0)), 0.0
            batches = itertools.islice(get_batches_fn(batch_size), progress.epoch_steps, None)
            for images, labels in batches:
                rate = schedule(progress.step)
                loss, _ = sess.run([cross_entropy_loss, train_op], {
                    input_image: images, correct_label: labels,
                    keep_prob: keep_probability, learning_rate: rate})
                if not np.isfinite(loss):
                    raise InputError(
                        f'the loss became {loss} in epoch {progress.epoch + 1}, step '
                        f'{progress.step + 1}; try a lower --learning-rate')
                images_seen += len(images)
                progress.step += 1
                progress.epoch_steps += 1
                progress.epoch_loss += float(loss)
                elapsed = time.perf_counter() - began
                progress.seconds = seconds_before + elapsed
                bar.update()
                bar.set_postfix_str(f'loss {loss:.4f}, {images_seen / elapsed:.2f} images/s',
                                    refresh=False)
                if stopped() or progress.step >= max_steps:
                    break
            if stopped():
                break
            progress.epoch += 1
            row = {'epoch': progress.epoch, 'step': progress.step,
                   'loss': progress.epoch_loss / max(progress.epoch_steps, 1),
                   'learning_rate': rate, 'seconds': progress.seconds,
                   'images_per_second': images_seen / max(elapsed, 1e-9)}
            progress.epoch_steps, progress.epoch_loss = 0, 0.0
            tqdm.write(f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, "
                       f"{row['images_per_second']:.2f} images/s")
            if after_epoch is not None:
                after_epoch(row)
    return progress


# The run --------------------------------------------------------------------------------------

def native_bfloat16():
    """Whether this CPU multiplies bfloat16 in hardware; where it doesn't, it is slower."""
    try:
        flags = Path('/proc/cpuinfo').read_text(encoding='ascii', errors='replace')
    except OSError:
        return False
    return 'avx512_bf16' in flags or 'amx_bf16' in flags


def describe_device():
    """Says on stdout what the network will run on, and warns where that is no GPU."""
    gpus = tf.config.list_physical_devices('GPU')
    if gpus:
        names = [tf.config.experimental.get_device_details(gpu).get('device_name', gpu.name)
                 for gpu in gpus]
        device = ', '.join(names)
        print(f'device: {device}' + ('; one of them is used' if len(gpus) > 1 else ''))
        return device
    device = f'CPU, {os.cpu_count()} cores'
    print(f'device: {device}\nwarning: no GPU was found; the expected time follows below',
          flush=True)
    if 'hugetlb' not in os.environ.get('GLIBC_TUNABLES', ''):
        print('hint: with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment, training '
              'on a Linux CPU is about a quarter faster')
    return device


def prepare_data(options):
    """Finds, draws or downloads the data and VGG16.

    Returns:
        (training pairs, validation pairs, number of test photographs, path of the graph).
    """
    data_dir = Path(options.data_dir)
    if options.demo:
        synthetic.write_kitti(data_dir)
        if not (data_dir / 'vgg').exists():
            vgg16.save(vgg16.random_weights(width_divisor=8, fc_width=128, fc_kernel=3),
                       vgg16.torch_input, data_dir / 'vgg')
        kitti = data_dir / 'data_road'
    else:
        kitti = helper.maybe_download_kitti(data_dir, strict=not options.own_data)
    pairs = helper.paired_paths(kitti / 'training')
    training, validation = helper.split_pairs(pairs, options.split)
    if not 1 <= options.batch_size <= len(training):
        raise InputError(f'--batch-size {options.batch_size} is not between 1 and the '
                         f'{len(training)} photographs to train on')
    tests = sorted((kitti / 'testing/image_2').glob('*.png'))
    for path in tests:      # now, not after the training
        helper.check_image(path)
    return training, validation, len(tests), helper.maybe_download_pretrained_vgg(data_dir)


class Training(NamedTuple):
    """What a training step is fed with and what it gives: tensors of the session's graph."""
    input_image: tf.Tensor          # float32 [N, H, W, 3], RGB 0-255
    correct_label: tf.Tensor        # bool [N, H, W, C], one-hot, all False where ignored
    keep_prob: tf.Tensor            # float32 []
    learning_rate: tf.Tensor        # float32 []
    logits: tf.Tensor               # float32 [pixels, C]
    train_op: tf.Operation
    cross_entropy_loss: tf.Tensor   # float32 []


def build(sess, vgg_path, options):
    """Builds network and training step in the session's graph.

    Returns:
        `Training`.
    """
    tf.set_random_seed(options.seed)
    input_image, keep_prob, layer3_out, layer4_out, layer7_out = load_vgg(sess, str(vgg_path))
    add_weight_decay(trained_variables(options.freeze_blocks), options.weight_decay)
    nn_last_layer = layers(layer3_out, layer4_out, layer7_out, NUM_CLASSES,
                           score_channels=options.score_channels,
                           weight_decay=options.weight_decay,
                           output_size=tf.shape(input_image)[1:3])
    correct_label = tf.placeholder(tf.bool, [None, None, None, NUM_CLASSES], 'correct_label')
    learning_rate = tf.placeholder(tf.float32, [], 'learning_rate')
    logits, train_op, cross_entropy_loss = optimize(
        nn_last_layer, correct_label, learning_rate, NUM_CLASSES, clip_norm=options.clip_norm,
        freeze_blocks=options.freeze_blocks, decoder_rate=options.decoder_rate,
        average_decay=options.average_decay)
    return Training(input_image, correct_label, keep_prob, learning_rate, logits, train_op,
                    cross_entropy_loss)


def run(options):
    """Trains as the options say, and writes the run folder.

    Args:
        options: namespace of `parse_args`.

    Returns:
        Path of the run folder.

    Raises:
        InputError: something that the user can put right.
        KeyboardInterrupt: Ctrl-C; a checkpoint has been written.
    """
    device = describe_device()
    training, validation, tests, vgg_path = prepare_data(options)
    steps_per_epoch = math.ceil(len(training) / options.batch_size)

    with tf.Graph().as_default() as graph, \
            tf.Session(config=checkpoints.session_config(options.precision)) as sess:
        net = build(sess, vgg_path, options)
        saver, shapes = tf.train.Saver(), preflight.layer_shapes(net.logits)
        initialize_new(sess)
        graph.finalize()        # from here on, adding an operation is an error

        progress = Progress()
        if options.resume:
            path, progress = checkpoints.restore(sess, saver, options.resume)
            print(f'going on from {path}')
        get_batches_fn = helper.gen_batch_function(
            None, options.image_size, pairs=training, num_classes=NUM_CLASSES, seed=options.seed,
            augment=partial(augment.distort, image_shape=options.image_size, flip=options.flip,
                            scale=options.scale, colour=options.colour),
            first_epoch=progress.epoch)
        samples = list(scoring.read_samples(validation))

        inference = {net.keep_prob: 1.0}
        cost = preflight.cost(sess, net.logits, shapes, net.input_image, options.image_size,
                              options.batch_size, trained_variables(options.freeze_blocks),
                              options.precision, inference)
        available = preflight.available_memory(sess)
        preflight.check(cost, options.batch_size, available)
        seconds = preflight.seconds_per_image(sess, net.logits, net.input_image,
                                              options.image_size, inference)
        images = len(training) * (options.epochs - progress.epoch)
        print(preflight.describe(cost, seconds, images, options.precision), flush=True)

        folder = options.resume or helper.new_run_folder(options.runs_dir)
        print(f'run folder: {folder}', flush=True)
        if not options.resume:
            write_json(folder / 'options.json', {
                'options': vars(options), 'device': device, **describe_software(),
                'data': {'training': len(training), 'validation': len(validation),
                         'testing': tests},
                'model': {'parameters': cost.parameters,
                          'gflop_per_image': round(cost.gflop_per_image, 2)}})
        network = scoring.Network(sess, net.logits, net.keep_prob, net.input_image,
                                  options.image_size, options.test_scale, options.flip_test)
        watch = Watch(folder, saver, progress, network, samples, options.split)
        with interruptible() as stopped, \
                preflight.advising(cost, options.batch_size, available):
            train_nn(sess, options.epochs, options.batch_size, get_batches_fn, net.train_op,
                     net.cross_entropy_loss, net.input_image, net.correct_label, net.keep_prob,
                     net.learning_rate, keep_probability=options.keep_prob,
                     schedule=partial(learning_rate_at, peak=options.learning_rate,
                                      steps=steps_per_epoch * options.epochs,
                                      schedule=options.schedule, warmup=options.warmup),
                     progress=progress, steps_per_epoch=steps_per_epoch,
                     max_steps=options.max_steps or math.inf, after_epoch=watch.after_epoch,
                     stopped=stopped)
            if stopped():
                raise KeyboardInterrupt(f'stopped; saved {watch.save()}; go on with '
                                        f'python main.py --resume {folder}')
        watch.finish(options.data_dir)
    return folder


def add_weight_decay(variables, weight_decay):
    """Adds the L2 loss of the kernels among the variables to the regularization losses."""
    for variable in variables:
        if variable.shape.ndims == 4:
            tf.add_to_collection(tf.GraphKeys.REGULARIZATION_LOSSES,
                                 l2_regularizer(weight_decay)(variable))


@contextmanager
def interruptible():
    """Ctrl-C asks the training to end between two steps; a second one ends it at once.

    Yields:
        Function that says whether Ctrl-C was pressed.
    """
    pressed = []

    def handler(number, frame):
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


# The command line -----------------------------------------------------------------------------

def image_size(text):
    """'160x576' -> (160, 576)."""
    parts = text.lower().split('x')
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not two positive numbers HxW, such as 160x576")
    return int(parts[0]), int(parts[1])


def number(kind, low, high=math.inf):
    """Returns a converter to a `kind`, int or float, from `low` to `high`."""
    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            what = {int: 'a whole number', float: 'a number'}[kind]
            raise argparse.ArgumentTypeError(
                f"'{text}' is not {what} " + (f'from {low:g} to {high:g}' if high < math.inf
                                              else f'of at least {low:g}'))
        return value
    return convert


def factors(text):
    """'1,1.3' -> [1.0, 1.3], each at least 0.1."""
    return [number(float, 0.1)(part) for part in text.split(',')]


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message):
        self.exit(2, f'error: {message}; see {self.prog} --help\n')


def build_parser():
    """Options and their defaults. Those that matter for the result were measured: see README."""
    parser = Parser(
        prog='main.py', formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description='Trains FCN-8s on KITTI Road and writes labelled overlays. The defaults are '
                    'the recipe of the README\'s results table.',
        epilog='The run folder shows it all: open runs/<date-time>/index.html.')
    add = parser.add_argument_group('what to run').add_argument
    add('--demo', action='store_true',
        help='draw road scenes and train a narrow network on them: nothing to download, two '
             'minutes on a CPU')
    add('--resume', type=Path, metavar='RUN', default=None,
        help='go on with this run from its last checkpoint, with its options')
    add('--data-dir', default='data', metavar='DIR',
        help='holds data_road/ and vgg/, or gets them by download; given by hand, it may hold '
             'fewer files than KITTI Road')
    add('--runs-dir', default='runs', metavar='DIR', help='where the run folder is made')
    add('--split', default='val3',
        help="photographs to hold out: val3 (KittiSeg's); search, to choose options by (val3 is "
             'not trained on either); kfold:K:I; none')

    add = parser.add_argument_group('network and training').add_argument
    add('--image-size', type=image_size, metavar='HxW', default=(192, 640),
        help='size of the photographs in training')
    add('--test-scale', type=factors, default='1', metavar='FACTOR[,FACTOR...]',
        help='predict at this size relative to that of the training; of several, the mean')
    add('--epochs', type=number(int, 1), default=10, help='passes over the photographs')
    add('--batch-size', type=number(int, 1), default=1, help='photographs a step')
    add('--learning-rate', type=number(float, 0), default=1e-4, help="Adam's, at its highest")
    add('--decoder-rate', type=number(float, 0), default=10.0, metavar='FACTOR',
        help="of the decoder's learning rate")
    add('--score-channels', type=number(int, 0), default=32, metavar='K',
        help="channels of the decoder's scores; 0 for one per class, as in the paper")
    add('--schedule', choices=('cosine', 'constant'), default='cosine',
        help='of the learning rate, after the warm-up')
    add('--warmup', type=number(int, 0), default=100, metavar='STEPS',
        help='steps of linear rise to the learning rate')
    add('--keep-prob', type=number(float, 0.01, 1), default=0.5,
        help='probability that dropout keeps an activation of fc6 and fc7')
    add('--weight-decay', type=number(float, 0), default=5e-5, help='factor of the L2 loss')
    add('--clip-norm', type=number(float, 1e-6), default=1.0,
        help="upper bound of the gradient's norm")
    add('--freeze-blocks', type=number(int, 0, 5), default=2,
        help="leave VGG16's first blocks as they are")
    add('--average-decay', type=number(float, 0, 0.99999), default=0.99,
        help='validate and save moving averages of the weights; 0 for none')
    add('--flip', action=argparse.BooleanOptionalAction, default=True,
        help='mirror every second photograph')
    add('--scale', type=number(float, 0), default=0.3, metavar='S',
        help='zoom photographs by 1/(1+S/2) to 1+S')
    add('--colour', type=number(float, 0, 1), default=0.3, metavar='S',
        help='change brightness, saturation and contrast by up to this share')
    add('--flip-test', action=argparse.BooleanOptionalAction, default=False,
        help='predict as the mean over a photograph and its mirror image, at twice the time')

    add = parser.add_argument_group('machine').add_argument
    add('--precision', choices=('float32', 'bfloat16'),
        default='bfloat16' if native_bfloat16() else 'float32',
        help='of convolutions on a CPU; the default is bfloat16 where the CPU has it in hardware')
    add('--seed', type=number(int, 0), default=0, help='of initial values, order and augmentation')
    add('--max-steps', type=number(int, 1), default=None, metavar='STEPS',
        help='end after so many steps, to try things out')
    return parser


def parse_args(argv=None):
    """Reads the command line.

    Args:
        argv: list of str; by default, that of the process.

    Returns:
        Namespace of the options, and `own_data`: whether --data-dir was given.
    """
    parser = build_parser()
    first = parser.parse_args(argv)
    if first.demo:
        parser.set_defaults(**DEMO)
    options = parser.parse_args(argv)
    given = given_options(argv)
    options.own_data = 'data_dir' in given
    if options.resume:
        options = resumed_options(options.resume, given)
    return options


def given_options(argv):
    """Returns a dict of just those options that stand on the command line."""
    parser = build_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(argv))


def resumed_options(folder, given):
    """Returns the options of an earlier run, to go on with.

    Only where things lie, --data-dir, may have changed since.

    Raises:
        InputError: the folder is no run's, or an option in `given` contradicts it.
    """
    saved = read_options(folder)
    saved['image_size'] = tuple(saved['image_size'])
    places = {'resume': folder, 'data_dir': given.get('data_dir', saved['data_dir'])}
    contradicting = [
        f"--{name.replace('_', '-')} is {value}, was {saved.get(name)}"
        for name, value in given.items() if name not in places and saved.get(name) != value]
    if contradicting:
        raise InputError(f'{folder} was started with other options: '
                         + '; '.join(contradicting) + '; leave them out, or start a new run')
    return argparse.Namespace(**{**saved, **places})


def main(argv=None):
    """Runs the command. Returns the exit code: 0, 2 for an input error, 130 after Ctrl-C."""
    tf.logging.set_verbosity(tf.logging.ERROR)      # SavedModel's loader is called deprecated
    try:
        folder = run(parse_args(argv))
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(error, file=sys.stderr)
        return 130
    print(f'overlays: {folder}/overlays    open {folder}/index.html')
    return 0


if __name__ == '__main__':
    sys.exit(main())
