"""Prompts on their way to token ids."""

from __future__ import annotations

import asyncio
import time

import pytest

from loramux.errors import InvalidRequestError
from loramux.server.generation.prompts import TokenizerThreads, check_length
from tests.server.tokenizer import byte_tokenizer


def test_without_a_tokenizer_text_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="list of token ids"):
        asyncio.run(TokenizerThreads(None, 64).encode("text", add_special_tokens=True))


def test_a_long_prompt_does_not_hold_up_the_loop() -> None:
    async def longest_part() -> float:
        """How long the loop did nothing at a stretch, of all the time that it took."""
        began = time.perf_counter()
        threads = TokenizerThreads(byte_tokenizer(), 1_000_000)
        work = asyncio.create_task(threads.encode("word " * 200_000, add_special_tokens=False))
        longest = 0.0
        while not work.done():
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - started)
        threads.close()
        assert len(await work) == 1_000_000
        return longest / (time.perf_counter() - began)

    # A busy machine may stop the whole process for as long, and not each time.
    assert any(asyncio.run(longest_part()) < 0.5 for _ in range(5))


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "fits"),
    [(6, 4, True), (6, 5, False), (9, None, True), (10, None, False)],
)
def test_what_fits(prompt: int, max_tokens: int | None, fits: bool) -> None:
    if fits:
        check_length(prompt, max_tokens, 10)
        return
    with pytest.raises(InvalidRequestError, match="10 tokens"):
        check_length(prompt, max_tokens, 10)


def test_a_hopelessly_long_text_is_refused_before_it_is_tokenized():
    class Counting:
        calls = 0

        def get_vocab(self) -> dict[str, int]:
            return {"abc": 0, "d": 1}

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            self.calls += 1
            return {"input_ids": [0]}

    tokenizer = Counting()
    threads = TokenizerThreads(tokenizer, 10)
    with pytest.raises(InvalidRequestError, match="10 tokens, and the prompt has 121 char"):
        asyncio.run(threads.encode("d" * 121, add_special_tokens=True))
    assert tokenizer.calls == 0
    assert asyncio.run(threads.encode("d" * 120, add_special_tokens=True)) == [0]
    threads.close()
