"""Who imports whom: the script knows the rooms, and the rooms do not know the script."""
import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from roadseg.commands import run_command

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'roadseg'
MODULES = {'.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
           for path in [*PACKAGE.rglob('*.py'), ROOT / 'main.py', ROOT / 'helper.py']}


@functools.cache
def imported(name, everywhere=False):
    """Modules of ours that a module imports: at its top, or also within its functions."""
    found = set()
    tree = ast.parse(MODULES[name].read_text(encoding='utf-8'))
    for node in ast.walk(tree) if everywhere else outside_functions(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{name} has a relative import'
            found |= {f'{node.module}.{alias.name}' for alias in node.names} | {node.module}
    return {module for module in found if module in MODULES}


def outside_functions(node):
    """Yields the nodes of a module that run when it is imported."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from outside_functions(child)


@functools.cache
def behind(name):
    """All modules of ours that are imported with a module."""
    found, waiting = set(), [name]
    while waiting:
        for module in imported(waiting.pop()):
            # importing a.b.c also imports a and a.b
            parents = {module.rsplit('.', level)[0] for level in range(3)} & set(MODULES)
            waiting += [new for new in {module, *parents} - found]
            found |= {module, *parents}
    return found


def commands():
    """The modules that are called with `python -m`."""
    return {name for name, path in MODULES.items()
            if "__name__ == '__main__'" in path.read_text(encoding='utf-8')}


def test_there_are_modules():
    assert {'roadseg', 'roadseg.errors', 'roadseg.training.options', 'main'} <= set(MODULES)
    assert {'main', 'roadseg.evaluate', 'roadseg.networks.vgg16'} <= commands()


def test_nothing_in_the_rooms_imports_the_script_or_its_helper_but_commands():
    outsiders = {name for name in MODULES if name.startswith('roadseg')
                 and imported(name, everywhere=True) & {'main', 'helper'}}
    assert outsiders <= commands()
    assert not any('helper' in imported(name, everywhere=True) for name in outsiders)
    assert 'main' not in imported('helper', everywhere=True)


@pytest.mark.parametrize('name', sorted(commands()))
def test_commands_report_mistakes_in_the_same_way(name, capsys):
    """One line that begins with 'error: ' and says where help is; exit code 2."""
    for argv in (['--no-such-option'], ['--help=me'], ['-x']):
        with pytest.raises(SystemExit) as leaving:
            run_command(importlib.import_module(name).main, argv)
        error, = capsys.readouterr().err.splitlines()
        assert leaving.value.code == 2 and error.startswith('error: ')
        assert error.endswith(f"; see python {'main.py' if name == 'main' else '-m ' + name} "
                              '--help')


@pytest.mark.slow
def test_nothing_of_tensorflows_comes_before_that_line():
    """In a process of its own, as what TensorFlow says comes of importing it."""
    found = subprocess.run([sys.executable, '-m', 'roadseg.evaluate', '--no-such-option'], cwd=ROOT,
                           text=True, capture_output=True, timeout=300, check=False)
    assert (found.returncode, found.stdout, found.stderr.count('\n')) == (2, '', 1), found.stderr


@pytest.mark.parametrize('name', sorted(commands()))
def test_a_command_silences_tensorflow_before_it_imports_it(name):
    imports = [line for line in MODULES[name].read_text(encoding='utf-8').splitlines()
               if re.match(r'(import|from) ', line)]
    of_tensorflow = [place for place, line in enumerate(imports)
                     if re.match(r'(import|from) (tensorflow|google.protobuf|keras)', line)]
    if of_tensorflow:
        assert any('import roadseg.quiet' in line for line in imports[:of_tensorflow[0]])


def test_there_is_no_circle_of_imports():
    for name in MODULES:
        assert name not in behind(name) or name == 'roadseg', name


@pytest.mark.parametrize('room, others', [
    ('datasets', ('networks', 'training')), ('scoring', ('networks',))])
def test_a_room_knows_only_the_rooms_before_it(room, others):
    """What is learned from, and how it is scored, does not depend on what learns."""
    for name in MODULES:
        if name.startswith(f'roadseg.{room}.'):
            for other in others:
                known = [found for found in behind(name) if found.startswith(f'roadseg.{other}')]
                assert not known or name in commands(), f'{name} knows {known[0]}'


def test_errors_import_nothing():
    assert not imported('roadseg.errors', everywhere=True)


WITHOUT_TENSORFLOW = [
    name for name in MODULES if name.startswith(('roadseg.datasets', 'roadseg.scoring'))] + [
    'roadseg', 'roadseg.commands', 'roadseg.errors', 'roadseg.files', 'roadseg.images',
    'roadseg.inference', 'roadseg.model', 'roadseg.signals', 'roadseg.training.augment',
    'roadseg.training.options', 'roadseg.training.pipeline', 'roadseg.training.run_folder']


def test_what_needs_no_tensorflow_does_not_wait_for_it_and_does_nothing():
    """In one process, as importing them is all that they do."""
    code = f'''
import importlib, os, sys, threading
before = dict(os.environ)
for name in {WITHOUT_TENSORFLOW!r}:
    importlib.import_module(name)
    for heavy in ("tensorflow", "keras"):
        assert heavy not in sys.modules, f"{{name}} imports {{heavy}}"
assert threading.active_count() == 1 and dict(os.environ) == before
'''
    answer = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
                            check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, '', '')


@pytest.mark.parametrize('name', sorted(MODULES))
def test_a_module_says_what_it_is_for(name):
    assert ast.get_docstring(ast.parse(MODULES[name].read_text(encoding='utf-8')))
