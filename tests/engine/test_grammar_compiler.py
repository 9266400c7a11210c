"""Who waits for a grammar that takes long, and for how long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from loramux import StructuredOutputsParams
from loramux.engine.structured import compiler as compiler_module
from loramux.engine.structured.compiler import GrammarCompiler
from loramux.engine.structured.threads import DeepThreads
from loramux.errors import EngineBusyError, EngineDeadError, InvalidRequestError
from tests.server.tokenizer import letter_tokenizer

QUICK = StructuredOutputsParams(regex="[ab]+")


@pytest.fixture
def compiler() -> Iterator[GrammarCompiler]:
    tokenizer = letter_tokenizer()
    one = GrammarCompiler(tokenizer, len(tokenizer), frozenset({tokenizer.eos_token_id}))
    yield one
    one.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Grammars named slow are compiled once this is set."""
    event = threading.Event()
    plain = compiler_module.compile_matcher

    def compile_matcher(vocabulary: object, wanted: StructuredOutputsParams) -> object:
        if (wanted.regex or "").startswith("slow"):
            event.wait(60)
        return plain(vocabulary, wanted)

    monkeypatch.setattr(compiler_module, "compile_matcher", compile_matcher)
    yield event
    event.set()


def slow(number: int) -> StructuredOutputsParams:
    return StructuredOutputsParams(regex=f"slow{number}")


def test_the_same_form_is_compiled_once(compiler: GrammarCompiler) -> None:
    assert compiler.compile(QUICK) is compiler.compile(StructuredOutputsParams(regex="[ab]+"))
    assert compiler.compile(QUICK) is not compiler.compile(StructuredOutputsParams(regex="[ac]+"))


def test_the_cache_is_bounded(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_module, "MAX_GRAMMARS", 2)
    first = compiler.compile(QUICK)
    for number in range(2):
        compiler.compile(StructuredOutputsParams(regex=f"a{number}"))
    assert len(compiler._grammars) == 2
    assert compiler.compile(QUICK) is not first


def test_who_waits_too_long_is_told(
    compiler: GrammarCompiler, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler_module, "COMPILE_SECONDS", 0.1)
    with pytest.raises(InvalidRequestError, match="not compiled within"):
        compiler.compile(slow(0))


def test_a_known_grammar_does_not_wait_for_slow_ones(
    compiler: GrammarCompiler, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = compiler.compile(QUICK)
    monkeypatch.setattr(compiler_module, "COMPILE_SECONDS", 0.5)

    async def ask() -> None:
        waiting = [asyncio.create_task(compiler.compile_later(slow(i))) for i in range(4)]
        await asyncio.sleep(0)
        assert await compiler.compile_later(QUICK) is known
        assert not any(task.done() for task in waiting[:2])
        results = await asyncio.gather(*waiting, return_exceptions=True)
        kinds = [type(result) for result in results]
        assert kinds == [InvalidRequestError] * 2 + [EngineBusyError] * 2
        gate.set()
        monkeypatch.setattr(compiler_module, "COMPILE_SECONDS", 60)
        assert (await compiler.compile_later(slow(3))).ending_token_ids

    asyncio.run(ask())


def test_who_gives_up_takes_nothing_from_others(
    compiler: GrammarCompiler, gate: threading.Event
) -> None:
    async def ask() -> None:
        impatient = asyncio.create_task(compiler.compile_later(slow(0)))
        patient = asyncio.create_task(compiler.compile_later(slow(0)))
        await asyncio.sleep(0.01)
        impatient.cancel()
        gate.set()
        assert await patient
        assert impatient.cancelled() or await asyncio.gather(impatient, return_exceptions=True)

    asyncio.run(ask())


def test_the_queue_is_bounded_and_ends_with_the_engine() -> None:
    threads = DeepThreads("test", 1, longest_queue=1)
    begun, gate = threading.Event(), threading.Event()

    def work() -> int:
        begun.set()
        gate.wait(60)
        return 7

    running = threads.submit(work)
    assert begun.wait(60)
    waiting = threads.submit(work)
    with pytest.raises(EngineBusyError):
        threads.submit(work)
    threads.close()
    gate.set()
    assert running.result(60) == 7
    for late in (waiting, threads.submit(work)):
        with pytest.raises(EngineDeadError):
            late.result(60)


def test_a_tokenizer_without_an_end(compiler: GrammarCompiler) -> None:
    with pytest.raises(InvalidRequestError, match="end-of-sequence"):
        GrammarCompiler(letter_tokenizer(), 96, frozenset()).compile(QUICK)
    with pytest.raises(InvalidRequestError, match="need a tokenizer"):
        GrammarCompiler(None, 96, frozenset({1})).compile(QUICK)
