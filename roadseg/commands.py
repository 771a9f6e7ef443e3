"""What all commands share: how options are read, and how a mistake is reported."""
import argparse
import math
import sys

from roadseg.errors import InputError


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, and shows each default in its help."""

    def __init__(self, **options):
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **options)

    def error(self, message):
        self.exit(2, f'error: {_one_line(message)}; see {self.prog} --help\n')


class _Formatter(argparse.HelpFormatter):
    """Adds '(default)' to a help text, written the way it would be typed."""

    def _get_help_string(self, action):
        is_switch = action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction)
        if action.default in (None, argparse.SUPPRESS) or is_switch:
            return action.help
        return f'{action.help} ({typed(action.default)})'


def typed(value):
    """A value as it would be typed: (192, 640) -> '192x640', [1.0, 1.3] -> '1,1.3'."""
    if value is None:
        return 'not given'
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, tuple):
        return 'x'.join(map(typed, value))
    if isinstance(value, list):
        return ','.join(map(typed, value))
    return f'{value:.12g}' if isinstance(value, float) else str(value)


def _one_line(message):
    """A message without the line breaks that a name in it may have."""
    return ' '.join(str(message).splitlines())


def number(kind, low, high):
    """Returns a converter from text to a `kind`, int or float, from `low` to `high`."""
    def convert(text):
        try:
            # int() refuses thousands of digits, and takes other scripts' digits, 1_0 and ' 1'
            plain = text.isascii() and '_' not in text and text == text.strip() and len(text) < 40
            value = kind(text) if plain else None
        except ValueError:
            value = None
        if value is None or not math.isfinite(value) or not low <= value <= high:
            what = {int: 'a whole number', float: 'a number'}[kind]
            shown = text if len(text) < 40 else text[:37] + '...'
            raise argparse.ArgumentTypeError(
                f"'{shown}' is not {what} from {low:.12g} to {high:.12g}")
        return value
    return convert


def image_size(text):
    """'160x576' -> (160, 576), each from 16 to 16384."""
    parts = text.lower().split('x')
    try:
        height, width = map(number(int, 16, 16384), parts)
    except (argparse.ArgumentTypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"'{text[:40]}' is not two whole numbers HxW from 16 to 16384, such as "
            '160x576') from None
    return height, width


def factors(text):
    """'1,1.3' -> [1.0, 1.3], each from 0.1 to 8."""
    try:
        return [number(float, 0.1, 8)(part) for part in text.split(',')]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"'{text[:40]}' is not a number from 0.1 to 8, or several with a comma between two, "
            'such as 1,1.3') from None


def run_command(command, argv=None):
    """Runs a command's function, and turns what the user can put right into one line.

    Args:
        command: function of `argv` that returns an exit code or None.
        argv: list of str; None for the process's own.

    Returns:
        Exit code: that of the command; 0 for None; 2 for an `InputError`; 130 after Ctrl-C.
    """
    try:
        return command(argv) or 0
    except InputError as error:
        print(f'error: {_one_line(error)}', file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(error if error.args else 'stopped', file=sys.stderr)
        return 130
