"""Calls in a model's text, however it is cut into pieces."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux.server.chat.tools.parsers import (
    HermesParser,
    JsonParser,
    NamedCall,
    ToolParser,
    required_calls,
)
from loramux.server.chat.tools.reader import CallReader

WEATHER = '{"name": "weather", "arguments": {"city": "Oslo", "days": [1, {"x": "}"}]}}'
ARGUMENTS = {"city": "Oslo", "days": [1, {"x": "}"}]}
TIME = '{"arguments": {"zone": "a\\"b\\\\"}, "name": "time"}'
ZONE = {"zone": 'a"b\\'}

DEEP = "[" * 1000 + "]" * 1000

Calls = list[tuple[str, Any]]

HERMES: list[tuple[str, str | None, Calls]] = [
    ("just text <tool_> < b", "just text <tool_> < b", []),
    (f"<tool_call>\n{WEATHER}\n</tool_call>", None, [("weather", ARGUMENTS)]),
    (f"Let me see.\n<tool_call>{WEATHER}</tool_call>", "Let me see.", [("weather", ARGUMENTS)]),
    (
        f"<tool_call>\n{WEATHER}\n</tool_call>\n<tool_call>\n{TIME}\n</tool_call>\n",
        None,
        [("weather", ARGUMENTS), ("time", ZONE)],
    ),
    ('<tool_call>{"name": "now"}</tool_call>', None, [("now", {})]),
    (f"<tool_call>{WEATHER}", None, [("weather", ARGUMENTS)]),
    (f"<<tool_call>{WEATHER}</tool_call>after", "<after", [("weather", ARGUMENTS)]),
    ("<tool_call>no call</tool_call>", "<tool_call>no call</tool_call>", []),
    ('<tool_call>{"a": 1}</tool_call>', '<tool_call>{"a": 1}</tool_call>', []),
    ('<tool_call>{"na', '<tool_call>{"na', []),
    ('<tool_call>{"name": "\\ud800"', '<tool_call>{"name": "\\ud800"', []),
    (f'<tool_call>{{"name": {DEEP}, "x": 1}}', f'<tool_call>{{"name": {DEEP}, "x": 1}}', []),
    ("", "", []),
]
LLAMA: list[tuple[str, str | None, Calls]] = [
    ('{"name": "weather", "parameters": {"city": "Oslo"}}', None, [("weather", {"city": "Oslo"})]),
    (f"<|python_tag|>{WEATHER}", None, [("weather", ARGUMENTS)]),
    (f"{WEATHER}; {TIME}\n", None, [("weather", ARGUMENTS), ("time", ZONE)]),
    ("Hello {you}", "Hello {you}", []),
    ('{"an": "object"} of another kind', '{"an": "object"} of another kind', []),
    ("{nonsense}", "{nonsense}", []),
    ("<|python", "<|python", []),
    ("  ", "  ", []),
]


def read(parser: ToolParser, pieces: list[str], *, single: bool = False) -> dict[str, Any]:
    """What a client joins from deltas: content, and calls by their index."""
    reader = CallReader(parser, single)
    content, calls = "", {}
    for number, piece in enumerate(pieces):
        delta = reader.delta(piece, number == len(pieces) - 1)
        content += delta.get("content", "")
        for call in delta.get("tool_calls", []):
            if call["index"] in calls:
                assert set(call) == {"index", "function"}, "name and id come once"
                calls[call["index"]][1] += call["function"]["arguments"]
            else:
                assert call["type"] == "function"
                assert call["id"].startswith("call_")
                calls[call["index"]] = [call["function"]["name"], call["function"]["arguments"]]
    named = [(name, json.loads(arguments)) for name, arguments in calls.values()]
    return {"content": content, "calls": named}


def check(parser: ToolParser, pieces: list[str], content: str | None, calls: Calls) -> None:
    assert read(parser, pieces) == {"content": content or "", "calls": calls}


@pytest.mark.parametrize(("text", "content", "calls"), HERMES)
def test_hermes(text: str, content: str | None, calls: Calls) -> None:
    check(HermesParser(), [text], content, calls)
    check(HermesParser(), [*text, ""], content, calls)
    message = CallReader(HermesParser(), single=False).message(text)
    assert message["content"] == content
    assert ("tool_calls" in message) == bool(calls)


@pytest.mark.parametrize(("text", "content", "calls"), LLAMA)
def test_llama(text: str, content: str | None, calls: Calls) -> None:
    check(JsonParser(), [text], content, calls)
    check(JsonParser(), [*text, ""], content, calls)


@given(st.sampled_from(HERMES), st.lists(st.integers(0, 120), max_size=6))
def test_any_cuts_give_the_same(case: tuple[str, str | None, Calls], cuts: list[int]) -> None:
    text, content, calls = case
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    check(HermesParser(), pieces, content, calls)


@given(st.text(st.sampled_from('<tool_cal>/{}[]":,\\nme arguments'), max_size=60))
def test_no_text_is_lost_and_none_breaks_the_parsers(text: str) -> None:
    for parser in (HermesParser(), JsonParser(), required_calls()):
        reader = CallReader(parser, single=False)
        delta = reader.delta(text, is_last=True)
        if not reader.num_calls:
            assert delta.get("content", "") == text


@pytest.mark.parametrize("parser", [HermesParser, JsonParser])
def test_time_does_not_grow_with_the_square_of_space(parser: type[ToolParser]) -> None:
    """The event loop waits for it; at every character, all that came before was looked at."""
    began = time.thread_time()
    for text in (" " * 200_000, " " * 200_000 + "x", "x" + "\n" * 200_000):
        assert CallReader(parser(), single=False).message(text) == {"content": text}
    assert time.thread_time() - began < 10  # it was minutes


def test_arguments_stream_as_they_come() -> None:
    reader = CallReader(HermesParser(), single=False)
    reader.delta('<tool_call>{"name": "f", "arguments": {"a', is_last=False)
    delta = reader.delta('": "bcd', is_last=False)
    assert delta["tool_calls"] == [{"index": 0, "function": {"arguments": '": "bcd'}}]


def test_a_single_call() -> None:
    text = f"<tool_call>{WEATHER}</tool_call><tool_call>{TIME}</tool_call>"
    assert len(read(HermesParser(), [text], single=True)["calls"]) == 1


def test_calls_that_a_grammar_guarantees() -> None:
    text = '[ {"name": "a", "parameters": {}}, {"name": "b", "parameters": {"c": [1]}}]'
    assert read(required_calls(), [*text])["calls"] == [("a", {}), ("b", {"c": [1]})]
    assert read(NamedCall("a"), ['{"x"', ": 1}", ""])["calls"] == [("a", {"x": 1})]


@pytest.mark.parametrize("after", ["", " ", "\n\t\t"])
def test_arguments_end_with_their_last_brace(after: str) -> None:
    """Models write space between the arguments and what ends the call."""
    text = f'[{{"name": "f", "parameters": {{ "a": {{"b": 1 }} }}{after}}}]'
    for pieces in ([text], list(text)):
        reader = CallReader(required_calls(), False)
        deltas = [reader.delta(piece, is_last=False) for piece in pieces]
        calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
        assert "".join(call["function"]["arguments"] for call in calls) == '{ "a": {"b": 1 } }'
