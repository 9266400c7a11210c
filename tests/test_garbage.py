"""Imports and work without a search for garbage, which begins again as it was."""

from __future__ import annotations

import gc

import pytest

import loramux
from loramux.garbage import importing, only_among_young


@pytest.fixture(autouse=True)
def as_it_was():
    gc.unfreeze()  # what a server in another test has frozen
    yield
    gc.enable()
    gc.unfreeze()


def test_nothing_is_searched_and_what_was_made_is_old():
    with importing():
        searches = sum(generation["collections"] for generation in gc.get_stats())
        made = [[n] for n in range(100_000)]
        with importing():
            assert not gc.isenabled()
        assert not gc.isenabled()
        assert sum(generation["collections"] for generation in gc.get_stats()) == searches
    assert gc.isenabled()
    assert not any(made[0] is each for each in gc.get_objects(generation=0))
    assert gc.get_freeze_count() == 0


def test_it_ends_with_an_error_too():
    with pytest.raises(ModuleNotFoundError), importing():
        import loramux.nowhere  # noqa: F401
    assert gc.isenabled()


def test_who_has_turned_the_search_off_keeps_it_off():
    gc.disable()
    with importing():
        pass
    assert not gc.isenabled()


def test_where_something_is_frozen_what_is_imported_is_too():
    gc.freeze()
    frozen = gc.get_freeze_count()
    with importing():
        made = [[n] for n in range(1000)]
    assert gc.get_freeze_count() >= frozen + len(made)


def test_public_names_are_imported_once(monkeypatch):
    monkeypatch.delitem(vars(loramux), "SamplingParams", raising=False)
    first = loramux.SamplingParams
    monkeypatch.setattr(loramux, "__getattr__", None)
    assert loramux.SamplingParams is first


def make_old_objects() -> int:
    """How often all objects were searched while so many were made that stay."""
    searched = gc.get_stats()[2]["collections"]
    kept = [[n] for n in range(1_000_000)]
    return gc.get_stats()[2]["collections"] - searched if kept else 0


def test_work_is_not_held_up_by_a_search_among_all():
    gc.collect()
    with only_among_young():
        young = gc.get_stats()[0]["collections"]
        assert make_old_objects() == 0
        assert gc.get_stats()[0]["collections"] > young
    assert make_old_objects() > 0


def test_searches_are_as_they_were_when_the_last_work_ends():
    usual = gc.get_threshold()
    first, second = only_among_young(), only_among_young()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() != usual
    second.__exit__(None, None, None)
    assert gc.get_threshold() == usual
