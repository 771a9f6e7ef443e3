"""The machine in the cloud: what it does to itself, and who may reach it.

Nothing here needs a cloud. Terraform, shellcheck and the like are used where they are installed.
"""
import ast
import configparser
import http.server
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INFRA = ROOT / 'infra'
TERRAFORM = '\n'.join(path.read_text() for path in sorted(INFRA.glob('*.tf')))
SCRIPTS = [INFRA / 'setup.sh', INFRA / 'boot/prepare.sh']
UNITS = sorted([*INFRA.glob('*/*.service'), *INFRA.glob('*/*.timer')])

posix = pytest.mark.skipif(os.name != 'posix', reason='the machine runs Linux')


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Function that puts a stand-in for a command into the PATH: a shell script."""
    folder = tmp_path / 'commands'
    folder.mkdir()
    monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')

    def add(name, script):
        path = folder / name
        path.write_text(f'#!/bin/sh\n{script}\n')
        path.chmod(0o755)
        return path
    return add


def unit(name):
    """Returns the [Service] of a unit, a mapping."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str
    parser.read(next(INFRA.glob(f'*/{name}')))
    return parser['Service']


def block(header):
    """Returns the text of a Terraform block, such as 'resource "aws_instance" "gpu"'."""
    return re.search(rf'^{re.escape(header)} \{{\n(.*?)^\}}', TERRAFORM,
                     re.MULTILINE | re.DOTALL)[1]


# Idle stop ------------------------------------------------------------------------------------

ELSEWHERE = 'ubuntu   pts/0        2026-11-21 07:06 {idle}      1234 (203.0.113.7)'
IN_C = 'ubuntu   pts/0        Nov 21 07:06 {idle}          1234 (203.0.113.7)'


@pytest.fixture
def machine(commands, tmp_path):
    """A machine at rest; its `look` runs the idle stop once and returns whether it powered off.

    gpu, load and who set what it sees; idle_since is the file whose age counts.
    """
    class Machine:
        idle_since = tmp_path / 'idle-since'

        def __init__(self):
            commands('systemctl', f'echo "$@" >>{tmp_path}/systemctl')
            self.gpu('0')
            self.load(0.04)
            self.who()

        def gpu(self, *lines, code=0):
            commands('nvidia-smi', ''.join(f"echo '{line}'\n" for line in lines) + f'exit {code}')

        def load(self, five_minutes):
            (tmp_path / 'loadavg').write_text(f'9.00 {five_minutes:.2f} 9.00 1/123 4567\n')

        def who(self, *lines):
            commands('who', ''.join(f"echo '{line}'\n" for line in lines) or 'true')

        def idle_for(self, minutes):
            self.idle_since.touch()
            then = time.time() - 60 * minutes
            os.utime(self.idle_since, (then, then))

        def look(self):
            (tmp_path / 'systemctl').unlink(missing_ok=True)
            self.said = subprocess.run(
                [sys.executable, INFRA / 'boot/idle_stop.py', '--state', self.idle_since,
                 '--loadavg', tmp_path / 'loadavg'],
                capture_output=True, text=True, check=True)
            calls = tmp_path / 'systemctl'
            return calls.exists() and calls.read_text() == '--no-block poweroff\n'
    return Machine()


@posix
def test_idle_machine_stops_after_an_hour_and_not_before(machine):
    assert not machine.look()
    assert machine.idle_since.exists()
    machine.idle_for(59)
    assert not machine.look()
    assert 'idle for 59 of 60 minutes' in machine.said.stdout
    machine.idle_for(61)
    assert machine.look()


@posix
@pytest.mark.parametrize('use, reason', [
    (lambda machine: machine.gpu('37'), 'GPU at 37 %'),
    (lambda machine: machine.gpu('0', '12'), 'GPU at 12 %'),
    (lambda machine: machine.load(0.97), 'load 0.97'),
    (lambda machine: machine.who(ELSEWHERE.format(idle='.    ')), 'ubuntu is logged in'),
    (lambda machine: machine.who(IN_C.format(idle='00:59')), 'ubuntu is logged in'),
    (lambda machine: machine.who(ELSEWHERE.format(idle='old  '), IN_C.format(idle='.')),
     'ubuntu is logged in'),
])
def test_use_ends_the_idle_hour(machine, use, reason):
    machine.idle_for(61)
    use(machine)
    assert not machine.look()
    assert reason in machine.said.stdout
    assert not machine.idle_since.exists()


@posix
@pytest.mark.parametrize('idle', ['01:00', 'old  '])
def test_forgotten_login_does_not_keep_the_machine_running(machine, idle):
    machine.who(ELSEWHERE.format(idle=idle))
    machine.idle_for(61)
    assert machine.look()


@posix
def test_broken_driver_does_not_keep_the_machine_running(machine):
    machine.gpu('NVIDIA-SMI has failed because it could not communicate with the driver', code=9)
    machine.idle_for(61)
    assert machine.look()
    assert 'warning: nvidia-smi does not answer' in machine.said.stderr


@posix
def test_gpu_that_tells_no_utilisation_counts_as_unused(machine):
    machine.gpu('[N/A]')
    machine.load(1.2)
    machine.idle_for(61)
    assert not machine.look()
    machine.load(0.1)
    machine.idle_for(61)
    assert machine.look()


def test_idle_stop_runs_before_anything_is_installed():
    tree = ast.parse((INFRA / 'boot/idle_stop.py').read_text())
    imported = {(node.module if isinstance(node, ast.ImportFrom) else node.names[0].name)
                for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))}
    assert imported <= set(sys.stdlib_module_names)


# The training service -------------------------------------------------------------------------

PYTHON, ROAD = '/home/ubuntu/roadseg-venv/bin/python', '/data/road'
STAND_IN = """
import os, pathlib, signal, sys, time
def save(number, frame):
    pathlib.Path('saved').write_text(f'{number} {os.getpid()}')
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
print(*sys.argv, flush=True)
if 'wait' in sys.argv:
    time.sleep(30)
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose main.py prints its options, and waits for SIGTERM if one is 'wait'."""
    (tmp_path / 'road/infra').mkdir(parents=True)
    (tmp_path / 'road/runs').mkdir()
    (tmp_path / 'road/runs/README.md').touch()
    (tmp_path / 'road/main.py').write_text(STAND_IN)
    shutil.copy(INFRA / 'train.py', tmp_path / 'road/infra')
    return tmp_path / 'road'


def add_run(checkout, name, epochs=(3, 10), checkpoint='step-000723', held_out=48, scored=None,
            max_steps=None, testing=0, scores='', **options):
    """Makes a run folder as training leaves it; epochs are (done, of how many)."""
    run = checkout / 'runs' / name
    folder = run / 'checkpoints' / checkpoint
    folder.mkdir(parents=True)
    (folder / 'progress.json').write_text(json.dumps({'epoch': epochs[0], 'step': 723}))
    (run / 'options.json').write_text(json.dumps({
        'options': {'epochs': epochs[1], 'max_steps': max_steps, **options},
        'data': {'validation': held_out, 'testing': testing}}))
    (run / 'index.html').touch()        # there after each epoch
    if scored:
        (run / 'evaluation.json').write_text(scores)
    if scored == 'earlier':             # than the last checkpoint
        os.utime(run / 'evaluation.json', (1, 1))
    (run / 'overlays').mkdir()
    for number in range(2):
        (run / f'overlays/{number}.png').touch()
    return run


def command(line, checkout):
    """A unit's command line, for the checkout and the Python here."""
    return [word.replace(PYTHON, sys.executable).replace(ROAD, str(checkout))
            for word in line.split()]


def started(checkout, *options):
    """Returns what main.py is started with."""
    answer = subprocess.run([sys.executable, checkout / 'infra/train.py', *options],
                            capture_output=True, text=True, check=True, cwd='/')
    return answer.stdout.split()


@posix
def test_service_starts_a_run_with_its_options(checkout):
    assert started(checkout, '--epochs', '40') == ['main.py', '--epochs', '40']
    add_run(checkout, '2026-11-20-10-00-00', epochs=(10, 10), scored='now')
    assert started(checkout) == ['main.py']


@posix
def test_service_goes_on_with_the_newest_unfinished_run(checkout):
    add_run(checkout, '2026-11-20-10-00-00')
    add_run(checkout, '2026-11-20-11-00-00')
    add_run(checkout, '2026-11-20-12-00-00', epochs=(10, 10), scored='now')
    resumed = ['main.py', '--resume', 'runs/2026-11-20-11-00-00']
    assert started(checkout, '--epochs', '40') == resumed


@posix
def test_service_goes_on_with_rounds_until_another_run_has_been_taught(checkout):
    first = add_run(checkout, '2026-11-20-10-00-00', epochs=(10, 10), scored='now', rounds=2)
    assert started(checkout) == ['main.py', '--resume', 'runs/2026-11-20-10-00-00']
    add_run(checkout, '2026-11-20-11-00-00', epochs=(10, 10), scored='now', rounds=1,
            teacher=[str(first)])
    assert started(checkout, '--epochs', '3') == ['main.py', '--epochs', '3']


@posix
def test_service_goes_on_with_rounds_though_a_run_of_its_own_has_been_taught(checkout):
    first = add_run(checkout, '2026-11-20-10-00-00', epochs=(10, 10), scored='now', rounds=3)
    add_run(checkout, '2026-11-20-11-00-00', epochs=(10, 10), scored='now', rounds=1,
            teacher=[str(first)])
    assert started(checkout) == ['main.py', '--resume', 'runs/2026-11-20-10-00-00']


@posix
def test_service_passes_over_a_broken_run_with_rounds_to_go(checkout):
    run = add_run(checkout, '2026-11-20-10-00-00', epochs=(10, 10), scored='now', rounds=2)
    (run / 'checkpoints/step-000723/progress.json').write_text('')
    assert started(checkout, '--epochs', '3') == ['main.py', '--epochs', '3']


@posix
def test_service_takes_the_checkpoint_before_a_damaged_one(checkout):
    run = add_run(checkout, '2026-11-20-10-00-00')
    (run / 'checkpoints/step-000800').mkdir()
    (run / 'checkpoints/step-000800/progress.json').touch()
    assert started(checkout) == ['main.py', '--resume', 'runs/2026-11-20-10-00-00']


@posix
def test_service_goes_on_with_a_run_in_a_folder_of_its_own(checkout):
    add_run(checkout, 'kitti/2026-11-20-10-00-00')
    assert started(checkout) == ['main.py', '--resume', 'runs/kitti/2026-11-20-10-00-00']


@posix
def test_notice_of_a_spot_machine_stops_the_training(commands, tmp_path):
    asked = []

    class Metadata(http.server.BaseHTTPRequestHandler):
        def answer(self, code, content=b''):
            asked.append((self.command, self.path, self.headers.get('X-aws-ec2-metadata-token')))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(content)

        def do_PUT(self):
            if not asked:       # what HTTP is not
                self.wfile.write(b'no status line\n')
                asked.append(('PUT', self.path, None))
            else:
                self.answer(200, b'a token')

        def do_GET(self):
            self.answer(200 if len(asked) > 5 else 404)

        def log_message(self, *_):
            pass

    commands('systemctl', f'echo "$@" >>{tmp_path}/calls')
    with http.server.HTTPServer(('127.0.0.1', 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = (INFRA / 'spot_notice.py').read_text().replace(
            '169.254.169.254', f'127.0.0.1:{server.server_port}').replace('LOOK = 5', 'LOOK = 0')
        subprocess.run([sys.executable, '-c', code], check=True, timeout=60,
                       env={**os.environ, 'no_proxy': '127.0.0.1'})
        server.shutdown()
    assert (tmp_path / 'calls').read_text() == '--no-block stop roadseg-train.service\n'
    looks = [entry for entry in asked if entry[0] == 'GET']
    assert looks == [('GET', '/latest/meta-data/spot/instance-action', 'a token')] * 3


@posix
@pytest.mark.parametrize('state, unfinished', [
    ({}, True),
    ({'scored': 'now'}, True),           # `python -m roadseg.evaluate` scored it in between
    ({'epochs': (10, 10)}, True),       # stopped while it was scored
    ({'epochs': (10, 10), 'scored': 'now'}, False),
    ({'epochs': (10, 10), 'held_out': 0}, False),
    ({'epochs': (10, 10), 'scored': 'earlier'}, True),      # scored in between, not at its end
    ({'epochs': (10, 10), 'scored': 'earlier', 'checkpoint': 'step-000723',
      'scores': '{"checkpoint": "step-000723"}'}, False),   # unpacked, which changes the times
    ({'epochs': (10, 10), 'scored': 'now', 'testing': 3}, True),    # stopped while it painted
    ({'epochs': (10, 10), 'scored': 'now', 'testing': 2}, False),
    ({'max_steps': 723, 'scored': 'now'}, False),
    ({'checkpoint': 'step-000723.part'}, False),        # nothing to go on from
])
def test_run_is_unfinished_until_it_is_trained_and_scored(checkout, state, unfinished):
    add_run(checkout, '2026-11-20-10-00-00', **state)
    resumed = ['main.py', '--resume', 'runs/2026-11-20-10-00-00']
    assert started(checkout) == (resumed if unfinished else ['main.py'])


@posix
def test_last_of_several_checkpoints_counts(checkout):
    run = add_run(checkout, '2026-11-20-10-00-00', epochs=(10, 10), scored='now')
    earlier = run / 'checkpoints/step-000482'
    earlier.mkdir()
    (earlier / 'progress.json').write_text('{"epoch": 2, "step": 482}')
    (run / 'checkpoints/step-000900.bak1').mkdir()      # somebody's copy
    assert started(checkout) == ['main.py']


@posix
@pytest.mark.parametrize('damage', [
    '', '{"options": {}}', '{"options": {"epochs": 9, "max_steps": 0, "rounds": "x"}, '
    '"data": {"validation": 1, "testing": 0}}', '{"options": {"epochs": null, "max_steps": 0}, "data": {"validation": 1}}'])
def test_damaged_run_does_not_keep_the_service_from_training(checkout, damage):
    run = add_run(checkout, '2026-11-20-10-00-00')
    (run / 'options.json').write_text(damage)
    answer = subprocess.run([sys.executable, checkout / 'infra/train.py'], capture_output=True,
                            text=True, check=True)
    assert answer.stdout.split() == ['main.py']
    assert answer.stderr.startswith(f'warning: passing over {Path("runs") / run.name}')


@posix
def test_start_of_the_machine_resumes_but_begins_nothing(checkout):
    def condition():
        line = unit('roadseg-resume.service')['ExecCondition']
        answer = subprocess.run(command(line, checkout), capture_output=True, text=True,
                                check=False)
        return answer.returncode, answer.stdout

    assert condition() == (1, '')
    add_run(checkout, '2026-11-20-11-00-00')
    assert condition() == (0, 'runs/2026-11-20-11-00-00\n')


@posix
def test_sigterm_of_the_service_reaches_python(checkout):
    """The unit's own ExecStart, with a main.py that saves when it is told to end."""
    line = unit('roadseg-train.service')['ExecStart'].replace('$OPTIONS', '--epochs 40 wait')
    process = subprocess.Popen(command(line, checkout), stdout=subprocess.PIPE, text=True, cwd='/')
    with process:
        assert process.stdout.readline() == 'main.py --epochs 40 wait\n'
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 130
    # Its number is that of the process that systemd started: nothing waits in between.
    assert (checkout / 'saved').read_text() == f'{signal.SIGTERM.value} {process.pid}'


def test_service_gives_python_time_to_save():
    service = unit('roadseg-train.service')
    assert service['KillSignal'] == 'SIGTERM'
    assert service['KillMode'] == 'mixed'       # the workers of main.py are not ended before it
    # Saving 2 GB to a disk of 125 MB/s takes 16 s; a spot machine has 120.
    assert 30 <= int(service['TimeoutStopSec']) < 120
    assert service['Type'] == 'exec'
    assert not re.search(r'\b(ba)?sh -c\b', service['ExecStart'])
    assert '130' in service['SuccessExitStatus'].split()


def test_no_service_is_started_again_and_again():
    """A program that dies at its start would be a load, and keep the machine from stopping."""
    assert not [path.name for path in UNITS if re.search(r'^Restart=', path.read_text(),
                                                         re.MULTILINE)]


def test_units_start_what_is_there():
    for path in UNITS:
        for script in re.findall(r'/data/road/(\S+)\b', path.read_text()):
            assert (ROOT / script).exists(), f'{path.name}: {script}'
        for script in re.findall(r'/usr/local/lib/roadseg/(\S+)', path.read_text()):
            assert (INFRA / 'boot' / script).exists(), f'{path.name}: {script}'
    for script in SCRIPTS:
        assert script.stat().st_mode & stat.S_IXUSR, script


@pytest.mark.skipif(not shutil.which('systemd-analyze'), reason='no systemd-analyze here')
@pytest.mark.parametrize('path', UNITS, ids=lambda path: path.name)
def test_systemd_understands_the_units(path, tmp_path):
    """With programs that are there in place of those of the image."""
    for source in UNITS:
        text = re.sub(r'^(Exec\w+=)\S+', rf'\g<1>{sys.executable}', source.read_text(),
                      flags=re.MULTILINE)
        (tmp_path / source.name).write_text(text)
    answer = subprocess.run(['systemd-analyze', 'verify', tmp_path / path.name],
                            capture_output=True, text=True, check=False)
    assert answer.returncode == 0 and path.stem not in answer.stderr, answer.stderr


# First boot and set-up ------------------------------------------------------------------------

@pytest.fixture
def first_boot(commands, tmp_path):
    """Function that runs prepare.sh on a data volume, a file; returns the finished process."""
    if not shutil.which('git'):
        pytest.skip('no git here')
    (tmp_path / 'fstab').write_text('LABEL=root / ext4 defaults 0 1\n')
    (tmp_path / 'mount').mkdir()
    commands('sudo', 'shift 3; exec "$@"')          # sudo -H -u NAME
    commands('mountpoint', 'exit 1')
    commands('mount', f'echo "$@" >>{tmp_path}/mounted')
    commands('mkfs.ext4', f'echo "$@" >>{tmp_path}/formatted')
    commands('sleep', 'true')

    def run(*arguments):
        return subprocess.run(
            [INFRA / 'boot/prepare.sh', 'vol-0abc', *map(str, arguments)], capture_output=True,
            text=True, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, 'DEVICES': str(tmp_path), 'MOUNT': str(tmp_path / 'mount'),
                 'FSTAB': str(tmp_path / 'fstab'), 'OWNER': str(os.getuid())})
    return run


def volume(tmp_path):
    return tmp_path / 'nvme-Amazon_Elastic_Block_Store_vol0abc'


linux = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the machine runs Linux')


@linux
def test_new_volume_is_formatted_once_and_mounted_at_every_start(first_boot, tmp_path):
    volume(tmp_path).write_bytes(bytes(2 ** 20))
    assert first_boot().returncode == 0
    assert (tmp_path / 'formatted').read_text() == f'-q {volume(tmp_path)}\n'
    volume(tmp_path).write_bytes(b'\0' * 1080 + b'\x53\xef' + bytes(2 ** 20))   # ext4's number
    assert first_boot().returncode == 0
    assert len((tmp_path / 'formatted').read_text().splitlines()) == 1
    assert len((tmp_path / 'mounted').read_text().splitlines()) == 2
    entries = (tmp_path / 'fstab').read_text().splitlines()
    assert entries[1:] == [f'{volume(tmp_path)} {tmp_path}/mount ext4 defaults,nofail 0 2']


@linux
@pytest.mark.parametrize('content', [b'XFSB' + bytes(2 ** 20), bytes(2 ** 20 - 1) + b'\1'],
                         ids=['at the beginning', 'at the end'])
def test_volume_with_anything_on_it_is_never_formatted(first_boot, tmp_path, content):
    volume(tmp_path).write_bytes(content)
    first_boot()
    assert not (tmp_path / 'formatted').exists()


@linux
def test_volume_that_does_not_appear_is_named(first_boot, tmp_path):
    answer = first_boot()
    assert answer.returncode == 2
    assert str(volume(tmp_path)) in answer.stderr and len(answer.stderr.splitlines()) == 1
    assert not (tmp_path / 'formatted').exists()


def git(folder, *arguments):
    return subprocess.run(['git', '-c', 'user.name=A', '-c', 'user.email=a@example.org', '-C',
                           str(folder), *arguments], capture_output=True, text=True, check=True)


@pytest.fixture
def project(tmp_path):
    """A repository with a set-up script that leaves a mark, as a user has it at home."""
    folder = tmp_path / 'home'
    (folder / 'infra').mkdir(parents=True)
    script = folder / 'infra/setup.sh'
    script.write_text(f'#!/bin/sh\necho set up >>{tmp_path}/setup\n')
    script.chmod(0o755)
    git(tmp_path, 'init', '-q', '-b', 'work', str(folder))
    git(folder, 'add', '.')
    git(folder, 'commit', '-qm', 'first')
    return folder


@linux
def test_checkout_is_pushed_and_pushed_again(first_boot, project, tmp_path):
    volume(tmp_path).write_bytes(bytes(2 ** 20))
    answer = first_boot()
    assert answer.returncode == 0, answer.stderr
    road = tmp_path / 'mount/road'
    for content in ('one', 'two'):
        (project / 'main.py').write_text(content)
        git(project, 'add', '.')
        git(project, 'commit', '-qm', content)
        git(project, 'push', '-q', str(road), 'HEAD:main')
        assert (road / 'main.py').read_text() == content
    assert not (tmp_path / 'setup').exists()
    assert git(road, 'status', '--porcelain').stdout == ''


@linux
def test_repository_is_cloned_and_set_up_at_first_boot(first_boot, project, tmp_path):
    volume(tmp_path).write_bytes(bytes(2 ** 20))
    for _ in range(2):          # the second machine finds the first one's checkout
        answer = first_boot(project)
        assert answer.returncode == 0, answer.stderr
    assert (tmp_path / 'mount/road/infra/setup.sh').exists()
    assert (tmp_path / 'setup').read_text() == 'set up\nset up\n'


def dry_run(tmp_path):
    """Returns the steps of the set-up."""
    answer = subprocess.run([INFRA / 'setup.sh', '--dry-run'], capture_output=True, text=True,
                            check=False, env={**os.environ, 'VENV': str(tmp_path / 'venv')})
    if 'expected 3.11 to 3.13' in answer.stderr:
        pytest.skip('python3 here is too old or too new')
    assert answer.returncode == 0, answer.stderr
    assert not (tmp_path / 'venv').exists()
    return answer.stderr.splitlines()


@posix
def test_setup_installs_for_the_gpu_and_ends_with_the_project_tests(commands, tmp_path):
    commands('nvidia-smi', 'true')
    steps = dry_run(tmp_path)
    installs = [step for step in steps if 'pip install' in step]
    assert len(installs) == 1 and f'-r {ROOT}/requirements-gpu.txt' in installs[0]
    assert steps[-1].endswith('-m pytest -q project_tests.py')


@posix
def test_setup_installs_for_the_cpu_where_there_is_no_gpu(commands, tmp_path):
    commands('nvidia-smi', 'exit 9')
    steps = dry_run(tmp_path)
    assert any(f'-r {ROOT}/requirements.txt' in step for step in steps)
    assert any(step.startswith('warning: nvidia-smi finds no GPU') for step in steps)


@posix
def test_setup_names_a_python_that_does_not_do(commands, tmp_path):
    commands('python3', 'case "$*" in --version) echo Python 3.10.12;; *version_info*) exit 1;; '
                        'esac')
    answer = subprocess.run([INFRA / 'setup.sh', '--dry-run'], capture_output=True, text=True,
                            check=False, env={**os.environ, 'VENV': str(tmp_path / 'venv')})
    assert answer.returncode == 2
    assert answer.stderr.splitlines()[-1].startswith(
        'error: python3 is Python 3.10.12, expected 3.11 to 3.13')


@posix
def test_setup_waits_for_the_lists_of_packages(commands, tmp_path):
    commands('nvidia-smi', 'exit 9')
    commands('sudo', '"$@"')
    commands('sleep', 'true')
    commands('python3', 'case "$*" in *ensurepip*) exit 1;; esac')
    commands('apt-get', f'echo "$1" >>{tmp_path}/calls; test "$1" != update || '
                        f'test "$(grep -c update {tmp_path}/calls)" = 3 || '
                        '{ echo "E: Could not get lock"; exit 100; }')
    road = tmp_path / 'road'
    shutil.copytree(INFRA, road / 'infra')
    script = road / 'infra/setup.sh'
    script.write_text(script.read_text().replace('/run/systemd/system', '/nowhere'))
    subprocess.run([script], capture_output=True, env={**os.environ, 'VENV': str(tmp_path / 'v')},
                   check=False)
    assert (tmp_path / 'calls').read_text().split() == ['update'] * 3 + ['-o']     # the install
    commands('apt-get', f'echo "$1" >>{tmp_path}/failed; echo "E: 404"; exit 100')
    answer = subprocess.run([script], capture_output=True, text=True, check=False,
                            env={**os.environ, 'VENV': str(tmp_path / 'v')})
    assert answer.returncode == 2 and 'E: 404' in answer.stderr
    assert (tmp_path / 'failed').read_text() == 'update\n'


@posix
def test_setup_takes_a_folder_relative_to_where_it_is_called(commands, tmp_path):
    commands('nvidia-smi', 'exit 9')
    commands('python3', 'exit 0')
    answer = subprocess.run([INFRA / 'setup.sh', '--dry-run'], capture_output=True, text=True,
                            check=False, cwd=tmp_path, env={**os.environ, 'VENV': 'odd/venv'})
    assert answer.returncode == 0, answer.stderr
    assert f'+ {tmp_path}/odd/venv/bin/python -m pytest' in answer.stderr


@posix
def test_setup_by_root_where_services_would_run_as_root(tmp_path):
    if os.geteuid():
        pytest.skip('not root')
    script = tmp_path / 'infra/setup.sh'
    script.parent.mkdir()
    script.write_text((INFRA / 'setup.sh').read_text().replace('/run/systemd/system',
                                                               str(tmp_path)))
    answer = subprocess.run(['bash', script], capture_output=True, text=True, check=False)
    assert answer.returncode == 2 and answer.stderr.startswith('error: run this as the user')
    assert answer.stderr.count('\n') == 1


@posix
@pytest.mark.skipif(not os.path.isdir('/run/systemd/system'), reason='no systemd here')
def test_setup_refuses_a_path_that_systemd_cannot_take(commands, tmp_path):
    (tmp_path / 'my road/infra').mkdir(parents=True)
    shutil.copy(INFRA / 'setup.sh', tmp_path / 'my road/infra')
    answer = subprocess.run([tmp_path / 'my road/infra/setup.sh', '--dry-run'],
                            capture_output=True, text=True, check=False)
    assert answer.returncode == 2 and answer.stderr.startswith('error: systemd cannot take')
    assert answer.stderr.count('\n') == 1


@posix
def test_setup_names_an_unknown_option():
    answer = subprocess.run([INFRA / 'setup.sh', '--cpu'], capture_output=True, text=True,
                            check=False)
    assert answer.returncode == 2
    assert answer.stderr == "error: '--cpu' is no option of setup.sh, which knows --dry-run\n"


@pytest.mark.skipif(not shutil.which('shellcheck'), reason='no shellcheck here')
def test_shellcheck_finds_nothing():
    answer = subprocess.run(['shellcheck', *SCRIPTS], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


# Terraform ------------------------------------------------------------------------------------

def test_three_ports_are_open_to_the_caller_alone():
    ports = re.search(r'ports = \{(.*?)\}', TERRAFORM)[1]
    assert sorted(map(int, re.findall(r'\d+', ports))) == [22, 6006, 8888]
    rules = re.findall(r'^resource "(aws_\w*(?:security_group|ingress)\w*)" "(\w+)"', TERRAFORM,
                       re.MULTILINE)
    assert sorted(rules) == [('aws_security_group', 'caller'),
                             ('aws_vpc_security_group_egress_rule', 'downloads'),
                             ('aws_vpc_security_group_ingress_rule', 'caller')]
    ingress = block('resource "aws_vpc_security_group_ingress_rule" "caller"')
    assert 'for_each          = local.ports' in ingress
    assert re.findall(r'cidr\w*\s*= (.*)', ingress) == ['local.cidr']
    assert not re.search(r'\b(in|e)gress\s*\{', block('resource "aws_security_group" "caller"'))
    assert re.findall(r'^  cidr\s*= (.*)$', TERRAFORM, re.MULTILINE) == [
        'cidrsubnet(var.cidr != null ? var.cidr : '
        '"${chomp(data.http.caller[0].response_body)}/32", 0, 0)']


def test_disks_are_encrypted_and_the_data_volume_outlives_the_machine():
    volume_block = block('resource "aws_ebs_volume" "data"')
    assert re.search(r'encrypted\s*= true', volume_block)
    assert re.search(r'prevent_destroy\s*= true', volume_block)
    machine = block('resource "aws_instance" "gpu"')
    assert re.search(r'root_block_device \{[^}]*encrypted\s*= true', machine)
    assert re.search(r'http_tokens\s*= "required"', machine)
    assert re.search(r'instance_initiated_shutdown_behavior = "stop"', machine)


def test_config_sets_variables_that_exist_and_leaves_the_key_to_the_caller():
    declared = set(re.findall(r'^variable "(\w+)"', TERRAFORM, re.MULTILINE))
    set_there = re.findall(r'^(?:# )?(\w+)\s*=', (INFRA / 'config.tfvars').read_text(),
                           re.MULTILINE)
    assert {'region', 'instance_type', 'spot', 'cidr'} <= set(set_there) <= declared
    assert 'keyname' in declared - set(set_there)
    assert 'default' not in block('variable "keyname"')


def test_readme_names_every_variable():
    table = re.findall(r'^\| ((?:`\w+`(?:, )?)+) \|', (INFRA / 'README.md').read_text(),
                       re.MULTILINE)
    named = {name for cell in table for name in re.findall(r'\w+', cell)}
    assert set(re.findall(r'^variable "(\w+)"', TERRAFORM, re.MULTILINE)) <= named


@pytest.fixture
def terraform(tmp_path):
    """Function that runs terraform in the folder `tmp_path`; returns the finished process."""
    program = shutil.which('terraform') or shutil.which('tofu')
    if not program:
        pytest.skip('no terraform here')
    (tmp_path / 'terraformrc').touch()
    environment = {**os.environ, 'CHECKPOINT_DISABLE': '1',
                   'TF_CLI_CONFIG_FILE': str(tmp_path / 'terraformrc')}
    return lambda *arguments: subprocess.run(
        [program, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False)


@pytest.fixture
def plan(terraform, tmp_path):
    """Function that plans the variables alone, which needs no provider; returns the process."""
    for name in ('variables.tf', 'config.tfvars'):
        shutil.copy(INFRA / name, tmp_path)
    return lambda *variables: terraform(
        'plan', '-input=false', '-no-color', '-var-file=config.tfvars',
        *(word for variable in variables for word in ('-var', variable)))


@pytest.mark.parametrize('variables', [
    ['keyname=me'], ['keyname=me', 'cidr=203.0.113.7/32'], ['keyname=me', 'cidr=203.0.113.0/24'],
    ['keyname=me', 'instance_type=p5.4xlarge'], ['keyname=me', 'instance_type=g6.12xlarge']])
def test_good_variables_are_taken(plan, variables):
    answer = plan(*variables)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize('variables, message', [
    (['cidr=0.0.0.0/0'], "cidr is '0.0.0.0/0', which opens the machine to strangers"),
    (['cidr=0.0.0.0/1'], 'expected /24 or narrower'),
    (['cidr=203.0.113.7'], "cidr is '203.0.113.7', expected IPv4 addresses such as 203.0.113."),
    (['cidr=home'], "cidr is 'home', expected IPv4 addresses"),
    (['cidr='], "cidr is '', expected IPv4 addresses"),
    (['instance_type=t3.micro'], "instance_type is 't3.micro', expected an x86 type"),
    (['instance_type=g4ad.xlarge'], "instance_type is 'g4ad.xlarge'"),      # an AMD GPU
    (['instance_type=g5g.xlarge'], "instance_type is 'g5g.xlarge'"),        # Arm
    (['instance_type=g5'], "instance_type is 'g5'"),
    (['keyname='], 'keyname is empty, expected the name of an EC2 key pair'),
    (['data_gb=3'], 'data_gb is 3, expected a whole number from 20'),
    (['repository=git@example.org:road.git'], 'expected an https:// address'),
])
def test_bad_variable_is_refused_with_what_was_expected(plan, variables, message):
    if not variables[0].startswith('keyname'):
        variables = ['keyname=me', *variables]
    answer = plan(*variables)
    assert answer.returncode == 1
    assert message in ' '.join(answer.stderr.split())


def test_missing_keyname_is_named(plan):
    answer = plan()
    assert answer.returncode == 1
    assert 'variable "keyname" is not set' in ' '.join(answer.stderr.split())


def test_terraform_files_are_formatted(terraform):
    answer = terraform('fmt', '-check', '-diff', str(INFRA))
    assert answer.returncode == 0, answer.stdout


def test_first_boot_writes_the_scripts_and_fits_into_user_data(terraform, tmp_path):
    """The expression as Terraform evaluates it, with a volume that needs no provider."""
    shutil.copytree(INFRA / 'boot', tmp_path / 'boot')
    files = re.search(r'^  boot_files = \{.*?^  \}', TERRAFORM, re.MULTILINE | re.DOTALL)[0]
    value = re.search(r'^  user_data = (.*?^  \}\)\]\))', TERRAFORM, re.MULTILINE | re.DOTALL)[1]
    value = value.replace('aws_ebs_volume.data.id', '"vol-0abc"').replace('var.repository', '""')
    (tmp_path / 'main.tf').write_text(f'locals {{\n{files}\n}}\noutput "user_data" {{\n'
                                      f'  value = {value}\n}}\n')
    answer = terraform('apply', '-auto-approve', '-no-color')
    assert answer.returncode == 0, answer.stderr
    text = terraform('output', '-raw', 'user_data').stdout
    assert len(text) < 16384                # EC2 takes no more
    first, content = text.split('\n', 1)
    assert first == '#cloud-config'
    written = {Path(file['path']): file for file in json.loads(content)['write_files']}
    assert {path.name: file['content'] for path, file in written.items()} == {
        path.name: path.read_text() for path in INFRA.glob('boot/*')}
    commands = json.loads(content)['runcmd']
    # Should the rest fail, the machine still stops by itself.
    assert commands[:2] == [['systemctl', 'daemon-reload'],
                            ['systemctl', 'enable', '--now', 'roadseg-idle-stop.timer']]
    assert commands[2] == ['/usr/local/lib/roadseg/prepare.sh', 'vol-0abc', '']
    assert written[Path(commands[2][0])]['permissions'] == '0755'
    assert str(Path('/usr/local/lib/roadseg/idle_stop.py')) in unit(
        'roadseg-idle-stop.service')['ExecStart']


def test_module_evaluated_by_tfparse_has_the_ports_and_the_encryption():
    tfparse = pytest.importorskip('tfparse', reason='no tfparse here')
    module = tfparse.load_from_path(str(INFRA))
    rules = module['aws_vpc_security_group_ingress_rule']
    assert sorted(rule['from_port'] for rule in rules) == [22, 6006, 8888]
    assert all(rule['from_port'] == rule['to_port'] for rule in rules)
    assert {rule['cidr_ipv4']['__attribute__'] for rule in rules} == {'local.cidr'}
    assert module['aws_ebs_volume'][0]['encrypted'] is True
    assert module['aws_ebs_volume'][0]['lifecycle']['prevent_destroy'] is True
    assert module['aws_instance'][0]['root_block_device']['encrypted'] is True
    assert module['aws_instance'][0]['metadata_options']['http_tokens'] == 'required'


def test_checkov_finds_nothing_that_is_not_answered(tmp_path):
    pytest.importorskip('checkov', reason='no checkov here')
    answer = subprocess.run(
        [Path(sys.executable).with_name('checkov'), '-d', INFRA, '--framework', 'terraform',
         '--skip-download', '--output', 'json'], capture_output=True, text=True, check=False)
    results = json.loads(answer.stdout)
    assert results['summary']['failed'] == 0, results['results']['failed_checks']
    assert results['summary']['passed'] > 20


# Dockerfile and environment.yml ---------------------------------------------------------------

def instructions():
    """Returns the Dockerfile's (instruction, rest) pairs, comments and line ends taken out."""
    text = re.sub(r'^\s*#.*\n', '', (ROOT / 'Dockerfile').read_text(), flags=re.MULTILINE)
    text = text.replace('\\\n', ' ')
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def test_container_runs_the_demo_as_nobody_special_without_a_shell():
    steps = instructions()
    assert [rest for word, rest in steps if word == 'CMD'] == ['["python", "main.py", "--demo"]']
    assert 'ENTRYPOINT' not in dict(steps)
    users = [rest for word, rest in steps if word == 'USER']
    assert users and users[-1] not in ('root', '0')
    created = next(rest for word, rest in steps if 'useradd' in rest)
    assert f'--uid {users[-1]} ' in created


def test_container_has_the_pinned_packages_on_a_pinned_cuda_runtime():
    steps = instructions()
    assert re.fullmatch(r'nvidia/cuda:\d+\.\d+\.\d+-runtime-ubuntu24\.04', dict(steps)['FROM'])
    assert dict(steps)['ARG'] == 'REQUIREMENTS=requirements-gpu.txt'
    pip = [rest for word, rest in steps if 'pip install' in rest]
    assert len(pip) == 1 and pip[0].endswith('-r "$REQUIREMENTS"')
    copied = next(rest for word, rest in steps if word == 'COPY')
    assert {'requirements.txt', 'requirements-gpu.txt'} <= set(copied.split())


def test_container_leaves_data_and_runs_outside():
    ignored = (ROOT / '.dockerignore').read_text().split()
    assert {'.git', 'data', 'runs'} <= set(ignored)
    needed = ('main.py', 'helper.py', 'requirements.txt', 'requirements-gpu.txt', 'roadseg')
    assert not set(needed) & set(ignored)


def test_conda_environment_has_the_pins_of_requirements_and_no_other():
    lines = [line.strip() for line in (ROOT / 'environment.yml').read_text().splitlines()
             if not line.startswith('#')]
    packages = lines[lines.index('dependencies:') + 1:]
    assert packages[1:] == ['- pip', '- pip:', '- -r requirements.txt']
    version = re.fullmatch(r'- python=3\.(\d+)', packages[0])
    assert version and 11 <= int(version[1]) <= 13
    assert 'cuda' not in (ROOT / 'requirements.txt').read_text()


def test_every_requirement_is_pinned():
    for name in ('requirements.txt', 'requirements-gpu.txt', 'infra/requirements.txt'):
        for line in (ROOT / name).read_text().split('\n'):
            assert not line or line.startswith('-r ') or re.fullmatch(
                r'[\w-]+(\[[\w-]+\])?==[\d.]+', line), f'{name}: {line}'


@posix
@pytest.mark.parametrize('options', [
    '{"options": ' + '[' * 100_000, '{"options": {"teacher": ["x"], "rounds": [2]}}', None])
def test_service_goes_on_beside_a_run_that_cannot_be_read(checkout, options):
    add_run(checkout, '2026-11-20-10-00-00')
    other = add_run(checkout, '2026-11-20-11-00-00', epochs=(10, 10), scored='now')
    (other / 'options.json').unlink()
    if options is None:
        os.mkfifo(other / 'options.json')
    else:
        (other / 'options.json').write_text(options)
    assert started(checkout) == ['main.py', '--resume', 'runs/2026-11-20-10-00-00']


@posix
def test_idle_stop_without_a_place_for_its_note_is_a_line(tmp_path):
    (tmp_path / 'loadavg').write_text('0.00 0.00 0.00 1/123 4567\n')
    answer = subprocess.run(
        [sys.executable, INFRA / 'boot/idle_stop.py', '--state', tmp_path / 'gone/idle',
         '--loadavg', tmp_path / 'loadavg'], capture_output=True, text=True, check=False)
    assert answer.returncode == 2 and 'Traceback' not in answer.stderr
    assert 'error: cannot keep' in answer.stderr
