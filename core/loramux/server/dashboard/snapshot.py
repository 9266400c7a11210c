"""What the page is shown, as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from loramux import __version__
from loramux.server.dashboard.activity import BASE, Activity
from loramux.server.dashboard.load_log import Load, LoadLog
from loramux.server.dashboard.token_gaps import GapFigures
from loramux.server.engine_protocol import AdapterInfo
from loramux.server.state import ServerState

MAX_ROWS = 500
"""Adapters listed one by one, the latest used; the sums are over all."""

MAX_UNDER_WAY = 20
MAX_TEXT = 512
"""Characters of a name or a reason; clients choose names."""

TIERS = ("device", "host", "disk")


def whole_state(server: ServerState, activity: Activity, caller: str | None) -> dict[str, Any]:
    """Everything the page begins with."""
    infos = server.engine.adapter_infos()
    return {
        "version": __version__,
        "model": server.engine.args.model,
        "base_names": server.base_names,
        "takes_adapters": server.engine.args.enable_lora,
        "max_model_len": server.engine.max_model_len,
        "uptime_seconds": time.monotonic() - activity.started,
        "base_hits": activity.use_of(BASE).hits,
        "num_adapters": len(infos),
        "tiers": tier_sums(infos),
        "adapters": adapter_rows(server, activity, infos, caller),
        "loads": loads_state(activity.loads),
        "gaps": [_figures(second) for second in activity.gaps.by_second()],
        "now": now_state(server, activity),
    }


def now_state(server: ServerState, activity: Activity) -> dict[str, Any]:
    """What changes every second."""
    stats = server.engine.stats()
    return {
        "running": stats.num_running,
        "waiting": stats.num_waiting,
        "kv_cache_use": stats.kv_cache_usage,
        "last_minute": _figures(activity.gaps.last_minute()),
        "last_second": _figures(activity.gaps.last_second()),
    }


def loads_state(loads: LoadLog) -> dict[str, Any]:
    """What is under way, the oldest first, and what has ended, the latest first."""
    under_way = list(loads.under_way.values())
    return {
        "num_under_way": len(under_way),
        "under_way": [_load(load) for load in under_way[:MAX_UNDER_WAY]],
        "ended": [_load(load) for load in reversed(loads.ended)],
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
    server: ServerState, activity: Activity, infos: Sequence[AdapterInfo], caller: str | None
) -> list[dict[str, Any]]:
    """One row for each name, the latest used first."""
    found_by = {entry.name: entry.found_by for entry in server.catalog.entries(caller)}
    latest = sorted(infos, key=lambda info: activity.use_of(info.name).last, reverse=True)
    return [_row(info, activity, found_by.get(info.name)) for info in latest[:MAX_ROWS]]


def _row(info: AdapterInfo, activity: Activity, found_by: str | None) -> dict[str, Any]:
    use = activity.use_of(info.name)
    resolve_seconds = activity.loads.resolve_seconds(info.name)
    searched = {} if resolve_seconds is None else {"resolve": resolve_seconds}
    return {
        "name": _text(info.name),
        "tier": str(info.tier),
        "num_bytes": info.num_bytes,
        "rank": info.rank,
        "digest": info.digest,
        "path": _text(info.path),
        "found_by": found_by and _text(found_by),
        "hits": use.hits,
        "idle_seconds": time.monotonic() - use.last if use.hits else None,
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
    }


def _figures(figures: GapFigures) -> dict[str, Any]:
    return {"p50": figures.p50, "p99": figures.p99, "tokens": figures.tokens}


def _text(text: str) -> str:
    """Text that has a UTF-8 form, which file names need not have, and a length."""
    shown = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
    return shown.encode("utf-8", "replace").decode()
