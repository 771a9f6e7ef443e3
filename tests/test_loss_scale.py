"""A scaled loss gives the same step; a gradient that overflows changes nothing but the scale."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
from roadseg.inference import averaged_weights
from roadseg.networks import segnet
from roadseg.training import averages, loss_scale
from roadseg.training.workers import Workers

C = 3
IMAGES = np.random.default_rng(1).normal(size=(2, 4, 5, 7)).astype(np.float32)
LABELS = np.eye(C, dtype=np.float32)[np.arange(40).reshape(2, 4, 5) % C]


class Step:
    """A step of training on a layer with batch normalisation and averages."""

    def __init__(self, scaled, use_resource=True):
        tf.train.get_or_create_global_step()
        self.image = tf.placeholder(tf.float32, IMAGES.shape)
        with tf.variable_scope('decoder', use_resource=use_resource):
            kernel = tf.get_variable('kernel', [1, 1, 7, C],
                                     initializer=tf.random_normal_initializer(seed=2))
            outputs = tf.nn.conv2d(self.image, kernel, 1, 'SAME')
            outputs = segnet.batch_norm(outputs, tf.constant(True), 0.9)
        _, self.train_op, self.loss = main.optimize(
            outputs, tf.constant(LABELS), tf.constant(0.1), C, clip_norm=1.0, average_decay=0.5,
            scale_loss=scaled)
        self.sess = tf.Session()
        # Of reference variables, moving averages are only initialised once the weights are.
        self.sess.run(tf.variables_initializer(tf.trainable_variables() + averages.statistics()))
        main.initialize_new(self.sess)

    def run(self, images):
        loss, _ = self.sess.run([self.loss, self.train_op], {self.image: images})
        return loss

    def values(self):
        """Dict from name of a variable to its value."""
        return {variable.op.name: value for variable, value in zip(
            tf.global_variables(), self.sess.run(tf.global_variables()))}


@pytest.fixture(params=[True, False], ids=['resource', 'reference'])
def use_resource(request):
    """Variables of both kinds; those of the course's VGG16 are references."""
    return request.param


def test_a_step_moves_the_moments_and_their_averages_are_swapped_in(use_resource):
    """Those of batch normalisation, which nobody runs but `optimize`."""
    with tf.Graph().as_default():
        step = Step(False, use_resource)
        before = step.values()
        for factor in (1, 2):
            step.run(factor * IMAGES + factor)
        after = step.values()
        with averaged_weights(step.sess):
            swapped = step.values()
        for name in ('decoder/moving_mean', 'decoder/moving_variance'):
            average = name + '/ExponentialMovingAverage'
            assert not np.array_equal(before[name], after[name])
            assert not np.array_equal(after[name], after[average])
            np.testing.assert_array_equal(swapped[name], after[average])
            np.testing.assert_array_equal(step.values()[name], after[name])


def test_the_scaled_step_is_the_step(use_resource):
    results = []
    for scaled in (False, True):
        with tf.Graph().as_default():
            step = Step(scaled, use_resource)
            losses = [step.run(IMAGES * factor) for factor in (1, 2, 3)]
            results.append((losses, step.values()))
    (plain_losses, plain), (losses, values) = results
    np.testing.assert_allclose(losses, plain_losses, rtol=1e-5)
    assert set(plain) < set(values) and values['global_step'] == 3
    for name, value in plain.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


def test_an_overflow_changes_nothing_but_the_scale(use_resource):
    with tf.Graph().as_default():
        step = Step(scaled=True, use_resource=use_resource)
        step.run(IMAGES)
        before = step.values()
        step.run(np.full_like(IMAGES, np.inf))
        after = step.values()
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert changed == {'current_loss_scale', 'good_steps', 'global_step'}
        assert after['current_loss_scale'] == before['current_loss_scale'] / 2 == 2 ** 14
        assert after['good_steps'] == 0 and after['global_step'] == 2
        step.run(IMAGES)
        assert not np.array_equal(step.values()['decoder/kernel'], after['decoder/kernel'])
        assert all(np.isfinite(value).all() for value in step.values().values())


def test_the_scale_is_doubled_after_2000_steps_without_overflow():
    with tf.Graph().as_default(), tf.Session() as sess:
        weight = tf.Variable(3.0)
        gradients, finite = loss_scale.scaled_gradients(tf.square(weight), [weight])
        sess.run(tf.global_variables_initializer())
        scale = sess.graph.get_tensor_by_name('loss_scale:0')
        assert sess.run([scale, gradients[0], finite]) == [2 ** 15, 6, True]
        for _ in range(1999):
            sess.run(finite)
        assert sess.run([scale, gradients[0]]) == [2 ** 16, 6]


@pytest.mark.parametrize('grouped', [False, True])
def test_update_operations_of_any_kind_run_under_a_condition(grouped):
    """TF1's own batch normalisation puts single operations and tensors there, SegNet's a group."""
    with tf.Graph().as_default(), tf.Session() as sess:
        counts = [tf.get_variable(name, [], initializer=tf.zeros_initializer) for name in 'ab']
        updates = [tf.assign_add(count, 1) for count in counts]
        if grouped:
            updates = [tf.group(*updates)]
        else:
            updates[0] = updates[0].op
        for update in updates:
            tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, update)
        finite = tf.placeholder(tf.bool, [])
        conditional = loss_scale.update_ops(finite)
        sess.run(tf.global_variables_initializer())
        for value, expected in ((True, [1, 1]), (False, [1, 1]), (True, [2, 2])):
            sess.run(conditional, {finite: value})
            assert sess.run(counts) == expected


def test_all_workers_skip_a_step_that_overflows_for_one():
    """Gradients are summed before they are looked at."""
    with tf.Graph().as_default(), tf.Session() as sess:
        weight = tf.Variable(3.0)
        of_other = tf.placeholder(tf.float32, [])
        gradients, finite = loss_scale.scaled_gradients(
            tf.square(weight), [weight], total=lambda mine: [mine[0] + of_other])
        sess.run(tf.global_variables_initializer())
        assert sess.run([finite, gradients[0]], {of_other: 2 ** 15}) == [True, 7]
        assert not sess.run(finite, {of_other: np.inf})
    assert Workers().sum([1]) == [1]


def test_only_if_runs_its_operations_or_not():
    with tf.Graph().as_default(), tf.Session() as sess:
        condition, count = tf.placeholder(tf.bool, []), tf.Variable(0)
        conditional = loss_scale.only_if(condition, lambda: tf.assign_add(count, 1))
        with tf.control_dependencies([conditional]):
            then = tf.constant(5)       # what follows runs in both cases
        sess.run(count.initializer)
        for value, expected in ((True, 1), (False, 1), (True, 2)):
            assert sess.run(then, {condition: value}) == 5
            assert sess.run(count) == expected
        assert loss_scale.only_if(None, lambda: 'always') == 'always'
