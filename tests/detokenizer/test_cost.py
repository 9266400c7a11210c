"""Decoding costs the same per token however long the output is, and whatever it holds."""

from __future__ import annotations

import time

import pytest

from loramux.engine.detokenizer import DetokenizerFactory
from loramux.engine.detokenizer.window import WindowDetokenizer
from tests.detokenizer import tokenizers_made as made

LENGTH = 10_000


@pytest.mark.parametrize("kind", ["text", "one stray byte", "one special token", "id of no token"])
def test_pieces_take_linear_time(kind: str):
    tokenizer = made.byte_level()
    text = tokenizer.encode("".join(made.TEXTS) * 80).ids
    repeated = {
        "one stray byte": tokenizer.encode("é").ids[-1],
        "one special token": tokenizer.token_to_id("</s>"),
        "id of no token": tokenizer.get_vocab_size() + 7,
    }
    output = text[:LENGTH] if kind == "text" else [repeated[kind]] * LENGTH
    detokenizer = DetokenizerFactory(tokenizer).detokenizer([5, 6])
    started = time.thread_time()
    for token in output:
        detokenizer.push(token)
    detokenizer.finish()
    # A few milliseconds of the processor; anything quadratic takes seconds.
    assert len(output) == LENGTH
    assert time.thread_time() - started < 0.5


@pytest.mark.parametrize("kind", ["text", "stray bytes", "nothing"])
def test_the_general_way_decodes_a_bounded_number_of_tokens_each_time(kind: str):
    longest = 0

    def decode(token_ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(token_ids))
        return "" if kind == "nothing" else bytes(token_ids).decode(errors="replace")

    sources = {"text": "".join(made.TEXTS).encode(), "stray bytes": b"\x80\xff", "nothing": b"a"}
    detokenizer = WindowDetokenizer(decode, list(b"prompt"), frozenset())
    for token in (list(sources[kind]) * LENGTH)[:LENGTH]:
        detokenizer.push(token)
    assert longest < 20
