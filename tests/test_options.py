"""What can be typed after `python main.py`, and what an options.json may say."""
import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roadseg.commands import run_command
from roadseg.datasets import catalogue
from roadseg.errors import InputError
from roadseg.training import options as training_options
from roadseg.training.options import build_parser, complete, parse_args

ROOT = Path(training_options.__file__).parents[2]


def test_the_documentation_names_options_that_exist():
    files = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
    lines = [line.partition('#')[0].strip() for file in files
             for line in re.findall(r'(?<![`\w])python main\.py(.*)', file.read_text('utf-8'))]
    assert len(lines) > 15
    parser = build_parser()
    for line in lines:
        given = shlex.split(re.sub(r'[`;].*|\$seed', lambda found: '7' * (found[0] == '$seed'), line))
        if '--help' not in given and not any(word.startswith('<') for word in given):
            parser.parse_args(given)


def error_of(argv):
    """The one line with which a command line is refused."""
    written = io.StringIO()
    with contextlib.redirect_stderr(written):
        try:
            code = run_command(parse_args, list(map(str, argv)))
        except SystemExit as leaving:       # argparse
            code = leaving.code
    lines = written.getvalue().splitlines()
    assert code == 2, f'{argv} is taken'
    assert len(lines) == 1 and lines[0].startswith('error: '), lines
    return lines[0][len('error: '):]


@pytest.mark.parametrize('option', ['--data-dir', '--runs-dir'])
def test_places_that_can_be_no_folder_are_told_at_once(tmp_path, option):
    (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
    assert 'is too long a name' in error_of([option, tmp_path / ('a' * 300)])
    assert 'cannot be a folder' in error_of([option, tmp_path / 'link'])
    assert 'cannot be a folder' in error_of([option, tmp_path / 'link/runs'])


@pytest.mark.parametrize('option', ['--data-dir', '--runs-dir'])
def test_names_that_tensorflow_cannot_write_to(option):
    assert 'its name is no UTF-8' in error_of([option, 'road\udcff'])


def run_of(folder, **options):
    """A folder with the options.json of a run, some options of which are others or, None, gone."""
    saved = json.loads(json.dumps(vars(parse_args([])), default=str))
    saved = {**saved, **options}
    (folder / 'options.json').write_text(json.dumps({
        'options': {name: value for name, value in saved.items() if value is not GONE}}))
    return folder


GONE = object()


# Bad command lines ----------------------------------------------------------------------------

NO_NUMBERS = ('inf', '-inf', 'nan', '1e300', '9' * 400, '0.' + '0' * 400 + '1', '²', '１',
              '1,5', '0x10', 'ten', '', ' ', '1_0', '1\n2', '-1')
BAD = {
    '--image-size': ('0x10', 'abc', '10', '10x', 'x10', '10x20x30', '1.5x2', '', '192×640', '9x9',
                     '15x640', '192x15', f"{'9' * 400}x640", '1e3x1e3', 'infxinf', '²x²',
                     '99999x640', '192 640', '192x640\n'),
    '--epochs': ('0', '1.5', '1e3'),
    '--batch-size': ('0', '1000000000'),
    '--learning-rate': ('fast', '1e30'),
    '--score-channels': ('1000000000', '1.5'),
    '--keep-prob': ('0', '1.01'),
    '--freeze-blocks': ('6',),
    '--average-decay': ('1', '0.999999'),
    '--clip-norm': ('0', '1e30'),
    '--seed': ('4294967296', '1.0'),
    '--colour': ('2',),
    '--scale': ('9',),
    '--classes': ('0', '1', '256'),
    '--test-scale': ('0', '1;2', '100', '0.01', '1,', ',1', '1,,2', '1,100', '1 2', 'inf', 'nan',
                     '1e300', '²', '9' * 400, '-1'),
    '--save-minutes': ('0',),
    '--max-steps': ('0',),
    '--dataset': ('kiti', '', 'KITTI'),
    '--model': ('fcn', ''),
    '--schedule': ('linear',),
    '--precision': ('float8',),
    '--class-weights': ('all',),
    **{option: ('',) for option in ('--data-dir', '--runs-dir', '--encoder', '--resume',
                                    '--start-from', '--unlabelled')},
    '--split': ('val4', '', 'kfold:5', 'kfold:5:5', 'kfold:0:0', 'kfold:²:1', 'kfold:5:²',
                'kfold:inf:0', 'kfold:1e300:0', f"kfold:{'9' * 400}:0", 'tail:inf', 'tail:nan',
                'tail:1e300', f"tail:{'9' * 400}", 'tail:²', 'tail:1', 'val', 'val3\n'),
}


def numeric():
    """The options that take one number."""
    return [action.option_strings[0] for action in build_parser()._actions
            if getattr(action.type, '__qualname__', '').startswith('number.')]


def test_what_is_no_number_is_refused_by_every_option_that_takes_one():
    assert len(numeric()) >= 15
    for option in numeric():
        for text in NO_NUMBERS:
            message = error_of([option, text])
            assert option in message
            assert len(message) < 200
            assert 'a whole number from ' in message or 'a number from ' in message or \
                text.startswith('-'), message


@pytest.mark.parametrize('option', BAD)
def test_a_bad_value_is_refused_with_option_and_value(option):
    for value in BAD[option]:
        message = error_of([option, value])
        assert option in message or option == '--split'
        shown = ' '.join(value.split())[:30]
        assert not value.isascii() or shown in message, message


@pytest.mark.parametrize('argv, pieces', [
    (['--bach-size', '3'], ['--bach-size']),
    (['--epoch', '3'], ['--epoch']),                    # no abbreviations
    (['--epochs'], ['--epochs', 'expected one argument']),
    (['--epochs', '3', '4'], ['unrecognized arguments: 4']),
    (['demo'], ['unrecognized arguments: demo']),
    (['--demo', '--dataset', 'kitti'], ['--demo is --dataset demo', 'kitti']),
    (['--demo', '--split', 'val3'], ["'val3'", 'held-out', 'kfold:K:I']),
    (['--dataset', 'camvid', '--split', 'val3'], ["'val3'", 'val, test, trainval']),
    (['--resume', 'nowhere'], ['nowhere/options.json', 'no such file']),
    (['--resume', 'n' * 5000], ['options.json', 'name is too long']),
    (['--encoder', 'nowhere'], ['--encoder nowhere', 'saved_model.pb', 'roadseg.networks.vgg16']),
    (['--encoder', 'n' * 300], ['--encoder nnn', 'saved_model.pb']),
    (['--runs-dir', __file__], ['--runs-dir', 'test_options.py', 'cannot be a folder']),
    (['--runs-dir', __file__ + '/runs'], ['--runs-dir', 'test_options.py', 'cannot be a folder']),
    (['--runs-dir', ''], ['--runs-dir']),
    (['--data-dir', ''], ['--data-dir']),
    (['--data-dir', __file__], ['--data-dir', 'test_options.py']),
])
def test_bad_command_lines(argv, pieces):
    message = error_of(argv)
    for piece in pieces:
        assert piece in message


def test_a_command_line_is_answered_in_milliseconds():
    began = time.process_time()
    for _ in range(20):
        error_of(['--epochs', '0'])
        parse_args(['--demo', '--epochs', '2'])
    assert (time.process_time() - began) / 40 < 0.05


def test_options_are_read_without_tensorflow():
    """A typo is answered before what takes seconds is imported."""
    code = ('import sys\nfrom roadseg.commands import run_command\n'
            'from roadseg.training.options import parse_args\n'
            'try:\n    run_command(parse_args, ["--epochs", "0"])\n'
            'finally:\n    print(sorted(name for name in ("tensorflow", "matplotlib", "scipy")'
            ' if name in sys.modules))')
    answer = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
                            check=False)
    assert (answer.returncode, answer.stdout) == (2, '[]\n')
    assert answer.stderr.count('\n') == 1 and answer.stderr.startswith('error: argument --epochs')


def test_the_script_answers_a_typo_before_it_imports_tensorflow(tmp_path):
    """Here with a TensorFlow that can't be imported."""
    (tmp_path / 'tensorflow.py').write_text('raise SystemExit("imported")')
    for argv, line in ((['--epochs', '0'], 'error: argument --epochs'),
                       (['--resume', 'nowhere'], 'error: cannot read nowhere/options.json'),
                       (['--max-steps', '1', '--data-dir', str(tmp_path)], 'imported')):
        answer = subprocess.run([sys.executable, 'main.py', *argv], cwd=ROOT, capture_output=True,
                                text=True, check=False,
                                env={**os.environ, 'PYTHONPATH': str(tmp_path)})
        assert answer.returncode == (1 if line == 'imported' else 2)
        assert answer.stderr.startswith(line) and answer.stderr.count('\n') == 1


def test_a_run_or_folder_that_is_missing_is_told_before_anything_is_fetched(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/options.json').write_text('{}')
    (tmp_path / 'empty').mkdir()
    there, empty, typo = (str(tmp_path / name) for name in ('run', 'empty', 'typo'))
    for argv, message in (
            (['--start-from', typo], '--start-from: .*typo is no run'),
            (['--start-from', empty], '--start-from: .*empty is no run'),
            (['--unlabelled', empty, '--teacher', f'{there},{typo}'], '--teacher: .*typo is no'),
            (['--unlabelled', typo, '--teacher', there], '--unlabelled: .*typo is no folder')):
        with pytest.raises(InputError, match=message):
            parse_args(argv)
    assert parse_args(['--unlabelled', empty, '--teacher', there]).teacher == [tmp_path / 'run']


# Good ones ------------------------------------------------------------------------------------

def test_defaults():
    options = parse_args([])
    assert options.keep_prob == 0.5
    assert options.image_size == (192, 640)
    assert (options.dataset, options.data_dir, options.runs_dir, options.split) == (
        'kitti', 'data', 'runs', None)
    assert options.flip is True and options.demo is False and options.own_data is False
    assert options.max_steps is None and options.resume is None and options.test_scale == [1.0]
    assert options.precision == 'auto'
    assert parse_args(['--dataset', 'folder', '--data-dir', '.']).image_size is None


def test_options_are_read():
    options = parse_args(['--image-size', '32X96', '--no-flip', '--flip-test', '--batch-size', '3',
                          '--keep-prob', '1', '--split', 'kfold:5:2', '--test-scale', '1,1.3'])
    assert options.image_size == (32, 96) and options.test_scale == [1.0, 1.3]
    assert options.flip is False and options.flip_test is True
    assert (options.batch_size, options.keep_prob, options.split) == (3, 1.0, 'kfold:5:2')


@pytest.mark.parametrize('argv', [['--demo'], ['--dataset', 'demo'],
                                  ['--demo', '--dataset', 'demo']])
def test_demo_sets_its_defaults_but_an_explicit_option_wins(argv):
    demo = training_options.RECIPES['demo']
    options = parse_args(argv)
    for name, value in demo.items():
        assert getattr(options, name) == value
    assert (options.dataset, options.data_dir) == ('demo', 'data/demo')
    options = parse_args([*argv, '--epochs', '2', '--image-size', '32x96'])
    assert (options.epochs, options.image_size) == (2, (32, 96))
    assert options.learning_rate == demo['learning_rate']
    # also where it is what the default would be without --demo
    assert parse_args(['--batch-size', '1', *argv]).batch_size == 1


@pytest.mark.parametrize('dataset', training_options.RECIPES)
@pytest.mark.parametrize('model', ['fcn8s', 'segnet'])
def test_recipes_are_options_that_could_be_typed(dataset, model):
    recipe = {**training_options.RECIPES[dataset],
              **training_options.OF_MODEL.get((dataset, model), {})}
    typed = [word for name, value in recipe.items() if value is not None for word in (
        f"--{name.replace('_', '-')}", 'x'.join(map(str, value)) if name == 'image_size'
        else str(value))]
    options = parse_args(['--dataset', dataset, '--model', model])
    assert {name: getattr(options, name) for name in recipe} == recipe
    assert vars(parse_args(['--dataset', dataset, '--model', model, *typed])) == vars(options)


@pytest.mark.parametrize('argv, own', [([], False), (['--demo'], False),
                                       (['--data-dir', 'data'], True)])
def test_data_given_by_hand_need_not_be_complete(argv, own):
    assert parse_args(argv).own_data is own


def test_parsing_one_command_line_does_not_change_the_next():
    parse_args(['--demo', '--epochs', '7'])
    assert parse_args([]).epochs == build_parser().get_default('epochs')


@pytest.mark.parametrize('dataset', catalogue.DATASETS)
def test_every_split_of_a_data_set_can_be_typed(dataset):
    for split in (*catalogue.DATASETS[dataset].splits, 'none', 'kfold:5:4', 'tail:0.2'):
        assert parse_args(['--dataset', dataset, '--split', split]).split == split


# Help -----------------------------------------------------------------------------------------

def help_text(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_args(['--help'])
    assert leaving.value.code == 0
    return ' '.join(capsys.readouterr().out.split())


def test_a_new_default_of_kitti_changes_no_other_recipe():
    """The README's commands for CamVid leave the learning rate to it."""
    for dataset, of_size, rate in (('kitti', 2, 1.4e-4), ('camvid', 4, 1e-4),
                                   ('cityscapes', 1, 1e-4), ('demo', 2, 1e-3)):
        options = parse_args(['--dataset', dataset])
        assert (options.batch_size, options.learning_rate) == (of_size, rate)


def test_help_explains_every_option(capsys):
    text = help_text(capsys)
    for name in vars(parse_args([])):
        if name != 'own_data':
            assert f"--{name.replace('_', '-')}" in text
    for action in build_parser()._actions:
        assert len(action.help) > 10


def test_help_shows_values_as_they_are_typed(capsys):
    text = help_text(capsys)
    for shown in ('(192x640)', '(kitti)', '(0.00014)', '(40)', '(yes)', '(no)', '(0.5)', '(1)'):
        assert shown in text
    assert not re.search(r'\(\[|\(\(|\(True\)|\(False\)|\(None\)|\(10\.0\)|default: (True|False)',
                         text)


def test_help_says_what_the_demo_changes(capsys):
    text = help_text(capsys)
    for typed in ('--image-size 128x416', '--epochs 30', '--batch-size 2', '--learning-rate 0.001',
                  '--decoder-rate 1', '--freeze-blocks 0'):
        assert typed in text


# Going on with a run --------------------------------------------------------------------------

def test_a_resumed_run_has_its_own_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_of(tmp_path, epochs=7, image_size=[32, 96], split='kfold:3:1', data_dir='there')
    assert 'there is no folder there, where the data' in error_of(['--resume', run])
    for name in ('there', 'elsewhere'):
        (tmp_path / name).mkdir()
    options = parse_args(['--resume', str(run)])
    assert (options.epochs, options.image_size, options.split) == (7, (32, 96), 'kfold:3:1')
    assert (options.resume, options.data_dir) == (run, 'there')
    moved = parse_args(['--resume', str(run), '--data-dir', 'elsewhere', '--epochs', '7'])
    assert moved.data_dir == 'elsewhere'


def test_what_changes_nothing_of_the_result_may_be_other(tmp_path, monkeypatch):
    """Where things lie, what is kept in memory, and how often it is saved."""
    for name in ('data', 'encoder', 'other'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'saved_model.pb').touch()
    (tmp_path / 'run').mkdir()
    run = run_of(tmp_path / 'run', data_dir='data', encoder='encoder', cache_gb=40.0)
    content = json.loads((run / 'options.json').read_text())
    (run / 'options.json').write_text(json.dumps({
        **content, 'data': {'folder': str(tmp_path / 'data')},
        'model': {'encoder': str(tmp_path / 'encoder')}}))
    monkeypatch.chdir(tmp_path)
    options = parse_args(['--resume', 'run'])
    assert (options.data_dir, options.encoder) == ('data', Path('encoder'))
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    options = parse_args(['--resume', '../run', '--cache-gb', '4', '--save-minutes', '2'])
    assert (options.data_dir, options.encoder) == (str(tmp_path / 'data'), tmp_path / 'encoder')
    assert (options.cache_gb, options.save_minutes) == (4, 2)
    # Every checkout has an empty folder of that name.
    (run / 'photographs.json').write_text('{"training": ["a.png"]}')
    for place in (tmp_path, tmp_path / 'elsewhere'):
        (place / 'data').mkdir(exist_ok=True)
    (tmp_path / 'data/a.png').touch()
    assert parse_args(['--resume', '../run']).data_dir == str(tmp_path / 'data')
    assert parse_args(['--resume', '../run', '--encoder', '../other']).encoder == Path('../other')
    assert '--epochs is 9, was 40' in error_of(['--resume', '../run', '--epochs', '9'])


def test_an_encoder_that_was_not_named_is_found_where_it_was(tmp_path, monkeypatch):
    (tmp_path / 'run').mkdir()
    run = run_of(tmp_path / 'run', data_dir='data')
    content = json.loads((run / 'options.json').read_text())
    for name in ('vgg', 'other'):
        (tmp_path / 'data' / name).mkdir(parents=True)
        (tmp_path / 'data' / name / 'saved_model.pb').touch()
    (run / 'options.json').write_text(json.dumps({
        **content, 'data': {'folder': str(tmp_path / 'data')},
        'model': {'encoder': str(tmp_path / 'data/vgg')}}))
    monkeypatch.chdir(tmp_path)
    assert parse_args(['--resume', 'run']).encoder is None
    assert parse_args(['--resume', 'run', '--encoder', 'data/other']).encoder == Path('data/other')
    monkeypatch.chdir(run)
    assert parse_args(['--resume', '.']).encoder == tmp_path / 'data/vgg'


def test_options_that_contradict_a_run_are_named_as_they_are_typed(tmp_path):
    run = run_of(tmp_path, image_size=[32, 96], flip=False)
    message = error_of(['--resume', run, '--epochs', '3', '--image-size', '32x64', '--flip',
                        '--test-scale', '1,1.3'])
    for piece in ('--epochs is 3, was 40', '--image-size is 32x64, was 32x96', '--flip is yes, '
                  'was no', '--test-scale is 1,1.3, was 1', 'leave them out'):
        assert piece in message


@pytest.mark.parametrize('argv', [['--demo'], ['--dataset', 'demo']])
@pytest.mark.parametrize('was_typed', [True, False])
def test_the_demo_goes_on_however_it_is_called(tmp_path, argv, was_typed):
    run = run_of(tmp_path, dataset='demo', demo=was_typed)
    assert parse_args(['--resume', str(run), *argv]).dataset == 'demo'
    run = run_of(tmp_path, dataset='kitti', demo=False)
    assert '--dataset is demo, was kitti' in error_of(['--resume', run, *argv])


def test_a_run_whose_encoder_has_gone_says_so_at_once(tmp_path):
    assert '--encoder gone' in error_of(['--resume', run_of(tmp_path, encoder='gone')])


# options.json ---------------------------------------------------------------------------------

@pytest.mark.parametrize('name, value', [
    ('epochs', 0), ('epochs', 'ten'), ('epochs', 2.5), ('epochs', None), ('epochs', True),
    ('epochs', [3]), ('epochs', {}), ('epochs', '²'), ('epochs', 10**15),
    ('learning_rate', '1e300'),
    ('learning_rate', -1), ('learning_rate', {'a': 1}), ('image_size', [192]), ('image_size', 192),
    ('image_size', [192, 640, 3]), ('image_size', ['a', 'b']), ('image_size', [0, 0]),
    ('image_size', None), ('image_size', []), ('image_size', [192.5, 640]), ('test_scale', []),
    ('test_scale', [100]), ('test_scale', None), ('test_scale', [None]), ('test_scale', 'x'),
    ('flip', 1), ('flip', 'no'), ('flip', None), ('flip_test', []), ('dataset', 'kiti'),
    ('dataset', None), ('dataset', 3), ('dataset', ['kitti']), ('model', 'unet'),
    ('precision', 'float8'), ('data_dir', 5), ('data_dir', None), ('data_dir', ['data']),
    ('data_dir', 'a\0b'),
    ('split', 5), ('split', ['val3']), ('split', 'val4'), ('split', 'kfold:²:1'), ('seed', -1),
    ('schedule', []), ('classes', 1), ('encoder', 7), ('encoder', ['a']), ('own_data', 'yes'),
    ('own_data', None), ('demo', 'yes'), ('score_channels', 10**9), ('clip_norm', 0)])
def test_an_edited_value_is_named(tmp_path, name, value):
    with pytest.raises(InputError, match=f'options.json: {name} is .*backup') as caught:
        complete(json.loads(run_of(tmp_path, **{name: value}).joinpath(
            'options.json').read_text())['options'], tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message and '\n' not in message and len(message) < 400
    assert name in error_of(['--resume', tmp_path])


@pytest.mark.parametrize('name', ['epochs', 'image_size', 'learning_rate', 'flip', 'seed'])
def test_a_mistyped_name_is_an_error_and_not_todays_default(tmp_path, name):
    """A run always had these; what a value stands for is nobody's guess."""
    run = run_of(tmp_path, **{name: GONE, name + 's': 3})
    message = error_of(['--resume', run])
    assert f"has no '{name}'" in message and f"'{name}s'" in message and 'backup' in message


def test_options_of_a_later_version_are_a_warning(tmp_path, capsys):
    run = run_of(tmp_path, mixup=0.2)
    for _ in range(2):
        assert parse_args(['--resume', str(run)]).epochs == 40
    warning, = capsys.readouterr().err.splitlines()
    assert warning.startswith('warning: ') and "'mixup'" in warning and str(run) in warning


def test_what_is_complete_stays_as_it_is(tmp_path):
    saved = vars(parse_args(['--demo', '--test-scale', '1,1.5', '--classes', '7']))
    assert complete(saved, tmp_path) == saved
    through_json = json.loads(json.dumps(saved, default=str))
    assert complete(through_json, tmp_path) == saved
