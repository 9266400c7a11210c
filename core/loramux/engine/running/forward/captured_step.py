"""Whole steps as CUDA graphs: one launch instead of several hundred.

A graph has a fixed number of rows and sequences, so some are captured and a step is padded to the
next larger one. What differs from step to step (tokens, positions, blocks, adapters, lengths) lies
in device memory at fixed addresses; how the work is cut is computed there as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from loramux.engine.running.forward.padded_step import PaddedPlan, PaddedStep, StepSize
from loramux.engine.running.step_layout import StepLayout


class CapturedStep:
    """One size of step, as a graph with adapters and one without.

    Args:
        is_first: of its kind, decodes or others: whatever layers make at first use is yet to come.
    """

    def __init__(self, size: StepSize, plan: PaddedPlan, pool: object, *, is_first: bool) -> None:
        self.size = size
        self._step = PaddedStep(size, plan)
        self._graphs = {
            with_lora: self._capture(pool, with_lora, is_first)
            for with_lora in self._step.lora_choices
        }

    def replay(self, layout: StepLayout, logit_rows: list[int], *, with_lora: bool) -> Tensor:
        """Logits ``[len(logit_rows), vocab]``, valid until any graph is replayed again."""
        self._step.fill(layout, logit_rows)
        graph, logits = self._graphs[with_lora]
        graph.replay()
        if not self.size.is_decode or logit_rows == list(range(layout.num_rows)):
            return logits[: len(logit_rows)]
        rows = torch.tensor(logit_rows, dtype=torch.int64, device=logits.device)
        return logits.index_select(0, rows)

    def _capture(
        self, pool: object, with_lora: bool, is_first: bool
    ) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        lora = self._step.fill_lora(with_lora=with_lora)
        # Loads kernels, and has libraries choose theirs for this size: a capture must not.
        self._step.compute(lora, in_excerpt=not is_first)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):  # type: ignore[arg-type]
            logits = self._step.compute(lora)
        return graph, logits


class CapturedSteps:
    """All sizes, captured when the engine starts; they share one pool of memory."""

    def __init__(self, sizes: Sequence[StepSize], plan: PaddedPlan) -> None:
        pool = torch.cuda.graph_pool_handle()
        # The largest first: the smaller ones then fit into what it has allocated.
        kinds_left = {size.is_decode for size in sizes}
        captured = []
        for size in reversed(sizes):
            is_first = size.is_decode in kinds_left
            kinds_left.discard(size.is_decode)
            captured.append(CapturedStep(size, plan, pool, is_first=is_first))
        self._decodes = [step for step in reversed(captured) if step.size.is_decode]
        self._mixed = [step for step in reversed(captured) if not step.size.is_decode]

    def find(self, layout: StepLayout, logit_rows: list[int]) -> CapturedStep | None:
        """The smallest captured step that this one fits into."""
        candidates = self._mixed if layout.has_prefills else self._decodes
        for step in candidates:
            size = step.size
            fits = layout.num_rows <= size.rows and len(layout.rows) <= size.sequences
            if fits and len(logit_rows) <= size.sequences:
                return step
        return None
