"""`python main.py` from its options to its run folder, and what it says to bad input."""
import csv
import json
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

import helper
import main
from roadseg import checkpoints, preflight, synthetic, vgg16

SIZE = (47, 155)        # of the photographs
TRAINING, HELD_OUT, TESTS = 6, 3, 3


@pytest.fixture(scope='session')
def drawn(tmp_path_factory, tiny_vgg):
    """Folder of tiny drawn scenes and a tiny VGG16."""
    folder = tmp_path_factory.mktemp('data')
    synthetic.write_kitti(folder, train=TRAINING + HELD_OUT, test=TESTS, held_out=1, size=SIZE)
    shutil.copytree(tiny_vgg, folder / 'vgg')
    return folder


@pytest.fixture
def data(drawn, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(drawn, tmp_path / 'data')


def arguments(data, tmp_path, *more):
    """A command line that takes a second or two; later options win."""
    return ['--data-dir', str(data), '--runs-dir', str(tmp_path / 'runs'), '--image-size', '32x96',
            '--epochs', '2', '--batch-size', '4', '--learning-rate', '1e-3', '--warmup', '2',
            '--freeze-blocks', '0', '--precision', 'float32', *more]


def error_of(capsys, argv):
    """The message of a command that must fail with exit code 2 and one line."""
    try:
        code = main.main(argv)
    except SystemExit as leaving:       # argparse
        code = leaving.code
    assert code == 2
    text = capsys.readouterr().err
    lines = [line for line in text.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1
    assert text.rstrip().endswith(lines[0])
    assert 'Traceback' not in text
    return lines[0][len('error: '):]


def no_run(tmp_path):
    """Whether no run folder was made."""
    return not (tmp_path / 'runs').exists() or not list((tmp_path / 'runs').iterdir())


# Options --------------------------------------------------------------------------------------

@pytest.mark.parametrize('size', ['0x10', 'abc', '10', '10x', 'x10', '10x20x30', '1.5x2', ''])
def test_an_image_size_that_is_none_is_refused(tmp_path, capsys, size):
    message = error_of(capsys, ['--image-size', size, '--runs-dir', str(tmp_path / 'runs')])
    assert '--image-size' in message and f"'{size}'" in message and '160x576' in message


@pytest.mark.parametrize('option, value', [
    ('--epochs', '0'), ('--epochs', '1.5'), ('--batch-size', '0'), ('--learning-rate', 'fast'),
    ('--learning-rate', 'nan'), ('--keep-prob', '0'), ('--keep-prob', '1.01'),
    ('--freeze-blocks', '6'), ('--average-decay', '1'), ('--clip-norm', '0'), ('--seed', '-1'),
    ('--schedule', 'linear'), ('--weight-decay', '-1'), ('--colour', '2'), ('--scale', '-1'),
    ('--test-scale', '0'), ('--test-scale', '1;2')])
def test_a_value_out_of_range_is_refused_by_name(capsys, option, value):
    message = error_of(capsys, [option, value])
    assert option in message and value in message


def test_an_unknown_option_is_refused(capsys):
    assert '--bach-size' in error_of(capsys, ['--bach-size', '3'])


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as leaving:
        main.main(['--help'])
    assert leaving.value.code == 0
    text = ' '.join(capsys.readouterr().out.split())
    for name in vars(main.parse_args([])):
        if name != 'own_data':
            assert f"--{name.replace('_', '-')}" in text
    for action in main.build_parser()._actions:
        assert action.help


def test_defaults():
    options = main.parse_args([])
    assert options.keep_prob == 0.5
    assert options.image_size == (192, 640)
    assert (options.data_dir, options.runs_dir, options.split) == ('data', 'runs', 'val3')
    assert options.flip is True and options.demo is False and options.own_data is False
    assert options.max_steps is None and options.resume is None and options.test_scale == [1.0]


def test_options_are_read():
    options = main.parse_args(['--image-size', '32X96', '--no-flip', '--flip-test',
                               '--batch-size', '3', '--keep-prob', '1', '--split', 'kfold:5:2',
                               '--test-scale', '1,1.3'])
    assert options.image_size == (32, 96) and options.test_scale == [1.0, 1.3]
    assert options.flip is False and options.flip_test is True
    assert (options.batch_size, options.keep_prob, options.split) == (3, 1.0, 'kfold:5:2')


def test_demo_sets_its_defaults_but_an_explicit_option_wins():
    options = main.parse_args(['--demo'])
    for name, value in main.DEMO.items():
        assert getattr(options, name) == value
    options = main.parse_args(['--demo', '--epochs', '2', '--image-size', '32x96'])
    assert (options.epochs, options.image_size) == (2, (32, 96))
    assert options.learning_rate == main.DEMO['learning_rate']
    # also where it is what the default would be without --demo
    assert main.parse_args(['--batch-size', '1', '--demo']).batch_size == 1


@pytest.mark.parametrize('argv, own', [([], False), (['--demo'], False),
                                       (['--data-dir', 'data'], True)])
def test_data_given_by_hand_need_not_be_complete(argv, own):
    assert main.parse_args(argv).own_data is own


def test_parsing_one_command_line_does_not_change_the_next():
    main.parse_args(['--demo', '--epochs', '7'])
    assert main.parse_args([]).epochs == main.build_parser().get_default('epochs')


# Bad input ------------------------------------------------------------------------------------

def test_a_batch_larger_than_the_data_is_refused(data, tmp_path, capsys):
    message = error_of(capsys, arguments(data, tmp_path, '--batch-size', str(TRAINING + 1)))
    assert f'--batch-size {TRAINING + 1}' in message and f'the {TRAINING} photographs' in message
    assert no_run(tmp_path)


def test_no_data_and_no_network(tmp_path, capsys, no_network):
    message = error_of(capsys, arguments(tmp_path / 'nothing', tmp_path))
    assert helper.KITTI_URL in message and '--demo' in message and '--data-dir' in message
    assert no_run(tmp_path)


def test_no_vgg_and_no_network(data, tmp_path, capsys, no_network):
    shutil.rmtree(data / 'vgg')
    message = error_of(capsys, arguments(data, tmp_path))
    assert helper.VGG_URL in message and '--demo' in message and 'roadseg.vgg16' in message
    assert no_run(tmp_path)


def test_a_data_set_of_fewer_files_is_refused_unless_its_folder_was_named(data, tmp_path, capsys,
                                                                         monkeypatch):
    monkeypatch.chdir(tmp_path)         # its data/ is the default folder
    message = error_of(capsys, ['--runs-dir', str(tmp_path / 'runs')])
    assert f'{TRAINING + HELD_OUT} training photographs' in message and '289' in message
    assert no_run(tmp_path)


def a_photograph(data):
    """A photograph to train on."""
    return sorted((data / 'data_road/training/image_2').glob('um_*.png'))[0]


def a_label(data):
    return data / 'data_road/training/gt_image_2' / a_photograph(data).name.replace('_', '_road_')


def lose_label(data):
    a_label(data).unlink()
    return 'photographs have no road label', a_photograph(data).name


def shrink_label(data):
    with Image.open(a_label(data)) as label:
        smaller = label.crop((0, 0, SIZE[1] - 1, SIZE[0] - 2))
    smaller.save(a_label(data))
    return a_label(data).name, f'{SIZE[0]}x{SIZE[1]}', f'{SIZE[0] - 2}x{SIZE[1] - 1}'


def truncate_photograph(data):
    content = a_photograph(data).read_bytes()
    a_photograph(data).write_bytes(content[:len(content) // 2])
    return a_photograph(data).name, 'not a readable image'


def truncate_held_out_photograph(data):
    path = data / 'data_road/training/image_2/um_000079.png'
    path.write_bytes(path.read_bytes()[:999])
    return path.name, 'not a readable image'


def paint_label(data):
    label = np.array(Image.open(a_label(data)))
    label[5, 8] = (0, 255, 0)
    Image.fromarray(label).save(a_label(data))
    return a_label(data).name, '(0, 255, 0)', 'row 5, column 8'


def empty_folder(data):
    for path in (data / 'data_road/training/image_2').iterdir():
        path.unlink()
    return 'training/image_2', 'holds 0'


def empty_tests(data):
    for path in (data / 'data_road/testing/image_2').iterdir():
        path.unlink()
    return 'testing/image_2', 'holds 0'


def other_tag(data):
    """A graph that has no tag 'vgg16'."""
    shutil.rmtree(data / 'vgg')
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.constant(0.0, name='image_input')
        builder = tf.saved_model.Builder(str(data / 'vgg'))
        builder.add_meta_graph_and_variables(sess, ['serve'])
        builder.save()
    return str(data / 'vgg'), "'vgg16'"


def empty_vgg(data):
    shutil.rmtree(data / 'vgg')
    (data / 'vgg').mkdir()
    return str(data / 'vgg'),


@pytest.mark.parametrize('spoil', [
    lose_label, shrink_label, truncate_photograph, truncate_held_out_photograph, paint_label,
    empty_folder, empty_tests, other_tag, empty_vgg])
def test_bad_data_are_reported_in_one_line_before_a_run_begins(data, tmp_path, capsys, spoil):
    pieces = spoil(data)
    message = error_of(capsys, arguments(data, tmp_path))
    for piece in pieces:
        assert piece in message
    assert no_run(tmp_path)


def test_an_unknown_split_is_reported(data, tmp_path, capsys):
    assert 'kfold:3:3' in error_of(capsys, arguments(data, tmp_path, '--split', 'kfold:3:3'))
    assert no_run(tmp_path)


def test_too_little_memory_is_reported_before_a_run_begins(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(preflight, 'available_memory', lambda sess: 10_000)
    assert 'out of memory' in error_of(capsys, arguments(data, tmp_path))
    assert no_run(tmp_path)


def test_a_loss_that_is_no_number_ends_the_run(data, tmp_path, capsys):
    message = error_of(capsys, arguments(data, tmp_path, '--learning-rate', '1e30', '--clip-norm',
                                         '1e30', '--warmup', '0', '--schedule', 'constant'))
    assert 'the loss became' in message and '--learning-rate' in message
    assert 'epoch ' in message and 'step ' in message


def test_demo_does_not_draw_over_real_photographs(data, tmp_path, capsys):
    (data / 'data_road/scenes.json').unlink()       # what marks drawn scenes
    before = sorted(data.rglob('*.png'))
    message = error_of(capsys, arguments(data, tmp_path, '--demo'))
    assert str(data) in message
    assert sorted(data.rglob('*.png')) == before
    assert no_run(tmp_path)


def test_a_runs_folder_that_is_a_file_is_reported(data, tmp_path, capsys):
    (tmp_path / 'runs').write_text('not a folder')
    assert 'runs' in error_of(capsys, arguments(data, tmp_path))


# Whole runs -----------------------------------------------------------------------------------

def read_log(folder):
    with open(folder / 'log.csv', newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def run_folder(tmp_path):
    folder, = (tmp_path / 'runs').iterdir()
    return folder


def test_a_run_leaves_all_that_it_promises(data, tmp_path, capsys, monkeypatch):
    odd = data / 'data_road/testing/image_2/um_000000.png'
    with Image.open(odd) as photograph:
        smaller = photograph.crop((0, 0, 90, 40))
    smaller.save(odd)
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind=None: [])
    assert main.main(arguments(data, tmp_path)) == 0
    out = capsys.readouterr().out
    folder = run_folder(tmp_path)

    assert 'warning: no GPU' in out                 # and no more than that
    assert 'GFLOP per image' in out and 'epoch 2/2: loss ' in out and str(folder) in out
    saved = json.loads((folder / 'options.json').read_text())
    assert saved['options']['image_size'] == [32, 96] and saved['options']['epochs'] == 2
    assert saved['data'] == {'training': TRAINING, 'validation': HELD_OUT, 'testing': TESTS}
    assert [(row['epoch'], row['step']) for row in read_log(folder)] == [('1', '2'), ('2', '4')]
    assert all(np.isfinite(float(row[column])) for row in read_log(folder)
               for column in ('loss', 'val_loss', 'val_maxf', 'val_iou'))
    assert [path.name for path in checkpoints.saved(folder)] == ['step-000002', 'step-000004']

    photographs = sorted((data / 'data_road/testing/image_2').iterdir())
    overlays = sorted((folder / 'overlays').iterdir())
    assert [path.name for path in overlays] == [path.name for path in photographs]
    sizes = [Image.open(path).size for path in photographs]
    assert [Image.open(path).size for path in overlays] == sizes and len(set(sizes)) == 2

    evaluation = json.loads((folder / 'evaluation.json').read_text())
    assert evaluation['split'] == 'val3' and len(evaluation['frames']) == HELD_OUT
    assert 0 <= evaluation['scores']['URBAN']['MaxF'] <= 100
    assert len(list((folder / 'validation').glob('*_overlay.jpg'))) == HELD_OUT
    assert (folder / 'loss.png').stat().st_size > 1000
    assert '<html' in (folder / 'index.html').read_text(encoding='utf-8')
    assert not list(folder.rglob('*.part')) and not list(folder.rglob('.part-*'))


def test_a_run_that_holds_nothing_out_trains_on_all(data, tmp_path):
    assert main.main(arguments(data, tmp_path, '--split', 'none', '--epochs', '1',
                               '--average-decay', '0', '--flip-test')) == 0
    folder = run_folder(tmp_path)
    assert read_log(folder)[0]['step'] == '3'       # 9 photographs, 4 at a time
    assert not (folder / 'evaluation.json').exists()
    assert len(list((folder / 'overlays').iterdir())) == TESTS
    assert (folder / 'index.html').exists()


def save_old_graph(path):
    """A VGG16 like that of the course's archive.

    Its variables are reference variables, `keep_prob` is a plain placeholder, which must be
    fed, the dropout is random in itself and nothing counts the steps.
    """
    weights = vgg16.random_weights(width_divisor=32, fc_width=12, fc_kernel=3)
    with tf.Graph().as_default(), tf.Session() as sess, \
            tf.variable_scope('', use_resource=False):
        image = tf.placeholder(tf.float32, [None, None, None, 3], name='image_input')
        keep_prob = tf.placeholder(tf.float32, name='keep_prob')
        outputs = image / 255 - 0.5
        for name, (kernel, bias) in weights.items():
            with tf.variable_scope(name):
                outputs = tf.nn.relu(tf.nn.conv2d(
                    outputs, tf.get_variable('filter', initializer=kernel), 1, 'SAME')
                    + tf.get_variable('biases', initializer=bias))
            if name in ('conv1_2', 'conv2_2', 'conv3_3', 'conv4_3', 'conv5_3'):
                outputs = tf.nn.max_pool2d(outputs, 2, 2, 'SAME')
            if name in ('conv3_3', 'conv4_3'):
                outputs = tf.identity(outputs, name=f'layer{name[4]}_out')
            if name in ('fc6', 'fc7'):
                outputs = tf.nn.dropout(outputs, keep_prob)
        tf.identity(outputs, name='layer7_out')
        assert tf.trainable_variables()[0].op.type == 'VariableV2'
        sess.run(tf.global_variables_initializer())
        builder = tf.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(sess, ['vgg16'])
        builder.save()


def test_a_run_on_a_graph_like_the_courses(data, tmp_path):
    shutil.rmtree(data / 'vgg')
    save_old_graph(data / 'vgg')
    assert main.main(arguments(data, tmp_path)) == 0
    assert [row['step'] for row in read_log(run_folder(tmp_path))] == ['2', '4']


def test_max_steps_ends_the_run_early_but_completely(data, tmp_path):
    assert main.main(arguments(data, tmp_path, '--epochs', '50', '--max-steps', '3')) == 0
    folder = run_folder(tmp_path)
    assert read_log(folder)[-1]['step'] == '3'
    assert (folder / 'evaluation.json').exists() and (folder / 'index.html').exists()
