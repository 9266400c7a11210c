"""An adapter that lies in the memory of the device that computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from loramux.lora.adapter import Adapter


@dataclass(frozen=True, eq=False)
class ResidentPair:
    """One site's update as products in torch read it.

    Shapes:
        a: ``[in_features, rank]``; b: ``[rank, out_features]``.
    """

    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        return self.b.shape[0]


@dataclass(eq=False)
class ResidentAdapter:
    """An adapter on the device, at its true ranks, with the number of sequences that hold it."""

    adapter: Adapter
    pairs: Mapping[str, ResidentPair]
    slot: int | None = None
    """Its row in the table that kernels read, where there is one."""
    references: int = 0
    is_retired: bool = False
    """To be freed as soon as no sequence needs it."""

    @property
    def digest(self) -> str:
        return self.adapter.digest
