"""Goes on with the newest run that is unfinished or has --rounds to go, or starts one.

    python infra/train.py [OPTION of main.py ...]
    python infra/train.py --unfinished          names that run; fails where there is none

main.py takes the place of this process, so that it gets the signals that the service sends.
"""
import json
import math
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def is_unfinished(run, taught):
    """Whether a run has a checkpoint and epochs or --rounds to go, or was not scored at its end.

    Args:
        run: folder.
        taught: set of (folder of a run, rounds to go) of the runs that have taught another, which
            has so many to go.
    """
    checkpoints = sorted((path for path in (run / 'checkpoints').glob('step-*')
                          if path.name.removeprefix('step-').isdecimal()),
                         key=lambda path: int(path.name.removeprefix('step-')))
    if not checkpoints:
        return False
    try:
        made = json.loads((run / 'options.json').read_text(encoding='utf-8'))
        progress = first_whole(path / 'progress.json' for path in reversed(checkpoints))
        options, held_out = made['options'], made['data']['validation']
        tests = made['data']['testing']
        trained = (progress['epoch'] >= options['epochs']
                   or progress['step'] >= (options['max_steps'] or math.inf))
        painted = len(list((run / 'overlays').glob('*.png'))) >= tests
        rounds = options.get('rounds') or 1
        to_teach = rounds > 1 and (run.resolve(), rounds - 1) not in taught     # by a next round
        scores = run / 'evaluation.json'
        scored = scores.exists() and (scores.stat().st_mtime >= checkpoints[-1].stat().st_mtime
                                      or checkpoint_of(scores) == checkpoints[-1].name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        print(f'warning: passing over {run}, which cannot be read: {error!r}', file=sys.stderr)
        return False
    return not trained or bool(held_out) and not scored or not painted or to_teach


def checkpoint_of(scores):
    """Name of the checkpoint that was scored: the times of files are lost where they are copied."""
    try:
        return json.loads(scores.read_text(encoding='utf-8'))['checkpoint']
    except (OSError, ValueError, KeyError, TypeError):
        return None


def first_whole(paths):
    """What the first JSON file that can be read holds; raises what the last one does."""
    for path in paths:
        try:
            return json.loads(path.read_text(encoding='utf-8'))
        except (OSError, ValueError) as error:      # main.py takes the checkpoint before it
            damage = error
    raise damage


def teachers_of(run):
    """The runs that taught a run: list of (folder, rounds that this one has to go)."""
    try:
        options = json.loads((run / 'options.json').read_text(encoding='utf-8'))['options']
        return [(Path(teacher).resolve(), int(options.get('rounds') or 1))
                for teacher in options.get('teacher') or []]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def main():
    """The command."""
    os.chdir(ROOT)
    runs = [path.parent for path in Path('runs').glob('**/2*/options.json')     # --runs-dir, too
            if path.is_file()]
    taught = {teacher for run in runs for teacher in teachers_of(run)}
    unfinished = [run for run in sorted(runs, key=lambda run: run.name)
                  if is_unfinished(run, taught)]
    options = sys.argv[1:]
    if options == ['--unfinished']:
        if not unfinished:
            sys.exit(1)
        print(unfinished[-1])
        return
    if unfinished:
        if options:
            print(f"{unfinished[-1]} is unfinished and goes on; without it: {' '.join(options)}",
                  file=sys.stderr)
        options = ['--resume', str(unfinished[-1])]
    os.execv(sys.executable, [sys.executable, 'main.py', *options])


if __name__ == '__main__':
    main()
