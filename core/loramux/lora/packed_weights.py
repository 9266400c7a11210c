"""Adapter tensors that lie in one stretch of memory, told by numbers instead of objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from loramux.lora.site import LoRASite
from loramux.lora.weights import AdapterWeights, LowRankPair

Integers = npt.NDArray[np.int64]

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ITEM_BYTES = np.array([dtype.itemsize for dtype in DTYPES])

PAIR_FIELDS = 6
"""Columns of a table of pairs: index of the site, rank, first byte and type of A, those of B."""


class PackedPairs(Mapping[str, LowRankPair]):
    """Pairs by site, whose tensors are made when somebody asks for them.

    Hundreds of tensor objects take a millisecond in which no other Python thread runs.

    Args:
        content: uint8, holds every matrix, contiguous and aligned for its type.
        sites: all sites of the base model, in the order the table counts them.
        table: int64 ``[pairs, PAIR_FIELDS]``; types are positions in ``DTYPES``.
        scalings: float64 ``[pairs]``.
    """

    def __init__(
        self,
        content: torch.Tensor,
        sites: Sequence[LoRASite],
        table: Integers,
        scalings: npt.NDArray[np.float64],
    ) -> None:
        self.content = content
        self.sites = [sites[index] for index in table[:, 0].tolist()]
        self.table = table
        self.scalings = scalings
        self._rows = {site.name: row for row, site in enumerate(self.sites)}

    def __getitem__(self, name: str) -> LowRankPair:
        row = self._rows[name]
        site = self.sites[row]
        _, rank, a, a_type, b, b_type = self.table[row].tolist()
        return LowRankPair(
            self._matrix(a, a_type, (rank, site.in_features)),
            self._matrix(b, b_type, (site.out_features, rank)),
            float(self.scalings[row]),
        )

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ranks(self) -> list[int]:
        """Of each pair."""
        ranks: list[int] = self.table[:, 1].tolist()
        return ranks

    @cached_property
    def sizes(self) -> Integers:
        """Elements of each pair's A and B, int64 ``[pairs, 2]``."""
        features = [(site.in_features, site.out_features) for site in self.sites]
        return np.array(features, np.int64).reshape(-1, 2) * self.table[:, 1:2]

    @property
    def item_bytes(self) -> Integers:
        """Bytes of one element of each pair's A and B, ``[pairs, 2]``."""
        return ITEM_BYTES[self.table[:, 3::2]]

    def _matrix(self, start: int, kind: int, shape: tuple[int, int]) -> torch.Tensor:
        dtype = DTYPES[kind]
        end = start + shape[0] * shape[1] * dtype.itemsize
        return self.content[start:end].view(dtype).view(shape)


@dataclass(frozen=True, eq=False)
class PackedWeights(AdapterWeights):
    """An adapter whose pairs are ``PackedPairs``."""

    pairs: PackedPairs

    @cached_property
    def max_rank(self) -> int:
        return int(self.pairs.table[:, 1].max(initial=0))

    @cached_property
    def num_bytes(self) -> int:
        return int((self.pairs.sizes * self.pairs.item_bytes).sum())

    @cached_property
    def num_elements(self) -> int:
        return int(self.pairs.sizes.sum())
