"""The options of a training run and their defaults. No TensorFlow, so a typo is answered at once."""
import argparse
from pathlib import Path

from roadseg.commands import Parser, factors, image_size, number
from roadseg.datasets import catalogue, splits
from roadseg.errors import InputError
from roadseg.training.run_folder import read_options

# What differs from the defaults of `build_parser`, which are those of FCN-8s on KITTI Road.
# Measured where README.md or docs/experiments.md says so.
RECIPES = {
    ('demo', 'fcn8s'): {'image_size': (128, 416), 'epochs': 30, 'batch_size': 2,
                        'learning_rate': 1e-3, 'decoder_rate': 1.0, 'freeze_blocks': 0},
    ('demo', 'segnet'): {'image_size': (128, 416), 'epochs': 30, 'batch_size': 2,
                         'learning_rate': 1e-3, 'decoder_rate': 1.0, 'freeze_blocks': 0},
    ('camvid', 'fcn8s'): {'image_size': (360, 480), 'epochs': 60, 'batch_size': 4,
                          'freeze_blocks': 0},
    ('camvid', 'segnet'): {'image_size': (360, 480), 'epochs': 60, 'batch_size': 4,
                           'freeze_blocks': 0, 'class_weights': 'median'},
    ('cityscapes', 'fcn8s'): {'image_size': (512, 1024), 'epochs': 30, 'freeze_blocks': 0},
    ('cityscapes', 'segnet'): {'image_size': (512, 1024), 'epochs': 30, 'freeze_blocks': 0,
                               'class_weights': 'median'},
}
DATA_DIRS = {'demo': 'data/demo'}       # 'data' for the others
# Of runs from before an option was there: what it stood for then.
EARLIER = {'dataset': 'kitti', 'model': 'fcn8s', 'encoder': None, 'classes': None,
           'class_weights': 'none', 'score_channels': 0, 'save_minutes': 10.0,
           'test_scale': [1.0], 'flip_test': False}


def build_parser():
    """The options and their defaults. Those that matter for the result were measured."""
    parser = Parser(
        prog='main.py',
        description='Trains a network that finds the road, or any classes, on photographs, and '
                    'writes labelled overlays.',
        epilog='Defaults in parentheses are those of FCN-8s on KITTI Road; other data sets and '
               'models have their own, which options.json in the run folder shows. '
               'Everything about a run: open runs/<date-time>/index.html.')
    add = parser.add_argument_group('what to run').add_argument
    add('--demo', action='store_true',
        help='the same as --dataset demo: draw road scenes into data/demo and train a narrow '
             'network on them at 128x416 for 30 epochs; nothing to download, two minutes on a '
             'CPU')
    add('--dataset', choices=tuple(catalogue.DATASETS), default='kitti',
        help='what to train on')
    add('--classes', type=number(int, 2, 255), metavar='C', default=None,
        help='group the classes of the data set into so many: camvid 11 or 2, cityscapes 19, 13 '
             'or 2, demo 2 or 7')
    add('--model', choices=('fcn8s', 'segnet'), default='fcn8s', help='the decoder to train')
    add('--encoder', type=Path, metavar='DIR', default=None,
        help='frozen graph to start from, as `python -m roadseg.networks.resnet50` writes one; '
             'by default the VGG16 in DATA_DIR/vgg')
    add('--resume', type=Path, metavar='RUN', default=None,
        help='go on with this run from its last checkpoint, with its options')
    add('--data-dir', default='data', metavar='DIR',
        help='holds the data set and vgg/, or gets them by download; given by hand, it may hold '
             'fewer files than were published')
    add('--runs-dir', default='runs', metavar='DIR', help='where the run folder is made')
    add('--split', default=None,
        help="photographs to hold out. kitti: val3, KittiSeg's (the default), or search, to "
             'choose options by (val3 is not trained on either). camvid: val (the default), '
             'test, trainval. Any: kfold:K:I, tail:SHARE, none')

    add = parser.add_argument_group('network and training').add_argument
    add('--image-size', type=image_size, metavar='HxW', default=(192, 640),
        help='size of the photographs in training')
    add('--test-scale', type=factors, default=[1.0], metavar='FACTOR[,FACTOR...]',
        help='predict at this size relative to that of the training; of several, the mean')
    add('--epochs', type=number(int, 1, 100_000), default=10, help='passes over the photographs')
    add('--batch-size', type=number(int, 1, 4096), default=1, help='photographs a step')
    add('--learning-rate', type=number(float, 0, 10), default=1e-4,
        help="Adam's learning rate, at its highest")
    add('--decoder-rate', type=number(float, 0, 1000), default=10.0, metavar='FACTOR',
        help="factor of the decoder's learning rate")
    add('--score-channels', type=number(int, 0, 4096), default=32, metavar='K',
        help="channels of FCN-8s' scores; 0 for one per class, as in the paper")
    add('--class-weights', choices=('none', 'median'), default='none',
        help='weigh the classes in the loss: median frequency over their own, as SegNet does')
    add('--schedule', choices=('cosine', 'constant'), default='cosine',
        help='course of the learning rate after the warm-up')
    add('--warmup', type=number(int, 0, 10_000_000), default=100, metavar='STEPS',
        help='steps of linear rise to the learning rate')
    add('--keep-prob', type=number(float, 0.01, 1), default=0.5,
        help='probability that dropout keeps an activation of fc6 and fc7')
    add('--weight-decay', type=number(float, 0, 1), default=5e-5, help='factor of the L2 loss')
    add('--clip-norm', type=number(float, 1e-6, 1e6), default=1.0,
        help="upper bound of the gradient's norm")
    add('--freeze-blocks', type=number(int, 0, 5), default=2,
        help="leave the encoder's first blocks as they are")
    add('--average-decay', type=number(float, 0, 0.99999), default=0.99,
        help='validate and save moving averages of the weights; 0 for none')
    add('--flip', action=argparse.BooleanOptionalAction, default=True,
        help='mirror every second photograph')
    add('--scale', type=number(float, 0, 8), default=0.3, metavar='S',
        help='zoom photographs by 1/(1+S/2) to 1+S')
    add('--colour', type=number(float, 0, 1), default=0.3, metavar='S',
        help='change brightness, saturation and contrast by up to this share')
    add('--flip-test', action=argparse.BooleanOptionalAction, default=False,
        help='predict as the mean over a photograph and its mirror image, at twice the time')

    add = parser.add_argument_group('machine').add_argument
    add('--precision', choices=('auto', 'float32', 'bfloat16'), default='auto',
        help='of convolutions; auto is bfloat16 on a CPU that has it in hardware, else float32')
    add('--seed', type=number(int, 0, 2**31 - 1), default=0,
        help='of all that is drawn: new layers, dropout, order and augmentation')
    add('--save-minutes', type=number(float, 0.01, 100_000), default=10.0, metavar='M',
        help='write a checkpoint at least so often, besides at the end of each epoch')
    add('--cache-gb', type=number(float, 0, 100_000), default=None, metavar='GB',
        help='memory for decoded photographs; those beyond are decoded anew in every epoch '
             '(default: half of what is free)')
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
    if first.resume:
        return resumed_options(first.resume, given)
    parser.set_defaults(data_dir=DATA_DIRS.get(first.dataset, 'data'),
                        **RECIPES.get((first.dataset, first.model), {}))
    options = parser.parse_args(argv)
    options.own_data = 'data_dir' in given
    if options.split is not None:
        splits.check_split(options.split, catalogue.SPLITS[options.dataset])
    return options


def given_options(argv):
    """Returns a dict of just those options that stand on the command line."""
    parser = build_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(argv))


def resumed_options(folder, given):
    """Returns the options of an earlier run, to go on with.

    Only where things lie, --data-dir, may have changed since. An option that the run is too old
    to have gets the value it stood for then.

    Raises:
        InputError: the folder is no run's, an option in `given` contradicts it, or a value in it
            is none that the option can have.
    """
    saved = complete(read_options(folder), folder)
    places = {'resume': folder, 'data_dir': given.get('data_dir', saved['data_dir'])}
    contradicting = [
        f"--{name.replace('_', '-')} is {value}, was {saved.get(name)}"
        for name, value in given.items() if name not in places and saved.get(name) != value]
    if contradicting:
        raise InputError(f'{folder} was started with other options: '
                         + '; '.join(contradicting) + '; leave them out, or start a new run')
    return argparse.Namespace(**{**saved, **places})


def complete(saved, folder):
    """Checks the options of a run, and adds those it is too old to have.

    Args:
        saved: dict, `options` of its `options.json`.
        folder: of the run, for messages.

    Returns:
        dict with a value of the right type for every option.

    Raises:
        InputError: a value is none that the option can have.
    """
    parser = build_parser()
    options = {**EARLIER, 'own_data': False, **saved}
    if saved.get('demo') and 'dataset' not in saved:
        options['dataset'] = 'demo'
    for action in parser._actions:
        name = action.dest
        if name in ('help', 'resume'):
            continue
        options.setdefault(name, action.default)
        options[name] = _checked(action, options[name], folder)
    return options


def _checked(action, value, folder):
    """A value of options.json as its option would have read it."""
    if value is None and action.default is None:
        return None
    if action.type is None and action.choices is None:
        kind = bool if action.nargs == 0 else str
        right = isinstance(value, kind)
    else:
        text = ('x' if action.type is image_size else ',').join(
            str(part) for part in value) if isinstance(value, list) else str(value)
        try:
            value = action.type(text) if action.type else value
            right = not isinstance(value, bool) and (
                action.choices is None or value in action.choices)
        except (argparse.ArgumentTypeError, ValueError):
            right = False
    if not right:
        raise InputError(f"{folder}/options.json: {action.dest} is {str(value)[:60]!r}, which "
                         f'{action.option_strings[0]} cannot be; take the file from a backup, or '
                         'start a new run')
    return value
