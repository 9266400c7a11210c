"""Runs benchmarks by name."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from typing import Any

from loramux.bench.settings import Settings
from loramux.errors import LoramuxError

BENCHMARKS = ("throughput", "http", "cold", "storm", "memory")

Report = dict[str, Any]


def run_benchmark(name: str, settings: Settings) -> Report:
    """One benchmark here, with the settings and the ceilings of this machine beside it.

    Raises:
        LoramuxError: it could not be made.
    """
    from loramux.bench.ceilings import measure_ceilings

    ceilings = measure_ceilings()
    report: Any
    if name == "throughput":
        from loramux.bench.throughput import measure_throughput

        report = measure_throughput(settings, ceilings)
    elif name == "http":
        from loramux.bench.http_streams import measure_http

        report = measure_http(settings)
    elif name == "cold":
        from loramux.bench.cold import measure_cold

        report = measure_cold(settings)
    elif name == "storm":
        from loramux.bench.storm import measure_storm

        report = measure_storm(settings)
    else:
        from loramux.bench.memory import measure_memory

        report = measure_memory(settings)
    return {"settings": shown(settings), "ceilings": asdict(ceilings), name: asdict(report)}


def run_each(settings: Settings, names: Sequence[str] = BENCHMARKS) -> Iterator[Report]:
    """One after the other, each in a process of its own, which leaves no memory behind.

    One that cannot be made has the reason as ``error`` and holds up no other.
    """
    for name in names:
        print(f"loramux bench {name} ...", file=sys.stderr, flush=True)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            try:
                report = process.submit(_run_or_tell, name, settings).result()
            except BrokenExecutor:
                report = {name: {"error": "The process that measured was killed."}}
        yield report


def _run_or_tell(name: str, settings: Settings) -> Report:
    """Told as text: not every error can be sent from one process to another."""
    try:
        return run_benchmark(name, settings)
    except LoramuxError as error:
        return {name: {"error": str(error)}}
    except Exception as error:
        traceback.print_exc()
        return {name: {"error": repr(error)}}


def failed(report: Mapping[str, Any]) -> bool:
    """Whether a benchmark of the report could not be made."""
    return any("error" in report.get(name, {}) for name in BENCHMARKS)


def shown(settings: Settings) -> Report:
    """The settings as JSON can hold them, without the key."""
    fields = asdict(replace(settings, api_key=None))
    return {
        name: str(v) if name.endswith(("dir", "scratch")) and v else v for name, v in fields.items()
    }
