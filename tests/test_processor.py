"""Which convolutions a training computes with, by what the processor can do."""
import os

import pytest

from roadseg.training import allocator, processor, startup

NAME = 'TF_ENABLE_ONEDNN_OPTS'


@pytest.mark.parametrize('flags, chosen', [
    ({'sse4_2', 'avx', 'avx2'}, '0'), ({'avx2', 'avx512f'}, None),
    ({'asimd', 'bf16'}, None), (set(), None)])
def test_eigens_where_there_is_avx2_and_no_more(monkeypatch, flags, chosen):
    monkeypatch.setattr(processor, 'flags', lambda: flags)
    monkeypatch.delenv(NAME, raising=False)
    processor.choose_convolutions()
    assert os.environ.get(NAME) == chosen


@pytest.mark.parametrize('options, chosen', [
    ([], '0'), (['--precision', 'float32'], '0'), (['--precision', 'bfloat16'], None),
    (['--demo'], None)])
def test_onednn_stays_on_where_it_alone_can_do_what_was_asked(monkeypatch, options, chosen):
    monkeypatch.setattr(allocator, 'use_huge_pages', lambda: None)
    monkeypatch.setattr(processor, 'flags', lambda: {'avx2'})
    monkeypatch.setenv(NAME, '')
    monkeypatch.delenv(NAME)
    startup._prepare(options)
    assert os.environ.get(NAME) == chosen


@pytest.mark.parametrize('value, off', [('0', True), ('false', True), ('False', True),
                                        ('1', False), ('', False)])
def test_onednn_is_off_as_tensorflow_understands_it(monkeypatch, value, off):
    monkeypatch.setenv(NAME, value)
    assert processor.is_without_onednn() is off


@pytest.mark.parametrize('chosen', ['0', '1', ''])
def test_what_the_user_has_set_stays(monkeypatch, chosen):
    monkeypatch.setattr(processor, 'flags', lambda: {'avx2'})
    monkeypatch.setenv(NAME, chosen)
    processor.choose_convolutions()
    assert os.environ[NAME] == chosen


@pytest.mark.parametrize('flags, expected', [
    ({'avx2'}, False), ({'avx512f'}, False), ({'avx512f', 'avx512_bf16'}, True),
    ({'amx_bf16'}, True), (set(), False)])
def test_bfloat16_in_hardware(monkeypatch, flags, expected):
    monkeypatch.setattr(processor, 'flags', lambda: flags)
    assert processor.native_bfloat16() is expected
