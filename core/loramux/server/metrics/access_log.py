"""One line for each request: what was asked for, what it cost, how it ended."""

from __future__ import annotations

import logging
from typing import Any

from loramux.lora.checkpoint.untrusted import shown
from loramux.observability.log_lines import FIELDS
from loramux.server.metrics.record import CLIENT_GONE, RequestRecord

log = logging.getLogger("loramux.access")

QUIET_ROUTES = frozenset({"/health", "/metrics"})
"""Asked every few seconds by machines; shown at level debug, unless refused."""


def log_access(
    record: RequestRecord, route: str, caller: str | None, stray_path: str | None
) -> None:
    """Write the line.

    Of what clients make up it holds names of models and ``stray_path``, the path that leads
    nowhere; both quoted and cut short, and a path never with its query, which may carry a key.
    """
    is_quiet = route in QUIET_ROUTES and record.refusal is None
    level = logging.DEBUG if is_quiet else logging.INFO
    if log.isEnabledFor(level):
        fields = _fields(record, route, caller)
        if stray_path is not None:
            fields["path"] = shown(stray_path)
        log.log(level, "%s", _sentence(record, fields), extra={FIELDS: fields})


def _fields(record: RequestRecord, route: str, caller: str | None) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "method": record.method,
        "route": route,
        "status": record.status,
        "seconds": round(record.seconds, 4),
        "caller": caller,
        "refusal": record.refusal,
    }
    if (generation := record.generation) is not None:
        fields |= {
            "model": generation.model,
            "adapter": generation.digest,
            "prompt_tokens": generation.prompt_tokens,
            "completion_tokens": generation.completion_tokens,
            "finish_reason": generation.finish_reason,
        }
        if generation.first_token:
            fields["first_token_seconds"] = round(generation.first_token - record.began, 4)
    elif record.adapter is not None:
        fields["asked_for"] = shown(record.adapter)  # apart, as ``model`` is one that is served
    return {name: value for name, value in fields.items() if value is not None}


def _sentence(record: RequestRecord, fields: dict[str, Any]) -> str:
    status = "client gone" if record.status == CLIENT_GONE else str(record.status)
    route = f"{fields['path']} (no such route)" if "path" in fields else fields["route"]
    words = [f"{record.method} {route} {status} in {record.seconds:.3f} s"]
    if record.generation is not None:
        digest = fields.get("adapter")
        adapter = f" (adapter {digest[:12]})" if digest else ""
        words.append(
            f"model {fields['model']!r}{adapter}, {fields['prompt_tokens']} tokens in, "
            f"{fields['completion_tokens']} out"
        )
    elif record.adapter is not None:
        words.append(f"asked for {fields['asked_for']}")
    if record.refusal is not None:
        words.append(f"refused: {record.refusal}")
    return ", ".join(words)
