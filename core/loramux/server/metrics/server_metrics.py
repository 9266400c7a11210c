"""What the server has counted of its requests since it started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Protocol

from loramux.lora.request import LoRARequest
from loramux.pooling_params import Params
from loramux.server.metrics.callers import CallerAnswers
from loramux.server.metrics.first_tokens import AdapterStages, FirstTokens
from loramux.server.metrics.generation_watch import GenerationWatch
from loramux.server.metrics.model_series import ModelTable
from loramux.server.metrics.record import RequestRecord
from loramux.server.metrics.refusals import REASONS


class ServedModel(Protocol):
    """The model of a request."""

    @property
    def name(self) -> str: ...
    @property
    def lora_request(self) -> LoRARequest | None: ...


class Generation(Protocol):
    """What a request has the engine do, as far as it is counted."""

    @property
    def model(self) -> ServedModel: ...
    @property
    def params(self) -> Sequence[Params]: ...


class ServerMetrics:
    """Plain numbers, changed on the event loop alone; a scrape may read them on another thread."""

    def __init__(self, base_names: Collection[str], adapter_stages: AdapterStages) -> None:
        self.models = ModelTable(base_names)
        self.first_tokens = FirstTokens(adapter_stages)
        self.callers = CallerAnswers()
        self.answers: Counter[tuple[str, str, int]] = Counter()
        """By method, route and status."""
        self.refusals: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._generating: dict[RequestRecord, str] = {}

    def begin(
        self, record: RequestRecord, generation: Generation, *, is_streamed: bool
    ) -> GenerationWatch:
        """Follow what a request has the engine do."""
        model = generation.model.name
        watch = GenerationWatch(
            self.models,
            model,
            record.began,
            sum(params.n for params in generation.params),
            self.first_tokens,
            is_streamed=is_streamed,
        )
        record.generation = watch
        if generation.model.lora_request is not None:
            self._generating[record] = model
        return watch

    def end(self, record: RequestRecord, route: str, caller: str | None = None) -> None:
        """Count a request that is over, and whose key had asked."""
        record.end()
        self._generating.pop(record, None)
        self.answers[record.method, route, record.status] += 1
        self.callers.count(caller, record.status)
        if record.refusal is not None:
            self.refusals[record.refusal] += 1

    def adapters_in_use(self) -> set[str]:
        """Names of the adapters that requests wait for or run with."""
        return set(self._generating.copy().values())
