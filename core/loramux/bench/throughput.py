"""Output tokens per second without LoRA, with adapters mixed, and through PEFT."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from loramux.bench.peft_baseline import PeftBaseline
from loramux.bench.workload import Workload, adapter_requests
from loramux.llm import LLM

WITHOUT = "LoRA off"
IDLE = "LoRA on, base requests only"
PEFT = "PEFT generate, one request at a time"


@dataclass(frozen=True)
class Throughput:
    """Median tokens per second of a case, and its ratio to the same run without LoRA."""

    case: str
    tokens_per_second: float
    ratio: float


@dataclass(frozen=True)
class ThroughputReport:
    """All cases of one run.

    ``peft_agreement`` is the share of requests for which PEFT chose the same tokens, None where
    PEFT was not run.
    """

    rows: list[Throughput]
    peft_agreement: float | None


def measure(
    model: str, adapters: list[Path], workload: Workload, repeats: int, with_peft: bool
) -> ThroughputReport:
    """Run every case ``repeats`` times in turn, so that a drifting machine moves them together.

    Prefix caching is off: every request is computed in full, every time.
    """
    plain = LLM(model, skip_tokenizer_init=True, enable_prefix_caching=False)
    lora = LLM(
        model,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        enable_lora=True,
        max_loras=len(adapters),
        max_lora_rank=512,
    )
    requests = adapter_requests(adapters)
    everybody = [*requests, None]
    seconds = _time_in_turn(
        {
            WITHOUT: lambda: workload.run(plain, [None]),
            IDLE: lambda: workload.run(lora, [None]),
            f"1 adapter of {len(adapters)}": lambda: workload.run(lora, [requests[0]]),
            f"{len(adapters)} adapters and base mixed": lambda: workload.run(lora, everybody),
        },
        repeats,
    )
    agreement = None
    if with_peft:
        runner = plain.llm_engine.core.runner
        baseline = PeftBaseline(model, adapters, runner.dtype, str(runner.device))
        started = time.perf_counter()
        expected = baseline.run(workload)
        seconds[PEFT] = [time.perf_counter() - started]
        ours = [output.outputs[0].token_ids for output in workload.run(lora, everybody)]
        agreement = sum(a == b for a, b in zip(ours, expected, strict=True)) / len(expected)
    return ThroughputReport(_rows(seconds, workload.num_output_tokens), agreement)


def _time_in_turn(
    cases: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each case, after one run of each that does not count."""
    for run in cases.values():
        run()
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(repeats):
        for case, run in cases.items():
            started = time.perf_counter()
            run()
            seconds[case].append(time.perf_counter() - started)
    return seconds


def _rows(seconds: Mapping[str, list[float]], num_tokens: int) -> list[Throughput]:
    medians = {case: statistics.median(times) for case, times in seconds.items()}
    return [
        Throughput(case, num_tokens / median, medians[WITHOUT] / median)
        for case, median in medians.items()
    ]
