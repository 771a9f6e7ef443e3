"""What all commands share: streams that break, signals, and Ctrl-C before they have begun."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roadseg import signals
from roadseg.commands import Parser, factors, run_command
from roadseg.signals import hold_back

ROOT = Path(__file__).parents[1]
COMMAND = """
import os, sys
from roadseg.commands import run_command
from roadseg.errors import InputError
def command(argv):
    {body}
sys.exit(run_command(command))
"""
TALK = """
    for number in range(20000):
        print('line', number)
    print('worked to its end', file=sys.stderr)
"""
FAIL = "raise InputError('no such thing')"


def start(code, **options):
    return subprocess.Popen([sys.executable, '-c', code], text=True, cwd=ROOT, **{
        'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options})


def run(body, **options):
    """(exit code, output, errors) of a command."""
    process = start(COMMAND.format(body=body), **options)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def test_help_shows_a_list_as_it_is_typed_and_keeps_the_lines_of_a_table():
    parser = Parser(prog='test', description='Words.\n\n    a     one\n    bc    two\n')
    parser.add_argument('--batches', nargs='+', type=int, default=[1, 2, 5], help='sizes')
    parser.add_argument('--scales', type=factors, default=[1.0, 1.3], help='of the picture')
    assert '\n    a     one\n    bc    two\n' in parser.format_help()
    assert 'sizes (1 2 5)' in parser.format_help() and '(1,1.3)' in parser.format_help()


def test_lines_are_in_a_file_when_they_are_said(tmp_path):
    """Whoever follows the log of a training in the background waits for its epochs."""
    code = COMMAND.format(body="""
    from tqdm import tqdm
    print('a line')
    tqdm.write('another')
    sys.stdin.read()""")
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONUNBUFFERED'}
    with open(tmp_path / 'log', 'wb') as log:
        process = start(code, stdout=log, stdin=subprocess.PIPE, env=environment)
        end = time.monotonic() + 60
        while (tmp_path / 'log').read_text() != 'a line\nanother\n' and time.monotonic() < end:
            time.sleep(0.05)
        assert process.poll() is None and time.monotonic() < end
        process.communicate('')


def test_a_home_that_cannot_be_written_to_adds_no_line():
    """As in a container that runs for another user."""
    process = subprocess.run(
        [sys.executable, '-m', 'roadseg.report', 'nowhere'], cwd=ROOT, text=True, check=False,
        capture_output=True, env={**os.environ, 'HOME': '/dev/null/x', 'XDG_CACHE_HOME': '/dev/null',
                                  'XDG_CONFIG_HOME': '/dev/null'})
    error, = process.stderr.splitlines()
    assert process.returncode == 2 and error.startswith('error: ')


def test_a_folder_that_has_been_removed_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / 'gone').mkdir()
    monkeypatch.chdir(tmp_path / 'gone')
    (tmp_path / 'gone').rmdir()
    assert run_command(lambda argv: 0, []) == 2
    assert 'the folder that you are in has been removed' in capsys.readouterr().err


# Streams --------------------------------------------------------------------------------------

@pytest.mark.parametrize('buffered', ['', '1'])
def test_a_reader_that_has_gone_stops_nothing(buffered):
    """As `head` does."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, 'wb') as gone:
        code, _, errors = run(TALK, stdout=gone, env={**os.environ, 'PYTHONUNBUFFERED': buffered})
    assert (code, errors) == (0, 'worked to its end\n')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no /dev/full here')
@pytest.mark.parametrize('buffered', ['', '1'])
@pytest.mark.parametrize('body', [TALK, "print('a word'); print('worked to its end', "
                                        "file=sys.stderr)"])
def test_output_onto_a_full_disk_is_one_line_at_the_end(buffered, body):
    with open('/dev/full', 'wb') as full:
        code, _, errors = run(body, stdout=full, env={**os.environ, 'PYTHONUNBUFFERED': buffered})
        assert code == 2
        assert errors.splitlines() == ['worked to its end', 'error: cannot write the standard '
                                       'output: No space left on device; write it elsewhere']
        assert run(FAIL, stderr=full)[0] == 2


@pytest.mark.parametrize('stream', [1, 2])
@pytest.mark.parametrize('body', [
    FAIL, f'from tqdm import tqdm; list(tqdm([1], disable=None)); {FAIL}'])
def test_streams_that_are_closed(stream, body):
    code, output, errors = run(body, preexec_fn=lambda: os.close(stream))
    assert code == 2 and 'Traceback' not in output + errors


@pytest.mark.parametrize('encoding, shown', [('ascii', r'r\xfc\udcff'), ('utf-8', r'rü\udcff')])
def test_names_that_the_terminal_cannot_show(encoding, shown):
    code, output, _ = run(r"print('r\xfc\udcff')",
                          env={**os.environ, 'PYTHONIOENCODING': encoding, 'PYTHONUTF8': '0'})
    assert (code, output) == (0, shown + '\n')


def test_a_fault_of_our_own_keeps_its_traceback():
    code, _, errors = run("os.stat('/nowhere')")
    assert code == 1 and errors.startswith('Traceback') and 'FileNotFoundError' in errors


# Signals --------------------------------------------------------------------------------------

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_any_signal_to_end_lets_a_command_tidy_up(number):
    process = start(COMMAND.format(body="""
    import time
    try:
        print('ready', flush=True)
        time.sleep(60)
    finally:
        print('tidy', flush=True)"""))
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(number)
    assert process.communicate(timeout=120) == ('tidy\n', 'stopped\n')
    assert process.returncode == 130


def test_ctrl_c_before_a_command_has_begun_is_silent():
    process = start("""
from roadseg.signals import stop_at_once
stop_at_once()
print('ready', flush=True)
import time
time.sleep(60)""")
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=120) == ('', '') and process.returncode == 130


@pytest.mark.parametrize('name', ['evaluate', 'export', 'launch', 'predict', 'report'])
def test_every_command_is_silent_while_it_is_imported(name):
    process = start('import runpy, sys\n'
                    'class Slow:\n'        # stands for an import that takes its time
                    '    def find_spec(self, name, *more):\n'
                    "        if name == 'numpy':\n"
                    "            print('ready', flush=True)\n"
                    '            import time; time.sleep(60)\n'
                    'sys.meta_path.insert(0, Slow())\n'
                    f"runpy.run_module('roadseg.{name}', run_name='__main__')")
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=120) == ('', '') and process.returncode == 130


def test_tensorflow_is_imported_where_no_file_can_be_made(monkeypatch):
    """As on a full disk, which is told later, in one line."""
    def full():
        raise FileNotFoundError(2, 'No usable temporary directory')

    from roadseg import quiet
    monkeypatch.setattr(quiet.tempfile, 'TemporaryFile', full)
    done = []
    with quiet._without_noise():
        done.append('the import')
    assert done


def test_a_signal_after_all_is_done_changes_nothing():
    """Python unloads libraries for a while, as TensorFlow's; here, a slow one."""
    process = start("""
from roadseg.commands import run_command
from roadseg.signals import stop_at_once
stop_at_once()
import os, sys, time
class Slow:
    def __del__(self, write=os.write, sleep=time.sleep):
        write(1, b'unloading\\n')
        sleep(1)
slow = sys.slow = Slow()
sys.exit(run_command(lambda argv: print('done')))""")
    assert process.stdout.readline() == 'done\n' and process.stdout.readline() == 'unloading\n'
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=120) == ('', '') and process.returncode == 0


def test_a_signal_to_a_process_that_is_being_started_waits_for_its_handlers():
    code = ('import sys, time; print("here", flush=True); time.sleep(0.5); '
            'from roadseg.signals import stop_at_once; stop_at_once(); time.sleep(60)')
    hold_back(True)
    try:
        process = start(code)
    finally:
        hold_back(False)
    assert process.stdout.readline() == 'here\n'
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=120) == ('', '') and process.returncode == 130


@pytest.mark.skipif(os.name != 'posix', reason='a shell closes the streams')
def test_a_file_never_gets_the_number_of_a_stream_that_was_closed(tmp_path):
    code = """
import os, signal
from roadseg.commands import run_command
from roadseg.signals import stopping

def command(_):
    with open('made', 'w') as file, stopping() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
        file.write('whole')

run_command(command)
"""
    subprocess.run(['sh', '-c', 'exec "$0" -c "$1" <&- 2>&-', sys.executable, code], cwd=tmp_path,
                   check=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert (tmp_path / 'made').read_text() == 'whole'


def test_a_notebook_keeps_its_interrupts(monkeypatch):
    monkeypatch.setattr(sys, 'ps1', '>>> ', raising=False)
    monkeypatch.setattr(signals, 'handle', pytest.fail)
    signals.stop_at_once()
