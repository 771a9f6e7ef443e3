"""FCN-8s on KITTI Road, from the frozen VGG16 graph to labelled overlays.

    python main.py --demo       drawn road scenes, nothing to download, two minutes on a CPU
    python main.py              KITTI Road
    python main.py --help       other data sets, SegNet, and every option

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", 2015.
"""
if __name__ == '__main__':      # before the imports, which take seconds
    from roadseg.training import startup
    startup.prepare()
import math
import sys
import time
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
import numpy as np
import tensorflow.compat.v1 as tf
from google.protobuf.message import DecodeError
from tqdm import tqdm

import helper
from roadseg.commands import run_command
from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError
from roadseg.files import check_writable
from roadseg.inference import Network, averaged_weights
from roadseg.networks import segnet
from roadseg.networks.encoder import check_layers, draw_new_kernels
from roadseg.signals import stopping
from roadseg.tf_errors import as_os_error, explain_gpu, naming_lack_of_memory
from roadseg.tf_paths import literal
from roadseg.training import (checkpoints, device, loss_scale, pipeline, preflight, start_from,
                              unlabelled, update, workers)
from roadseg.training.held_out import HeldOut
from roadseg.training.options import parse_args
from roadseg.training.recorder import Recorder
from roadseg.training.run_folder import Progress, locked, start_run
from roadseg.training.schedule import learning_rate_at
from roadseg.training.setting import settle
from roadseg.training.variables import (add_weight_decay, behind, initialize_new, l2_regularizer,
                                        trained_variables)
from roadseg.training.workers import SEED_STEP, Workers


# The network ----------------------------------------------------------------------------------

def load_vgg(sess, vgg_path, image=None):
    """Loads the frozen FCN-VGG16 graph into the session's graph, weights included.

    Args:
        sess: session.
        vgg_path: folder of a SavedModel with the tag 'vgg16'.
        image: float32 tensor [N, H, W, 3] to use in the place of the graph's placeholder.

    Returns:
        Tensors (image_input [N, H, W, 3] RGB 0-255, keep_prob [],
        layer3_out [N, H/8, W/8, D3], layer4_out [N, H/16, W/16, D4],
        layer7_out [N, H/32, W/32, D7]), float32; the sizes are rounded up. With `image`, the first
        is connected to nothing.

    Raises:
        InputError: the folder is no SavedModel, or lacks the tag or a tensor; or there is too
            little memory.
    """
    try:
        with literal(vgg_path) as folder, naming_lack_of_memory(f'{vgg_path} was loaded'):
            # the path just as given, as the course's test compares it, unless `literal` made a link
            given = str(vgg_path) if folder == Path(vgg_path) else str(folder)
            tf.saved_model.loader.load(sess, ['vgg16'], given,
                                       **({} if image is None else
                                          {'input_map': {'image_input:0': image}}))
    except (OSError, RuntimeError, ValueError, KeyError, DecodeError, tf.errors.OpError) as error:
        if isinstance(error, tf.errors.OpError):
            explain_gpu(error)
            error = as_os_error(error)      # whose text begins with the reason
        reason = str(getattr(error, 'strerror', None) or error).strip() or repr(error)
        raise InputError(f"{vgg_path} holds no frozen graph with the tag 'vgg16' "
                         f'({reason.splitlines()[0]}); move it away to fetch it anew, or see '
                         '`python -m roadseg.networks.vgg16`') from error
    names = ('image_input', 'keep_prob', 'layer3_out', 'layer4_out', 'layer7_out')
    try:
        return tuple(sess.graph.get_tensor_by_name(name + ':0') for name in names)
    except KeyError as error:
        raise InputError(f'the graph in {vgg_path} lacks a tensor that the decoder is built '
                         f'on: {error.args[0]}') from error


def bilinear_kernel(size, channels):
    """Kernel of a transposed convolution that upsamples each channel bilinearly.

    Args:
        size: rows and columns, twice the upsampling factor.
        channels: C.

    Returns:
        float32 ndarray [size, size, C, C].
    """
    ramp = 1 - abs(np.arange(size) - (size - 1) / 2) / (size // 2)
    return np.float32(np.multiply.outer(np.outer(ramp, ramp), np.eye(channels)))


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

    def upsample(inputs, kernel, size, name):       # named by how much finer than layer 7 it is
        factor, depth = kernel.shape[0] // 2, kernel.shape[2]
        with tf.variable_scope(name):
            kernel = tf.get_variable('kernel', initializer=kernel, regularizer=regularizer)
            # Outside its input, a transposed convolution sees zeros, and fades towards them:
            # repeat the border first, and cut what comes of it, or of an odd size, afterwards.
            inputs = tf.pad(inputs, [[0, 0], [1, 1], [1, 1], [0, 0]], 'SYMMETRIC')
            batch, height, width = tf.unstack(tf.shape(inputs)[:3])
            outputs = tf.nn.conv2d_transpose(
                inputs, kernel, [batch, factor * height, factor * width, depth], factor, 'SAME')
            outputs = outputs[:, factor:factor + size[0], factor:factor + size[1]]
            outputs.set_shape([None, None, None, depth])
            return outputs

    size3, size4 = tf.shape(vgg_layer3_out)[1:3], tf.shape(vgg_layer4_out)[1:3]
    with tf.variable_scope('decoder'):
        score7 = score(vgg_layer7_out, 'score7')                # [N, H/32, W/32, K]
        score4 = score(1e-2 * vgg_layer4_out, 'score4')         # [N, H/16, W/16, K]
        score3 = score(1e-4 * vgg_layer3_out, 'score3')         # [N, H/8, W/8, K]
        fused4 = upsample(score7, bilinear_kernel(4, channels), size4, 'upsample2') + score4
        fused3 = upsample(fused4, bilinear_kernel(4, channels), size3, 'upsample4') + score3
        if score_channels:
            fused3 = tf.nn.relu(fused3)
            last = bilinear_kernel(16, 1) * tf.random.normal(
                [num_classes, channels], stddev=(2 * channels) ** -0.5)
        else:
            last = bilinear_kernel(16, num_classes)
        return upsample(fused3, last, 8 * size3 if output_size is None else output_size,
                        'upsample32')


# Training -------------------------------------------------------------------------------------

def optimize(nn_last_layer, correct_label, learning_rate, num_classes, *, clip_norm=None,
             class_weights=None, freeze_blocks=0, decoder_rate=1.0, average_decay=0.0,
             train='all', scale_loss=False, team=Workers()):
    """The loss and one step of Adam that lowers it and the regularization losses.

    Args:
        nn_last_layer: float32 tensor [N, H, W, C].
        correct_label: tensor [N, H, W, C] of any dtype, one-hot; a pixel whose row is all
            zero is ignored.
        learning_rate: float32 tensor [].
        num_classes: C.
        clip_norm: upper bound of the gradient's global norm; None leaves it as it is.
        class_weights: float32 ndarray [C], factors of the classes' pixels in the loss; None
            for 1 each.
        freeze_blocks: the first blocks of the encoder, 0-5, whose weights are left as they are.
        decoder_rate: factor of the learning rate of what `layers` creates. Adam's steps are as
            small as the learning rate whatever the gradient's size, so that weights which see
            the scaled pools 3 and 4 would take an age to matter.
        average_decay: decay of the moving averages of the weights, 0 for none. The operation
            'swap_averages' exchanges weights and averages.
        train, scale_loss: see `trained_variables` and `loss_scale.scaled_gradients`.
        team: the workers, each with a batch of its own; loss and gradient are those of all.

    Returns:
        (logits [pixels, C], train_op, cross_entropy_loss []): the loss is the mean over the
        pixels that are not ignored, weighted by class, without the regularization losses.
    """
    logits = tf.reshape(nn_last_layer, [-1, num_classes], name='logits')
    labels = tf.cast(tf.reshape(correct_label, [-1, num_classes]), tf.float32)
    cross_entropy = tf.nn.softmax_cross_entropy_with_logits_v2(labels=labels, logits=logits)
    # An all-zero row has cross entropy 0 but the gradient softmax(logits): its weight is 0.
    of_classes = 1.0 if class_weights is None else class_weights
    pixel_weights = tf.reduce_sum(of_classes * labels, axis=1)
    total_weight = tf.reduce_sum(pixel_weights)
    loss = tf.reduce_sum(pixel_weights * cross_entropy) / tf.maximum(total_weight, 1.0)
    loss *= team.share(total_weight)        # 1, where a worker is alone
    cross_entropy_loss = tf.identity(*team.sum([loss]), name='loss')

    variables = trained_variables(freeze_blocks, train)
    total_loss = loss + tf.losses.get_regularization_loss() / team.count
    variables = behind(total_loss, variables)     # SegNet leaves fc6 and fc7 aside
    gradients, finite = loss_scale.scaled_gradients(total_loss, variables, scale_loss, team.sum)
    # All of them before the first kernel changes: the course's VGG16 changes in place, and what
    # still had to be carried back through that kernel would be spoilt.
    gradients = tf.tuple(gradients)
    if clip_norm is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
    train_op = update.adam_step(gradients, variables, learning_rate, decoder_rate, average_decay,
                                finite)
    return logits, train_op, cross_entropy_loss


def train_nn(sess, epochs, batch_size, get_batches_fn, train_op, cross_entropy_loss, input_image,
             correct_label, keep_prob, learning_rate, *, keep_probability=0.5,
             schedule=lambda step: 1e-4, progress=None, steps_per_epoch=None, max_steps=math.inf,
             after_step=None, after_epoch=None, stopped=lambda: False, feed=None, workers=1):
    """Trains, and prints the loss of each epoch.

    Variables without a value are initialised first; a finalized graph is taken to be so.

    Args:
        sess: session.
        epochs: how many in all.
        batch_size: N, handed to `get_batches_fn`.
        get_batches_fn: function of the batch size that yields an epoch's (images, labels); to go
            on in the middle of an epoch, it is given the number of the first batch, too.
        train_op: operation or tensor that does one step.
        cross_entropy_loss: tensor [].
        input_image, correct_label, keep_prob, learning_rate: placeholders to feed.
        keep_probability: of the dropout, above 0, at most 1.
        schedule: function from the step's number, from 0, to its learning rate.
        progress: `Progress` to go on from and to keep up to date.
        steps_per_epoch: for the estimate of the time left.
        max_steps: end after so many steps in all.
        after_step: function, called between two steps.
        after_epoch: function of a dict (epoch, step, loss, learning_rate, seconds,
            images_per_second), called at the end of each epoch.
        stopped: function that says whether to end now, between two steps. With several workers,
            each asks equally often, as all of them wait in it.
        feed: dict from further tensors to what they are fed with in every step.
        workers: how many take such a batch in each step, which images_per_second counts.

    Returns:
        `Progress`.

    Raises:
        InputError: the loss is not finite.
    """
    if not sess.graph.finalized:
        initialize_new(sess)
    progress = progress or Progress()
    bar = tqdm(total=steps_per_epoch and min(steps_per_epoch * epochs, max_steps),
               initial=progress.step, unit='step', desc='training', dynamic_ncols=True,
               disable=None)
    with bar:
        while progress.epoch < epochs and not stopped() and progress.step < max_steps:
            began, images_seen, seconds_before = time.perf_counter(), 0, progress.seconds
            rate, elapsed = schedule(max(progress.step - 1, 0)), 0.0
            # an epoch that was interrupted goes on in its middle
            middle = (progress.epoch_steps,) if progress.epoch_steps else ()
            for images, labels in get_batches_fn(batch_size, *middle):
                rate = schedule(progress.step)
                loss, _ = sess.run([cross_entropy_loss, train_op], {
                    input_image: images, correct_label: labels,
                    keep_prob: keep_probability, learning_rate: rate, **(feed or {})})
                if not np.isfinite(loss):
                    raise InputError(
                        f'the loss became {loss} in epoch {progress.epoch + 1}, step '
                        f'{progress.step + 1}; try a lower --learning-rate')
                images_seen += workers * len(images)
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
                if after_step is not None:
                    after_step()
            if stopped() and progress.step < max_steps:
                break
            row = progress.end_epoch(rate, images_seen / elapsed if images_seen else None)
            tqdm.write(preflight.describe_epoch(row, epochs, max_steps))
            if after_epoch is not None:
                after_epoch(row)
    return progress


# The run --------------------------------------------------------------------------------------

class Training(NamedTuple):
    """What a training step is fed with and what it gives: tensors of the session's graph."""
    input_image: tf.Tensor          # uint8 [N, H, W, 3], RGB
    classes: tf.Tensor              # uint8 [N, H, W], class numbers; 255 is ignored
    keep_prob: tf.Tensor            # float32 []
    learning_rate: tf.Tensor        # float32 []
    feed: dict                      # from further tensors to what every step feeds them with
    logits: tf.Tensor               # float32 [pixels, C]
    train_op: object                # operation or tensor
    cross_entropy_loss: tf.Tensor   # float32 []


def build(sess, encoder, num_classes, options, class_weights=None, team=Workers(),
          scale_loss=False):
    """Builds network and training step in the session's graph.

    Args:
        sess: session.
        encoder: path of the frozen graph.
        num_classes: C.
        options: namespace of `parse_args`.
        class_weights, team, scale_loss: see `optimize`.

    Returns:
        `Training`.

    Raises:
        InputError: see `load_vgg` and `check_layers`; a graph that lacks what SegNet
            unpools with.
    """
    tf.set_random_seed(options.seed)
    input_image = tf.placeholder(tf.uint8, [None, None, None, 3], 'photographs')
    _, keep_prob, layer3_out, layer4_out, layer7_out = load_vgg(
        sess, encoder, tf.cast(input_image, tf.float32))
    check_layers(sess, encoder, input_image, keep_prob, [layer3_out, layer4_out, layer7_out])
    feed = {seed: value + SEED_STEP * team.index        # dropout differs by worker
            for seed, value in draw_new_kernels(sess, options.seed).items()}
    # Before the decoder is built: its kernels bring their own weight decay.
    of_encoder = trained_variables(options.freeze_blocks, options.train)
    image_shape = tf.shape(input_image)[1:3]
    nothing = tf.constant(IGNORED, tf.uint8, [1, 1, 1])     # where no training step is made
    classes = tf.placeholder_with_default(nothing, [None, None, None], 'classes')
    if options.model == 'segnet':
        is_training = tf.placeholder_with_default(False, [], 'is_training')
        feed[is_training] = True
        nn_last_layer = segnet.layers(segnet.pool_inputs(layer7_out), num_classes, is_training,
                                      weight_decay=options.weight_decay, output_size=image_shape,
                                      reduce_mean=team.mean_by_labels(classes))
    else:
        nn_last_layer = layers(layer3_out, layer4_out, layer7_out, num_classes,
                               score_channels=options.score_channels,
                               weight_decay=options.weight_decay, output_size=image_shape)
    add_weight_decay(behind(nn_last_layer, of_encoder), options.weight_decay)
    learning_rate = tf.placeholder(tf.float32, [], 'learning_rate')
    logits, train_op, cross_entropy_loss = optimize(
        nn_last_layer, tf.one_hot(classes, num_classes), learning_rate, num_classes,
        clip_norm=options.clip_norm, class_weights=class_weights,
        freeze_blocks=options.freeze_blocks, decoder_rate=options.decoder_rate,
        average_decay=options.average_decay, train=options.train, scale_loss=scale_loss, team=team)
    return Training(input_image, classes, keep_prob, learning_rate, feed, logits, train_op,
                    cross_entropy_loss)


def run(options):
    """Trains as the options say, and writes the run folder.

    Args:
        options: namespace of `parse_args`; a run to resume is `locked`. What was left to the
            machine and the data is filled in: precision, xla, split, batch size, image size.

    Returns:
        Path of the run folder; on workers that do not keep it, of the folder of the runs.

    Raises:
        InputError: something that the user can put right.
        KeyboardInterrupt: Ctrl-C or a request to end; a checkpoint has been written.
    """
    team = workers.join()
    if team.is_first and not options.resume:
        check_writable(Path(options.runs_dir, 'run'))
    setting = settle(options, team)
    hardware, dataset, training, validation, encoder, class_weights, scale_loss = setting

    with ExitStack() as pseudo_labels, tf.Graph().as_default() as graph, \
            team.session(device.session_config(options.precision, options.xla)) as sess:
        net = build(sess, encoder, len(dataset.classes), options, class_weights, team, scale_loss)
        saver = checkpoints.make_saver()
        team.prepare()
        initialize_new(sess)
        graph.finalize()        # from here on, adding an operation is an error

        progress, origin = start_from.begin(
            sess, saver, options, start_from.not_trained_on(dataset, training))
        with team.naming_lost():
            team.agree(sess, progress, options, dataset, [*training, *validation], encoder)
        cost, seconds, available = preflight.estimate(
            sess, net, trained_variables(options.freeze_blocks, options.train), options, team)
        # may take hours: not before all else is known to work
        lesson = pseudo_labels.enter_context(unlabelled.lesson(options, dataset, training))
        steps_per_epoch = math.ceil(lesson.per_epoch / (options.batch_size * team.count))
        last_step = min(steps_per_epoch * options.epochs, options.max_steps or math.inf)
        print(preflight.describe(cost, seconds, options.batch_size * max(
            last_step - progress.step, 0), options.precision, team.count), flush=True)
        cache = pipeline.Cache(pipeline.cache_bytes(options.cache_gb, team.count_here,
                                                    0 if hardware.is_gpu else cost.at_most))
        get_batches_fn = pipeline.training_batches(lesson, options, cache, progress.epoch,
                                                   (team.index, team.count))

        # nothing happens before it is entered
        keeping = start_run(options, setting, cost,
                            lambda new: checkpoints.save(sess, saver, new, progress),
                            lesson, origin, team.count)
        with keeping if team.is_first else nullcontext(Path(options.runs_dir)) as folder:
            network = Network(sess, net.logits, net.keep_prob, net.input_image,
                              options.image_size, options.test_scale, options.flip_test)
            with checkpoints.writing(sess, saver, folder) as writer, team.naming_lost(), \
                    stopping() as asked, \
                    preflight.advising(cost, options.batch_size, available):
                def stopped():
                    return team.any(sess, asked())

                held_out = HeldOut(network, dataset, validation, asked, team, cache)
                recorder = (Recorder(held_out, folder, writer, progress, options)
                            if team.is_first else workers.Bystander(held_out))
                recorder.catch_up()
                train_nn(sess, options.epochs, options.batch_size, get_batches_fn, net.train_op,
                         net.cross_entropy_loss, net.input_image, net.classes, net.keep_prob,
                         net.learning_rate, keep_probability=options.keep_prob,
                         schedule=partial(learning_rate_at, peak=options.learning_rate,
                                          steps=steps_per_epoch * options.epochs,
                                          schedule=options.schedule, warmup=options.warmup),
                         progress=progress, steps_per_epoch=steps_per_epoch,
                         max_steps=options.max_steps or math.inf,
                         after_step=recorder.after_step, after_epoch=recorder.after_epoch,
                         stopped=stopped, feed=net.feed, workers=team.count)
                if stopped():
                    team.part()
                    recorder.stop()
            with averaged_weights(sess):
                recorder.score_last()
                if dataset.tests and team.is_first:
                    helper.write_overlays(folder / 'overlays', helper.overlays(
                        network, dataset.tests, dataset.measures, dataset.palette))
            recorder.finish()
        team.finish(sess)
    return folder


def main(argv=None):
    """The command: trains, and says where the result is; raises as `run` does."""
    options, is_first = parse_args(argv), workers.join().is_first
    with locked(options.resume if is_first else None):
        folder = unlabelled.rounds(run, options)
    if is_first:        # which has the run folder
        overlays = f'overlays: {folder}/overlays    ' if (folder / 'overlays').is_dir() else ''
        print(f'{overlays}open {folder}/index.html')


if __name__ == '__main__':
    sys.exit(run_command(main))
