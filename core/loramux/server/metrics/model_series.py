"""Figures of each model that is served, for as long as it is, and for a bounded number of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from loramux.observability.distribution import REQUEST_SECONDS, TOKEN_SECONDS, Distribution

MAX_SERIES = 100
"""Adapters with figures of their own; what comes beyond is counted together."""

OTHER = "other"

SECONDS = {
    "time_to_first_token": "From a streamed request's arrival to its first token.",
    "inter_token_latency": "Between two tokens of a stream.",
    "e2e_request_latency": "From a request's arrival to its end.",
    "request_queue_time": "From a request's being ready for the engine to its first step.",
}
"""What is measured of a model's requests, and how it is described."""


class ModelSeries:
    """What requests for one model have come to. Counted on the server's event loop."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished: Counter[str] = Counter()
        """Completions by finish reason."""
        self.seconds = {
            name: Distribution(TOKEN_SECONDS if name == "inter_token_latency" else REQUEST_SECONDS)
            for name in SECONDS
        }
        self.was_shown = False
        """Whether a scrape has seen it."""

    def add(self, other: ModelSeries) -> None:
        """Count what another one has counted."""
        self.prompt_tokens += other.prompt_tokens
        self.generation_tokens += other.generation_tokens
        self.finished.update(other.finished)
        for name, distribution in self.seconds.items():
            distribution.add(other.seconds[name])


class ModelTable:
    """Series by name: the base model's, ``other``, and at most ``capacity`` adapters'.

    Names come from clients, so a series is made only for one that is served, and goes when its
    adapter is no longer loaded.
    """

    def __init__(self, base_names: Collection[str], capacity: int = MAX_SERIES) -> None:
        self._base_names = base_names
        self._base = ModelSeries()
        self._other = ModelSeries()
        self._gone = ModelSeries()
        self._adapters: dict[str, ModelSeries] = {}
        self._capacity = capacity

    def of(self, name: str) -> ModelSeries:
        """The series of a model that is served; the base model has one for all its names."""
        if name in self._base_names:
            return self._base
        series = self._adapters.get(name)
        if series is not None:
            return series
        if len(self._adapters) >= self._capacity:
            return self._other
        return self._adapters.setdefault(name, ModelSeries())

    def total(self) -> ModelSeries:
        """All of it since the start, what is shown no more included."""
        total = ModelSeries()
        for series in (self._base, self._other, self._gone, *self._adapters.values()):
            total.add(series)
        return total

    def shown(
        self, loaded: Collection[str], may_see: Callable[[str], bool] = lambda name: True
    ) -> list[tuple[str, ModelSeries]]:
        """What a scrape shows; series of adapters that are not ``loaded`` are gone after it.

        One that no scrape has seen goes into ``other``, so that sums over all models are right.
        Those that are not to be seen are left out; in ``other`` they would come and go.
        """
        for name, series in list(self._adapters.items()):
            if name not in loaded:
                del self._adapters[name]
                (self._gone if series.was_shown else self._other).add(series)
        seen = [(name, series) for name, series in self._adapters.items() if may_see(name)]
        for _, series in seen:
            series.was_shown = True
        base_name = next(iter(self._base_names))
        return [(base_name, self._base), *seen, (OTHER, self._other)]
