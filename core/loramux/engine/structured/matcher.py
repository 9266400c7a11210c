"""Where a sequence stands in its grammar, and which tokens may come next."""

from __future__ import annotations

import time
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from loramux.engine.structured.library import first_line
from loramux.engine.structured.threads import DeepThreads
from loramux.errors import InvalidRequestError
from loramux.structured_outputs import PARAM

if TYPE_CHECKING:
    from llguidance import LLMatcher

MASK_SECONDS = 5.0
"""Longest time that one step's choice may take; ordinary grammars need less than a millisecond."""

Mask = NDArray[np.uint8]
"""One bit for each token of the vocabulary, the lowest of a byte first; 1 where it may come."""

NOTHING: Mask = np.zeros(0, dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class Grammar:
    """A compiled form, shared by all sequences that ask for it.

    Args:
        matcher: at the beginning of the text; never moved, only copied.
        first_mask: what a text may begin with.
        ending_token_ids: tokens that end a text; allowed only where the grammar does.
        threads: where masks are computed.
    """

    matcher: LLMatcher
    first_mask: Mask
    ending_token_ids: frozenset[int]
    threads: DeepThreads

    @classmethod
    def of(cls, matcher: LLMatcher, ending: frozenset[int], threads: DeepThreads) -> Grammar:
        """Around a fresh matcher.

        Raises:
            InvalidRequestError: no text satisfies it, or it is too complex.
        """
        return cls(matcher, _mask(matcher), ending, threads)

    def begin(self) -> GrammarState:
        """The state of a sequence that has no output yet."""
        return GrammarState(self)


class GrammarState:
    """One sequence's place in its grammar.

    The next mask is computed on another thread as soon as a token is known, so that a grammar
    that takes long holds up the sequence it belongs to and no other. A preempted sequence keeps
    its place: its tokens do not change.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.ending_token_ids = grammar.ending_token_ids
        self._matcher = grammar.matcher.deep_copy()
        self._threads = grammar.threads
        self._mask: Future[Mask] = Future()
        self._mask.set_result(grammar.first_mask)
        self._asked = time.monotonic()

    def advance(self, token_id: int) -> None:
        """Take in the latest token; may be called once the mask before it was used."""
        self._asked = time.monotonic()
        self._mask = self._threads.submit(lambda: self._step(token_id))

    def is_ready(self, seconds: float = 0.0) -> bool:
        """Whether the next mask is known, or known to fail, waiting up to ``seconds`` for it."""
        if self._mask.done():
            return True
        try:
            self._mask.exception(seconds)
        except TimeoutError:
            return False
        return True

    def error(self) -> Exception | None:
        """Why the sequence cannot go on, if it cannot."""
        if not self._mask.done():
            if time.monotonic() - self._asked < MASK_SECONDS:
                return None
            return _too_complex(f"its next token was not known within {MASK_SECONDS:g} s")
        error = self._mask.exception()
        if error is None or isinstance(error, Exception):
            return error
        return _too_complex(repr(error))

    def mask(self) -> Mask:
        """What may come next; waits for it where it is not ready, and is empty after an error."""
        if self._mask.exception(MASK_SECONDS) is not None:
            return NOTHING
        return self._mask.result()

    def may_go_on(self, ending: Collection[int]) -> bool:
        """Whether anything but these tokens may come next."""
        mask = self.mask().copy()
        inside = [token_id for token_id in ending if token_id < 8 * len(mask)]
        for token_id in inside:
            mask[token_id // 8] &= ~np.uint8(1 << token_id % 8)
        return bool(mask.any())

    def _step(self, token_id: int) -> Mask:
        if not self._matcher.consume_token(token_id):
            raise _too_complex(first_line(self._matcher.get_error()))
        return _mask(self._matcher)


def _mask(matcher: LLMatcher) -> Mask:
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    if matcher.is_error():
        raise _too_complex(first_line(matcher.get_error()))
    return bits


def _too_complex(reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The structured output could not be followed: {reason}; simplify the grammar.", PARAM
    )
