"""Cityscapes: its layout, the ids of its labels, and its classes grouped."""
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

import tiny
from roadseg import evaluate
from roadseg.commands import run_command
from roadseg.datasets import cityscapes, kitti
from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError
from roadseg.files import read_json, write_json
from roadseg.scoring import classes, road

IDS = np.arange(36, dtype=np.uint8).reshape(4, 9)
IDS[IDS > 33] = 0
FRAMES = {'train': ['aachen_000000_000019', 'aachen_000001_000019', 'ulm_000000_000019',
                    'ulm_000001_000019'],
          'val': ['munster_000000_000019'], 'test': ['berlin_000000_000019']}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(cityscapes, 'COUNTS', {'train': 4, 'val': 1})
    monkeypatch.setattr(cityscapes, 'TESTS', 1)
    for part, names in FRAMES.items():
        for name in names:
            city = name.split('_')[0]
            for place in ('leftImg8bit', 'gtFine'):
                (tmp_path / 'cityscapes' / place / part / city).mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (9, 4)).save(image_of(tmp_path, part, name))
            Image.fromarray(IDS).save(label_of(tmp_path, part, name))
            for other in ('color', 'instanceIds'):      # the archive has them, too
                Image.fromarray(IDS).save(label_of(tmp_path, part, name, other))
    (tmp_path / 'cityscapes/license.txt').write_text('')
    return tmp_path


def image_of(data, part, name):
    city = name.split('_')[0]
    return data / 'cityscapes/leftImg8bit' / part / city / f'{name}_leftImg8bit.png'


def label_of(data, part, name, kind='labelIds'):
    city = name.split('_')[0]
    return data / 'cityscapes/gtFine' / part / city / f'{name}_gtFine_{kind}.png'


def test_layout_and_splits(data):
    dataset = cityscapes.load(data)
    assert (dataset.name, dataset.title) == ('cityscapes', 'Cityscapes')
    assert dataset.labelled == [(image_of(data, part, name), label_of(data, part, name))
                                for part in ('train', 'val') for name in FRAMES[part]]
    assert dataset.tests == [image_of(data, 'test', 'berlin_000000_000019')]
    training, validation = dataset.split(dataset.default_split)
    assert (len(training), len(validation)) == (4, 1)
    assert validation[0][0].name == 'munster_000000_000019_leftImg8bit.png'
    # Runs of frames within each city.
    assert [image.name[:14] for image, _ in dataset.split('kfold:2:1')[1]] == [
        'aachen_000001_', 'ulm_000001_000']
    assert cityscapes.load(data / 'cityscapes').labelled == dataset.labelled


def test_nineteen_classes_are_the_benchmarks(data):
    dataset = cityscapes.load(data, 19)
    assert len(dataset.classes) == len(set(dataset.classes)) == 19
    assert dataset.classes[dataset.road] == 'road' and dataset.measures is classes
    label = dataset.read_label(dataset.labelled[0][1])
    assert label.dtype == np.uint8 and label.shape == IDS.shape
    expected = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10,
                24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    assert label.ravel().tolist() == [expected.get(number, IGNORED) for number in IDS.ravel()]


def test_thirteen_join_some_of_the_nineteen(data):
    nineteen, thirteen = (cityscapes.load(data, count) for count in (19, 13))
    assert len(thirteen.classes) == len(set(thirteen.classes)) == len(set(thirteen.palette)) == 13
    assert thirteen.classes[thirteen.road] == 'road' and thirteen.measures is classes
    path = nineteen.labelled[0][1]
    fine, coarse = nineteen.read_label(path), thirteen.read_label(path)
    assert ((fine == IGNORED) == (coarse == IGNORED)).all()
    joined = {}
    for small, large in zip(fine.ravel(), coarse.ravel()):
        if small != IGNORED:
            joined.setdefault(thirteen.classes[large], set()).add(nineteen.classes[small])
    assert len(joined) == 13
    assert joined['wall or fence'] == {'wall', 'fence'}
    assert joined['truck, bus or train'] == {'truck', 'bus', 'train'}
    assert joined['car'] == {'car'}


def test_two_are_road_and_not_road(data):
    dataset = cityscapes.load(data, 2)
    assert (dataset.classes, dataset.palette, dataset.road) == (kitti.CLASSES, kitti.PALETTE, 1)
    assert dataset.measures is road
    label = dataset.read_label(dataset.labelled[0][1])
    assert (label[IDS == 7] == 1).all() and (label == 1).sum() == 1
    assert (label == IGNORED).sum() == 36 - 19


@pytest.mark.parametrize('count', [3, 11, 34])
def test_other_numbers_of_classes_are_refused(data, count):
    with pytest.raises(InputError, match=f'--classes {count}: Cityscapes has 19, or 13'):
        cityscapes.load(data, count)


def test_a_foreign_id_is_placed(data):
    ids = IDS.copy()
    ids[2, 5] = 34
    path = label_of(data, 'train', 'ulm_000000_000019')
    Image.fromarray(ids).save(path)
    with pytest.raises(InputError, match='labelIds.png has the value 34 at row 2, column 5; '
                                         'expected 0 to 33'):
        cityscapes.load(data).read_label(path)


# What the server wants --------------------------------------------------------------------------

def test_label_ids_are_the_way_back(data):
    dataset = cityscapes.load(data, 19)
    train_ids = dataset.read_label(dataset.labelled[0][1])
    ids = cityscapes.to_label_ids(train_ids, 19)
    assert ids.dtype == np.uint8
    assert (ids == np.where(train_ids == IGNORED, 0, IDS)).all()


@pytest.mark.parametrize('count', [2, 13])
def test_the_server_takes_nineteen_only(count):
    with pytest.raises(InputError, match=f'{count} classes, .* wants the 19; train with'):
        cityscapes.to_label_ids(np.zeros((2, 3), np.uint8), count)


def test_a_number_that_is_no_class():
    with pytest.raises(ValueError, match='1 pixels are outside 0 .. 18, the first being 19'):
        cityscapes.to_label_ids(np.array([[0, 19, 255]], np.uint8), 19)


# What is not there ------------------------------------------------------------------------------

def test_nothing_there_says_how_to_get_it(tmp_path):
    (tmp_path / 'data_road').mkdir()
    with pytest.raises(InputError) as caught:
        cityscapes.load(tmp_path)
    message = str(caught.value)
    assert 'holds data_road' in message and 'gtFine_trainvaltest.zip' in message
    assert 'account' in message and '\n' not in message


def test_photographs_without_labels_beside_them(data):
    label_of(data, 'train', 'ulm_000001_000019').unlink()
    with pytest.raises(InputError, match='1 of 4 photographs have no label in .*gtFine/train, the '
                                         'first being ulm_000001_000019_leftImg8bit.png'):
        cityscapes.load(data)


def test_missing_frames_are_an_error_or_a_warning(data, capsys):
    for path in (image_of(data, 'train', 'ulm_000001_000019'),
                 label_of(data, 'train', 'ulm_000001_000019')):
        path.unlink()
    with pytest.raises(InputError, match='holds 3 photographs, published are 4'):
        cityscapes.load(data)
    assert len(cityscapes.load(data, strict=False).labelled) == 4
    assert capsys.readouterr().err.count('warning: ') == 1


def test_frames_without_labels_may_be_missing(data):
    image_of(data, 'test', 'berlin_000000_000019').unlink()
    assert cityscapes.load(data).tests == []


def test_two_photographs_of_one_name_are_refused(tmp_path):
    for city in ('a', 'b'):
        (tmp_path / city).mkdir()
        (tmp_path / city / '000001_leftImg8bit.png').touch()
    with pytest.raises(InputError, match='a/000001.* and .*b/000001.* have the same name'):
        cityscapes._pictures(tmp_path, '_leftImg8bit')


def test_a_submission_has_the_names_and_label_ids_that_the_server_takes(data):
    dataset = cityscapes.load(data)
    encode = evaluate.cityscapes_encoder(dataset)
    numbers = np.arange(36, dtype=np.uint8).reshape(4, 9) % 19
    name, ids = encode(dataset.tests[0], (None, numbers))
    assert name == dataset.tests[0].name and name.endswith('_leftImg8bit.png')
    assert ids.dtype == np.uint8
    assert (ids == np.array([label.id for label in cityscapes.TABLE])[numbers]).all()


def test_the_command_writes_a_submission(data):
    dataset = cityscapes.load(data)
    run = tiny.save_run(data / 'run', num_classes=19, gains=(0, -20, 20) + 16 * (0,),
                        data_dir=str(data), dataset='cityscapes', precision='float32')
    made = read_json(run / 'options.json')
    made['data'].update(classes=dataset.classes, palette=dataset.palette)
    write_json(run / 'options.json', made)
    white = np.zeros((4, 9, 3), np.uint8)
    white[:, 5:] = 255
    Image.fromarray(white).save(dataset.tests[0])
    assert run_command(evaluate.main, [str(run), '--submission', str(data / 'a.zip')]) == 0
    with zipfile.ZipFile(data / 'a.zip') as archive:
        assert archive.namelist() == ['berlin_000000_000019_leftImg8bit.png']
        ids = np.array(Image.open(io.BytesIO(archive.read(archive.namelist()[0]))))
    assert ids.shape == (4, 9) and ids.dtype == np.uint8
    assert (ids[:, 0] == 8).all() and (ids[:, -1] == 11).all()      # sidewalk, building


def test_a_submission_of_grouped_classes_is_refused(data, capsys):
    run = tiny.save_run(data / 'run', data_dir=str(data), dataset='cityscapes', classes=2,
                        precision='float32')
    assert run_command(evaluate.main, [str(run), '--submission', str(data / 'a.zip')]) == 2
    assert '--classes 19' in capsys.readouterr().err and not (data / 'a.zip').exists()


def test_labels_of_another_kind_are_told_by_their_name(data):
    for path in (data / 'cityscapes/gtFine/train').rglob('*_labelIds.png'):
        path.rename(path.with_name(path.name.replace('labelIds', 'labelTrainIds')))
    with pytest.raises(InputError, match='the label of NAME_leftImg8bit.png is '
                                         'NAME_gtFine_labelIds.png'):
        cityscapes.load(data)


def test_photographs_without_a_folder_of_their_city(data):
    for part in ('train', 'val'):
        for place in ('leftImg8bit', 'gtFine'):
            folder = data / 'cityscapes' / place / part
            for path in list(folder.rglob('*.png')):
                path.rename(folder / path.name)
    with pytest.raises(InputError, match=r'expected CITY/\*_leftImg8bit.png'):
        cityscapes.load(data, strict=False)
