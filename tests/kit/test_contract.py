"""The contract finds what it is there to find, and nothing else."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loramux.errors import ModelNotFoundError
from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolver import ResolverRegistry
from loramux.testing import HOSTILE_NAMES, ResolverContract
from loramux.testing.asking import reaches_resolvers
from tests.kit import faulty_resolvers

FAULTS = {
    "Traverses": {"a_hostile_name_is_none", "an_adapter_has_one_name"},
    "HasEverything": {"an_unknown_name_is_none", "many_callers_get_the_same_answers"},
    "HasNothing": {"a_known_name_is_found", "a_caller_in_a_hurry_spoils_nothing"},
    "RaisesForAMiss": {"an_unknown_name_is_none", "an_adapter_has_one_name"},
    "ReturnsAPath": {"a_known_name_is_found"},
    "Renames": {"a_known_name_is_found"},
    "CountsIds": {"a_question_asked_twice_has_one_answer"},
    "FindsABrokenAdapter": {"what_is_found_can_be_loaded"},
    "SwallowsCancellation": {"a_cancelled_search_ends_and_harms_no_later_one"},
    "CannotBeCancelled": {"a_slow_store_is_not_an_unknown_name"},
    "KeepsItsLock": {"a_cancelled_search_ends_and_harms_no_later_one"},
    "MixesUpCallers": {"many_callers_get_the_same_answers"},
    "TakesFailureForAbsence": {"a_lost_store_is_not_an_unknown_name"},
    "Remembers": {"new_bytes_are_noticed"},
    "DoesNotPin": {"a_source_never_brings_other_bytes"},
    "MakesSourcesThatDiffer": {"a_question_asked_twice_has_one_answer"},
    "FetchesAlone": {"a_source_is_fetched_by_several_at_once"},
    "IsCareless": {
        "a_source_lets_go_when_nobody_waits",
        "a_source_reports_progress",
        "a_source_says_where_it_is_and_keeps_secrets",
    },
}
"""Resolvers of ``faulty_resolvers.py``, and what of the contract each breaks at least."""


@pytest.fixture(scope="module")
def failures() -> dict[str, set[str]]:
    """The tests that fail: of all for the good resolver, of those in the table for the others."""
    path = Path(faulty_resolvers.__file__)
    chosen = [f"{path}::Test{fault}::test_{test}" for fault in FAULTS for test in FAULTS[fault]]
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"{path}::TestGood", *chosen],
        cwd=path.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(r"^\d+ failed, \d+ passed", done.stdout, re.MULTILINE), done.stdout
    failures: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        if found := re.match(r"(?:FAILED|ERROR) \S+::Test(\w+)::test_(\w+)", line):
            failures.setdefault(found[1], set()).add(found[2])
    return failures


def test_a_resolver_that_keeps_the_contract_passes(failures):
    assert "Good" not in failures


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(failures, fault):
    assert failures[fault] == FAULTS[fault]


def test_every_part_of_the_contract_finds_a_fault():
    tests = {name.removeprefix("test_") for name in dir(ResolverContract) if name[:5] == "test_"}
    assert set().union(*FAULTS.values()) == tests


def test_the_contract_asks_for_the_names_that_a_server_asks_for():
    chain = ResolverChain([], ResolverRegistry(), timeout=1, negative_ttl=0)
    asked = []
    for name in HOSTILE_NAMES:
        with pytest.raises(ModelNotFoundError) as refusal:
            asyncio.run(chain.resolve("base", name))
        asked.append("no adapter can be called" not in str(refusal.value))
    assert asked == [reaches_resolvers(name) for name in HOSTILE_NAMES]
    assert set(asked) == {True, False}
