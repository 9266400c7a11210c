"""Updates of packed projections by the Triton kernels, from adapters in an arena."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from loramux.lora.device.packed import PackedUpdates
from loramux.lora.device.plan import RowSpan
from loramux.lora.site import PackedSites
from loramux_kernels.blocks import Activation, RMSNorm, Rotation
from loramux_kernels.branch import Branch
from loramux_kernels.gpu import gpu_of
from loramux_kernels.triton_lora import (
    DECODE,
    PREFILL,
    AdapterTable,
    LoRATiles,
    LoRAWork,
    PackedProjection,
    activate_with_lora,
    add_rms_norm_with_lora_,
    apply_lora_,
    begin_rank_vectors,
    rotate_and_store_with_lora_,
)
from loramux_kernels.tuned.lora import fitting

MAX_FUSED_RANK = 64
"""Larger adapters are read too often by kernels that compute few rows at a time."""


class KernelUpdates(PackedUpdates):
    """Two work lists, one for steps of single tokens and one for all others.

    What the decoder computes from a product by a kernel of its own adds the updates on its way,
    where that was measured to be faster than a kernel before it.

    Args:
        table: its columns are the sites of ``projections`` in order, before any others.
        max_rows: most rows of a step.
        max_decode_rows: most rows of a step of single tokens.
        max_rank: largest rank of any adapter.
        decode, prefill: tiles of the two; what of them does not fit the GPU is cut.
    """

    def __init__(
        self,
        projections: Sequence[PackedSites],
        table: AdapterTable,
        max_rows: int,
        max_decode_rows: int,
        max_rank: int,
        decode: LoRATiles = DECODE,
        prefill: LoRATiles = PREFILL,
    ) -> None:
        self._projections = _packed_projections(projections, table)
        slices = max(projection.num_slices for projection in self._projections)
        device, element_size = table.arena.device, table.arena.itemsize
        branch = Branch(device) if device.type == "cuda" else None
        decode, prefill = (
            fitting(each, gpu_of(device), element_size) for each in (decode, prefill)
        )
        self._decode = LoRAWork(table, decode, max_decode_rows, max_rank, slices, branch)
        self._prefill = LoRAWork(table, prefill, max_rows, max_rank, slices, branch)
        self._work = self._decode
        self._fuses = max_rank <= MAX_FUSED_RANK

    def fill(self, spans: Sequence[RowSpan], num_rows: int, *, is_decode: bool) -> None:
        """Name the rows of the step that follows.

        Raises:
            ValueError: there are more rows, or larger ranks, than the lists were made for.
        """
        self._work = self._decode if is_decode else self._prefill
        segments = [(_slot(span), range(span.start, span.stop)) for span in spans]
        self._work.fill(segments, num_rows)

    def begin(self, projection: int, x: Tensor) -> None:
        """Start on the rank vectors while the base product is computed."""
        begin_rank_vectors(x, self._projections[projection], self._work)

    def add_(self, projection: int, y: Tensor, x: Tensor) -> None:
        """Add the updates to the output of a packed projection, in place."""
        apply_lora_(y, x, self._projections[projection], self._work)

    def activate(self, projection: int, y: Tensor, x: Tensor, kind: Activation) -> Tensor:
        if not self._fuses:
            return super().activate(projection, y, x, kind)
        return activate_with_lora(y, x, self._projections[projection], self._work, kind)

    def add_rms_norm_(
        self, projection: int, y: Tensor, x: Tensor, residual: Tensor, norm: RMSNorm
    ) -> Tensor:
        if not self._fuses:
            return super().add_rms_norm_(projection, y, x, residual, norm)
        packed = self._projections[projection]
        return add_rms_norm_with_lora_(y, x, residual, packed, self._work, norm)

    def rotate_and_store_(
        self, projection: int, y: Tensor, x: Tensor, rotation: Rotation
    ) -> Tensor:
        if not self._fuses:
            return super().rotate_and_store_(projection, y, x, rotation)
        return rotate_and_store_with_lora_(
            y, x, self._projections[projection], self._work, rotation
        )


def _packed_projections(
    projections: Sequence[PackedSites], table: AdapterTable
) -> list[PackedProjection]:
    packed, column = [], 0
    for projection in projections:
        widths = [site.out_features for site in projection.sites]
        in_features = projection.sites[0].in_features
        packed.append(PackedProjection(column, in_features, widths, table.arena.device))
        column += len(widths)
    return packed


def _slot(span: RowSpan) -> int:
    slot = span.adapter.slot
    assert slot is not None, "the store that fills the table gives every adapter a slot"
    return slot
