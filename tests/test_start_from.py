"""A training starts with another run's averaged weights, where names and shapes agree."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
from conftest import save_tiny_vgg
from roadseg.commands import run_command
from roadseg.datasets import demo
from roadseg.errors import InputError
from roadseg.files import write_json
from roadseg.networks import segnet, vgg16
from roadseg.training import averages, checkpoints, start_from
from tiny import save_run

OPTIONS = ('--image-size', '32x96', '--precision', 'float32', '--learning-rate', '1e-2',
           '--epochs', '1', '--warmup', '0', '--seed', '3', '--max-steps', '3', '--split',
           'kfold:3:0', '--freeze-blocks', '4')
HEAD = 'decoder/upsample32/kernel'      # its shape knows the number of classes
AVERAGE = '/ExponentialMovingAverage'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A tiny data set and a tiny VGG16."""
    folder = tmp_path_factory.mktemp('data')
    demo.write_scenes(folder, train=9, test=0, held_out=1, size=(47, 155))
    save_tiny_vgg(folder / 'vgg', fc_width=16)
    return folder


def train(data, runs, *options):
    """Trains; returns (exit code, run folder, None where there is none)."""
    code = run_command(main.main, [str(part) for part in (
        '--data-dir', data, '--runs-dir', runs, *OPTIONS, *options)])
    return code, next(iter(Path(runs).glob('2*')), None)


@pytest.fixture(scope='module')
def taught(data, tmp_path_factory):
    """A run to start from, with the first third held out."""
    code, run = train(data, tmp_path_factory.mktemp('taught'))
    assert code == 0
    return run


def variables(run, step):
    """Returns a function from a variable's name to its value in a checkpoint."""
    return tf.train.load_checkpoint(str(run / f'checkpoints/step-{step:06d}/model')).get_tensor


def build(sess, data, num_classes):
    """Builds FCN-8s; returns its variables by name."""
    main.build(sess, data / 'vgg', num_classes,
               main.parse_args(['--image-size', '32x96', '--seed', '4', '--freeze-blocks', '4']))
    main.initialize_new(sess)
    return {variable.op.name: variable for variable in tf.global_variables()}


def test_averages_are_taken_and_what_has_another_shape_is_new(data, taught, capsys):
    saved = variables(taught, 3)
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        mine = build(sess, data, 5)
        before = sess.run(mine)
        graph.finalize()
        origin = start_from.take_weights(sess, taught)
        after = sess.run(mine)
    assert origin['fresh'] == [HEAD] and origin['checkpoint'] == 'step-000003'
    assert 'fresh: decoder/upsample32/kernel\n' in capsys.readouterr().out
    for name in ('conv5_2/kernel', 'decoder/score7/kernel'):
        np.testing.assert_array_equal(after[name], saved(name + AVERAGE))
        np.testing.assert_array_equal(after[name + AVERAGE], saved(name + AVERAGE))
        assert not np.array_equal(saved(name), saved(name + AVERAGE))
    np.testing.assert_array_equal(after['conv1_1/kernel'], saved('conv1_1/kernel'))     # frozen
    np.testing.assert_array_equal(after[HEAD], before[HEAD])
    assert len(origin['sha256']) == 64 and origin['run'] == str(taught.resolve())


def test_another_model_takes_the_encoder(data, taught):
    with tf.Graph().as_default(), tf.Session() as sess:
        *_, layer7_out = main.load_vgg(sess, data / 'vgg')
        segnet.layers(segnet.pool_inputs(layer7_out), 2, tf.constant(False))
        main.initialize_new(sess)
        origin = start_from.take_weights(sess, taught)
        [kernel] = (sess.run(variable) for variable in tf.trainable_variables()
                    if variable.op.name == 'conv5_3/kernel')
    np.testing.assert_array_equal(kernel, variables(taught, 3)('conv5_3/kernel' + AVERAGE))
    assert origin['fresh'] and not any(name.startswith('conv') for name in origin['fresh'])


def test_a_decoder_alone_on_layers_that_have_learned_nothing_is_told(data, taught, capsys):
    def said(*arguments):
        options = main.parse_args(['--data-dir', str(data), *map(str, arguments)])
        start_from.begin(sess, None, options, [])
        return capsys.readouterr().err

    warning = 'warning: --train decoder leaves the encoder as it is, and conv1_1/kernel, '
    with tf.Graph().as_default(), tf.Session() as sess:
        *_, layer7_out = main.load_vgg(sess, data / 'vgg')
        main.initialize_new(sess)
        assert said('--train', 'decoder').startswith(warning)
        assert said('--train', 'decoder', '--start-from', taught) == said() == ''


@pytest.mark.slow
def test_run_notes_where_it_started_and_goes_on_from_its_own_checkpoint(data, taught, tmp_path,
                                                                       capsys):
    code, run = train(data, tmp_path, '--start-from', taught)
    assert code == 0
    np.testing.assert_array_equal(variables(run, 0)(HEAD), variables(taught, 3)(HEAD + AVERAGE))
    assert json.loads((run / 'options.json').read_text())['start_from']['run'] == str(taught)

    options = main.parse_args(['--resume', str(run)])
    with tf.Graph().as_default(), tf.Session() as sess:
        mine = build(sess, data, 2)
        progress, origin = start_from.begin(sess, checkpoints.make_saver(), options, [])
        assert (progress.step, origin) == (3, {}) and options.start_from == taught
        np.testing.assert_array_equal(sess.run(mine[HEAD]), variables(run, 3)(HEAD))
    capsys.readouterr()
    assert run_command(main.main, ['--resume', str(run), '--start-from', 'x']) == 2
    assert f'--start-from is x, was {taught}' in capsys.readouterr().err


@pytest.mark.slow
def test_moments_of_batch_normalisation_go_with_the_weights(data, tmp_path):
    segnet_run = '--model', 'segnet', '--image-size', '32x96', '--freeze-blocks', '4'
    code, run = train(data, tmp_path, *segnet_run)
    assert code == 0
    with tf.Graph().as_default(), tf.Session() as sess:
        main.build(sess, data / 'vgg', 2, main.parse_args([*segnet_run]))
        main.initialize_new(sess)
        start_from.take_weights(sess, run)
        moments = {variable.op.name: sess.run(variable) for variable in averages.statistics()}
    assert len(moments) > 10
    for name, value in moments.items():
        np.testing.assert_array_equal(value, variables(run, 3)(name + AVERAGE))
        assert value.any()


# Bad input ------------------------------------------------------------------------------------

def test_what_a_split_keeps_for_later_must_not_have_been_seen_either(data, tmp_path, capsys):
    """`search` neither trains on val3's photographs nor holds them out."""
    run = save_run(tmp_path / 'run', split='none')
    write_json(run / 'photographs.json', {
        'training': ['data_road/training/image_2/um_000079.png']})
    demo.write_scenes(tmp_path / 'data', train=54, test=0, held_out=1, size=(36, 120))
    code, _ = train(tmp_path / 'data', tmp_path / 'runs', '--split', 'search', '--encoder',
                    data / 'vgg', '--start-from', run)
    assert code == 2
    assert 'was trained on 1 of the' in capsys.readouterr().err.splitlines()[-1]


def refused(run, held_out=(), data_dir='data', dataset='kitti'):
    """Returns the message of the error that a run brings about."""
    options = main.parse_args(['--start-from', str(run), '--data-dir', str(data_dir),
                               '--dataset', dataset])
    with tf.Graph().as_default(), tf.Session() as sess, pytest.raises(InputError) as error:
        tf.get_variable('conv1_1/kernel', [3, 3, 3, 64])
        start_from.begin(sess, None, options, held_out)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_nothing_in_common_is_an_error(tmp_path):
    assert refused(save_run(tmp_path / 'run')).endswith(
        'no weight of the same name and shape in common (there weights; here conv1_1/kernel); '
        'name a run of the same encoder or model')


def test_run_that_was_trained_on_what_is_held_out_now_is_refused(tmp_path):
    run = save_run(tmp_path / 'run', split='val3')
    write_json(run / 'photographs.json', {'training': ['um_1.png', 'um_2.png', 'um_3.png']})
    held_out = [(f'data/um_{number}.png', None) for number in (3, 4)]
    assert refused(run, held_out=held_out) == (
        f'--start-from: {run} was trained on 1 of the 2 photographs that are held out now, the '
        'first being um_3.png; name a run with the --split of this one (its own is val3), or hold '
        'nothing out with --split none')


def test_other_photographs_of_the_same_names_are_no_reason_to_refuse(tmp_path):
    """Two folders of one's own, as cameras number their pictures."""
    theirs, here = tmp_path / 'theirs', tmp_path / 'here'
    run = save_run(tmp_path / 'run', split='tail:0.2', dataset='folder')
    made = json.loads((run / 'options.json').read_text())
    made['data']['folder'] = str(theirs)
    write_json(run / 'options.json', made)
    write_json(run / 'photographs.json', {'training': ['1.png', '2.png']})
    for folder in (theirs, here):
        folder.mkdir()
        for name in ('1.png', '2.png'):
            (folder / name).write_text(f'{folder.name} {name}')
    held_out = [(here / name, None) for name in ('1.png', '2.png')]
    assert 'in common' in refused(run, held_out, data_dir=here, dataset='folder')
    shutil.copy(theirs / '2.png', here)
    assert 'was trained on 1 of the 2 photographs' in refused(run, held_out, data_dir=here, dataset='folder')
    (here / '2.png').rename(here / 'renamed.png')
    assert 'the first being renamed.png' in refused(run, [(here / 'renamed.png', None)],
                                                    data_dir=here, dataset='folder')
    shutil.rmtree(theirs)       # nothing tells them apart
    assert 'was trained on 2 of the 2 photographs' in refused(run, held_out, data_dir=here, dataset='folder')


def test_photographs_of_a_data_set_are_told_wherever_they_lie(tmp_path):
    """Also a smaller copy of them, or one in another layout."""
    run = save_run(tmp_path / 'run', split='none', dataset='camvid')
    write_json(run / 'photographs.json', {'training': ['camvid/val/0016E5_07959.png']})
    held_out = [(f'there/701_StillsRaw_full/0016E5_0{number}.png', None) for number in (7959, 7961)]
    assert 'was trained on 1 of the 2 photographs' in refused(run, held_out, 'there', 'camvid')


def test_copies_in_another_data_set_are_told_by_their_contents(tmp_path):
    """Such as KITTI's photographs with masks of one's own, be they renamed."""
    theirs = tmp_path / 'data_road'
    theirs.mkdir()
    run = save_run(tmp_path / 'run', split='none', dataset='kitti')
    made = json.loads((run / 'options.json').read_text())
    made['data']['folder'] = str(tmp_path)
    write_json(run / 'options.json', made)
    write_json(run / 'photographs.json', {'training': ['data_road/um_1.png', 'data_road/um_2.png',
                                                       'data_road/gone.png']})
    for name in ('um_1.png', 'um_2.png'):
        (theirs / name).write_text(name)
        (tmp_path / name).write_text('um_2.png')
    (tmp_path / 'gone.png').write_text('x')
    held_out = [(tmp_path / name, None) for name in ('um_1.png', 'um_2.png', 'gone.png')]
    assert ('was trained on 2 of the 3 photographs that are held out now, the first being um_1.png'
            in refused(run, held_out, tmp_path, 'folder'))
    assert 'in common' in refused(run, held_out[2:], tmp_path, 'folder')


def test_runs_that_were_moved_together_are_found(tmp_path):
    first, second = (save_run(tmp_path / 'runs' / name, split='none') for name in 'ab')
    write_json(first / 'photographs.json', {'training': ['um_1.png']})
    write_json(second / 'photographs.json', {'training': []})
    write_json(second / 'options.json', {**json.loads((second / 'options.json').read_text()),
                                         'start_from': {'run': str(first)}})
    shutil.move(tmp_path / 'runs', tmp_path / 'moved')
    assert 'was trained on 1 of the 1 photographs' in refused(
        tmp_path / 'moved/b', [('data/um_1.png', None)])


def test_weights_of_the_decoder_alone_are_told(taught, capsys):
    """Those that another encoder's decoder has in common with this one's."""
    for name, shape, told in (('root/kernel', [7, 7, 3, 64], True),
                              ('conv1_1/bias', variables(taught, 3)('conv1_1/bias').shape, False)):
        with tf.Graph().as_default(), tf.Session() as sess:
            tf.get_variable('decoder/score7/bias', [32])
            tf.get_variable(name, shape)
            main.initialize_new(sess)
            assert start_from.take_weights(sess, taught)['taken'] == 2 - told
        assert ('has another encoder; 1 variables of its decoder' in capsys.readouterr().err) == told


def test_an_encoder_that_takes_photographs_in_another_form_is_told(data, taught, tmp_path, capsys):
    shapes = vgg16.convolution_shapes(32)
    for name, form in (('same', vgg16.torch_input), ('other', vgg16.caffe_input)):
        vgg16.save({}, {**shapes, **vgg16.top_shapes(shapes['conv5_3'][-1], 16, 3)}, form,
                   tmp_path / name / 'vgg')
        with tf.Graph().as_default(), tf.Session() as sess:
            build(sess, tmp_path / name, 2)
            start_from.take_weights(sess, taught)
        told = str(data / 'vgg') in (said := capsys.readouterr().err) and 'another form' in said
        assert told == (name == 'other')


def test_a_run_that_has_not_noted_its_photographs_is_told(tmp_path, capsys):
    run = save_run(tmp_path / 'run', split='val3')
    assert 'in common' in refused(run, [('data/um_1.png', None)])
    assert f'warning: {run} has not noted what it was trained on' in capsys.readouterr().err


def test_a_student_without_its_notes_is_told(tmp_path, capsys):
    run = save_run(tmp_path / 'run', split='val3', unlabelled='there')
    write_json(run / 'photographs.json', {'training': ['um_2.png']})
    assert 'in common' in refused(run, [('data/um_1.png', None)])
    assert f'warning: {run} has lost its pseudo_labels.json' in capsys.readouterr().err
    (run / 'pseudo_labels.json').symlink_to('pseudo_labels.json')
    assert 'pseudo_labels.json' in refused(run, [('data/um_1.png', None)])


def test_what_a_run_has_learned_from_has_seen_counts_too(tmp_path, capsys):
    """A network that was trained on them, then on another data set, and by a teacher."""
    first, second, third = (save_run(tmp_path / name, split='none', dataset=dataset)
                            for name, dataset in (('a', 'kitti'), ('b', 'camvid'), ('c', 'kitti')))
    write_json(first / 'photographs.json', {'training': ['um_1.png', 'um_2.png']})
    write_json(second / 'photographs.json', {'training': ['um_4.png']})     # of another data set
    write_json(third / 'photographs.json', {'training': ['um_5.png']})
    write_json(second / 'options.json', {**json.loads((second / 'options.json').read_text()),
                                         'start_from': {'run': str(first)}})
    write_json(third / 'pseudo_labels.json', {'teachers': [{'run': str(second)},
                                                           {'run': str(third)}]})
    held_out = [(f'data/um_{number}.png', None) for number in (2, 4)]
    for run in (second, third):
        assert refused(run, held_out=held_out).startswith(
            f'--start-from: {run} has learned from {first}, which was trained on 1 of the 2 '
            'photographs that are held out now, the first being um_2.png; ')
    shutil.rmtree(first)
    assert 'in common' in refused(third, held_out=held_out)
    assert f'warning: {second} has learned from {first}, which is gone' in capsys.readouterr().err


def test_photographs_that_a_run_learned_from_without_labels_count_too(tmp_path, capsys):
    """Those that got their labels later, and are held out now."""
    for name in ('a', 'b', 'c'):
        (tmp_path / f'{name}.png').write_text(name)
    taught = [{'photograph': 'old name.png', 'sha256': start_from.sha256(tmp_path / 'b.png')}]
    for dataset in ('kitti', 'folder'):
        run = save_run(tmp_path / dataset, split='none', dataset=dataset)
        write_json(run / 'photographs.json', {'training': ['um_1.png']})
        write_json(run / 'pseudo_labels.json', {'photographs': taught})
        held_out = [(tmp_path / f'{name}.png', None) for name in ('a', 'b', 'c')]
        assert refused(run, held_out=held_out).startswith(
            f"--start-from: {run} has learned, by a teacher's labels, from 1 of the 3 photographs "
            f'that are held out now, the first being {tmp_path}/b.png; ')
        assert 'in common' in refused(run, held_out=held_out[::2])
        for damaged in ('none', [{'sha256': []}, {}, 3]):
            write_json(run / 'pseudo_labels.json', {'photographs': damaged})
            assert 'in common' in refused(run, held_out=held_out)


def test_what_is_no_run_or_has_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(InputError, match='^--start-from: .* is no run'):
        refused(tmp_path)
    run = save_run(tmp_path / 'empty')
    shutil.rmtree(run / 'checkpoints/step-000000')
    assert f'no last checkpoint in {run}/checkpoints' in refused(run)


def test_damaged_checkpoint_is_not_taken(tmp_path):
    run = save_run(tmp_path / 'run')
    (run / 'checkpoints/step-000000/model.index').write_bytes(b'')
    assert 'no whole checkpoint' in refused(run)
