"""The options of a training run and their defaults. No TensorFlow: a typo is answered at once."""
import argparse
import errno
import functools
import os
import sys
from pathlib import Path

from roadseg.commands import (Parser, factors, folder_name, image_size, named_folder, number,
                              typed)
from roadseg.datasets import catalogue, splits
from roadseg.errors import InputError
from roadseg.training.run_folder import data_folder, read_options, read_run

# What differs from the defaults of `build_parser`, which are those of FCN-8s on KITTI Road.
# Measured where README.md or docs/experiments.md says so.
RECIPES = {
    'demo': {'image_size': (128, 416), 'epochs': 30, 'batch_size': 2, 'learning_rate': 1e-3,
             'decoder_rate': 1.0, 'freeze_blocks': 0, 'scale': 0.3, 'colour': 0.3},
    'camvid': {'image_size': (360, 480), 'epochs': 60, 'batch_size': 4, 'learning_rate': 1e-4,
               'freeze_blocks': 0, 'scale': 0.3, 'colour': 0.3},
    'cityscapes': {'image_size': (512, 1024), 'epochs': 30, 'batch_size': 1, 'learning_rate': 1e-4,
                   'freeze_blocks': 0, 'scale': 0.3, 'colour': 0.3},
    'folder': {'image_size': None},     # the photographs' own aspect, see `training_size`
}
OF_MODEL = {(of, 'segnet'): {'class_weights': 'median'} for of in ('camvid', 'cityscapes')}
DATA_DIRS = {'demo': 'data/demo'}       # 'data' for the others
# Those that every run has had. Of one that is older than another, its default counts.
ALWAYS = ('dataset', 'model', 'data_dir', 'split', 'image_size', 'epochs', 'batch_size',
          'learning_rate', 'decoder_rate', 'schedule', 'warmup', 'keep_prob', 'weight_decay',
          'clip_norm', 'freeze_blocks', 'average_decay', 'score_channels', 'flip', 'scale',
          'colour', 'precision', 'seed', 'own_data')


def build_parser():
    """The options and their defaults. Those that matter for the result were measured."""
    of_demo = ' '.join(f"--{name.replace('_', '-')} {typed(value)}"
                       for name, value in RECIPES['demo'].items())
    parser = Parser(
        prog='python main.py',
        description='Trains a network that finds the road, or any classes, on photographs, and '
                    'writes labelled overlays.',
        epilog='Defaults in parentheses are those of FCN-8s on KITTI Road; other data sets and '
               'models have their own, which options.json in the run folder shows. '
               'All about a run is on its page, index.html in the run folder.')
    add = parser.add_argument_group('what to run').add_argument
    add('--demo', action='store_true',
        help='the same as --dataset demo: draw road scenes into data/demo and train a narrow '
             'network on them; nothing to download, two minutes on a CPU. Unless others are '
             f'given, its options are {of_demo}')
    add('--dataset', choices=tuple(catalogue.DATASETS), default='kitti',
        help='what to train on')
    add('--classes', type=number(int, 2, 255), metavar='C', default=None,
        help='group the classes of the data set into so many: camvid 11 or 2, cityscapes 19, 13 '
             'or 2, demo 2 or 7; of a folder, how many its masks have')
    add('--model', choices=('fcn8s', 'segnet'), default='fcn8s', help='the decoder to train')
    add('--encoder', type=named_folder, metavar='DIR', default=None,
        help='frozen graph to start from, as `python -m roadseg.networks.resnet50` writes one; '
             'by default the VGG16 in DATA_DIR/vgg, or else in data/vgg')
    add('--resume', type=named_folder, metavar='RUN', default=None,
        help='go on with this run from its last checkpoint, with its options')
    add('--data-dir', type=folder_name, default='data', metavar='DIR',
        help='holds the data set and vgg/, or gets them by download; given by hand, it may hold '
             'fewer files than were published')
    add('--runs-dir', type=folder_name, default='runs', metavar='DIR',
        help='where the run folder is made')
    add('--split', default=None, metavar='SPLIT',
        help="photographs to hold out. kitti: val3, KittiSeg's (the default), or search, to "
             'choose options by (val3 is not trained on either). camvid: val (the default), '
             'test, trainval. cityscapes: val. demo: held-out. Any: kfold:K:I, fold I of K '
             'contiguous ones, I from 0; tail:SHARE, the last ones (tail:0.2 is the default of '
             'folder); none')

    add = parser.add_argument_group('more from the same labels').add_argument
    add('--start-from', type=named_folder, metavar='RUN', default=None,
        help='take the weights of this run where names and shapes agree, whatever data set, '
             'classes and model it was of; the others are new')
    add('--unlabelled', type=named_folder, metavar='DIR', default=None,
        help='learn from the photographs in this folder, too, as --teacher labels them; if it '
             'holds none, from those in its folders')
    add('--teacher', type=run_folders, metavar='RUN[,RUN...]', default=None,
        help='run that labels the photographs of --unlabelled; of several, the mean')
    add('--unsure', type=unsure, metavar='P|LOW,HIGH', default=[0.7],
        help='leave pixels out of the loss whose likeliest class is less probable than P to the '
             'teacher; or, of two classes, where the second is between LOW and HIGH')
    add('--unlabelled-share', type=number(float, 0.01, 0.99), metavar='SHARE', default=None,
        help='at most this share of an epoch is without true labels, drawn anew for each; by '
             'default an epoch is all photographs, with and without')
    add('--rounds', type=number(int, 1, 100), default=1,
        help='train so often, from the second time on with the last student as the teacher')

    add = parser.add_argument_group('network and training').add_argument
    add('--image-size', type=image_size, metavar='HxW', default=(192, 640),
        help='size of the photographs in training; of a folder of your own, unless this is given, '
             'their own aspect and as many pixels')
    add('--test-scale', type=factors, default=[1.0], metavar='FACTOR[,FACTOR...]',
        help='predict at this size relative to that of the training, its height rounded to a '
             'multiple of 32; of several, the mean')
    add('--epochs', type=number(int, 1, 100_000), default=40, metavar='N',
        help='passes over the photographs')
    add('--batch-size', type=number(int, 1, 4096), default=2, metavar='N',
        help='photographs per step; with N times as many, an epoch has N times fewer steps, for '
             'which --epochs and --learning-rate are to be chosen')
    add('--learning-rate', type=number(float, 0, 10), default=1.4e-4, metavar='RATE',
        help="Adam's learning rate, at its highest")
    add('--decoder-rate', type=number(float, 0, 1000), default=10.0, metavar='FACTOR',
        help="factor of the decoder's learning rate")
    add('--score-channels', type=number(int, 0, 1024), default=32, metavar='K',
        help="channels of FCN-8s' scores; 0 for one per class, as in the paper")
    add('--class-weights', choices=('none', 'median'), default='none',
        help='weigh the classes in the loss: median frequency over their own, as SegNet does')
    add('--schedule', choices=('cosine', 'constant'), default='cosine',
        help='course of the learning rate after the warm-up')
    add('--warmup', type=number(int, 0, 10_000_000), default=100, metavar='STEPS',
        help='steps of linear rise to the learning rate, at most a quarter of all')
    add('--keep-prob', type=number(float, 0.01, 1), default=0.5, metavar='P',
        help='probability that dropout keeps an activation of fc6 and fc7')
    add('--weight-decay', type=number(float, 0, 1), default=5e-5, metavar='FACTOR',
        help='factor of the L2 loss')
    add('--clip-norm', type=number(float, 1e-6, 1e6), default=1.0, metavar='NORM',
        help="upper bound of the gradient's norm")
    add('--freeze-blocks', type=number(int, 0, 5), default=2, metavar='N',
        help="leave the encoder's first blocks as they are")
    add('--train', choices=('all', 'decoder'), default='all',
        help='decoder: leave the whole encoder as it is, new layers of it included; several times '
             'as fast, for instance after --start-from')
    add('--average-decay', type=number(float, 0, 0.99999), default=0.99, metavar='DECAY',
        help='validate and save moving averages of the weights; 0 for none')
    add('--flip', action=argparse.BooleanOptionalAction, default=True,
        help='mirror photographs with a probability of 1/2')
    add('--scale', type=number(float, 0, 8), default=0.5, metavar='S',
        help='zoom photographs by 1/(1+S/2) to 1+S')
    add('--colour', type=number(float, 0, 1), default=0.5, metavar='S',
        help='change brightness, saturation and contrast by up to this share, the white balance '
             'by up to a quarter of it')
    add('--ignore-last-rows', type=number(int, 0, 100_000), default=0, metavar='N',
        help="leave the labels' last N rows out of the training. KITTI Road's mostly stop some "
             'rows above the lower edge, and a network that learns this leaves the bottom of other '
             "cameras' pictures unpainted: 8 for use, 0 for the benchmark")
    add('--flip-test', action=argparse.BooleanOptionalAction, default=False,
        help='predict as the mean over a photograph and its mirror image, at twice the time')

    add = parser.add_argument_group('machine').add_argument
    add('--precision', choices=('auto', 'float32', 'float16', 'bfloat16'), default='auto',
        help='precision of convolutions; auto is bfloat16 on a CPU that has it in hardware, else '
             'float32 (TF32 on a GPU that has it); float16 is for a GPU, bfloat16 for a CPU')
    add('--xla', action='store_true', help='compile the graph with XLA, on a GPU')
    add('--seed', type=number(int, 0, 2**31 - 1), default=0, metavar='N',
        help='decides all that is drawn: new layers, dropout, order and augmentation')
    add('--save-minutes', type=number(float, 0.01, 100_000), default=10.0, metavar='M',
        help='write a checkpoint at least so often, besides when --validate-every says')
    add('--validate-every', type=number(int, 1, 100_000), default=1, metavar='EPOCHS',
        help='score the held-out photographs and write a checkpoint, unless one is being '
             'written, after every so many epochs, and after the last')
    add('--cache-gb', type=number(float, 0, 100_000), default=None, metavar='GB',
        help='memory for decoded photographs; those beyond are decoded anew in every epoch '
             '(default: half of what training leaves, shared by the workers of a machine)')
    add('--max-steps', type=number(int, 1, 10**9), default=None, metavar='STEPS',
        help='end after so many steps, to try things out')
    return parser


def parse_args(argv=None):
    """Reads the command line.

    Args:
        argv: list of str; by default, that of the process.

    Returns:
        Namespace of the options, and `own_data`: whether --data-dir was given.

    Raises:
        InputError: options that do not go together; `--resume` of what is no run, or with an
            option that contradicts it.
    """
    parser = build_parser()
    first = parser.parse_args(argv)
    given = given_options(argv)
    if first.demo:
        if given.get('dataset', 'demo') != 'demo':
            raise InputError(f'--demo is --dataset demo, and --dataset {first.dataset} is given, '
                             'too; leave one out')
        parser.set_defaults(dataset='demo')
        first.dataset = 'demo'
        given['dataset'] = 'demo'
        del given['demo']
    if first.resume:
        options = resumed_options(first.resume, given)
        check_places(options)
        if options.dataset != 'demo' and not os.path.isdir(options.data_dir):   # no download there
            raise InputError(f'there is no folder {options.data_dir}, where the data of '
                             f'{first.resume} lay; name it with --data-dir')
        if options.rounds > 1:          # which begins anew, this run being the teacher
            try:
                check_runs(argparse.Namespace(**{**vars(options), 'teacher': None}))
            except InputError as error:
                _warn_once(f'the next round will fail: {error}')
        return options
    parser.set_defaults(data_dir=DATA_DIRS.get(first.dataset, 'data'),
                        **RECIPES.get(first.dataset, {}),
                        **OF_MODEL.get((first.dataset, first.model), {}))
    options = parser.parse_args(argv)
    options.own_data = 'data_dir' in given
    check_teaching(given)
    check_places(options)
    check_runs(options)
    if options.split is not None:
        splits.check_split(options.split, catalogue.DATASETS[options.dataset].splits)
    return options


def check_places(options):
    """Raises InputError where --data-dir or --runs-dir can't be a folder, or --encoder is none."""
    for name in ('data_dir', 'runs_dir', 'resume'):
        try:
            str(getattr(options, name)).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"--{name.replace('_', '-')} {ascii(str(getattr(options, name)))}: "
                             'its name is no UTF-8, which TensorFlow wants; choose '
                             'another') from error
    for name in ('data_dir', 'runs_dir'):
        nearest = Path(getattr(options, name))
        try:
            os.lstat(nearest)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise InputError(f"--{name.replace('_', '-')} {str(nearest)[:40]}... is too long "
                                 'a name; choose a shorter one') from error
        while not os.path.lexists(nearest) and nearest != nearest.parent:
            nearest = nearest.parent
        if not getattr(options, name) or not os.path.isdir(nearest):
            raise InputError(f"--{name.replace('_', '-')} '{getattr(options, name)}' cannot be a "
                             f'folder: {nearest} is none; name another')
    if options.encoder and not os.path.isfile(options.encoder / 'saved_model.pb'):
        raise InputError(f'--encoder {options.encoder} is no frozen graph: it has no '
                         'saved_model.pb; write one with `python -m roadseg.networks.vgg16` or '
                         'another command of roadseg/networks/')


def check_runs(options):
    """Raises InputError where --start-from or --teacher is no run, or --unlabelled no folder."""
    for option, runs in (('--start-from', [options.start_from]), ('--teacher', options.teacher)):
        for run in filter(None, runs or []):
            if not os.path.isfile(run / 'options.json'):
                raise InputError(f'{option}: {run} is no run, as it has no options.json; name a '
                                 'folder that training has made, such as runs/<date-time>')
    if len({*map(os.path.realpath, options.teacher or [])}) < len(options.teacher or []):
        raise InputError('--teacher: one run is named twice; name each once')
    if options.unlabelled and not os.path.isdir(options.unlabelled):
        raise InputError(f'--unlabelled: {options.unlabelled} is no folder; name one with '
                         'photographs')


def run_folders(text):
    """'runs/a,runs/b' -> [Path('runs/a'), Path('runs/b')]; a folder may have a comma itself."""
    parts = [text] if os.path.isdir(text) else text.split(',')
    if '' in parts:
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is not a run, or runs with one comma "
                                         'between two of them')
    return [Path(part) for part in parts]


def unsure(text):
    """'0.7' -> [0.7], '0.3,0.7' -> [0.3, 0.7]: rising probabilities."""
    bounds = [number(float, 0, 1)(part) for part in text.split(',')]
    if len(bounds) > 2 or bounds != sorted(set(bounds)):
        raise argparse.ArgumentTypeError(
            f"'{text[:40]}' is neither a probability, such as 0.7, nor two that rise, such as "
            '0.3,0.7')
    return bounds


def check_teaching(given):
    """Raises InputError where of --unlabelled and --teacher, and what goes with them, one lacks.

    Args:
        given: dict, from `given_options`.
    """
    if 'unlabelled' in given and 'teacher' not in given:
        raise InputError('--unlabelled needs --teacher RUN, a run that labels the photographs')
    for name in ('teacher', 'unsure', 'unlabelled_share', 'rounds'):
        if name in given and 'unlabelled' not in given:
            raise InputError(f"--{name.replace('_', '-')} needs --unlabelled DIR, a folder with "
                             'photographs that have no labels')


def check_alone(options):
    """Raises InputError where an option is for one worker; to be asked where there are several."""
    if options.unlabelled:
        raise InputError('--unlabelled is for one worker; use python main.py, without TF_CONFIG')


def given_options(argv):
    """Returns a dict of just those options that stand on the command line."""
    parser = build_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(argv))


def resumed_options(folder, given):
    """Returns the options of an earlier run, to go on with.

    What changes nothing of the result may have changed since: where things lie (--data-dir,
    --encoder, --unlabelled; --start-from, where another round begins with it), --cache-gb and
    --save-minutes. A relative path that leads nowhere from here is taken as the run noted it, in
    full. An option that the run is too old to have gets its default.

    Raises:
        InputError: the folder is no run's, an option in `given` contradicts it, or a value in it
            is none that the option can have.
    """
    saved, made = complete(read_options(folder), folder), read_run(folder)
    origin = made.get('start_from')
    noted = {'encoder': made['model'].get('encoder'),
             'unlabelled': made['data'].get('unlabelled'),
             'start_from': origin.get('run') if isinstance(origin, dict) else None}
    free = {'resume': folder,
            **{name: given.get(name, saved[name]) for name in ('cache_gb', 'save_minutes')}}
    free['data_dir'] = (given.get('data_dir') or data_folder(
        folder, saved['data_dir'], made['data'].get('folder')) or saved['data_dir'])
    for name, then in noted.items():
        now = saved[name]
        if name == 'start_from' and saved['rounds'] == 1:
            continue
        if now or name == 'encoder':        # None: where this data set's lies
            lost = not os.path.exists(now or Path(saved['data_dir'], 'vgg'))
            moved = lost and isinstance(then, str) and os.path.exists(then)
            free[name] = given.get(name, Path(then) if moved else now)
    contradicting = [
        f"--{name.replace('_', '-')} is {typed(value)}, was {typed(saved.get(name))}"
        for name, value in given.items() if name not in free and saved.get(name) != value]
    if contradicting:
        raise InputError(f'{folder} was started with other options: '
                         + '; '.join(contradicting) + '; leave them out, or start a new run')
    return argparse.Namespace(**{**saved, **free})


def complete(saved, folder):
    """Checks the options of a run, and adds those it is too old to have.

    Args:
        saved: dict, `options` of its `options.json`.
        folder: of the run, for messages.

    Returns:
        dict with a value of the right type for every option but 'resume'.

    Raises:
        InputError: a value is none that the option can have, or one is missing that every run
            has.
    """
    actions = {action.dest: action for action in build_parser()._actions if action.dest != 'help'}
    foreign = [name for name in saved if name not in actions and name != 'own_data']
    missing = [name for name in ALWAYS if name not in saved]
    if missing:
        unknown = f", and there is '{foreign[0]}', which is no option" if foreign else ''
        raise InputError(f"{folder}/options.json has no '{missing[0]}'{unknown}; take the file "
                         'from a backup, or start a new run')
    if foreign:
        _warn_once(f"{folder}/options.json has '{foreign[0]}', which is no option of this version")
    options = dict(saved)
    for name, action in actions.items():
        if name != 'resume':
            options.setdefault(name, action.default)
            options[name] = _checked(action, options[name], folder)
    if not isinstance(options['own_data'], bool):
        raise _wrong(folder, 'own_data', options['own_data'])
    try:
        if options['split'] is not None:
            splits.check_split(options['split'], catalogue.DATASETS[options['dataset']].splits)
    except InputError as error:
        raise _wrong(folder, 'split', options['split']) from error
    return options


@functools.cache
def _warn_once(message):
    """Warns, and does not say the same again in this process."""
    print(f'warning: {message}', file=sys.stderr)


def _checked(action, value, folder):
    """A value of options.json as its option would have read it."""
    if value is None and action.default is None:
        return None
    several, right, found = isinstance(value, (list, tuple)), True, value
    if action.nargs == 0:
        right = isinstance(value, bool)
    elif action.type in (None, folder_name):
        right = isinstance(value, str) and value in (action.choices or [value])
    elif action.type is named_folder:
        right = isinstance(value, (str, Path))
        found = Path(value) if right else value
    else:
        parts = value if several else [value]
        try:
            found = action.type(('x' if action.type is image_size else ',').join(map(str, parts)))
            right = isinstance(found, (list, tuple)) or not several
        except (argparse.ArgumentTypeError, ValueError):
            right = False
    if not right or '\0' in str(found):        # which no path may hold
        raise _wrong(folder, action.dest, value)
    return found


def _wrong(folder, name, value):
    """The InputError of a value in options.json that its option can't have."""
    return InputError(f"{folder}/options.json: {name} is {str(value)[:60]!r}, which "
                      f"--{name.replace('_', '-')} cannot be; take the file from a backup, or "
                      'start a new run')
