"""What a fused decoder adds for the adapters of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from loramux.lora.adapter import Adapter
from loramux.lora.device.plan import AdapterSegment, RowSpan, plan_segments
from loramux.lora.device.resident import ResidentAdapter
from loramux.lora.product_updates import ProductUpdates
from loramux.lora.site import LoRASite, PackedSites, SiteKind
from loramux_kernels.blocks import Activation, RMSNorm, Rotation
from loramux_kernels.lora import add_segment_embedding_lora_, add_segment_lora_

AdapterRows = tuple[Adapter | None, int, int]
"""An adapter, or None for the base model, and its rows from start to stop."""


class PackedUpdates(ProductUpdates, Protocol):
    """How the updates of packed projections are computed: by kernels or in torch."""

    def fill(self, spans: Sequence[RowSpan], num_rows: int, *, is_decode: bool) -> None:
        """Name the rows of the step that follows; ``is_decode``: every sequence has one row.

        Rows below ``num_rows`` that are in no span belong to the base model.
        """


class PackedLoRA(ProductUpdates):
    """The adapters of one step, on the projections of a fused decoder.

    Filled before each step and handed to the decoder where some row has an adapter. On CUDA the
    packed projections cost two launches each, at fixed addresses and with what they compute read
    from device memory: a graph captured after ``fill`` serves all later fills with the same
    ``is_decode`` for which ``needs_eager`` is false.

    Args:
        sites: every site of the model; those outside ``projections`` are an embedding and the
            output, which are computed in torch.
        resident_of: gives an adapter of a step, which is on the device.

    Raises:
        ValueError: a site is neither packed nor an embedding nor the output.
    """

    def __init__(
        self,
        projections: Sequence[PackedSites],
        sites: Mapping[str, LoRASite],
        resident_of: Callable[[Adapter], ResidentAdapter],
        updates: PackedUpdates,
        device: torch.device,
    ) -> None:
        packed = {site.name for projection in projections for site in projection.sites}
        outside = [site for name, site in sites.items() if name not in packed]
        self._embeddings = _names(outside, lambda site: site.kind is SiteKind.EMBEDDING)
        self._outputs = _names(outside, lambda site: site.is_output)
        self._outside = {site.name for site in outside}
        if unknown := self._outside.difference(self._embeddings, self._outputs):
            raise ValueError(
                f"layer {min(unknown)} is in no packed projection and neither the embedding nor "
                "the output: run this model unfused."
            )
        self._resident_of = resident_of
        self._updates = updates
        self._device = device
        self._tokens: list[AdapterSegment] = []
        self._samples: list[AdapterSegment] = []
        self.needs_eager = False
        """Whether some adapter changes the embedding or the output, which no graph computes."""

    def fill(
        self,
        rows: Sequence[AdapterRows],
        samples: Sequence[AdapterRows] = (),
        *,
        is_decode: bool = False,
    ) -> None:
        """Name the adapters of the step that follows.

        Args:
            rows: adapters of all rows of the step, in order; what lies beyond them is padding.
            samples: adapters of the rows whose logits are computed, in order.
            is_decode: whether every sequence of the step has one row.
        """
        spans = self._spans(rows)
        self.needs_eager = any(
            name in span.adapter.pairs for span in spans for name in self._outside
        )
        self._tokens, self._samples = [], []
        if self.needs_eager:
            self._tokens = plan_segments(spans, self._device)
            self._samples = plan_segments(self._spans(samples), self._device)
        num_rows = max((stop for _, _, stop in rows), default=0)
        self._updates.fill(spans, num_rows, is_decode=is_decode)

    def begin(self, projection: int, x: Tensor) -> None:
        self._updates.begin(projection, x)

    def add_(self, projection: int, y: Tensor, x: Tensor) -> None:
        self._updates.add_(projection, y, x)

    def activate(self, projection: int, y: Tensor, x: Tensor, kind: Activation) -> Tensor:
        return self._updates.activate(projection, y, x, kind)

    def rotate_and_store_(
        self, projection: int, y: Tensor, x: Tensor, rotation: Rotation
    ) -> Tensor:
        return self._updates.rotate_and_store_(projection, y, x, rotation)

    def add_rms_norm_(
        self, projection: int, y: Tensor, x: Tensor, residual: Tensor, norm: RMSNorm
    ) -> Tensor:
        return self._updates.add_rms_norm_(projection, y, x, residual, norm)

    def add_embedding_(self, y: Tensor, ids: Tensor) -> None:
        """Add the updates to looked-up rows y ``[rows, width]``, before any scaling of them."""
        for segment in self._tokens:
            for name in self._embeddings:
                pair = segment.adapter.pairs.get(name)
                if pair is not None:
                    add_segment_embedding_lora_(y, ids, segment.rows, pair.a, pair.b, pair.scaling)

    def add_output_(self, y: Tensor, x: Tensor) -> None:
        """Add the updates to the logits y ``[samples, vocabulary]`` of x ``[samples, width]``."""
        for segment in self._samples:
            for name in self._outputs:
                pair = segment.adapter.pairs.get(name)
                if pair is not None:
                    add_segment_lora_(y, x, segment.rows, pair.a, pair.b, pair.scaling)

    def _spans(self, rows: Sequence[AdapterRows]) -> list[RowSpan]:
        resident = {adapter: None for adapter, _, _ in rows if adapter is not None}
        found = {adapter: self._resident_of(adapter) for adapter in resident}
        return [
            RowSpan(found[adapter], start, stop)
            for adapter, start, stop in rows
            if adapter is not None
        ]


class TorchUpdates(PackedUpdates):
    """Products of the library for each adapter and slice, where there are no kernels."""

    def __init__(self, projections: Sequence[PackedSites], device: torch.device) -> None:
        self._slices = [_slices(projection) for projection in projections]
        self._device = device
        self._segments: list[AdapterSegment] = []

    def fill(self, spans: Sequence[RowSpan], num_rows: int, *, is_decode: bool) -> None:
        """Name the rows of the step that follows."""
        self._segments = plan_segments(spans, self._device)

    def begin(self, projection: int, x: Tensor) -> None:
        """Nothing runs beside the base product here."""

    def add_(self, projection: int, y: Tensor, x: Tensor) -> None:
        """Add the updates to the output of a packed projection, in place."""
        for segment in self._segments:
            for name, columns in self._slices[projection]:
                pair = segment.adapter.pairs.get(name)
                if pair is not None:
                    part = y[:, columns]
                    add_segment_lora_(part, x, segment.rows, pair.a, pair.b, pair.scaling)


def _slices(projection: PackedSites) -> list[tuple[str, slice]]:
    """Names of the sites and their columns of the packed output."""
    slices, start = [], 0
    for site in projection.sites:
        slices.append((site.name, slice(start, start + site.out_features)))
        start += site.out_features
    return slices


def _names(sites: Sequence[LoRASite], belongs: Callable[[LoRASite], bool]) -> list[str]:
    return [site.name for site in sites if belongs(site)]
