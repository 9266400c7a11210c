"""Stop strings in text that comes in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramux.engine.front.stop_checker import StopChecker


def feed_all(checker: StopChecker, pieces: list[str]) -> list[str]:
    released = []
    for piece in pieces:
        released.append(checker.feed(piece))
        if checker.matched is not None:
            return released
    return [*released, checker.flush()]


@pytest.mark.parametrize(
    ("stops", "include", "pieces", "released", "matched"),
    [
        (["end"], False, ["the end", " never"], ["the "], "end"),
        (["end"], True, ["the ending"], ["the end"], "end"),
        (["end"], False, ["th", "e e", "n", "d"], ["th", "e ", "", ""], "end"),
        (["end"], True, ["th", "e e", "n", "d!"], ["th", "e e", "n", "d"], "end"),
        (["end"], False, ["an e", "nemy"], ["an ", "enemy", ""], None),
        (["end"], False, ["an e"], ["an ", "e"], None),
        (["x"], False, ["ab", "cx", "d"], ["ab", "c"], "x"),
        (["aab"], False, ["a", "a", "a", "b"], ["", "", "a", ""], "aab"),
        (["."], False, [""], ["", ""], None),
        (["👍🏽"], False, ["ok 👍", "🏽"], ["ok ", ""], "👍🏽"),
    ],
)
def test_examples(stops, include, pieces, released, matched):
    checker = StopChecker(stops, include)
    assert feed_all(checker, pieces) == released
    assert checker.matched == matched


def test_the_string_that_is_complete_first_wins():
    checker = StopChecker(["world", "lo w", "hello world"], False)
    assert checker.feed("hello world") == "hel"
    assert checker.matched == "lo w"


def test_of_strings_that_end_together_the_first_listed_wins():
    for stops, text in ((["b", "ab"], "a"), (["ab", "b"], "")):
        checker = StopChecker(stops, False)
        assert checker.feed("ab") == text
        assert checker.matched == stops[0]


def test_matches_that_end_before_stopping_is_allowed_are_passed_over():
    checker = StopChecker(["ab", "c"], False)
    assert checker.feed("abc", may_stop=False) == "abc"
    assert checker.feed("x a", may_stop=False) == "x "
    assert checker.feed("b") == ""
    assert checker.matched == "ab"


LETTERS = st.text(alphabet="ab", min_size=1, max_size=4)


@settings(max_examples=500, deadline=None)
@given(
    stops=st.lists(LETTERS, min_size=1, max_size=3),
    pieces=st.lists(st.text(alphabet="abc", max_size=4), max_size=10),
    include=st.booleans(),
    num_closed=st.integers(0, 3),
)
def test_as_if_text_came_letter_by_letter(
    stops: list[str], pieces: list[str], include: bool, num_closed: int
):
    checker = StopChecker(stops, include)
    released, text = "", ""
    for place, piece in enumerate(pieces):
        may_stop = place >= num_closed
        released += checker.feed(piece, may_stop)
        for letter in piece:
            text += letter
            found = next((stop for stop in stops if text.endswith(stop)), None)
            if may_stop and found is not None:
                assert checker.matched == found
                assert released == (text if include else text[: -len(found)])
                return
        assert checker.matched is None
        held = text[len(released) :]
        ends = [text[-size:] for size in range(1, 5) if size <= len(text)]
        beginnings = [e for e in ends if any(s.startswith(e) and s != e for s in stops)]
        assert text.startswith(released)
        assert held == ("" if include else max(beginnings, key=len, default=""))
    assert released + checker.flush() == text


def test_long_stops_and_long_texts_are_quick():
    checker = StopChecker(["a" * 1023 + "b"], False)
    pieces = ["a" * 9 + "c"] * 5000
    assert "".join(checker.feed(piece) for piece in pieces) == "".join(pieces)
