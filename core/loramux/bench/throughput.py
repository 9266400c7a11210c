"""Output tokens per second without LoRA, with adapters mixed, and through PEFT."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loramux.bench import BenchmarkError
from loramux.bench.ceilings import Ceilings
from loramux.bench.offline import cache_bytes_per_token, engine_arguments, with_engine
from loramux.bench.random_adapter import write_adapters
from loramux.bench.random_model import SHAPES, ModelShape, compute_dtype, write_model
from loramux.bench.scratch import adapter_bytes, model_bytes, scratch_directory
from loramux.bench.settings import Settings
from loramux.bench.workload import Adapters, Workload, adapter_requests
from loramux.llm import LLM

WITHOUT = "LoRA off"
IDLE = "LoRA on, no request names one"
PEFT = "PEFT generate, one request at a time"

WARM_UP_TOKENS = 4
"""Of every request before anything is timed: kernels are compiled, adapters loaded."""


@dataclass(frozen=True)
class Case:
    """The best run of a case; ``of_without`` is its tokens per second over those without LoRA.

    Prefill is timed by the same requests with one token to generate; what they take longer for
    the others is decode. Both are None for PEFT, and decode also where a busy machine let the one
    token take longer than all of them.
    """

    case: str
    tokens_per_second: float
    of_without: float
    prefill_seconds: float | None
    decode_tokens_per_second: float | None


@dataclass(frozen=True)
class DecodeBound:
    """Decode of a batch without LoRA, beside what reading weights and KV cache alone would allow.

    ``bound_tokens_per_second`` takes the copy of the ceilings for the machine's bandwidth. What was
    measured is None where :class:`Case` has none.
    """

    batch: int
    tokens_per_second: float | None
    bound_tokens_per_second: float
    of_bound: float | None


@dataclass(frozen=True)
class ThroughputReport:
    """All cases of one run.

    ``load_seconds`` is how long all adapters took to be loaded for the first time, and
    ``peft_agreement`` the share of requests for which PEFT chose the same tokens (None: not run).
    """

    cases: list[Case]
    decode_bound: DecodeBound
    load_seconds: float
    peft_agreement: float | None


@dataclass(frozen=True)
class _Seconds:
    """The shortest of several runs: all requests to their first token, and to their last."""

    prefill: float
    total: float

    def case(self, name: str, workload: Workload, without: _Seconds) -> Case:
        later = workload.num_output_tokens - len(workload.prompts)
        decode = self.total - self.prefill
        return Case(
            name,
            workload.num_output_tokens / self.total,
            without.total / self.total,
            self.prefill,
            later / decode if decode > 0 else None,
        )


def measure_throughput(settings: Settings, ceilings: Ceilings) -> ThroughputReport:
    """Run every case ``settings.repeats`` times and keep the best.

    Raises:
        BenchmarkError: PEFT is asked for where loramux makes weights of its own.
    """
    shape = SHAPES[settings.shape]
    if settings.peft and settings.load_format == "dummy":
        raise BenchmarkError("--peft needs the weights on disk; leave --load-format dummy out.")
    most = max(settings.adapters)
    num_bytes = model_bytes(settings, shape) + most * adapter_bytes(shape, max(settings.ranks))
    with scratch_directory(settings.scratch, num_bytes) as scratch:
        model = write_model(scratch / "model", shape, weights=settings.load_format == "auto")
        adapters = write_adapters(scratch / "adapters", shape, list(settings.ranks), most)
        return _measure(settings, shape, model, adapters, ceilings)


def _measure(
    settings: Settings, shape: ModelShape, model: Path, adapters: list[Path], ceilings: Ceilings
) -> ThroughputReport:
    workload = Workload.random(
        settings.requests, settings.input_len, settings.output_len, shape.vocab_size
    )
    arguments = engine_arguments(settings, shape, max(settings.requests, settings.bound_batch))
    without, bound = with_engine(
        model,
        arguments,
        lambda llm: (
            _best(llm, workload, [None], settings.repeats),
            _decode_bound(llm, settings, shape, ceilings),
        ),
    )
    lora = {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": max(settings.ranks)}
    with_lora = with_engine(
        model, {**lora, **arguments}, lambda llm: _with_lora(llm, settings, workload, adapters)
    )
    seconds = {WITHOUT: without, **with_lora.seconds}
    cases = [one.case(name, workload, without) for name, one in seconds.items()]
    agreement = None
    if settings.peft:
        peft, theirs = _run_peft(model, adapters, workload, cases[0].tokens_per_second)
        cases.append(peft)
        agreement = _agreement(with_lora.tokens, theirs)
    return ThroughputReport(cases, bound, with_lora.load_seconds, agreement)


@dataclass(frozen=True)
class _WithLoRA:
    """``tokens`` are of the requests as PEFT is given them, if it is."""

    seconds: dict[str, _Seconds]
    load_seconds: float
    tokens: list[Sequence[int]]


def _with_lora(llm: LLM, settings: Settings, workload: Workload, adapters: list[Path]) -> _WithLoRA:
    seconds = {IDLE: _best(llm, workload, [None], settings.repeats)}
    requests = adapter_requests(adapters)
    load_seconds = _load_seconds(llm, requests)
    for count in settings.adapters:
        case = f"{count} adapter{'s mixed' * (count > 1)}"
        seconds[case] = _best(llm, workload, requests[:count], settings.repeats)
    ours = workload.run(llm, [*requests, None]) if settings.peft else []
    return _WithLoRA(seconds, load_seconds, [output.outputs[0].token_ids for output in ours])


def _best(llm: LLM, workload: Workload, adapters: Adapters, repeats: int) -> _Seconds:
    runs = range(repeats)
    replace(workload, output_len=min(WARM_UP_TOKENS, workload.output_len)).run(llm, adapters)
    prefill = min(workload.prefill.seconds(llm, adapters) for _ in runs)
    return _Seconds(prefill, min(workload.seconds(llm, adapters) for _ in runs))


def _load_seconds(llm: LLM, requests: Sequence[Any]) -> float:
    """One token with each adapter, all at once: the first time that they are needed."""
    one_each = Workload([[3]] * len(requests), 1)
    return one_each.seconds(llm, requests)


def _decode_bound(
    llm: LLM, settings: Settings, shape: ModelShape, ceilings: Ceilings
) -> DecodeBound:
    batch = settings.bound_batch
    workload = Workload.random(
        batch, settings.input_len, settings.output_len, shape.vocab_size, seed=1
    )
    best = _best(llm, workload, [None], settings.repeats)
    measured = best.case("", workload, best).decode_tokens_per_second
    weights = shape.num_weights_per_step * compute_dtype().itemsize
    context = settings.input_len + settings.output_len / 2
    step_bytes = weights + batch * context * cache_bytes_per_token(shape)
    bound = batch * ceilings.copy_bytes_per_second / step_bytes
    return DecodeBound(batch, measured, bound, None if measured is None else measured / bound)


def _run_peft(
    model: Path, adapters: list[Path], workload: Workload, without: float
) -> tuple[Case, list[list[int]]]:
    """The adapters and the base model dealt out in turn; once, because it takes so long."""
    from loramux.bench.peft_baseline import PeftBaseline

    device = "cuda" if compute_dtype().itemsize == 2 else "cpu"
    baseline = PeftBaseline(str(model), adapters, compute_dtype(), device)
    started = time.perf_counter()
    tokens = baseline.run(workload)
    speed = workload.num_output_tokens / (time.perf_counter() - started)
    return Case(PEFT, speed, speed / without, None, None), tokens


def _agreement(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> float:
    same = sum(list(a) == list(b) for a, b in zip(ours, theirs, strict=True))
    return same / len(theirs)
