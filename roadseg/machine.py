"""What the machine leaves to this process: processors and memory, also within a container."""
import math
import os
from contextlib import suppress
from pathlib import Path

GROUPS = Path('/sys/fs/cgroup')


def bound_processors():
    """How many processors the system may run this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def processors():
    """How many processors' time this process may use: `docker run --cpus 2` gives it two."""
    shares = [share for group in control_groups('cpu') for share in _processors_of(group)]
    return math.ceil(min([bound_processors(), *shares]))


def free_memory():
    """Bytes of memory that the system, or this process's control group, has left.

    Returns:
        int; None where that is not known.
    """
    left = []
    with suppress(OSError, ValueError), open('/proc/meminfo', encoding='ascii') as lines:
        left += [int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable:')]
    left += [free for group in control_groups('memory') for free in _memory_of(group)]
    return min(left, default=None)


def control_groups(controller):
    """The control groups of Linux that bound this process, of both versions.

    Args:
        controller: 'cpu' or 'memory'.

    Returns:
        List of folders; [] on another system, or without such groups.
    """
    found = []
    with suppress(OSError, ValueError):
        for line in Path('/proc/self/cgroup').read_text(encoding='utf-8').splitlines():
            _, controllers, own = line.split(':', 2)
            of_first = controller in controllers.split(',')         # version 1; '' is version 2
            if of_first or not controllers:
                # In a container, its own group is where the groups' root is elsewhere.
                group = Path(f'{GROUPS}/{controller}{own}' if of_first else f'{GROUPS}{own}')
                found += [group, *group.parents]
    return found


def _processors_of(group):
    """How many processors' time a control group gives: a list, [] where it has no bound."""
    try:
        if (group / 'cpu.max').exists():
            quota, period = (group / 'cpu.max').read_text(encoding='ascii').split()
        else:
            quota, period = ((group / f'cpu.cfs_{name}_us').read_text(encoding='ascii')
                             for name in ('quota', 'period'))
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except (OSError, ValueError, ZeroDivisionError):        # not there, or 'max'
        return []


def _memory_of(group):
    """Bytes that a control group has left: a list, [] where it has no bound."""
    for names, total in ((('memory.max', 'memory.current'), ''),
                         (('memory.limit_in_bytes', 'memory.usage_in_bytes'), 'total_')):
        try:
            limit, used = (int((group / name).read_text(encoding='ascii')) for name in names)
            lines = (group / 'memory.stat').read_text(encoding='ascii').splitlines()
        except (OSError, ValueError):       # not there, or 'max'
            continue
        # What files left behind is given back as it is needed.
        return [limit - used + sum(
            int(line.split()[1]) for line in lines
            if line.startswith((f'{total}active_file ', f'{total}inactive_file ')))]
    return []
