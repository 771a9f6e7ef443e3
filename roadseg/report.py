"""Writes the pages of runs anew, such as after the program has changed.

    python -m roadseg.report RUN [RUN ...]      the page of each run
    python -m roadseg.report runs               the page that compares all runs of a folder

Training writes both by itself.
"""
if __name__ == '__main__':      # before the imports, which take seconds
    from roadseg.signals import stop_at_once
    stop_at_once()
import os
import sys

from roadseg.commands import Parser, named_folder, run_command
from roadseg.scoring.page import write_page
from roadseg.scoring.runs_page import write_runs_page
from roadseg.training.run_folder import holds_runs


def main(argv=None):
    """The command: prints the path of each page."""
    parser = Parser(prog='python -m roadseg.report', description=__doc__)
    parser.add_argument('folders', nargs='+', metavar='RUN', type=named_folder,
                        help='folder of a run, runs/<date-time>, or of several, runs')
    for folder in parser.parse_args(argv).folders:
        is_run = os.path.exists(folder / 'options.json') or not holds_runs(folder)
        print(write_page(folder) if is_run else write_runs_page(folder))


if __name__ == '__main__':
    sys.exit(run_command(main))
