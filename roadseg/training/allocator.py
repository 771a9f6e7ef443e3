"""Large pages for TensorFlow's tensors on a Linux CPU. No TensorFlow.

glibc hands each large tensor back to the system when it is freed, and gets it anew, page by page
of 4 KiB, in the next step. Large pages save 18 to 26 % of a training step, but glibc reads that
setting only while a program starts.
"""
import os
import sys
from contextlib import suppress
from pathlib import Path

from roadseg.driver import offers_gpu
from roadseg.signals import hold_back

VARIABLE, SETTING = 'GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1'
FIRST_GLIBC = (2, 35)       # the first to know the setting
HUGE_PAGES = Path('/sys/kernel/mm/transparent_hugepage/enabled')    # 'always [madvise] never'


def use_huge_pages():
    """Starts Python anew with large pages, where they help. To be called before all else.

    The process stays the same one: its number, its streams, the arguments. What the user has set
    in GLIBC_TUNABLES stays, too, also where that is nothing.
    """
    if (VARIABLE not in os.environ and is_plain_script() and not offers_gpu()
            and are_known_to_glibc() and are_offered_by_kernel()):
        hold_back(True)             # until the new start has its handlers
        with suppress(OSError):     # it goes without, more slowly
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]],
                      {**os.environ, VARIABLE: SETTING})
    hold_back(False)


def is_plain_script():
    """Whether a script was named to Python and runs by itself.

    Under a debugger, from a test or in a notebook, what goes on around it would be lost.
    """
    around = sys.gettrace() is not None or hasattr(sys, 'ps1') or sys.flags.interactive
    return (not around and not {'bdb', 'pydevd', 'pytest'} & set(sys.modules)
            and bool(sys.executable) and sys.argv[0] in sys.orig_argv)


def are_known_to_glibc():
    """Whether this is Linux with a glibc that has the setting."""
    try:
        name, number = os.confstr('CS_GNU_LIBC_VERSION').split()
        return (name == 'glibc' and sys.platform == 'linux'
                and tuple(map(int, number.split('.')[:2])) >= FIRST_GLIBC)
    except (AttributeError, OSError, ValueError):       # Windows, macOS, musl
        return False


def are_offered_by_kernel():
    """Whether the kernel gives large pages to programs that ask for them."""
    try:
        return '[never]' not in HUGE_PAGES.read_text(encoding='ascii')
    except OSError:
        return False
