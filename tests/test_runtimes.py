"""Exports that are opened: by every runtime that is here, and damaged ones by none."""
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import exported
import tiny
from roadseg import export, model, predict, runtimes
from roadseg.commands import run_command
from roadseg.errors import InputError
from roadseg.files import file_checksum
from roadseg.images import write_image

IMAGES = np.zeros((3, 32, 96, 3), np.uint8)
IMAGES[1, :, :40] = 255
IMAGES[2] = 255


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Exports of a run that knows road by its brightness: dict from name to folder."""
    place = tmp_path_factory.mktemp('bright')
    data = exported.save_data(place / 'data')
    run = tiny.save_run(place / 'run', data_dir=str(data), precision='float32')
    for name in ('frozen', 'savedmodel', 'tflite'):
        assert run_command(export.main, [str(run), '--format', name]) == 0
    if runtimes.is_installed('onnxruntime') and export.has('tf2onnx'):
        assert run_command(export.main, [str(run), '--format', 'onnx']) == 0
    return {path.name: path for path in (run / 'exports').iterdir()}


@pytest.fixture
def copy(folders, tmp_path):
    return shutil.copytree(folders['tflite'], tmp_path / 'copy [1] ä')


def rewrite(folder, **changes):
    content = json.loads((folder / 'export.json').read_text())
    content.update(changes)
    (folder / 'export.json').write_text(json.dumps(content))


# Running ----------------------------------------------------------------------------------------

@pytest.mark.parametrize('form, runtime', [(form, runtime) for form, able in
                                           runtimes.RUNTIMES.items() for runtime in able])
def test_every_runtime_gives_the_probabilities_of_every_image(folders, form, runtime):
    if not runtimes.is_installed(runtime) or form not in folders:
        pytest.skip('requirements-export.txt is not installed')
    with runtimes.open_export(folders[form], runtime) as opened:
        found = opened.run(IMAGES)
        assert opened.runtime == runtime and opened.metadata['image_size'] == [32, 96]
        assert found.shape == (3, 32, 96, 2) and found.dtype == np.float32
        assert found.sum(axis=-1) == pytest.approx(1, abs=1e-4)
        assert (found[..., 1] > 0.5).tolist() == (IMAGES[..., 0] > 127).tolist()
        first = found.copy()
        opened.run(255 - IMAGES)
        assert (found == first).all()       # it is not the runtime's own memory
        if form != 'tflite':
            assert opened.run(np.full((1, 7, 9, 3), 255, np.uint8))[..., 1].min() > 0.99
    with pytest.raises(ValueError, match='closed'):
        opened.run(IMAGES)


def test_tensorflow_alone_runs_tflite(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ai_edge_litert', None)        # as if it were not installed
    monkeypatch.setitem(sys.modules, 'ai_edge_litert.interpreter', None)
    with runtimes.open_export(folders['tflite'], 'tflite') as opened:
        assert opened.run(IMAGES)[2, ..., 1].min() > 0.99


def test_by_the_file_and_by_the_folder(folders):
    with runtimes.open_export(folders['tflite'] / 'model.tflite', 'tflite') as opened:
        assert opened.metadata['fixed_size'] is True
    path, _ = runtimes.read_metadata(folders['savedmodel'] / 'saved_model.pb')
    assert (path / 'saved_model.pb').is_file()


def test_importing_takes_no_runtime():
    code = ('import sys, roadseg.runtimes; assert not {"tensorflow", "openvino", "onnxruntime"} '
            '& set(sys.modules)')
    subprocess.run([sys.executable, '-c', code], check=True)


def test_pictures_are_looked_at_by_the_command_for_predictions(folders, tmp_path):
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[32:] = 255
    write_image(tmp_path / 'photo.png', picture)
    assert run_command(predict.main, [str(folders['tflite']), str(tmp_path / 'photo.png'),
                                      '--out', str(tmp_path / 'seen'), '--json']) == 0
    seen = json.loads((tmp_path / 'seen' / 'photo.json').read_text())
    assert seen['road'] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize('images', [
    IMAGES[0], IMAGES.astype(np.float32), IMAGES[..., :2], IMAGES[:, :31]])
def test_what_are_no_images(folders, images):
    with runtimes.open_export(folders['tflite'], 'tflite') as opened, \
            pytest.raises(InputError, match='expected uint8|takes 32x96 pixels only'):
        opened.run(images)


# Choosing ---------------------------------------------------------------------------------------

def test_auto_takes_the_first_that_is_installed(monkeypatch):
    first, second = runtimes.RUNTIMES['tflite']
    for name in (first, second):
        monkeypatch.setitem(runtimes.MODULES, name, ('numpy',))
    assert runtimes.choose('auto', 'tflite', 'x') == first
    monkeypatch.setitem(runtimes.MODULES, first, ('no_such_module',))
    assert runtimes.choose('auto', 'tflite', 'x') == second
    with pytest.raises(InputError, match=f'x needs {first}, which is not installed; '
                                         '`pip install -r requirements-export.txt`'):
        runtimes.choose(first, 'tflite', 'x')
    monkeypatch.setitem(runtimes.MODULES, second, ('no_such_module',))
    with pytest.raises(InputError, match=f'x needs {first} or {second}'):
        runtimes.choose('auto', 'tflite', 'x')


def test_auto_takes_what_is_right_and_uses_the_gpu(monkeypatch):
    """OpenVINO's 8 bits overflow on some processors, and it would leave a GPU idle."""
    for name in runtimes.MODULES:
        monkeypatch.setitem(runtimes.MODULES, name, ('numpy',))
    assert runtimes.choose('auto', 'tflite', 'x', 'int8') == 'tflite'
    assert runtimes.choose('openvino', 'tflite', 'x', 'int8') == 'openvino'
    for driver, gpus, expected in ((False, [], 'openvino'), (True, ['GPU'], 'tensorflow'),
                                   (True, [], 'openvino')):     # without CUDA's libraries
        monkeypatch.setattr('roadseg.driver.has_driver', lambda driver=driver: driver)
        monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind, gpus=gpus: gpus)
        assert runtimes.choose('auto', 'frozen', 'x') == expected
        assert runtimes.choose('auto', 'tflite', 'x') == 'openvino'
    monkeypatch.setattr(tf.config, 'list_physical_devices', pytest.fail)
    assert runtimes.choose('openvino', 'frozen', 'x') == 'openvino'     # is not asked
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')
    assert runtimes.choose('auto', 'frozen', 'x') == 'openvino'


def test_a_runtime_of_another_format(folders):
    with pytest.raises(InputError, match='in the format tflite, which onnxruntime does not run'):
        runtimes.open_export(folders['tflite'], 'onnxruntime')


# Damage -----------------------------------------------------------------------------------------

def test_without_metadata(copy, tmp_path):
    (copy / 'export.json').unlink()
    for path in (copy, copy / 'model.tflite', tmp_path / 'nowhere'):
        with pytest.raises(InputError, match='an export is a folder with its model and export'):
            runtimes.open_export(path)
    with pytest.raises(InputError, match='export.json'):
        model.load(copy / 'model.tflite')


@pytest.mark.parametrize('changes, message', [
    ({'format_version': 2}, 'is of version 2, and this program reads version 1'),
    ({'format_version': None}, 'is of version None'), ({'format': 'coreml'}, "'format' is coreml"),
    ({'image_size': [10**9, 10**9]}, 'image_size'), ({'fixed_size': False}, "'fixed_size' is False"),
    ({'image_size': [32]}, r"'image_size' is \[32\]"), ({'image_size': [0, 96]}, 'image_size'),
    ({'fixed_size': 1}, "'fixed_size' is 1"), ({'file': 7}, "'file' is 7"),
    ({'format': ['tflite']}, "'format' is"), ({'input': 7}, "'input' is 7"),
    ({'output': None}, "'output' is None"), ({'quantization': 'int8'}, "'output_scale' is None"),
    ({'files': {}}, "'files' is {}"), ({'files': 1}, "'files' is 1"), ({'files': {'model.tflite': '00'}}, 'not as it was written'),
    ({'files': {'other.tflite': '00'}}, "'file' is model.tflite"),
    ({'file': '../model.tflite'}, 'name of the model')])
def test_damaged_metadata(copy, changes, message):
    rewrite(copy, **changes)
    with pytest.raises(InputError, match=message):
        runtimes.open_export(copy)


@pytest.mark.parametrize('runtime', ['tflite', 'openvino'])
def test_metadata_of_another_model(copy, runtime):
    if not runtimes.is_installed(runtime):
        pytest.skip('requirements-export.txt is not installed')
    rewrite(copy, image_size=[32, 104])
    with pytest.raises(InputError, match=rf'{runtime} cannot open .* it takes \(1, 32, 96, 3\), '
                                         r'and export.json says \[32, 104\]'):
        runtimes.open_export(copy, runtime)


def test_another_number_of_classes_than_the_model_has(folders, tmp_path):
    copy = shutil.copytree(folders['frozen'], tmp_path / 'copy')
    about = json.loads((copy / 'export.json').read_text())
    rewrite(copy, classes=[*about['classes'], 'more'])
    with runtimes.open_export(copy) as opened, \
            pytest.raises(InputError, match='names 3 classes, and the model has 2'):
        opened.run(np.zeros((1, *about['image_size'], 3), np.uint8))


def test_a_pipe_in_the_place_of_the_model(copy):
    """Reading it would wait for ever."""
    (copy / 'model.tflite').unlink()
    os.mkfifo(copy / 'model.tflite')
    with pytest.raises(InputError, match='model.tflite: it is a pipe'):
        runtimes.open_export(copy)


def test_a_file_that_is_not_as_it_was_written(copy):
    content = bytearray((copy / 'model.tflite').read_bytes())
    content[len(content) // 2] ^= 1
    (copy / 'model.tflite').write_bytes(content)
    with pytest.raises(InputError, match='model.tflite is not as it was written'):
        runtimes.open_export(copy)
    (copy / 'model.tflite').unlink()
    with pytest.raises(InputError, match='cannot read .*no such file'):
        runtimes.open_export(copy)


@pytest.mark.parametrize('form', list(runtimes.RUNTIMES))
def test_what_no_runtime_can_read(folders, tmp_path, form):
    if form not in folders:
        pytest.skip('requirements-export.txt is not installed')
    copy = shutil.copytree(folders[form], tmp_path / 'copy')
    name = 'saved_model.pb' if form == 'savedmodel' else export.FILES[form]
    for content in (b'', b'no model at all' * 99):
        (copy / name).write_bytes(content)
        rewrite(copy, files={name: file_checksum(copy / name)})
        for runtime in runtimes.RUNTIMES[form]:
            if runtimes.is_installed(runtime):
                with pytest.raises(InputError, match=f'{runtime} cannot open'):
                    runtimes.open_export(copy, runtime)


def test_an_export_without_its_classes(copy):
    rewrite(copy, classes=None)
    with pytest.raises(InputError, match="'classes' is None, expected the names"):
        runtimes.open_export(copy)


def test_an_input_that_the_model_does_not_have(folders, tmp_path):
    for form, runtime in (('frozen', 'tensorflow'), ('onnx', 'onnxruntime')):
        if form in folders and runtimes.is_installed(runtime):
            rewrite(copy := shutil.copytree(folders[form], tmp_path / form), input='pictures')
            with pytest.raises(InputError, match=f'{runtime} cannot open .*pictures'):
                runtimes.open_export(copy, runtime)


def test_another_file_beside_the_metadata(copy):
    (copy / 'other.tflite').write_bytes(b'x')
    with pytest.raises(InputError, match='is of model.tflite, not of other.tflite'):
        runtimes.open_export(copy / 'other.tflite')
