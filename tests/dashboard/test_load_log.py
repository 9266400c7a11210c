from __future__ import annotations

import pytest

from loramux.errors import AdapterRefusedError, ModelNotFoundError
from loramux.server.dashboard.load_log import LOADS_KEPT, NAMES_KEPT, LoadLog
from tests.dashboard.engine import info


def load(log: LoadLog, name: str, number: int = 1) -> None:
    with log.loading(name) as infos:
        infos.append(info(name, number))


def test_a_load_from_its_search_to_its_end() -> None:
    log = LoadLog()
    with log.resolving("sql"):
        assert [entry.stage for entry in log.under_way.values()] == ["resolving"]
    with log.loading("sql") as infos:
        assert [entry.stage for entry in log.under_way.values()] == ["loading"]
        infos.append(info("sql", 1))
    assert not log.under_way
    (ended,) = log.ended
    assert (ended.name, ended.stage, ended.rank) == ("sql", "loaded", 16)
    assert set(ended.stage_seconds) == {"resolve", "fetch", "read", "place"}
    assert ended.stage_seconds["resolve"] == log.resolve_seconds("sql")


def test_looking_again_at_the_same_bytes_is_no_load() -> None:
    log = LoadLog()
    load(log, "sql", 1)
    load(log, "sql", 1)
    load(log, "sql", 2)
    assert len(log.ended) == 2


def test_names_that_nobody_has_are_counted_and_push_nothing_out() -> None:
    log = LoadLog()
    load(log, "sql")
    for number in range(2 * LOADS_KEPT):
        with pytest.raises(ModelNotFoundError), log.resolving(f"unknown-{number}"):
            raise ModelNotFoundError("nobody has it")
    assert [entry.name for entry in log.ended] == ["sql"]
    assert log.num_unknown_names == 2 * LOADS_KEPT


def test_a_refusal_keeps_its_sentence() -> None:
    log = LoadLog()
    with pytest.raises(AdapterRefusedError), log.loading("bad"):
        raise AdapterRefusedError("It holds NaN.")
    assert (log.ended[0].stage, log.ended[0].reason) == ("failed", "It holds NaN.")


def test_a_failure_that_comes_again_and_again_pushes_nothing_out() -> None:
    log = LoadLog()
    load(log, "sql")
    for number in range(2 * LOADS_KEPT):
        with pytest.raises(AdapterRefusedError), log.loading("bad"):
            raise AdapterRefusedError("It holds NaN.")
        assert log.ended[-1].times == number + 1
    with pytest.raises(AdapterRefusedError), log.loading("bad"):
        raise AdapterRefusedError("It is gone.")
    assert [(entry.name, entry.times) for entry in log.ended] == [
        ("sql", 1), ("bad", 2 * LOADS_KEPT), ("bad", 1),
    ]  # fmt: skip


def test_a_load_that_was_left_leaves_nothing() -> None:
    log = LoadLog()
    with pytest.raises(KeyboardInterrupt), log.loading("left"):
        raise KeyboardInterrupt
    assert not log.under_way
    assert not log.ended


def test_memory_is_bounded() -> None:
    log = LoadLog()
    for number in range(NAMES_KEPT + 10):
        with log.resolving(str(number)):
            pass
        load(log, str(number), number)
    assert len(log.ended) == LOADS_KEPT
    assert len(log._digests) == len(log._resolve_seconds) == NAMES_KEPT
