"""What every resolver promises, as tests that its author inherits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from loramux.errors import AdapterError, AdapterUnavailableError
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolver import ResolveContext
from loramux.lora.source import AdapterSource
from loramux.testing.asking import Asker, TookTooLong, bring, content, reaches_resolvers
from loramux.testing.hostile_names import HOSTILE_NAMES, second_spellings
from loramux.testing.resolver_fixtures import ResolverFixtures

_ATTACKS = [name for name in HOSTILE_NAMES if reaches_resolvers(f"x{name}")]
"""Names that reach a resolver, if only behind others; a server answers the rest itself."""


class ResolverContract(ResolverFixtures):
    """Inherit from this in a class ``Test...`` that has fixtures ``resolver`` and ``known_name``.

    The other fixtures of :class:`ResolverFixtures` may be overridden too; what they would allow to
    test is skipped without them, and the report says so.
    """

    # --- what is found, and what is not ---

    def test_an_unknown_name_is_none(self, ask: Asker, unknown_name: str) -> None:
        assert ask(unknown_name) is None

    def test_a_known_name_is_found(self, found: LoRARequest, known_name: str) -> None:
        assert found.lora_name == known_name
        assert 1 <= found.lora_int_id < 2**63

    def test_what_is_found_can_be_loaded(self, found: LoRARequest, tmp_path: Path) -> None:
        from loramux.lora.checkpoint.summary import summarise_checkpoint

        assert summarise_checkpoint(bring(found, tmp_path)).layers

    def test_a_question_asked_twice_has_one_answer(
        self, ask: Asker, found: LoRARequest, known_name: str
    ) -> None:
        again = ask(known_name)
        assert again == found, "ids must not be counted up, and equal sources must be equal"
        assert hash(again) == hash(found)

    # --- names that mean no good ---

    @pytest.mark.parametrize("name", _ATTACKS, ids=range(len(_ATTACKS)))
    def test_a_hostile_name_is_none(self, ask: Asker, known_name: str, name: str) -> None:
        """On its own, below the adapter that is there, and beside it."""
        parent = known_name.rpartition("/")[0]
        for attack in {name, f"{known_name}/{name}", f"{parent}/{name}"} - {known_name}:
            answer = ask(attack) if reaches_resolvers(attack) else None
            assert answer is None, f"{attack!a} must be None, and leads to {answer.lora_path!a}"

    def test_an_adapter_has_one_name(self, ask: Asker, known_name: str) -> None:
        for name in second_spellings(known_name):
            assert ask(name) is None, f"{name!a} must be None, and is {known_name!a} once more"

    # --- callers who leave, and callers who are many ---

    @pytest.mark.parametrize("after", [0, 0.001, 0.01])
    def test_a_cancelled_search_ends_and_harms_no_later_one(
        self, ask: Asker, found: LoRARequest, known_name: str, after: float
    ) -> None:
        for answer in ask.and_cancel(known_name, after):
            assert answer == found, "a search that is cancelled must not end as a miss"
        assert ask(known_name) == found

    def test_many_callers_get_the_same_answers(
        self, ask: Asker, found: LoRARequest, known_name: str, unknown_name: str
    ) -> None:
        answers = ask.for_all([known_name, unknown_name] * self.callers)
        assert answers == [found, None] * self.callers

    def test_a_caller_in_a_hurry_spoils_nothing(
        self, chain: ResolverChain, base_model_name: str, known_name: str
    ) -> None:
        """Who gives up at once is told to come back, if the answer is not there already."""

        async def hurry_then_wait() -> list[LoRARequest]:
            answers = []
            for seconds in (0.001, self.seconds):
                context = ResolveContext(deadline=time.monotonic() + seconds)
                try:
                    found = await chain.resolve(base_model_name, known_name, context=context)
                    answers.append(found.lora_request)
                except AdapterUnavailableError:
                    continue
            return answers

        answers = asyncio.run(hurry_then_wait())
        assert answers, "after a caller who gave up, nobody is answered"
        assert {answer.lora_name for answer in answers} == {known_name}

    # --- stores that are slow, that fail, and that change ---

    def test_a_slow_store_is_not_an_unknown_name(
        self, ask: Asker, known_name: str, slow_store: Callable[[float], None]
    ) -> None:
        """A caller's deadline ends the wait, and not with None, which would mean a 404."""
        slow_store(2.0)

        def seconds_to_leave() -> float:
            started = time.monotonic()
            for answer in ask.and_cancel(known_name, after=0.1):
                assert answer is not None, "a search that is cancelled must not end as a miss"
            return time.monotonic() - started

        # A busy machine may take a second for nothing, and not every time.
        is_left = any(seconds_to_leave() < 1.2 for _ in range(3))
        assert is_left, "a search that waits cannot be cancelled"

    def test_a_lost_store_is_not_an_unknown_name(
        self, ask: Asker, known_name: str, lose_store: Callable[[], None]
    ) -> None:
        """Raise what is wrong, or answer from a cache."""
        lose_store()
        try:
            answer = ask(known_name)
        except TookTooLong:
            raise
        except Exception:
            return  # the resolver cannot tell, and says so
        assert answer is not None, "None says that the adapter does not exist"

    def test_new_bytes_are_noticed(
        self,
        ask: Asker,
        found: LoRARequest,
        known_name: str,
        change_adapter: Callable[[], None],
        tmp_path: Path,
    ) -> None:
        old = content(bring(found, tmp_path))
        change_adapter()
        changed = ask(known_name)
        assert changed is not None
        assert content(bring(changed, tmp_path)) != old
        assert found.source is None or found.source != changed.source

    # --- sources, where there is one ---

    def test_a_source_never_brings_other_bytes(
        self, source: AdapterSource, change_adapter: Callable[[], None], tmp_path: Path
    ) -> None:
        """The old revision may be gone, but the new one must not come under its name."""
        old = content(_fetch(source, tmp_path / "old"))
        change_adapter()
        try:
            later = content(_fetch(source, tmp_path / "later"))
        except AdapterError:
            return
        assert later == old

    def test_a_source_says_where_it_is_and_keeps_secrets(self, source: AdapterSource) -> None:
        assert source.uri
        assert source.revision
        assert urlsplit(source.uri).password is None

    def test_a_source_is_fetched_by_several_at_once(
        self, source: AdapterSource, tmp_path: Path
    ) -> None:
        directories = [tmp_path / str(number) for number in range(4)]
        with ThreadPoolExecutor(len(directories)) as threads:
            fetched = list(threads.map(lambda directory: _fetch(source, directory), directories))
        assert len({tuple(content(directory).items()) for directory in fetched}) == 1

    def test_a_source_reports_progress(self, source: AdapterSource, tmp_path: Path) -> None:
        reports: list[tuple[int, int]] = []
        _fetch(source, tmp_path / "new", lambda done, total: reports.append((done, total)))
        assert all(0 <= done <= total for done, total in reports)
        assert reports == sorted(reports)

    def test_a_source_lets_go_when_nobody_waits(
        self, source: AdapterSource, tmp_path: Path
    ) -> None:
        reports: list[int] = []

        def leave(done: int, total: int) -> None:
            reports.append(done)
            raise _NobodyWaits

        try:
            _fetch(source, tmp_path / "new", leave)
        except _NobodyWaits:
            assert len(reports) == 1, "fetch goes on after progress has raised"
        else:
            assert not reports, "fetch keeps what progress raises to itself"


class _NobodyWaits(Exception):
    """Raised in place of what the materializer raises when the last caller has left."""


def _fetch(
    source: AdapterSource,
    directory: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    directory.mkdir()
    return source.fetch(directory, progress)
