"""Times to the first token of a stream, apart for adapters that had to be brought first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from loramux.observability.distribution import REQUEST_SECONDS, Distribution
from loramux.observability.tracing import Window

AdapterStages = Callable[[str], Mapping[str, Window]]
"""From a digest to when each stage of bringing that adapter began and ended."""


class AdapterState(StrEnum):
    """What a request's adapter was when the request came."""

    NONE = "none"
    """The base model was asked."""
    WARM = "warm"
    """On the device."""
    COLD = "cold"
    """Some stage of bringing it ended only later, whoever had asked for it."""


class FirstTokens:
    """Counted for all models together, so that no series comes and goes with an adapter."""

    def __init__(self, adapter_stages: AdapterStages) -> None:
        self._adapter_stages = adapter_stages
        self.seconds = {state: Distribution(REQUEST_SECONDS) for state in AdapterState}

    def observe(self, digest: str | None, began: float, now: float) -> None:
        """Count a first token; times are those of :func:`time.monotonic`."""
        self.seconds[self._state(digest, began)].observe(now - began)

    def _state(self, digest: str | None, began: float) -> AdapterState:
        if digest is None:
            return AdapterState.NONE
        is_cold = any(ended >= began for _, ended in self._adapter_stages(digest).values())
        return AdapterState.COLD if is_cold else AdapterState.WARM
