"""Which adapter names a pattern fits, and that no name fits by looking like another."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux.server.access.name_patterns import NamePatterns


def fits(pattern: str, name: str) -> bool:
    return NamePatterns.of([pattern]).fit(name)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("sql", "sql"),
        ("*", "team-a/x"),
        ("team-a/*", "team-a/x"),
        ("team-a/*", "team-a/x/y@main"),
        ("team-a/*-v*", "team-a/x-v2"),
        ("*/sql", "a/b/sql"),
        ("a*b*c", "abc"),
        ("é/*", "é/x"),
        ("team-?/[a]", "team-?/[a]"),
    ],
)
def test_names_that_fit(pattern: str, name: str) -> None:
    assert fits(pattern, name)


@pytest.mark.parametrize(
    "name",
    [
        "team-b/x",
        "team-a",
        "team-a/",
        "TEAM-A/x",
        "Team-a/x",
        " team-a/x",
        "x/team-a/x",
        "team-a/../team-b/x",
        "team-a/./../team-b/x",
        "team-a/x/..",
        "team-a//x",
        "/team-a/x",
        "team-a/..\\..\\team-b",
        "team-a\\x",
        "team-a/%2e%2e/team-b/x",
        "team-a/%2E%2E%2Fteam-b",
        "team-a/.\u200b./team-b/x",
        "team-a/\uff0e\uff0e/team-b/x",
        "team-a/..\uff0fteam-b",
        "team-a\uff0fx",
        "team-\uff41/x",
        "te\u0430m-a/x",
        "team\u2010a/x",
        "team-a/\u2025/team-b/x",
        "team-a/ .. /team-b",
        "team-a/e\u0301",
        "team-a/x\x00",
        "team-a/x\n",
        "team-a/\u202ex",
        "team-a/" + "x" * 600,
        "",
    ],
)
def test_names_that_do_not(name: str) -> None:
    assert not fits("team-a/*", name)


@pytest.mark.parametrize(
    "name", ["team-b/x", "a/../team-b/x", "", "../x", "x%2f..", "\uff0e\uff0e"]
)
def test_what_could_be_read_as_another_name_fits_not_even_everything(name: str) -> None:
    assert fits("*", name) == (name == "team-b/x")


@pytest.mark.parametrize(
    "pattern",
    ["", "../*", "a/../*", "a/..", "/a", "a/", "a//b", "a\\b", "a%2f*", "\uff41/*", "a\n"],
)
def test_patterns_that_could_never_be_meant(pattern: str) -> None:
    with pytest.raises(ValueError, match="fits no name"):
        NamePatterns.of([pattern])


@given(st.text("ab/*", min_size=1, max_size=8), st.text("ab/", min_size=1, max_size=10))
def test_stars_mean_what_they_mean_in_a_regular_expression(pattern: str, name: str) -> None:
    try:
        patterns = NamePatterns.of([pattern])
    except ValueError:
        return
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    is_plain = all(name.split("/"))
    assert patterns.fit(name) == (is_plain and re.fullmatch(expression, name) is not None)


def test_no_pattern_takes_long() -> None:
    started = time.thread_time()
    assert not fits("a*" * 100 + "b", "a" * 500)
    assert time.thread_time() - started < 0.1
