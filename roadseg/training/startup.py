"""What `main.py` does before TensorFlow is imported. Imports nothing slow."""
import sys

from roadseg.signals import stop_at_once


def prepare():
    """Reads the options, and sets what TensorFlow asks for while it is imported.

    May start Python anew, and ends the process where the options are wrong.
    """
    stop_at_once()
    from roadseg.commands import run_command        # here and below, as they take a while
    if code := run_command(_prepare):
        sys.exit(code)


def _prepare(argv):
    from roadseg.training import allocator, processor
    from roadseg.training.options import parse_args
    allocator.use_huge_pages()
    options = parse_args(argv)
    # oneDNN suits the demo's narrow network better, and has the only bfloat16
    if options.dataset != 'demo' and options.precision != 'bfloat16':
        processor.choose_convolutions()
