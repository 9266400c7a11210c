"""The fused decoder, launched kernel by kernel or as a captured graph."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from loramux.engine.args import EngineArgs
from loramux.engine.running.attention import AttentionBackend
from loramux.engine.running.forward.base import adapters_of_rows, adapters_of_tokens
from loramux.engine.running.forward.captured_step import CapturedSteps
from loramux.engine.running.forward.padded_step import (
    BlockTables,
    PaddedPlan,
    PaddedStep,
    step_sizes,
)
from loramux.engine.running.largest_step import largest_step, step_beyond
from loramux.engine.running.step_layout import StepLayout, lay_out
from loramux.engine.running.tokens_in_flight import TokensInFlight
from loramux.engine.sampling.transfer import to_device
from loramux.engine.scheduling.scheduler import Chunk
from loramux.logger import get_logger
from loramux.lora.device.packed import PackedLoRA
from loramux.models.fused import FusedDecoder, FusedStep
from loramux_kernels.paged_attention import LayerCache

log = get_logger(__name__)


class FusedForward:
    """Runs a model of a known family over packed weights."""

    def __init__(
        self,
        decoder: FusedDecoder,
        attention: AttentionBackend,
        in_flight: TokensInFlight,
        lora: PackedLoRA | None,
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        self._attention = attention
        self._in_flight = in_flight
        self._lora = lora
        self._device = device
        self._caches: dict[int, LayerCache] = {}
        self._graphs: CapturedSteps | None = None

    def use(self, caches: dict[int, LayerCache]) -> None:
        self._caches = caches

    def capture(self, args: EngineArgs, max_model_len: int) -> None:
        """Capture steps of some sizes as CUDA graphs; other sizes go on kernel by kernel."""
        started = time.perf_counter()
        sizes = step_sizes(args.max_num_seqs, args.max_num_batched_tokens)
        self._graphs = CapturedSteps(sizes, self._padded_plan(args, max_model_len))
        seconds = time.perf_counter() - started
        log.info("captured %d sizes of step as CUDA graphs in %.1f s", len(sizes), seconds)

    def rehearse(self, args: EngineArgs, max_model_len: int) -> None:
        """Take steps of each kind; no result is used.

        They are of each size that is captured, one too large for that, and the largest of all.
        """
        plan = self._padded_plan(args, max_model_len)
        sizes = step_sizes(args.max_num_seqs, args.max_num_batched_tokens)
        for size in sizes:
            step = PaddedStep(size, plan)
            for with_lora in step.lora_choices:
                step.compute(step.fill_lora(with_lora=with_lora))
        beyond = step_beyond(max(size.rows for size in sizes), args, max_model_len)
        for chunks in filter(None, (beyond, largest_step(args, max_model_len))):
            self._rehearse_launch(lay_out(chunks, args.block_size))

    def _rehearse_launch(self, layout: StepLayout) -> None:
        self._launch(layout, layout.logit_rows, None)
        if self._lora is not None:
            self._lora.fill([], is_decode=False)
            self._launch(layout, layout.logit_rows, self._lora)

    def _padded_plan(self, args: EngineArgs, max_model_len: int) -> PaddedPlan:
        max_blocks = -(-max_model_len // args.block_size)
        return PaddedPlan(
            decoder=self._decoder,
            attention=self._attention,
            caches=self._caches,
            tables=BlockTables(args.max_num_seqs, max_blocks, self._device),
            in_flight=self._in_flight,
            lora=self._lora,
            block_size=args.block_size,
            device=self._device,
        )

    def arrange(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        return chunks

    def __call__(self, layout: StepLayout, logit_rows: list[int]) -> Tensor:
        graph = None if self._graphs is None else self._graphs.find(layout, logit_rows)
        is_decode = not layout.has_prefills if graph is None else graph.size.is_decode
        lora = self._name_adapters(layout, logit_rows, is_decode)
        if graph is None or (lora is not None and lora.needs_eager):
            return self._launch(layout, logit_rows, lora)
        return graph.replay(layout, logit_rows, with_lora=lora is not None)

    def _name_adapters(
        self, layout: StepLayout, logit_rows: list[int], is_decode: bool
    ) -> PackedLoRA | None:
        """The adapters of the step, None if every row belongs to the base model."""
        if self._lora is None:
            return None
        tokens = adapters_of_tokens(layout)
        if all(adapter is None for adapter, _, _ in tokens):
            return None
        samples = adapters_of_rows(tokens, logit_rows)
        self._lora.fill(tokens, samples, is_decode=is_decode)
        return self._lora

    def _launch(self, layout: StepLayout, logit_rows: list[int], lora: PackedLoRA | None) -> Tensor:
        token_ids = to_device(layout.token_ids, torch.int64, self._device)
        if min(layout.token_ids) < 0:
            token_ids = self._in_flight.resolve(token_ids)
        slots = to_device(layout.slots, self._attention.slot_dtype, self._device)
        step = FusedStep(
            input_ids=token_ids,
            # As in captured steps, whose kernels are the same then.
            positions=to_device(layout.positions, torch.int32, self._device),
            slots=slots,
            logit_rows=to_device(logit_rows, torch.int64, self._device),
            caches=self._caches,
            attend=self._attention.over(layout, slots),
            lora=lora,
        )
        return self._decoder(step)
