"""Photographs without labels: what a teacher makes of them, and that no held-out one gets in."""
import json
import os
import shutil
import signal
import weakref
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

import main
import roadseg.model
from roadseg import launch
from conftest import save_tiny_vgg
from roadseg.commands import run_command
from roadseg.datasets import demo, kitti
from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError
from roadseg.images import read_image, resize, write_image
from roadseg.training import pipeline, recorder, start_from, unlabelled
from roadseg.training import options as training_options
from roadseg.training.options import parse_args
from roadseg.training.run_folder import checksum
from tiny import save_run

OPTIONS = ('--image-size', '32x96', '--precision', 'float32', '--learning-rate', '1e-3',
           '--epochs', '2', '--warmup', '0', '--seed', '3', '--split', 'kfold:3:0', '--batch-size', '2',
           '--unlabelled-share', '0.3')
SIZE = (47, 155)        # of all photographs


# What there is --------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Six photographs to train on, three held out; a tiny VGG16."""
    folder = tmp_path_factory.mktemp('data')
    demo.write_scenes(folder, train=9, test=3, held_out=1, size=SIZE)
    save_tiny_vgg(folder / 'vgg', fc_width=16)
    return folder


@pytest.fixture(scope='module')
def dataset(data):
    return kitti.load(data, strict=False)


def save_teacher(folder, classes=kitti.CLASSES, **options):
    """A run whose network takes bright pixels for road, and is unsure of those that are grey."""
    save_run(folder, **options)
    made = json.loads((folder / 'options.json').read_text())
    made['data']['classes'] = classes
    (folder / 'options.json').write_text(json.dumps(made))
    return folder


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp('teacher') / 'run')


def striped(path, seed=0):
    """Writes a photograph: a dark third, a grey one, a bright one, and some noise."""
    levels = np.repeat([10, 127, 245], [52, 51, 52])[np.newaxis, :, np.newaxis]
    noise = np.random.default_rng(seed).integers(-2, 3, (*SIZE, 3))
    noise[:, 52:103] = 0
    noise[:10, :40] += 40 * seed        # otherwise they would be too much alike
    write_image(path, np.uint8(np.broadcast_to(levels, (*SIZE, 3)) + noise))


@pytest.fixture
def photographs(tmp_path):
    """A folder with three photographs."""
    folder = tmp_path / 'photographs'
    folder.mkdir()
    for seed, name in enumerate(('a', 'b', 'street 10')):
        striped(folder / f'{name}.png', seed)
    return folder


def options_of(data, photographs, *teachers, more=()):
    return parse_args(['--data-dir', str(data), '--unlabelled', str(photographs), '--teacher',
                       ','.join(map(str, teachers)), *more])


def lesson_of(dataset, options):
    return unlabelled.lesson(options, dataset, dataset.split('kfold:3:0')[0])


# Labels ---------------------------------------------------------------------------------------

def test_unsure_pixels_are_ignored():
    first = np.float32([[[.9, .1], [.5, .5], [.2, .8], [.31, .69]]])
    second = np.float32([[[.7, .3], [.1, .9], [.2, .8], [.31, .69]]])
    def label(predictions, bounds):
        return unlabelled.pseudo_label(
            unlabelled._mean(iter(np.copy(predictions))), bounds)

    assert label([first], [.7]).tolist() == label([first], [.3, .7]).tolist() == [[0, 255, 1, 255]]
    assert label([first, second], [.3, .7]).tolist() == [[0, 1, 1, 255]]       # their mean
    assert label([first], [.6, .75]).tolist() == [[0, 0, 1, 255]]
    three = np.float32([[[.5, .3, .2], [.1, .2, .7]]])
    assert label([three], [.6]).tolist() == [[255, 2]]
    assert label([three], [.6]).dtype == np.uint8


def test_batches_hold_pseudo_labels_with_255_where_the_teacher_is_unsure(
        data, dataset, teacher, photographs, tmp_path, capsys):
    with lesson_of(dataset, options_of(data, photographs, teacher)) as lesson:
        assert lesson.per_epoch == 9 and 'share of 0.33' in capsys.readouterr().out
        get_batches_fn = pipeline.gen_batch_function(
            lesson.pairs, lesson.read_label, SIZE, order=lesson.order,
            augment=lambda _, image, classes, image_shape: (image, classes))
        [(images, classes)] = get_batches_fn(9)
        lesson.write(tmp_path)
        lesson.read_from(tmp_path)
        scratch = lesson.pairs[-1][1]
        assert (lesson.read_label(scratch)[12:, :40] == 0).all()
    pseudo = [(image, label) for image, label in zip(images, classes)
              if (image[20, 70] == 127).all()]
    assert len(pseudo) == 3
    for _, label in pseudo:
        assert (label[12:, :40] == 0).all() and (label[:, 115:] == 1).all()
        assert (label[:, 70:85] == IGNORED).all()
    assert (lesson.read_label(scratch)[:, 115:] == 1).all()     # of the run, not from beside it
    kept = sorted((tmp_path / 'pseudo_labels').glob('*.png'))
    shown = read_image(tmp_path / 'pseudo_labels/shown/a.jpg')
    assert len(list((tmp_path / 'pseudo_labels/shown').iterdir())) == 3
    assert abs(shown[20, 65:80] - 63.5).max() < 16                  # half of grey and of black
    assert abs(shown[20, 130:] - [122, 250, 122]).max() < 16        # of bright and of green
    assert [path.name for path in kept] == ['a.png', 'b.png', 'street 10.png']
    with Image.open(kept[2]) as image:
        assert image.mode == 'P' and image.size == SIZE[::-1]
        assert image.getpalette()[3:6] == [0, 255, 0]
    notes = json.loads((tmp_path / 'pseudo_labels.json').read_text())
    assert notes['teachers'][0]['checkpoint'] == 'step-000000' and notes['unsure'] == [0.7]


def test_several_teachers_are_averaged(data, dataset, teacher, photographs, tmp_path):
    other = save_teacher(tmp_path / 'other', gains=(20, 0))     # takes dark pixels for road
    with pytest.raises(InputError, match='unsure of every pixel of all 3 photographs'), \
            lesson_of(dataset, options_of(data, photographs, teacher, other)):
        pass


def test_photograph_of_which_all_is_unsure_is_left_out(data, dataset, teacher, photographs,
                                                       capsys):
    write_image(photographs / 'grey.png', np.full((*SIZE, 3), 127, np.uint8))
    with lesson_of(dataset, options_of(data, photographs, teacher)) as lesson:
        assert len(lesson.pairs) == 9 and lesson.notes['left_out']['unsure'] == ['grey.png']
    assert 'unsure of every pixel, the first being grey.png' in capsys.readouterr().err


def test_share_is_drawn_anew_for_each_epoch(data, dataset, teacher, photographs):
    options = options_of(data, photographs, teacher, more=('--unlabelled-share', '0.2'))
    with lesson_of(dataset, options) as lesson:
        epochs = [lesson.order(np.random.default_rng(epoch)).tolist() for epoch in range(9)]
    assert lesson.per_epoch == 8
    assert all(set(range(6)) < set(epoch) and len(set(epoch)) == 8 for epoch in epochs)
    assert set().union(*map(set, epochs)) == set(range(9))
    assert epochs[0] != sorted(epochs[0])


# Held out -------------------------------------------------------------------------------------

def test_held_out_photographs_under_other_names_are_left_out(data, dataset, teacher, photographs,
                                                             capsys):
    training, held_out = dataset.split('kfold:3:0')
    shutil.copy(held_out[0][0], photographs / 'a copy.png')
    image = read_image(held_out[1][0])
    write_image(photographs / 'larger.jpg', resize(image, (141, 400)))
    write_image(photographs / 'mirrored.png', np.ascontiguousarray(image[:, ::-1]))
    write_image(photographs / 'brighter.png', np.uint8(image * .8 + 40))
    shutil.copy(training[0][0], photographs / 'known.png')
    with lesson_of(dataset, options_of(data, photographs, teacher)) as lesson:
        assert [path.name for path, _ in lesson.pairs[6:]] == ['a.png', 'b.png', 'street 10.png']
        assert lesson.notes['left_out']['labelled'] == [
            'a copy.png', 'brighter.png', 'known.png', 'larger.jpg', 'mirrored.png']
    error = capsys.readouterr().err
    assert '4 of 8 photographs' in error and 'as they are held out, by their content' in error
    assert '1 of 8 photographs' in error and 'the first being known.png' in error


def test_photographs_of_no_split_are_held_out_too(data, dataset, teacher, photographs, tmp_path):
    """A split may keep some for later, neither trained on nor held out now."""
    training, _ = dataset.split('kfold:3:0')
    shutil.copy(training[-1][0], photographs / 'for later.png')
    with unlabelled.lesson(options_of(data, photographs, teacher), dataset,
                           training[:-1]) as lesson:
        assert lesson.notes['left_out']['labelled'] == ['for later.png']
    knows = shutil.copytree(teacher, tmp_path / 'teacher')
    (knows / 'photographs.json').write_text(json.dumps(
        {'training': [training[-1][0].relative_to(data).as_posix()]}))
    with pytest.raises(InputError, match='was trained on 1 of the 4 photographs'), \
            unlabelled.lesson(options_of(data, photographs, knows), dataset, training[:-1]):
        pass


def test_only_labelled_photographs_are_an_error(data, dataset, teacher, tmp_path):
    shutil.copy(dataset.labelled[0][0], tmp_path / 'x.png')
    with pytest.raises(InputError, match='all 1 photographs in .* are labelled ones'), \
            lesson_of(dataset, options_of(data, tmp_path, teacher)):
        pass


# Bad input ------------------------------------------------------------------------------------

@pytest.mark.parametrize('spoil, message', [
    (lambda folder: shutil.rmtree(folder), 'is no folder'),
    (lambda folder: [path.unlink() for path in folder.iterdir()], 'holds no photograph'),
    (lambda folder: (folder / 'b.png').write_bytes(b'text'), 'b.png is not a readable image'),
    (lambda folder: (folder / 'b.jpg').write_bytes(b''), 'holds both b.jpg and b.png'),
])
def test_bad_photographs_are_one_line(data, dataset, teacher, photographs, spoil, message):
    spoil(photographs)
    with pytest.raises(InputError, match=message) as error, \
            lesson_of(dataset, options_of(data, photographs, teacher)):
        pass
    assert '\n' not in str(error.value)


def test_photographs_in_folders_such_as_cities(data, dataset, teacher, photographs, tmp_path,
                                               capsys):
    cities = tmp_path / 'cities'
    for name, city in (('a', 'aachen'), ('b', 'zurich/old')):
        (cities / city).mkdir(parents=True)
        shutil.move(photographs / f'{name}.png', cities / city / f'{name}.png')
    (cities / '.cache').mkdir()
    shutil.copy(photographs / 'street 10.png', cities / '.cache/c.png')
    (cities / 'aachen/again').symlink_to(cities)        # round and round
    with lesson_of(dataset, options_of(data, cities, teacher)) as lesson:
        noted = [entry['photograph'] for entry in lesson.notes['photographs']]
        assert noted == ['aachen/a.png', 'zurich/old/b.png']
        assert '2 photographs in 2 folders, from ' in capsys.readouterr().out
        run = save_run(tmp_path / 'run')
        lesson.write(run)
    options = options_of(data, cities, teacher)
    options.resume = run
    with lesson_of(dataset, options) as lesson:
        assert [path for path, _ in lesson.pairs[-2:]] == [cities / name for name in noted]
    shutil.copy(photographs / 'street 10.png', cities / 'zurich/a.png')     # another a
    with lesson_of(dataset, options_of(data, cities, teacher)) as lesson:
        assert [entry['label'] for entry in lesson.notes['photographs']] == [
            'aachen-a.png', 'zurich-a.png', 'zurich-old-b.png']
    shutil.copy(photographs / 'street 10.png', cities / 'zurich/OLD-B.png')
    with pytest.raises(InputError, match='old/b.png would have the same name|OLD-B.png would have '
                                         'the same name'), \
            lesson_of(dataset, options_of(data, cities, teacher)):
        pass
    (cities / 'zurich/OLD-B.png').unlink()
    shutil.copy(photographs / 'street 10.png', cities / 'overview.png')
    capsys.readouterr()
    with lesson_of(dataset, options_of(data, cities, teacher)) as lesson:
        assert [entry['label'] for entry in lesson.notes['photographs']] == ['overview.png']
    assert 'are learned from, and none in its folders, such as ' in capsys.readouterr().err
    # two of a name are no matter
    shutil.copy(photographs / 'street 10.png', cities / 'aachen/a.jpg')
    with lesson_of(dataset, options_of(data, cities, teacher)) as lesson:
        assert len(lesson.pairs) == 7


def test_photographs_that_training_squeezes_are_told(data, dataset, teacher, photographs, capsys):
    with Image.open(photographs / 'a.png') as image:
        image.resize((50, 80)).save(photographs / 'a.png')
    with lesson_of(dataset, options_of(data, photographs, teacher)):
        assert 'warning: 1 of 3 photographs without labels have another shape than 192x640' in \
            capsys.readouterr().err


def test_labelling_holds_one_prediction_and_their_sum():
    """Of several teachers and many classes, each may be gigabytes."""
    made, alive = [], []

    def predictions():
        for value in (1, 2, 6, 3):
            prediction = np.full((2, 3), value, np.float32)
            made.append(weakref.ref(prediction))
            alive.append(sum(one() is not None for one in made))
            yield prediction
            del prediction

    assert (unlabelled._mean(predictions()) == 3).all() and alive == [1, 2, 2, 2]


@pytest.mark.parametrize('place', ['image_2', 'gt_image_2', 'image_2/more', '.', '../..'])
def test_folder_of_the_labelled_photographs_is_refused(data, dataset, teacher, place):
    folder = data / 'data_road/training' / place
    folder.mkdir(exist_ok=True)
    with pytest.raises(InputError, match="where the data set's labelled photographs are"), \
            lesson_of(dataset, options_of(data, folder, teacher)):
        pass


def test_a_teacher_that_goes_on_training_meanwhile_is_noted_as_it_was(
        data, dataset, teacher, photographs, tmp_path, monkeypatch):
    """Its checkpoint is removed when two later ones are there."""
    busy = shutil.copytree(teacher, tmp_path / 'busy')
    expected = checksum(busy / 'checkpoints/step-000000')
    predict = roadseg.model.Model.predict
    monkeypatch.setattr(roadseg.model.Model, 'predict', lambda *arguments: (
        shutil.rmtree(busy / 'checkpoints/step-000000', ignore_errors=True),
        predict(*arguments))[1])
    with lesson_of(dataset, options_of(data, photographs, busy)) as lesson:
        assert lesson.notes['teachers'][0]['sha256'] == expected


def test_bad_teachers_are_one_line(data, dataset, teacher, photographs, tmp_path):
    empty = shutil.copytree(teacher, tmp_path / 'empty')
    shutil.rmtree(empty / 'checkpoints/step-000000')
    learned = shutil.copytree(teacher, tmp_path / 'learned')
    held_out = [image.relative_to(data).as_posix()
                for image, _ in dataset.split('kfold:3:0')[1]]
    (learned / 'photographs.json').write_text(json.dumps({'training': held_out[:2]}))
    for run, message in (
            (photographs, 'is no run'), (tmp_path / 'nowhere', 'is no run'),
            (empty, 'no last checkpoint'),
            (save_teacher(tmp_path / 'other', ('road', 'grass')), 'knows the classes road, grass'),
            (learned, 'was trained on 2 of the 3 photographs that are held out now')):
        with pytest.raises(InputError, match=message) as error, \
                lesson_of(dataset, options_of(data, photographs, teacher, run)):
            pass
        assert str(run) in str(error.value)


@pytest.mark.parametrize('arguments, message', [
    (['--teacher', 'x'], '--teacher needs --unlabelled'),
    (['--unlabelled', 'x'], '--unlabelled needs --teacher'),
    (['--rounds', '2'], '--rounds needs --unlabelled'),
    (['--unlabelled', 'x', '--teacher', 'a,,b'], 'is not a run, or runs with one comma'),
    (['--unsure', '0.7,0.3'], 'nor two that rise'), (['--unsure', '0.5,0.5'], 'nor two that rise'),
    (['--unsure', '.1,.2,.3'], 'nor two that rise'), (['--unsure', '1.5'], 'from 0 to 1'),
    (['--unlabelled-share', '1'], 'from 0.01 to 0.99'),
])
def test_options_that_do_not_go_together(arguments, message, capsys):
    try:
        code = run_command(main.main, arguments)
    except SystemExit as error:
        code = error.code
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count('\n') == 1


def test_several_workers_are_refused_before_one_is_started(teacher, photographs, capsys,
                                                           monkeypatch):
    arguments = ['--unlabelled', str(photographs), '--teacher', str(teacher)]
    monkeypatch.setattr(launch, 'launch', pytest.fail)
    assert run_command(launch.main, ['--workers', '2', '--', *arguments]) == 2
    monkeypatch.setenv('TF_CONFIG', json.dumps({
        'cluster': {'worker': ['a:1', 'b:2']}, 'task': {'type': 'worker', 'index': 0}}))
    assert run_command(main.main, arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all('--unlabelled is for one worker' in line for line in errors)


def test_two_bounds_are_for_two_classes(data, dataset, teacher, photographs):
    options = options_of(data, photographs, teacher, more=('--unsure', '0.3,0.7'))
    with pytest.raises(InputError, match='two bounds are for two classes'), \
            lesson_of(dataset._replace(classes=('a', 'b', 'c')), options):
        pass


def test_commands_of_the_documentation_are_understood(monkeypatch):
    monkeypatch.setattr(training_options, 'check_runs', lambda options: None)   # none is there
    text = (Path(__file__).parents[1] / 'docs/ninety-seven.md').read_text(encoding='utf-8')
    commands = [line.split()[2:] for line in text.splitlines()
                if line.strip().startswith('python main.py')]
    *others, student = [parse_args(command) for command in commands]
    assert [(options.dataset, options.split) for options in others] == [
        ('camvid', None), ('camvid', None), ('camvid', 'trainval'), ('kitti', 'val3')]
    assert student.unsure == [.3, .7] and student.teacher == [Path('runs/97/kitti/20*')]


# Runs -----------------------------------------------------------------------------------------

def test_rounds_hand_the_student_on_as_teacher():
    seen = []

    def run(options):
        seen.append((options.teacher, options.rounds, options.resume, options.seed))
        return f'run {len(seen)}'

    options = Namespace(teacher=['first'], rounds=3, resume='here', seed=5)
    assert unlabelled.rounds(run, options) == 'run 3'
    assert seen == [(['first'], 3, 'here', 5), (['run 1'], 2, None, 5), (['run 2'], 1, None, 5)]


def test_a_round_that_is_there_is_not_made_again(tmp_path):
    first, second = (save_run(tmp_path / name, rounds=rounds) for name, rounds in (('1', 2), ('2', 1)))
    options = Namespace(teacher=['teacher'], rounds=2, resume=first, runs_dir=tmp_path, seed=5)
    seen = []

    def run(options):
        seen.append(options.rounds)
        return first

    (second / 'pseudo_labels.json').write_text('{"teachers": [{"run": "elsewhere/0"}]}')
    assert unlabelled.rounds(run, options) == first and seen == [2, 1]
    # Nor are a run that began at its weights, and one that is damaged, its next round.
    made = json.loads((second / 'options.json').read_text())
    (second / 'options.json').write_text(json.dumps({**made, 'start_from': {'run': str(first)}}))
    (save_run(tmp_path / '0', rounds=1) / 'pseudo_labels.json').write_text('{')
    assert unlabelled.rounds(run, options) == first and seen == [2, 1, 2, 1]
    (second / 'pseudo_labels.json').write_text('{"teachers": [{"run": "elsewhere/1"}]}')
    with pytest.raises(InputError, match='is done, and .*/2 is its next round; resume that'):
        unlabelled.rounds(run, options)
    assert seen == [2, 1, 2, 1, 2]


def test_teachers_have_folders_of_any_name_and_one_vote_each(tmp_path, data, photographs):
    with_comma = save_run(tmp_path / 'a,b')
    given = ['--data-dir', str(data), '--unlabelled', str(photographs), '--teacher']
    assert parse_args([*given, str(with_comma)]).teacher == [with_comma]
    save_run(tmp_path / 'c')
    with pytest.raises(InputError, match='--teacher: one run is named twice'):
        parse_args([*given, f'{tmp_path}/c,{tmp_path}/../{tmp_path.name}/c'])


def test_a_run_with_rounds_to_go_needs_its_first_teacher_no_more(data, photographs, tmp_path,
                                                                capsys):
    run = save_run(tmp_path / 'run')
    made = json.loads((run / 'options.json').read_text())
    made['options'].update(data_dir=str(data), unlabelled=str(photographs), rounds=2,
                           teacher=[str(tmp_path / 'gone')])
    (run / 'options.json').write_text(json.dumps(made))
    assert parse_args(['--resume', str(run)]).rounds == 2
    made['options'].update(start_from='gone')       # by the next round, too
    (run / 'options.json').write_text(json.dumps(made))
    assert parse_args(['--resume', str(run)]).rounds == 2       # this one may still be finished
    parse_args(['--resume', str(run)])      # as startup and main do
    assert capsys.readouterr().err.count(
        'warning: the next round will fail: --start-from: gone is no run') == 1
    with pytest.raises(InputError, match='--rounds is 3, was 2'):
        parse_args(['--resume', str(run), '--rounds', '3'])
    moved = save_run(tmp_path / 'moved')
    assert parse_args(['--resume', str(run), '--start-from', str(moved)]).start_from == moved
    made['start_from'] = {'run': str(moved)}        # as it was noted, in full
    (run / 'options.json').write_text(json.dumps(made))
    assert parse_args(['--resume', str(run)]).start_from == moved


def test_photographs_are_found_from_another_folder_at_resume(data, photographs, tmp_path):
    run = save_run(tmp_path / 'run')
    made = json.loads((run / 'options.json').read_text())
    made['options'].update(data_dir=str(data), unlabelled='data/more', teacher=['teacher'])
    made['data']['unlabelled'] = str(photographs)
    (run / 'options.json').write_text(json.dumps(made))
    assert parse_args(['--resume', str(run)]).unlabelled == photographs


def command(*arguments):
    return run_command(main.main, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_the_second_round_is_taught_by_the_first(data, teacher, photographs, tmp_path):
    assert command('--data-dir', data, '--runs-dir', tmp_path / 'runs', *OPTIONS, '--unlabelled',
                   photographs, '--teacher', teacher, '--rounds', '2') == 0
    first, second = sorted((tmp_path / 'runs').glob('2*'))
    assert [path.name for path in start_from.taught_by(second)] == [first.name]
    assert [path.name for path in start_from.taught_by(first)] == [teacher.name]


@pytest.mark.slow
def test_resumed_student_ends_like_the_uninterrupted_one(data, teacher, photographs, tmp_path,
                                                         monkeypatch, capsys):
    def train(runs):
        code = command('--data-dir', data, '--runs-dir', runs, *OPTIONS, '--unlabelled',
                       photographs, '--teacher', teacher)
        [run] = runs.glob('2*')
        return code, run

    code, whole = train(tmp_path / 'whole')
    assert code == 0
    assert 'pseudo_labels/shown/a.jpg' in (whole / 'index.html').read_text()

    original, steps = recorder.Recorder.after_step, []

    def interrupted(self):
        steps.append(1)
        if len(steps) == 6:     # an epoch has 5 steps: 6 photographs and 3 others, 2 at a time
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, 'after_step', interrupted)
        code, run = train(tmp_path / 'resumed')
    assert code == 130

    label = run / 'pseudo_labels/a.png'
    shutil.move(label, tmp_path / 'label')
    assert command('--resume', run) == 2
    assert f'{label} is missing' in capsys.readouterr().err
    shutil.move(tmp_path / 'label', label)
    content = label.read_bytes()
    label.write_bytes(content[:-20])
    assert command('--resume', run) == 2
    assert f'{label} is not as it was; take' in capsys.readouterr().err
    label.write_bytes(content)
    moved = shutil.move(photographs, tmp_path / 'moved')
    assert command('--resume', run) == 2
    striped(moved / 'b.png', 9)
    assert command('--resume', run, '--unlabelled', moved) == 2
    striped(moved / 'b.png', 1)
    gone, other = (line for line in capsys.readouterr().err.splitlines()
                            if line.startswith('error: '))
    assert 'a.png is missing; put the' in gone
    assert 'b.png is not as it was; put the earlier ones back' in other

    # Not labelled anew: the teacher is not there any more for the notes to be made again.
    before = label.stat().st_mtime_ns
    assert command('--resume', run, '--unlabelled', moved) == 0
    assert label.stat().st_mtime_ns == before
    for name in ('conv5_1/kernel', 'decoder/score7/kernel'):
        ends = [tf.train.load_checkpoint(str(end / 'checkpoints/step-000010/model'))
                .get_tensor(name) for end in (whole, run)]
        np.testing.assert_allclose(*ends, rtol=1e-3, atol=1e-5)


def test_a_stop_before_the_next_round_has_a_folder_says_how_to_go_on():
    def run(options):
        if options.teacher:
            raise KeyboardInterrupt
        return Path('runs/first')

    options = Namespace(rounds=2, teacher=None, resume=None, runs_dir='runs')
    with pytest.raises(KeyboardInterrupt, match='go on with python main.py --resume runs/first'):
        unlabelled.rounds(run, options)
