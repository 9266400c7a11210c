"""What the page is shown, as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from loramux import __version__
from loramux.lora.resolve.catalog_entry import Use
from loramux.server.access.caller import Caller
from loramux.server.adapters.disclosure import place_for
from loramux.server.dashboard.activity import Activity
from loramux.server.dashboard.load_log import Load, LoadLog
from loramux.server.dashboard.token_gaps import GapFigures
from loramux.server.engine_protocol import AdapterInfo
from loramux.server.printable import printable
from loramux.server.state import ServerState

MAX_ROWS = 500
"""Adapters listed one by one, the latest used; the sums are over all."""

MAX_UNDER_WAY = 20
MAX_TEXT = 512
"""Characters of a name or a reason; clients choose names."""

TIERS = ("device", "host", "disk")


def whole_state(server: ServerState, activity: Activity, caller: Caller) -> dict[str, Any]:
    """Everything the page begins with; of adapters the sums, and each that the caller may use."""
    infos = server.engine.adapter_infos()
    # A name may mean another adapter to each caller: the latest is shown.
    shown = list({info.name: info for info in infos if caller.may_use(info.name)}.values())
    return {
        "version": __version__,
        "model": server.engine.args.model,
        "base_names": server.base_names,
        "takes_adapters": server.engine.args.enable_lora,
        "max_model_len": server.engine.max_model_len,
        "answers": _answers(server),
        "uptime_seconds": time.monotonic() - activity.started,
        "base_hits": server.base_use.hits,
        "num_adapters": len(shown),
        "tiers": tier_sums(infos),
        "adapters": adapter_rows(server, activity, shown, caller),
        "loads": loads_state(activity.loads, caller),
        "gaps": [_figures(second) for second in activity.gaps.by_second()],
        "now": now_state(server, activity),
    }


def _answers(server: ServerState) -> str | None:
    """The endpoint of the playground that suits the model; None of one that makes embeddings."""
    if server.engine.pooling is not None:
        return None
    template = server.chat_template or getattr(server.engine.tokenizer, "chat_template", None)
    return "chat" if template else "completion"


def now_state(server: ServerState, activity: Activity) -> dict[str, Any]:
    """What changes every second."""
    stats = server.engine.stats()
    return {
        "running": stats.num_running,
        "waiting": stats.num_waiting,
        "kv_cache_use": stats.kv_cache_usage,
        "last_minute": _figures(activity.gaps.last_minute()),
        "last_second": _figures(activity.gaps.last_second()),
        "generated_tokens": stats.num_generated_tokens,
        "uptime_seconds": time.monotonic() - activity.started,
    }


def loads_state(loads: LoadLog, caller: Caller) -> dict[str, Any]:
    """What is under way, the oldest first, and what has ended, the latest first."""
    under_way = [load for load in loads.under_way.values() if caller.may_use(load.name)]
    return {
        "num_under_way": len(under_way),
        "under_way": [_load(load) for load in under_way[:MAX_UNDER_WAY]],
        "ended": [_load(load) for load in reversed(loads.ended) if caller.may_use(load.name)],
        "num_unknown_names": loads.num_unknown_names,
    }


def tier_sums(infos: Sequence[AdapterInfo]) -> dict[str, dict[str, int]]:
    """Adapters and bytes in each tier; one that has several names is counted once."""
    adapters = {info.digest: info for info in infos}.values()
    return {
        tier: {
            "adapters": sum(info.tier == tier for info in adapters),
            "num_bytes": sum(info.num_bytes for info in adapters if info.tier == tier),
        }
        for tier in TIERS
    }


def adapter_rows(
    server: ServerState, activity: Activity, infos: Sequence[AdapterInfo], caller: Caller
) -> list[dict[str, Any]]:
    """One row for each name, the latest used first."""
    entries = {entry.name: entry for entry in server.catalog.entries(caller.name)}
    uses = server.catalog.uses()
    used = [(info, uses.get(info.name) or Use()) for info in infos]
    used.sort(key=lambda row: row[1].last or 0.0, reverse=True)
    rows = []
    for info, use in used[:MAX_ROWS]:
        entry = entries.get(info.name)
        place, found_by = place_for(caller, entry, info), entry.found_by if entry else None
        rows.append(_row(info, use, activity.loads, place or "", found_by))
    return rows


def _row(
    info: AdapterInfo, use: Use, loads: LoadLog, place: str, found_by: str | None
) -> dict[str, Any]:
    resolve_seconds = loads.resolve_seconds(info.name)
    searched = {} if resolve_seconds is None else {"resolve": resolve_seconds}
    return {
        "name": _text(info.name),
        "tier": str(info.tier),
        "num_bytes": info.num_bytes,
        "rank": info.rank,
        "digest": info.digest,
        "path": _text(place),
        "found_by": found_by and _text(found_by),
        "hits": use.hits,
        "idle_seconds": None if use.last is None else max(0.0, time.time() - use.last),
        "load_seconds": {**searched, **info.load_seconds},
    }


def _load(load: Load) -> dict[str, Any]:
    now = time.monotonic()
    return {
        "number": load.number,
        "name": _text(load.name),
        "stage": load.stage,
        "age_seconds": now - load.started,
        "seconds": load.seconds,
        "stage_seconds": dict(load.stage_seconds),
        "num_bytes": load.num_bytes,
        "rank": load.rank,
        "reason": load.reason and _text(load.reason),
        "times": load.times,
    }


def _figures(figures: GapFigures) -> dict[str, Any]:
    return {"p50": figures.p50, "p99": figures.p99, "tokens": figures.tokens}


def _text(text: str) -> str:
    return printable(text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…")
