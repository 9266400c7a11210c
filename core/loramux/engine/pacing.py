"""How often a stream hears of its tokens: every step of the engine, or every few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loramux.engine.front.deltas import join_deltas
from loramux.engine.mailbox import Mailbox
from loramux.outputs import RequestOutput

MANY_STREAMS = 128
"""Half as many as cost too much: an event takes an event loop some 27 us of the interpreter, which
the engine's thread needs as well. For 256 streams that is 7 ms of a step of 13 on one H200."""

Post = tuple[Mailbox, RequestOutput]


@dataclass(slots=True)
class _Held:
    output: RequestOutput
    num_steps: int


class Pacing:
    """Joins deltas of successive steps; first and last tokens, and errors, are never held back.

    Args:
        interval: of how many steps a stream is told at once, as vLLM's ``stream_interval`` counts
            tokens; None for 1, or 2 while there are more than ``MANY_STREAMS``.
    """

    def __init__(self, interval: int | None = None) -> None:
        self._interval = interval
        self._held: dict[Mailbox, _Held] = {}

    def due(self, posts: Sequence[Post], num_streams: int) -> list[Post]:
        """What is handed out after a step that has brought ``posts``.

        A stream that the step has brought nothing gets what was held back for it.
        """
        interval = self._interval or (2 if num_streams > MANY_STREAMS else 1)
        if interval == 1 and not self._held:
            return list(posts)
        held, self._held = self._held, {}
        due: list[Post] = []
        for mailbox, latest in posts:
            before, output = held.pop(mailbox, None), latest
            if before is not None and latest.error is not None:
                due.append((mailbox, before.output))
            elif before is not None:
                output = before.output
                join_deltas(output, latest)
            num_steps = 1 if before is None else before.num_steps + 1
            if num_steps < interval and _can_wait(mailbox, output):
                self._held[mailbox] = _Held(output, num_steps)
            else:
                due.append((mailbox, output))
                mailbox.has_begun = True
        return due + [(mailbox, one.output) for mailbox, one in held.items()]

    def forget(self, mailbox: Mailbox) -> None:
        """Nobody waits for its outputs any more."""
        self._held.pop(mailbox, None)

    def take_all(self) -> list[Post]:
        """Whatever is held back."""
        held, self._held = self._held, {}
        return [(mailbox, one.output) for mailbox, one in held.items()]


def _can_wait(mailbox: Mailbox, output: RequestOutput) -> bool:
    return (
        mailbox.joins_deltas and mailbox.has_begun and not output.finished and output.error is None
    )
