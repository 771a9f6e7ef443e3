"""Writes the pages of runs anew, such as after the program has changed.

    python -m roadseg.report RUN [RUN ...]      the page of each run
    python -m roadseg.report runs               the page that compares all runs of a folder

Training writes both by itself.
"""
import sys
from pathlib import Path

from roadseg.commands import Parser, run_command
from roadseg.scoring.page import write_page
from roadseg.scoring.runs_page import write_runs_page


def main(argv=None):
    """The command: prints the path of each page."""
    parser = Parser(prog='python -m roadseg.report',
                    description='Writes the page of a run, or the one that compares runs, anew.')
    parser.add_argument('folders', nargs='+', metavar='RUN', type=Path,
                        help='folder of a run, runs/<date-time>, or of several, runs')
    for folder in parser.parse_args(argv).folders:
        holds_runs = not (folder / 'options.json').exists() and any(folder.glob('*/options.json'))
        print(write_runs_page(folder) if holds_runs else write_page(folder))


if __name__ == '__main__':
    sys.exit(run_command(main))
