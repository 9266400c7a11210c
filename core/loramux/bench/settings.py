"""What is measured: sizes, durations and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loramux import field_checks as check

SHAPE_NAMES = ("tiny", "llama-3.1-8b")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a benchmark can be told; the defaults are those of a small model on a CPU.

    Args:
        shape: one of ``SHAPE_NAMES``.
        load_format: ``auto`` writes a model's weights and reads them, ``dummy`` makes them in
            place.
        engine_args: more arguments for every engine and server that is started.
        scratch: directory for models and adapters; a temporary one otherwise.
        input_len: prompt tokens of a request.
        requests, output_len, repeats, adapters, ranks, bound_batch, peft: of ``throughput``.
        concurrent: requests of ``http``, all sent at once; their sizes are those of ``throughput``.
        streams: base requests that run beside the others, of ``cold`` and ``storm``.
        seconds: how long each of their phases is watched.
        answer_len: tokens a request for an adapter asks for there.
        samples: requests of each kind in ``cold``.
        rates: requests a second for adapters in ``storm``; ``unknown_rate`` for names of none.
        warm_adapters: adapters that are asked for again and again.
        num_adapters, resident: of ``memory``, with ``power_law_requests`` requests.
        rank: of the adapters of ``cold``, ``storm`` and ``memory``; ``max_loras`` as the engine's.
        base_url, api_key, model, adapters_dir: a server that runs already, the base model's name
            there, and the directory in which its resolver looks.

    Raises:
        InvalidRequestError: a number is none that could be measured with.
    """

    shape: str = "tiny"
    load_format: str = "auto"
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    scratch: Path | None = None

    input_len: int = 64
    requests: int = 32
    output_len: int = 32
    repeats: int = 3
    adapters: tuple[int, ...] = (1, 8, 32)
    ranks: tuple[int, ...] = (16,)
    bound_batch: int = 16
    peft: bool = False

    concurrent: int = 256

    streams: int = 4
    seconds: float = 5.0
    answer_len: int = 8
    samples: int = 20
    rates: tuple[float, ...] = (1.0, 4.0)
    unknown_rate: float = 4.0
    warm_adapters: int = 4

    num_adapters: int = 1000
    resident: int = 8
    power_law_requests: int = 64
    rank: int = 16
    max_loras: int = 32

    base_url: str | None = None
    api_key: str | None = None
    model: str | None = None
    adapters_dir: Path | None = None

    def __post_init__(self) -> None:
        for name in _COUNTS:
            given = getattr(self, name)
            for number in given if isinstance(given, tuple) else (given,):
                check.integer(_flag(name), number, 1)
        check.positive("--seconds", self.seconds)
        for rate in self.rates:
            check.positive("--rates", rate)
        check.positive("--unknown-rate", self.unknown_rate)


_COUNTS = (
    "input_len", "requests", "output_len", "repeats", "adapters", "ranks", "bound_batch",
    "concurrent", "streams", "answer_len", "samples", "warm_adapters", "num_adapters", "resident",
    "power_law_requests", "rank", "max_loras",
)  # fmt: skip
"""Of settings, or lists of them, that are of at least 1."""


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


_GPU_SIZES: dict[str, Any] = {
    "input_len": 512,
    "requests": 256,
    "output_len": 128,
    "bound_batch": 64,
    "streams": 16,
    "seconds": 20.0,
    "rates": (5.0, 20.0),
    "unknown_rate": 20.0,
    "warm_adapters": 16,
    "resident": 64,
    "power_law_requests": 512,
}


def settings_for(shape: str, *, quick: bool, **given: Any) -> Settings:
    """The sizes that suit a shape, with what was ``given`` (and is not None) in their place.

    ``quick`` looks at everything for a quarter of the time, and at throughput once.
    """
    settings = Settings(shape=shape, **({} if shape == "tiny" else _GPU_SIZES))
    if quick:
        settings = replace(
            settings,
            repeats=1,
            seconds=settings.seconds / 4,
            samples=settings.samples // 4,
            power_law_requests=settings.power_law_requests // 2,
        )
    return replace(settings, **{name: value for name, value in given.items() if value is not None})
