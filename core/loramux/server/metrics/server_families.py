"""Metrics of the whole server: what all models came to, and who was answered what.

No series of these comes or goes with an adapter, so that rates over them miss nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from loramux.server.access.caller import ANYBODY, Caller
from loramux.server.metrics.families import (
    counter,
    counters,
    gauge,
    histogram,
    histograms,
)
from loramux.server.metrics.model_series import SECONDS, ModelSeries
from loramux.server.state import ServerState

_FINISH_REASONS = ("stop", "length", "abort", "error")


def server_families(server: ServerState, total: ModelSeries, caller: Caller) -> Iterator[Metric]:
    """All of them; names of callers only where the caller may know them."""
    yield from _total_families(server, total)
    yield from _answer_families(server, caller)


def _total_families(server: ServerState, total: ModelSeries) -> Iterator[Metric]:
    of_all = "of all models since the start"
    yield counter("server_prompt_tokens", f"Prompt tokens {of_all}.", total.prompt_tokens)
    yield counter("server_generation_tokens", f"Tokens {of_all}.", total.generation_tokens)
    finished = {**dict.fromkeys(_FINISH_REASONS, 0), **total.finished}
    yield counters(
        "server_request_success", f"Completions {of_all}, by how they ended.",
        ["finished_reason"], [((reason,), count) for reason, count in finished.items()],
    )  # fmt: skip
    yield histograms(
        "server_time_to_first_token_seconds",
        "As time_to_first_token_seconds, by the adapter: none asked for, warm on the device, or "
        "cold, so that it had to be brought first.",
        "adapter", server.metrics.first_tokens.seconds.items(),
    )  # fmt: skip
    for name, text in SECONDS.items():
        if name != "time_to_first_token":
            yield histogram(f"server_{name}_seconds", text, total.seconds[name])


def _answer_families(server: ServerState, caller: Caller) -> Iterator[Metric]:
    metrics = server.metrics
    yield counters(
        "http_requests",
        "Answers by route and status; 499 where the client had gone before there was one.",
        ["method", "handler", "status"],
        [((m, route, str(s)), n) for (m, route, s), n in metrics.answers.copy().items()],
    )
    is_anonymous = caller is ANYBODY and not server.keyring.is_open
    yield counters(
        "caller_requests", "Answers by the name of the key that asked, and status.",
        ["caller", "status"], () if is_anonymous else metrics.callers.shown(caller),
    )  # fmt: skip
    yield counters(
        "request_refusals", "Requests that were not served, by reason.", ["reason"],
        [((reason,), count) for reason, count in metrics.refusals.copy().items()],
    )  # fmt: skip
    yield gauge(
        "sequences_in_flight", "Sequences of requests that have not been answered.",
        server.queue.in_flight,
    )  # fmt: skip
