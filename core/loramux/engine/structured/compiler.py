"""Compiles grammars away from everybody else's thread, once for all who want the same."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from loramux.engine.structured.library import compile_matcher, load_vocabulary, require_library
from loramux.engine.structured.matcher import Grammar
from loramux.engine.structured.threads import DeepThreads
from loramux.errors import EngineBusyError, InvalidRequestError
from loramux.structured_outputs import PARAM, StructuredOutputsParams

if TYPE_CHECKING:
    from llguidance import LLTokenizer

COMPILE_SECONDS = 10.0
"""How long a request waits for its grammar; ordinary ones take milliseconds."""

MAX_GRAMMARS = 128
"""Compiled grammars kept for the next request that wants the same."""

MAX_WAITING = 64
"""Grammars that may wait to be compiled."""


class GrammarCompiler:
    """Grammars by what was asked for.

    Args:
        tokenizer: of transformers, or None.
        vocab_size: width of the model's logits.
        ending_token_ids: every token by which the model ends a text.
    """

    def __init__(
        self, tokenizer: Any | None, vocab_size: int, ending_token_ids: frozenset[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._ending = ending_token_ids
        self._compiling = DeepThreads("loramux-grammars", 2, MAX_WAITING)
        self._masking = DeepThreads("loramux-masks", min(4, os.cpu_count() or 1))
        self._lock = threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._vocabulary_lock = threading.Lock()
        self._grammars: OrderedDict[str, Future[Grammar]] = OrderedDict()

    def compile(self, wanted: StructuredOutputsParams) -> Grammar:
        """The grammar of ``wanted``; waits for it.

        Raises:
            InvalidRequestError: it cannot be served, for the reason that is told.
            EngineBusyError: too many others wait for theirs.
        """
        future = self._find(wanted)
        try:
            return future.result(COMPILE_SECONDS)
        except TimeoutError as error:
            raise _late(future) from error

    async def compile_later(self, wanted: StructuredOutputsParams) -> Grammar:
        """``compile`` for an event loop, which goes on meanwhile."""
        future = self._find(wanted)
        try:
            async with asyncio.timeout(COMPILE_SECONDS):
                return await asyncio.shield(asyncio.wrap_future(future))
        except TimeoutError as error:
            raise _late(future) from error

    def close(self) -> None:
        """End the threads."""
        self._compiling.close()
        self._masking.close()

    def _find(self, wanted: StructuredOutputsParams) -> Future[Grammar]:
        self._check()
        key = wanted.key
        with self._lock:
            future = self._grammars.get(key)
            if future is None:
                future = self._compiling.submit(lambda: self._compile(wanted))
                self._grammars[key] = future
            self._grammars.move_to_end(key)
            while len(self._grammars) > MAX_GRAMMARS:
                self._grammars.popitem(last=False)
        return future

    def _check(self) -> None:
        require_library()
        if self._tokenizer is None or not self._ending:
            raise InvalidRequestError(
                "Structured outputs need a tokenizer with an end-of-sequence token, and this "
                "model has none; leave them out.",
                PARAM,
            )

    def _compile(self, wanted: StructuredOutputsParams) -> Grammar:
        matcher = compile_matcher(self._read_vocabulary(), wanted)
        return Grammar.of(matcher, self._ending, self._masking)

    def _read_vocabulary(self) -> LLTokenizer:
        with self._vocabulary_lock:
            if self._vocabulary is None:
                self._vocabulary = load_vocabulary(self._tokenizer, self._vocab_size, self._ending)
            return self._vocabulary


def _late(future: Future[Grammar]) -> Exception:
    if not future.running():
        return EngineBusyError("Other grammars are being compiled; try again later.")
    return InvalidRequestError(
        f"The structured output was not compiled within {COMPILE_SECONDS:g} s; simplify it.", PARAM
    )
