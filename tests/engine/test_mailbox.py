"""What a caller finds that comes too late for every single output."""

from __future__ import annotations

import asyncio

import pytest

from loramux.engine.mailbox import Mailbox, Outcome, deliver
from loramux.errors import InvalidRequestError
from loramux.outputs import CompletionOutput, Logprob, RequestOutput


def delta(text: str, token_id: int, index: int = 0, ending: str | None = None) -> RequestOutput:
    step = {token_id: Logprob(-1.0, 1, text)}
    completion = CompletionOutput(index, text, [token_id], -1.0 * token_id, [step], ending)
    output = RequestOutput("r", None, [1], [completion], ending is not None)
    output.num_cached_tokens = token_id
    return output


async def taken(mailbox: Mailbox, outcomes: list[Outcome], count: int) -> list[RequestOutput]:
    deliver([(mailbox, outcome) for outcome in outcomes])
    await asyncio.sleep(0)
    return [await mailbox.get() for _ in range(count)]


def test_deltas_that_wait_become_one() -> None:
    async def scenario() -> None:
        deltas = [delta("b", 2, 1), delta("a", 3), delta("c", 4, 1), delta("", 5, 0, "stop")]
        kept = deltas[0].outputs[0].logprobs
        (output,) = await taken(Mailbox(joins_deltas=True), [*deltas], 1)
        first, second = output.outputs
        assert (first.index, first.text, first.token_ids) == (0, "a", [3, 5])
        assert (second.index, second.text, second.token_ids) == (1, "bc", [2, 4])
        assert first.finish_reason == "stop"
        assert second.finish_reason is None
        assert first.cumulative_logprob == -5.0
        assert [list(step) for step in second.logprobs or []] == [[2], [4]]
        assert second.logprobs is kept  # copied for each delta, n of them would take n * n
        assert output.finished
        assert output.num_cached_tokens == 5

    asyncio.run(scenario())


def test_an_error_comes_after_what_was_there_before_it() -> None:
    async def scenario() -> None:
        for error in (InvalidRequestError("no"), failed("no")):
            mailbox = Mailbox(joins_deltas=True)
            (output,) = await taken(mailbox, [delta("a", 1), delta("b", 2), error], 1)
            assert output.outputs[0].text == "ab"
            with pytest.raises(InvalidRequestError, match="no"):
                await mailbox.get()

    asyncio.run(scenario())


def test_outputs_that_say_everything_stay_apart() -> None:
    async def scenario() -> None:
        outputs = await taken(Mailbox(), [delta("a", 1), delta("ab", 2)], 2)
        assert [output.outputs[0].text for output in outputs] == ["a", "ab"]

    asyncio.run(scenario())


def failed(sentence: str) -> RequestOutput:
    return RequestOutput("r", None, [1], [], True, error=InvalidRequestError(sentence))
