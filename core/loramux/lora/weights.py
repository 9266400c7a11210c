"""Validated adapter tensors on the host: the one form every reader ends in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True, eq=False)
class LowRankPair:
    """The update of one site: ``scaling * B @ A`` (Hu et al. 2021, arXiv:2106.09685).

    Shapes:
        a: ``[rank, in_features]`` (for an embedding ``[rank, vocabulary]``).
        b: ``[out_features, rank]``.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def num_bytes(self) -> int:
        return self.a.nbytes + self.b.nbytes


@dataclass(frozen=True, eq=False)
class AdapterWeights:
    """One adapter, read and checked, in host memory.

    ``digest`` is the identity: BLAKE3 (hex) over the tensor bytes and every configuration field
    that changes what is computed. ``pairs`` maps a site's name to its update; a site that is not
    in it is left as the base model computes it.
    """

    digest: str
    pairs: Mapping[str, LowRankPair]

    @cached_property
    def max_rank(self) -> int:
        return max((pair.rank for pair in self.pairs.values()), default=0)

    @cached_property
    def num_bytes(self) -> int:
        return sum(pair.num_bytes for pair in self.pairs.values())

    @cached_property
    def num_elements(self) -> int:
        return sum(pair.a.numel() + pair.b.numel() for pair in self.pairs.values())
