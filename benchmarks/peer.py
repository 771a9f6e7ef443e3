"""The same FCN-8s in PyTorch, Keras and this project, each as a process that steps when asked.

For `benchmarks/train.py` and `benchmarks/infer.py` only. All have VGG16's 13 convolutions, context
layers of 512 channels, 32 score channels, two frozen blocks, Adam, a clipped gradient, L2 and
moving averages of the weights. PyTorch is tuned: fused Adam, `foreach` averages, channels_last
where asked, `torch.compile` where asked, with constant weights in a prediction, autocast for
bfloat16. Keras runs on TensorFlow with oneDNN, without which it has no gradient of its dilated
convolutions, mixed precision for bfloat16, and without XLA, whose convolutions are slower on a CPU.
The machine's peak, 'peak', is what PyTorch's product of two large matrices reaches.
"""
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
CLASSES = 2
SIDE = 4096         # of the matrices whose product tells the machine's peak
BLOCKS = (64, 2), (128, 2), (256, 3), (512, 3), (512, 3)        # VGG16: channels, convolutions
FROZEN = 2          # of them, the first ones


def work(image_shape, training):
    """Operations of an image: forward; in training thrice from the first trained block on.

    Of the first trained convolution twice, as nobody asks for the gradient of its input.
    """
    pixels, inputs, operations = image_shape[0] * image_shape[1], 3, 0
    for block, (width, depth) in enumerate(BLOCKS):
        for place in range(depth):
            trained, first = training and block >= FROZEN, (block, place) == (FROZEN, 0)
            passes = 1 if not trained else 2 if first else 3
            operations += 2 * passes * pixels / 4 ** block * 9 * inputs * width
            inputs = width
    top = pixels / 4 ** len(BLOCKS) * (3 * 9 * 512 * 256 + 1024 * 512)
    return operations + 2 * (3 if training else 1) * top


def serve(step):
    """Does a step for each line that comes in, and answers with its seconds."""
    for _ in range(2):          # planning and warming up
        step()
    print('ready', flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        print(time.perf_counter() - began, flush=True)


def batch(size, image_shape):
    """A batch of noise: (images uint8 [N, H, W, 3], classes uint8 [N, H, W])."""
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (size, *image_shape, 3), np.uint8),
            rng.integers(0, CLASSES, (size, *image_shape), np.uint8))


def ours(encoder, size, image_shape, precision, training):
    """This project's step, as a function."""
    from roadseg.training import processor
    if training and precision == 'float32':     # as main.py; without oneDNN, no bfloat16
        processor.choose_convolutions()
    import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
    import tensorflow.compat.v1 as tf
    import main
    from roadseg.inference import Network
    from roadseg.inference_graph import with_constants
    from roadseg.training import device
    options = main.parse_args(['--freeze-blocks', str(FROZEN), '--precision', precision])
    with tf.Graph().as_default():
        sess = tf.Session(config=device.session_config(precision))
        net = main.build(sess, encoder, CLASSES, options)
        main.initialize_new(sess)
    sess.graph.finalize()
    images, classes = batch(size, image_shape)
    if not training:
        network = with_constants(Network(sess, net.logits, net.keep_prob, net.input_image,
                                         image_shape), device.session_config(precision))
        return lambda: network.sess.run(network.logits, {network.input_image: images,
                                                         network.keep_prob: 1.0})
    feed = {net.input_image: images, net.classes: classes, net.keep_prob: 0.5,
            net.learning_rate: 1e-4, **net.feed}
    return lambda: sess.run([net.cross_entropy_loss, net.train_op], feed)


def peak(precision):
    """A product of two large matrices, as a function: 2 x `SIDE` ^ 3 operations."""
    import torch
    left, right = torch.randn(2, SIDE, SIDE).to(getattr(torch, precision))
    return lambda: left @ right


def torch_peer(size, image_shape, precision, training, channels_last, compiled):
    """PyTorch's step, as a function."""
    import torch
    from torch import nn
    from torch.nn import functional as nnf

    def up(channels, out, factor):
        return nn.ConvTranspose2d(channels, out, 2 * factor, factor, factor // 2, bias=False)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, inputs = nn.ModuleList(), 3
            for width, depth in BLOCKS:
                layers = []
                for _ in range(depth):
                    layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
                    inputs = width
                self.blocks.append(nn.Sequential(*layers))
            self.near = nn.ModuleList(nn.Conv2d(512, 256, 3, padding=d, dilation=d)
                                      for d in (1, 2, 4))
            self.mean, self.fc7 = nn.Conv2d(512, 256, 1), nn.Conv2d(1024, 512, 1)
            self.scores = nn.ModuleList(nn.Conv2d(width, 32, 1) for width in (512, 512, 256))
            self.up2, self.up4, self.up32 = up(32, 32, 2), up(32, 32, 2), up(32, CLASSES, 8)

        def upsample(self, layer, x, like):
            factor = layer.stride[0]
            if compiled:        # the gradient of the other form fails there, as of PyTorch 2.13
                x = torch.cat([x[..., :1], x, x[..., -1:]], -1)
                x = torch.cat([x[..., :1, :], x, x[..., -1:, :]], -2)
            else:
                x = nnf.pad(x, (1, 1, 1, 1), mode='replicate')
            x = layer(x)
            return x[..., factor:factor + like[0], factor:factor + like[1]]

        def forward(self, x):
            pools = []
            for block in self.blocks:
                x = nnf.max_pool2d(block(x), 2, ceil_mode=True)
                pools.append(x)
            image = nnf.relu(self.mean(x.mean((2, 3), keepdim=True))).expand(-1, -1, *x.shape[2:])
            x = torch.cat([*(nnf.relu(near(x)) for near in self.near), image], 1)
            x = nnf.dropout(x, 0.5, self.training)
            x = nnf.dropout(nnf.relu(self.fc7(x)), 0.5, self.training)
            score7, score4, score3 = (score(value) for score, value in zip(
                self.scores, (x, 0.58 * pools[3], 0.0058 * pools[2])))
            x = self.upsample(self.up2, score7, score4.shape[2:]) + score4
            x = nnf.relu(self.upsample(self.up4, x, score3.shape[2:]) + score3)
            return self.upsample(self.up32, x, image_shape)

    net = Net().train(training)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    for block in net.blocks[:FROZEN]:
        block.requires_grad_(False)
    images, classes = batch(size, image_shape)
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images, classes = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(classes).long()
    if compiled:
        from torch._inductor import config
        config.freezing = not training
    network = torch.compile(net) if compiled else net
    autocast = torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bfloat16')

    def forward():
        with autocast:
            x = (images.float() / 255 - mean) / deviation
            if channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            return network(x)

    if not training:
        def infer():
            with torch.inference_mode():
                return forward()
        return infer
    trained = [p for p in net.parameters() if p.requires_grad]
    averages = [p.detach().clone() for p in trained]
    adam = torch.optim.Adam(trained, 1e-4, fused=True)

    def step():
        loss = nnf.cross_entropy(forward().float(), classes)
        decay = sum(p.square().sum() for p in trained if p.ndim == 4)
        adam.zero_grad(set_to_none=True)
        (loss + 2.5e-5 * decay).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, trained, 0.01)
        return float(loss.detach())

    return step


def keras_peer(size, image_shape, precision, training):
    """Keras' step, as a function."""
    import os
    os.environ['KERAS_BACKEND'], os.environ['TF_ENABLE_ONEDNN_OPTS'] = 'tensorflow', '1'
    import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
    import keras
    from keras import layers, ops
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy('mixed_bfloat16' if precision == 'bfloat16' else 'float32')
    decay = keras.regularizers.L2(2.5e-5)

    def conv(x, width, kernel=3, activation='relu', trainable=True, **options):
        return layers.Conv2D(width, kernel, padding='same', activation=activation,
                             kernel_regularizer=decay if trainable else None,
                             trainable=trainable, **options)(x)

    def up(x, width, factor, height_width):
        x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode='symmetric')
        x = layers.Conv2DTranspose(width, 2 * factor, factor, padding='same', use_bias=False,
                                   kernel_regularizer=decay)(x)
        return x[:, factor:factor + height_width[0], factor:factor + height_width[1]]

    photographs = keras.Input((*image_shape, 3), dtype='uint8')
    x = layers.Normalization(mean=[123.675, 116.28, 103.53],
                             variance=[58.395 ** 2, 57.12 ** 2, 57.375 ** 2])(
        ops.cast(photographs, 'float32'))
    pools = []
    for block, (width, depth) in enumerate(BLOCKS):
        for _ in range(depth):
            x = conv(x, width, trainable=block >= FROZEN)
        x = layers.MaxPooling2D(2, padding='same')(x)
        pools.append(x)
    mean = conv(ops.mean(x, axis=(1, 2), keepdims=True), 256, 1)
    x = layers.Concatenate()([*(conv(x, 256, dilation_rate=d) for d in (1, 2, 4)),
                              ops.tile(mean, [1, *x.shape[1:3], 1])])
    x = layers.Dropout(0.5)(conv(layers.Dropout(0.5)(x), 512, 1))
    score7, score4, score3 = (conv(value, 32, 1, None)
                              for value in (x, 0.58 * pools[3], 0.0058 * pools[2]))
    x = up(score7, 32, 2, score4.shape[1:3]) + score4
    x = ops.relu(up(x, 32, 2, score3.shape[1:3]) + score3)
    logits = layers.Activation('linear', dtype='float32')(up(x, CLASSES, 8, image_shape))
    net = keras.Model(photographs, logits)
    images, classes = batch(size, image_shape)
    if not training:
        return lambda: net.predict_on_batch(images)
    net.compile(keras.optimizers.Adam(1e-4, global_clipnorm=1.0, use_ema=True, ema_momentum=0.99),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return lambda: net.train_on_batch(images, classes)


if __name__ == '__main__':
    who, size, shape, precision, training, encoder = sys.argv[1:]
    image_shape = tuple(map(int, shape.split('x')))
    arguments = int(size), image_shape, precision, training == 'train'
    serve(ours(encoder, *arguments) if who == 'ours'
          else peak(precision) if who == 'peak'
          else keras_peer(*arguments) if who == 'keras'
          else torch_peer(*arguments, channels_last='channels_last' in who,
                          compiled='compile' in who))
