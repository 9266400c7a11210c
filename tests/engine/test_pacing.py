"""Which outputs streams are given at once, and that none is late, lost or out of order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux.engine.mailbox import Mailbox
from loramux.engine.pacing import MANY_STREAMS, Pacing, Post
from loramux.errors import InvalidRequestError
from loramux.outputs import CompletionOutput, RequestOutput


def delta(token: int, ending: str | None = None, index: int = 0) -> RequestOutput:
    completion = CompletionOutput(index, f"{token} ", [token], 0.0, None, ending)
    return RequestOutput("r", None, [1], [completion], ending is not None)


def failed() -> RequestOutput:
    output = RequestOutput("r", None, [1], [], True)
    output.error = InvalidRequestError("no")
    return output


def tokens(posts: list[Post]) -> list[list[int]]:
    return [[t for one in output.outputs for t in one.token_ids] for _, output in posts]


def on_a_loop(check: Callable[[], None]) -> None:
    """Mailboxes belong to event loops."""

    async def run() -> None:
        check()

    asyncio.run(run())


def feed(pacing: Pacing, mailbox: Mailbox, count: int, num_streams: int = 1) -> list[list[int]]:
    return [
        token
        for number in range(count)
        for token in tokens(pacing.due([(mailbox, delta(number))], num_streams))
    ]


@pytest.mark.parametrize(
    ("interval", "num_streams", "expected"),
    [
        (None, MANY_STREAMS, [[0], [1], [2], [3], [4]]),
        (None, MANY_STREAMS + 1, [[0], [1, 2], [3, 4]]),
        (1, 10_000, [[0], [1], [2], [3], [4]]),
        (3, 1, [[0], [1, 2, 3]]),
    ],
)
def test_the_first_token_comes_at_once_and_others_together(interval, num_streams, expected):
    def check() -> None:
        assert feed(Pacing(interval), Mailbox(joins_deltas=True), 5, num_streams) == expected

    on_a_loop(check)


def test_the_last_token_and_errors_wait_for_nothing():
    def check() -> None:
        pacing, mailbox, other = Pacing(4), Mailbox(joins_deltas=True), Mailbox(joins_deltas=True)
        feed(pacing, mailbox, 2)
        assert tokens(pacing.due([(mailbox, delta(7, "stop"))], 1)) == [[1, 7]]
        feed(pacing, other, 2)
        posts = pacing.due([(other, failed())], 1)
        assert tokens(posts) == [[1], []]
        assert posts[1][1].error is not None
        assert pacing.take_all() == []

    on_a_loop(check)


def test_a_stream_that_a_step_brings_nothing_gets_what_is_there():
    """It may have been preempted, or wait for its adapter."""

    def check() -> None:
        pacing, mailbox = Pacing(4), Mailbox(joins_deltas=True)
        feed(pacing, mailbox, 2)
        assert tokens(pacing.due([], 1)) == [[1]]
        assert pacing.due([], 1) == []
        feed(pacing, mailbox, 1)
        assert tokens(pacing.take_all()) == [[0]]
        feed(pacing, mailbox, 1)
        pacing.forget(mailbox)
        assert pacing.due([], 1) == []

    on_a_loop(check)


def test_outputs_that_say_everything_are_not_held_back():
    def check() -> None:
        assert feed(Pacing(9), Mailbox(joins_deltas=False), 3) == [[0], [1], [2]]

    on_a_loop(check)


@given(
    interval=st.integers(1, 5),
    steps=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), max_size=30),
)
def test_every_stream_is_given_all_its_tokens_in_order(interval, steps):
    def check() -> None:
        pacing = Pacing(interval)
        boxes = [Mailbox(joins_deltas=True) for _ in range(4)]
        given_to: dict[Mailbox, list[int]] = {box: [] for box in boxes}
        brought: dict[Mailbox, list[int]] = {box: [] for box in boxes}
        for number, step in enumerate(steps):
            posts = [(box, delta(number)) for box, has in zip(boxes, step, strict=True) if has]
            for box, _ in posts:
                brought[box].append(number)
            for box, output in pacing.due(posts, len(boxes)):
                given_to[box] += output.outputs[0].token_ids
            late = [len(brought[box]) - len(given_to[box]) for box in boxes]
            assert max(late) < interval
        for box, output in pacing.take_all():
            given_to[box] += output.outputs[0].token_ids
        assert given_to == brought

    on_a_loop(check)
