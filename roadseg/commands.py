"""What all commands share: how options are read, and how a mistake is reported."""
import argparse
import math
import os
import sys
from pathlib import Path

from roadseg.errors import InputError
from roadseg.signals import as_ctrl_c, open_closed_streams


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, and shows each default in its help."""

    def __init__(self, **options):
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **options)

    def error(self, message):
        self.exit(2, f'error: {one_line(message)}; see {self.prog} --help\n')


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description, and adds '(default)' to the help of an option.

    The default is written the way it would be typed.
    """

    def _fill_text(self, text, width, indent):
        if '\n' in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)

    def _get_help_string(self, action):
        is_switch = action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction)
        if action.default in (None, argparse.SUPPRESS) or is_switch:
            return action.help
        if action.nargs == '+' and isinstance(action.default, list):
            return f"{action.help} ({' '.join(map(typed, action.default))})"
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


def duration(seconds):
    """Text such as '48 s', '13 min' or '2 h 05 min'."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f'{seconds:.0f} s'
    return f'{minutes} min' if minutes < 100 else f'{minutes // 60} h {minutes % 60:02} min'


def one_line(message):
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


def named_folder(text):
    """'out' -> Path('out'); '' is no name for the folder one is in, but a variable left empty."""
    if not text:
        raise argparse.ArgumentTypeError("'' names no folder; . is the one you are in")
    return Path(text)


def folder_name(text):
    """The same as `named_folder`, as str."""
    named_folder(text)
    return text


def factors(text):
    """'1,1.3' -> [1.0, 1.3], each from 0.1 to 8."""
    try:
        return [number(float, 0.1, 8)(part) for part in text.split(',')]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"'{text[:40]}' is not a number from 0.1 to 8, or several with a comma between two, "
            'such as 1,1.3') from None


def add_averaging(parser):
    """Adds --test-scale and --flip-test to a command that opens a run."""
    parser.add_argument(
        '--test-scale', type=factors, metavar='FACTOR[,FACTOR...]',
        help='predict at this size relative to that of the training, its height rounded to a '
             'multiple of 32; of several, such as 1,1.5, the mean; by default as in the training')
    parser.add_argument(
        '--flip-test', action=argparse.BooleanOptionalAction,
        help='average with the mirrored photographs; by default as in the training')


# Running --------------------------------------------------------------------------------------

def run_command(command, argv=None):
    """Runs a command's function, and turns what the user can put right into one line.

    SIGTERM and SIGHUP end it as Ctrl-C does, so that it tidies up. A reader of its output that has
    gone, as `head` does, stops nothing.

    Args:
        command: function of `argv` that returns an exit code or None.
        argv: list of str; None for the process's own.

    Returns:
        Exit code: that of the command; 0 for None; 2 for an `InputError`, and where the output
        got lost by a full disk; 130 after Ctrl-C.
    """
    open_closed_streams()
    before = sys.stdout, sys.stderr
    # Some services give none, and progress bars want one.
    output, errors = sys.stdout, sys.stderr = [
        _Output(stream or open(os.devnull, 'w', encoding='utf-8')) for stream in before]
    try:
        with as_ctrl_c():
            code = _run(command, argv)
            if output.is_lost():
                print(f'error: cannot write the standard output: {output.error.strerror}; write '
                      'it elsewhere', file=sys.stderr)
                code = 2
        return code
    finally:
        for stream in (output, errors):
            stream.flush()
        sys.stdout, sys.stderr = before


def _check_current_folder():
    try:
        os.getcwd()
    except OSError as error:
        raise InputError('the folder that you are in has been removed; change to '
                         'another') from error


def _run(command, argv):
    """What `run_command` does, once the streams are prepared."""
    try:
        _check_current_folder()
        return command(argv) or 0
    except InputError as error:
        print(f'error: {one_line(error)}', file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(error if error.args else 'stopped', file=sys.stderr)
        return 130


class _Output:
    """A standard stream. Where it can't be written to, what is printed gets lost, and no work.

    Attributes:
        error: the first `OSError`; None without.
    """

    def __init__(self, stream):
        self._stream, self.error = stream, None

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        try:
            written = self._tried(self._stream.write, text)
        except UnicodeEncodeError:      # as of a name of a file
            encoding = self._stream.encoding
            return self.write(text.encode(encoding, 'backslashreplace').decode(encoding))
        if '\n' in text:        # in a file, too, each line is there when it is said
            self.flush()
        return written

    def flush(self):
        self._tried(self._stream.flush)

    def _tried(self, do, *arguments):
        try:
            return do(*arguments)
        except OSError as error:
            self.error = self.error or error
            # Python will try once more, at the end, to write what is in its buffer.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def is_lost(self):
        """Whether something that was to be read later got lost."""
        self.flush()
        return self.error is not None and not isinstance(self.error, BrokenPipeError)
