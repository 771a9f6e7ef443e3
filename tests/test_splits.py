"""Splits of any photographs, by names that have a group and a number."""
from pathlib import Path

import pytest

from roadseg.datasets import catalogue
from roadseg.datasets.splits import check_split, split_pairs
from roadseg.errors import InputError

COUNTS = {'um': 95, 'umm': 96, 'uu': 98}
UNKNOWN = ['val4', '', ' ', ':', 'kfold', 'kfold:', 'kfold:5', 'kfold:5:5', 'kfold:0:0',
           'kfold:5:-1', 'kfold:a:b', 'kfold:5:1:2', 'kfold:²:1', 'kfold:5:²', 'kfold:1e300:1',
           'kfold:inf:0', 'kfold:5.0:1', 'kfold:٣:1', f"kfold:{'9' * 400}:1",
           f"kfold:5:{'0' * 400}",
           'tail:٠.٥', 'tail: .5', 'tail', 'tail:', 'tail:0', 'tail:1', 'tail:-0.2', 'tail:nan', 'tail:inf', 'tail:1e300',
           f"tail:{'9' * 400}", 'tail:²', 'tail:a', 'tail:0.2:0.3', 'none:1', 'NONE']


def group(name):
    return name.split('_')[0]


def pairs():
    return sorted((Path(f'image_2/{category}_{number:06d}.png'), Path(f'labels/{number}.png'))
                  for category, count in COUNTS.items() for number in range(count))


def numbers(chosen, category):
    return [int(image.stem[-6:]) for image, _ in chosen if group(image.stem) == category]


@pytest.mark.parametrize('folds', [2, 5, 7])
def test_folds_are_contiguous_runs_of_each_group(folds):
    held_out = []
    for fold in range(folds):
        training, validation = split_pairs(pairs(), f'kfold:{folds}:{fold}', group=group)
        assert sorted(training + validation) == pairs()
        assert training == sorted(training) and validation == sorted(validation)
        for category, count in COUNTS.items():
            found = numbers(validation, category)
            assert found == list(range(found[0], found[0] + len(found)))
            assert count // folds <= len(found) <= -(-count // folds)
        held_out += validation
    assert sorted(held_out) == pairs()


@pytest.mark.parametrize('share, expected', [('0.2', (19, 19, 20)), ('0.01', (1, 1, 1)),
                                             ('1e-1', (10, 10, 10)), ('0.995', (95, 96, 98))])
def test_the_tail_of_each_group_is_held_out(share, expected):
    if share == '0.995':        # all of them
        with pytest.raises(InputError, match='leaves 0 of 289 photographs to train on'):
            split_pairs(pairs(), f'tail:{share}', group=group)
        return
    training, validation = split_pairs(pairs(), f'tail:{share}', group=group)
    assert sorted(training + validation) == pairs()
    for (category, count), held_out in zip(COUNTS.items(), expected):
        assert numbers(validation, category) == list(range(count - held_out, count))


@pytest.mark.parametrize('split', ['tail:0.2', 'kfold:5:4'])
def test_neighbours_are_told_by_their_numbers_whatever_the_order_of_the_list(split):
    """As text, um_10 comes before um_2; and CamVid's frames of val stand behind those of train."""
    mixed = [(Path(f'um_{number}.png'), None) for number in [*range(1, 20, 2), *range(20, 0, -2)]]
    training, validation = split_pairs(mixed, split, group=group)
    assert {image.stem for image, _ in validation} == {'um_17', 'um_18', 'um_19', 'um_20'}
    assert [pair for pair in mixed if pair in training] == training


def test_without_groups_the_photographs_are_one():
    _, validation = split_pairs(pairs(), 'tail:0.5')
    assert validation == pairs()[-len(validation):] and len(validation) == round(289 / 2)


def test_none_holds_nothing_out():
    assert split_pairs(pairs(), 'none') == (pairs(), [])


def test_a_published_split_may_leave_photographs_out_altogether():
    named = {'early': lambda of: (of[:3], of[-100:])}
    training, validation = split_pairs(pairs(), 'early', named)
    assert validation == pairs()[:3] and training == pairs()[3:-100]


@pytest.mark.parametrize('split', UNKNOWN)
def test_an_unknown_split_is_an_error_that_names_those_there_are(split):
    """The same before the photographs are known."""
    for check in (lambda: split_pairs(pairs(), split, {'val3': None}),
                  lambda: check_split(split, ('val3',))):
        with pytest.raises(InputError, match='is none of val3, kfold:K:I.*tail:S.*none') as caught:
            check()
        assert len(str(caught.value)) < 250 and '\n' not in str(caught.value)


@pytest.mark.parametrize('split', ['val3', 'none', 'kfold:5:0', 'kfold:5:4', 'tail:0.2'])
def test_what_can_be_split_passes_before_the_photographs_are_known(split):
    check_split(split, ('val3',))


@pytest.mark.parametrize('split', ['kfold:1:0', 'kfold:500:499', 'tail:0.001'])
def test_a_split_that_leaves_a_side_empty_is_an_error(split):
    few = pairs()[:3]
    with pytest.raises(InputError, match='of 3 photographs to train on.*choose another --split'):
        split_pairs(few, split)


def test_a_split_of_another_data_set_is_an_error():
    with pytest.raises(InputError, match='none of val, test, trainval, kfold'):
        check_split('val3', catalogue.DATASETS['camvid'].splits)


@pytest.mark.parametrize('name', catalogue.DATASETS)
def test_a_data_folder_whose_name_is_too_long_is_an_input_error(tmp_path, name):
    with pytest.raises(InputError, match='name is too long'):
        catalogue.load(name, str(tmp_path / ('a' * 300)))
