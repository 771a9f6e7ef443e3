"""What the machine leaves to a process, also within a container."""
from pathlib import Path

import pytest

from roadseg import machine
from roadseg.training import device


def test_memory_that_files_have_left_behind_is_free(tmp_path):
    """A control group's use counts what was read, which is given back as it is needed."""
    assert machine._memory_of(tmp_path) == []
    for name, content in (('max', '900'), ('current', '700'),
                          ('stat', 'anon 200\ninactive_file 400\nactive_file 50\nfile 460')):
        (tmp_path / f'memory.{name}').write_text(content + '\n')
    assert machine._memory_of(tmp_path) == [900 - 700 + 450]
    (tmp_path / 'memory.max').write_text('max\n')
    assert machine._memory_of(tmp_path) == []


def test_memory_of_control_groups_of_the_first_version(tmp_path):
    for name, content in (('limit_in_bytes', '900'), ('usage_in_bytes', '700'),
                          ('stat', 'active_file 1\ntotal_inactive_file 400\ntotal_active_file 50')):
        (tmp_path / f'memory.{name}').write_text(content + '\n')
    assert machine._memory_of(tmp_path) == [900 - 700 + 450]


@pytest.mark.parametrize('line, expected', [
    ('0::/mine', ['/sys/fs/cgroup/mine', '/sys/fs/cgroup']),
    ('4:memory:/mine', ['/sys/fs/cgroup/memory/mine', '/sys/fs/cgroup/memory']),
    ('4:hugetlb,memory:/a:b', ['/sys/fs/cgroup/memory/a:b']), ('2:cpu:/mine', [])])
def test_control_groups_of_both_versions_are_looked_at(monkeypatch, line, expected):
    monkeypatch.setattr(machine.Path, 'read_text', lambda *_, **__: line + '\n')
    found = list(map(str, machine.control_groups('memory')))
    assert set(expected) <= set(found) and bool(found) == bool(expected)


@pytest.mark.skipif(not Path('/proc/meminfo').exists(), reason='the system does not tell')
def test_free_memory_is_a_plausible_number_of_bytes():
    assert 2 ** 20 < machine.free_memory() < 2 ** 50


@pytest.mark.parametrize('content, expected', [
    ({'cpu.max': '200000 100000'}, [2.0]), ({'cpu.max': '150000 100000'}, [1.5]),
    ({'cpu.max': 'max 100000'}, []), ({}, []), ({'cpu.max': ''}, []),
    ({'cpu.cfs_quota_us': '300000', 'cpu.cfs_period_us': '100000'}, [3.0]),
    ({'cpu.cfs_quota_us': '-1', 'cpu.cfs_period_us': '100000'}, [])])
def test_processors_of_control_groups(tmp_path, content, expected):
    for name, text in content.items():
        (tmp_path / name).write_text(text + '\n')
    assert machine._processors_of(tmp_path) == expected


def test_a_container_with_few_processors_gets_as_many_threads(tmp_path, monkeypatch):
    """Of a large machine; TensorFlow itself counts all of them."""
    monkeypatch.setattr(machine.os, 'sched_getaffinity', lambda process: set(range(7)),
                        raising=False)
    monkeypatch.setattr(machine, 'control_groups', lambda controller: [tmp_path])
    assert machine.processors() == 7
    assert device.session_config().intra_op_parallelism_threads == 0        # as TensorFlow likes
    (tmp_path / 'cpu.max').write_text('250000 100000\n')
    assert machine.processors() == 3 and machine.bound_processors() == 7
    assert device.session_config().intra_op_parallelism_threads == 3
    assert device.session_config().inter_op_parallelism_threads == 3
