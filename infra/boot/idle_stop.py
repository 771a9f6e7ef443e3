#!/usr/bin/env python3
"""Stops the machine after an hour in which nobody and nothing used it.

    idle_stop.py --state FILE

A timer runs this every five minutes. FILE appears when the machine falls idle and vanishes when
it is used; when it is an hour old, the machine is powered off, which on EC2 stops the instance.
Training that was overlooked is not lost: the service saves when it is stopped.

It runs before the project is installed, so it imports the standard library only.
"""
import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

GPU_BUSY = 5            # per cent
LOAD_BUSY = 0.5         # processes, mean of five minutes, so nothing hides between two looks
MINUTES = 60


def output_of(*command):
    """Returns what a command prints, '' with a warning where there is no such answer."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60,
                              check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        print(f'warning: {command[0]} does not answer ({error}); going on without it',
              file=sys.stderr)
        return ''


def gpu_utilisation():
    """Returns the utilisation of the busiest GPU, per cent, 0 where nobody can tell."""
    answer = output_of('nvidia-smi', '--query-gpu=utilization.gpu',
                       '--format=csv,noheader,nounits')
    return max((int(number) for number in re.findall(r'^\s*(\d+)', answer, re.MULTILINE)),
               default=0)


def minutes_untouched():
    """Returns a dict: for each logged-in user, the minutes since the last key was pressed."""
    users = {}
    for line in output_of('who', '-u').splitlines():
        # ubuntu pts/0 2026-11-21 07:06 00:05 1234 (203.0.113.7): the idle time is before the pid
        found = re.match(r'(\S+)\s.*\s(?:(\d+):(\d+)|(old)|\S+)\s+\d+(?:\s+\(.*\))?\s*$', line)
        if found:
            name, hours, minutes, old = found.groups()
            idle = 24 * 60 if old else 60 * int(hours or 0) + int(minutes or 0)
            users[name] = min(idle, users.get(name, idle))
    return users


def use(loadavg):
    """Says what the machine is used for.

    Args:
        loadavg: path of a file like /proc/loadavg.

    Returns:
        str, None where it is idle.
    """
    gpu = gpu_utilisation()
    if gpu >= GPU_BUSY:
        return f'GPU at {gpu} %'
    load = float(Path(loadavg).read_text().split()[1])
    if load >= LOAD_BUSY:
        return f'load {load}'
    for user, minutes in minutes_untouched().items():
        if minutes < MINUTES:
            return f'{user} is logged in'
    return None


def main(argv=None):
    """Looks once."""
    parser = argparse.ArgumentParser(description='Powers the machine off when it has been idle.')
    parser.add_argument('--state', type=Path, required=True, metavar='FILE',
                        help='whose age is the time since when the machine is idle')
    parser.add_argument('--loadavg', default='/proc/loadavg', metavar='FILE')
    options = parser.parse_args(argv)

    reason = use(options.loadavg)
    try:
        if reason:
            print(f'in use: {reason}')
            options.state.unlink(missing_ok=True)
            return
        if not options.state.exists():
            options.state.touch()
        minutes = (time.time() - options.state.stat().st_mtime) / 60
    except OSError as error:
        parser.error(f'cannot keep {options.state}: {error.strerror}')
    print(f'idle for {minutes:.0f} of {MINUTES} minutes')
    if minutes >= MINUTES:
        subprocess.run(['systemctl', '--no-block', 'poweroff'], check=True)


if __name__ == '__main__':
    main()
