"""The one new start with large pages: what it keeps, and where it does not happen."""
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from roadseg.training import allocator

ROOT = Path(__file__).parents[1]
SCRIPT = textwrap.dedent(f"""
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    from roadseg.training import allocator
    if __name__ == '__main__':
        print('start', flush=True)
        allocator.use_huge_pages()
    import os, time
    assert 'tensorflow' not in sys.modules
    print(os.environ.get('GLIBC_TUNABLES'), os.getpid(), sys.argv[1:], flush=True)
    if sys.argv[1:] == ['wait']:
        time.sleep(60)
    print(sys.stdin.read(), end='')
    sys.exit(7)
    """)
HELPS = (allocator.are_known_to_glibc() and allocator.are_offered_by_kernel()
         and not allocator.offers_gpu())
helps = pytest.mark.skipif(not HELPS, reason='large pages are not for this machine')


@pytest.fixture
def script(tmp_path):
    path = tmp_path / 'a script.py'
    path.write_text(SCRIPT)
    return str(path)


def environment(**more):
    return {**{name: value for name, value in os.environ.items() if name != 'GLIBC_TUNABLES'},
            **more}


def lines(*command, **more):
    """Runs Python; returns (exit code, lines of its output)."""
    done = subprocess.run([sys.executable, *command], input='typed\n', capture_output=True,
                          text=True, env=environment(**more), timeout=60)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


@helps
def test_python_starts_anew_once_and_keeps_all_else(script):
    code, printed = lines('-X', 'utf8', script, '--demo', 'two words')
    setting, number, *_ = printed[2].split()
    assert printed[:2] == ['start', 'start']        # once more, and not for ever
    assert setting == 'glibc.malloc.hugetlb=1'
    assert "['--demo', 'two words']" in printed[2]
    assert printed[3:] == ['typed'] and code == 7


@helps
def test_it_stays_the_process_that_signals_go_to(script):
    process = subprocess.Popen([sys.executable, script, 'wait'], stdout=subprocess.PIPE, text=True,
                               env=environment())
    printed = [process.stdout.readline() for _ in range(3)]
    assert printed[2].split()[1] == str(process.pid)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM
    process.stdout.close()


@pytest.mark.parametrize('chosen', ['', 'glibc.malloc.tcache_count=3'])
def test_what_the_user_has_set_stays(script, chosen):
    code, printed = lines(script, GLIBC_TUNABLES=chosen)
    assert printed.count('start') == 1 and code == 7
    assert printed[1].startswith(chosen)


@pytest.mark.parametrize('around', [
    'import bdb', 'import pytest', 'sys.settrace(lambda *_: None)', "sys.ps1 = '>>> '", 'pass'])
def test_whatever_runs_a_script_within_itself_is_not_started_anew(script, around):
    """A debugger, a test, a notebook, and, with 'pass', any other script."""
    code, printed = lines('-c', f'import runpy, sys; {around}; '
                                f'runpy.run_path({script!r}, run_name="__main__")')
    assert printed.count('start') == 1 and code == 7
    assert printed[1].startswith('None')


@helps
@pytest.mark.parametrize('change', ['FIRST_GLIBC = (99, 0)', 'HUGE_PAGES = NEVER',
                                    'HUGE_PAGES = NEVER.parent / "none"',
                                    'offers_gpu = lambda: True'])
def test_where_they_do_not_help_nothing_happens(tmp_path, change):
    (tmp_path / 'never').write_text('always madvise [never]\n')
    path = tmp_path / 'script.py'
    path.write_text(SCRIPT.replace(
        'if __name__', f'from pathlib import Path\nNEVER = Path({str(tmp_path)!r}) / "never"\n'
                       f'allocator.{change}\nif __name__'))
    assert lines(str(path))[1].count('start') == 1


@helps
def test_the_real_script_asks_before_it_imports_tensorflow(tmp_path):
    """It is started twice, and the first start must not have cost an import."""
    (tmp_path / 'tensorflow.py').write_text('print("imported", flush=True)\nraise SystemExit(9)')
    started = subprocess.run(
        [sys.executable, '-X', 'importtime', 'main.py', '--dataset', 'folder', '--data-dir',
         '/nowhere'], cwd=ROOT, env={**environment(), 'PYTHONPATH': str(tmp_path)},
        capture_output=True, text=True, timeout=300, check=False)
    assert (started.returncode, started.stdout) == (9, 'imported\n')
    imports = [line.rsplit('|', 1)[-1].strip() for line in started.stderr.splitlines()
               if line.startswith('import time:')]
    assert imports.count('roadseg.training.allocator') == 2
