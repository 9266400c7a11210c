"""Figures of each model that is served, for as long as it is, and for a bounded number of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from loramux.observability.distribution import REQUEST_SECONDS, TOKEN_SECONDS, Distribution

MAX_SERIES = 100
"""Adapters with figures of their own; what comes beyond is counted together."""

OTHER = "other"


class ModelSeries:
    """What requests for one model have come to. Counted on the server's event loop."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished: Counter[str] = Counter()
        """Completions by finish reason."""
        self.seconds = {
            "time_to_first_token": Distribution(REQUEST_SECONDS),
            "inter_token_latency": Distribution(TOKEN_SECONDS),
            "e2e_request_latency": Distribution(REQUEST_SECONDS),
            "request_queue_time": Distribution(REQUEST_SECONDS),
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
                if not series.was_shown:
                    self._other.add(series)
        seen = [(name, series) for name, series in self._adapters.items() if may_see(name)]
        for _, series in seen:
            series.was_shown = True
        base_name = next(iter(self._base_names))
        return [(base_name, self._base), *seen, (OTHER, self._other)]
