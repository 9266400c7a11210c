"""Environment variables as typed values."""

from __future__ import annotations

import pytest

from loramux import env
from loramux.errors import LoramuxError

V = "LORAMUX_TEST_VARIABLE"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(V, raising=False)


def test_unset_means_the_default():
    assert env.read_text(V) is None
    assert env.read_text(V, "x") == "x"
    assert env.read_bool(V) is False
    assert env.read_bool(V, True) is True
    assert env.read_int(V, 7) == 7
    assert env.read_seconds(V, 1.5) == 1.5
    assert env.read_list(V) == []


@pytest.mark.parametrize(
    ("value", "read", "expected"),
    [
        (" here ", lambda: env.read_text(V), "here"),
        ("  ", lambda: env.read_text(V, "default"), "default"),
        ("True", lambda: env.read_bool(V), True),
        ("1", lambda: env.read_bool(V), True),
        ("off", lambda: env.read_bool(V, True), False),
        ("0", lambda: env.read_int(V, 7), 0),
        ("12", lambda: env.read_int(V, 7, minimum=12), 12),
        ("2.5", lambda: env.read_seconds(V, 1), 2.5),
        ("0", lambda: env.read_seconds(V, 1, zero_allowed=True), 0.0),
        ("org/a, org/b ,,", lambda: env.read_list(V), ["org/a", "org/b"]),
    ],
)
def test_values_are_read_when_asked_for(monkeypatch, value, read, expected):
    monkeypatch.setenv(V, value)
    assert read() == expected


@pytest.mark.parametrize(
    ("value", "read", "remedy"),
    [
        ("maybe", lambda: env.read_bool(V), "set it to 1 or 0"),
        ("many", lambda: env.read_int(V, 7), "set it to a whole number of at least 0"),
        ("1.5", lambda: env.read_int(V, 7), "set it to a whole number of at least 0"),
        ("3", lambda: env.read_int(V, 7, minimum=4), "set it to a whole number of at least 4"),
        ("0", lambda: env.read_seconds(V, 1), "set it to a number of seconds, more than 0"),
        ("-1", lambda: env.read_seconds(V, 1, zero_allowed=True), "seconds, 0 or more"),
        ("inf", lambda: env.read_seconds(V, 1), "set it to a number of seconds"),
    ],
)
def test_a_value_that_does_not_parse_is_refused_by_name(monkeypatch, value, read, remedy):
    monkeypatch.setenv(V, value)
    with pytest.raises(env.EnvironmentVariableError) as refusal:
        read()
    assert isinstance(refusal.value, LoramuxError)
    assert refusal.value.variable == V
    assert str(refusal.value).startswith(f"{V} is {value!r}; ")
    assert remedy in str(refusal.value)
