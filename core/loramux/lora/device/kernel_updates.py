"""Updates of packed projections by the Triton kernels, from adapters in an arena."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from loramux.lora.device.plan import RowSpan
from loramux.lora.site import PackedSites
from loramux_kernels.triton_lora import (
    DECODE,
    PREFILL,
    AdapterTable,
    LoRATiles,
    LoRAWork,
    PackedProjection,
    apply_lora_,
)


class KernelUpdates:
    """Two work lists, one for steps of single tokens and one for all others.

    Args:
        table: its columns are the sites of ``projections`` in order, before any others.
        max_rows: most rows of a step.
        max_decode_rows: most rows of a step of single tokens.
        max_rank: largest rank of any adapter.
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
        self._decode = LoRAWork(table, decode, max_decode_rows, max_rank, slices)
        self._prefill = LoRAWork(table, prefill, max_rows, max_rank, slices)
        self._work = self._decode

    def fill(self, spans: Sequence[RowSpan], *, is_decode: bool) -> None:
        """Name the rows of the step that follows.

        Raises:
            ValueError: there are more rows, or larger ranks, than the lists were made for.
        """
        self._work = self._decode if is_decode else self._prefill
        self._work.fill([(_slot(span), range(span.start, span.stop)) for span in spans])

    def add_(self, projection: int, y: Tensor, x: Tensor) -> None:
        """Add the updates to the output of a packed projection, in place."""
        apply_lora_(y, x, self._projections[projection], self._work)


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
