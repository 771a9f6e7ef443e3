"""What `main.py` does before TensorFlow is imported. Imports nothing slow."""
import sys

from roadseg.commands import run_command, stop_at_once


def prepare():
    """Reads the options, and sets what TensorFlow asks for while it is imported.

    May start Python anew, and ends the process where the options are wrong.
    """
    stop_at_once()
    if code := run_command(_prepare):
        sys.exit(code)


def _prepare(argv):
    from roadseg.training import allocator, processor       # here, as they take a while
    from roadseg.training.options import parse_args
    allocator.use_huge_pages()
    if parse_args(argv).dataset != 'demo':      # oneDNN suits its narrow network better
        processor.choose_convolutions()
