"""Pairs as a table in shared memory: written by who has read them, seen by who wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from loramux.lora.checkpoint.finite import Bytes
from loramux.lora.packed_weights import DTYPES, PAIR_FIELDS, PackedPairs
from loramux.lora.read_process.shared_memory import SharedFile
from loramux.lora.site import LoRASite
from loramux.lora.weights import LowRankPair

ALIGNMENT = 16
"""Bytes; more than any element needs."""


class PairWriter:
    """Writes down where pairs lie in a shared file, and brings there what lies elsewhere.

    Args:
        file: gets the tables, and matrices that are no views of its content.
        sites: positions of the sites in the list that the reader of the table has.
    """

    def __init__(self, file: SharedFile, sites: Mapping[str, int]) -> None:
        self._file = file
        self._first = file.content.ctypes.data
        self._end = self._first + file.content.size
        self._sites = sites

    def write(self, pairs: Mapping[str, LowRankPair]) -> int:
        """Append the table and the scalings; returns where the table begins."""
        rows = [
            (self._sites[name], pair.rank, *self._placed(pair.a), *self._placed(pair.b))
            for name, pair in pairs.items()
        ]
        scalings = [pair.scaling for pair in pairs.values()]
        table = np.array(rows, np.int64).tobytes() + np.array(scalings, np.float64).tobytes()
        return self._file.append(table, ALIGNMENT)

    def _placed(self, matrix: torch.Tensor) -> tuple[int, int]:
        """Where a matrix begins in the file, and the number of its type."""
        address = matrix.data_ptr()
        kind = DTYPES.index(matrix.dtype)
        if self._first <= address and address + matrix.nbytes <= self._end:
            return address - self._first, kind
        content = matrix.contiguous().view(-1).view(torch.uint8).numpy()
        return self._file.append(content.data, ALIGNMENT), kind


def read_pairs(
    content: Bytes, table_start: int, num_pairs: int, sites: Sequence[LoRASite]
) -> PackedPairs:
    """The pairs that a ``PairWriter`` wrote down."""
    integers = num_pairs * PAIR_FIELDS
    scalings_start = table_start + 8 * integers
    table = content[table_start:scalings_start].view(np.int64).reshape(num_pairs, PAIR_FIELDS)
    scalings = content[scalings_start : scalings_start + 8 * num_pairs].view(np.float64)
    return PackedPairs(torch.from_numpy(content), sites, table, scalings)
