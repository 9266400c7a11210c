"""Which tiles of attention a GPU can launch, by what Triton allocates for them.

``python -m tests.kernels.shipped_tiles`` compiles them and looks.
"""

from __future__ import annotations

from dataclasses import dataclass

from loramux_kernels.gpu import GPU, HOPPER
from loramux_kernels.tuned.attention_shapes import DecodeTiles, PrefillTiles, next_power_of_2

MIN_TILE = 16
"""Rows or keys that tensor cores take at least."""
ASYNC_ROWS = 64
"""From so many on, products are asynchronous on GPUs that have such."""
BARRIER_BYTES = 1 << 10
"""What asynchronous products are waited for at, at most."""
MAX_SUMS, MAX_ASYNC_SUMS = 128, 192
"""Values that products add up in a thread: of more some are spilled, and sooner where operands
take registers as well."""
MAX_HEAD_BYTES = 512
"""Where products add up in a memory of their own, which has no room for wider heads."""


@dataclass(frozen=True)
class AttentionFit:
    """Heads of one layer on one GPU.

    Attributes:
        width: of a head, a power of two.
        itemsize: bytes of one of its values.
        group: query heads to a KV head.
    """

    gpu: GPU
    width: int
    itemsize: int
    group: int

    def of_decode(self, tiles: DecodeTiles) -> bool:
        """Whether the GPU runs such programs, as many at once as they are meant for."""
        rows = max(MIN_TILE, next_power_of_2(self.group))
        # Both parts of each float32, which is multiplied in three terms, lie there.
        operands = self._operand_bytes(rows, tiles.keys) * (2 if self.itemsize == 4 else 1)
        needed = self._loaded_bytes(rows, tiles.keys, tiles.num_stages) + operands
        return needed <= self._room(tiles.programs_per_processor) and self._can_add_up(rows)

    def of_prefill(self, tiles: PrefillTiles) -> bool:
        """Whether the GPU runs such programs, as many at once as they are meant for."""
        needed = self._loaded_bytes(tiles.rows, tiles.keys, tiles.num_stages)
        needed += self._operand_bytes(tiles.rows, tiles.keys)
        sums = tiles.rows * (self.width + 2 * tiles.keys) // (32 * tiles.num_warps)
        return (
            tiles.rows >= self.group
            and needed <= self._room(tiles.programs_per_processor)
            and sums <= (MAX_ASYNC_SUMS if self.gpu.has_async_products else MAX_SUMS)
            and self._can_add_up(tiles.rows)
        )

    def _room(self, programs: int) -> int:
        """Shared memory of a program; where tiles were measured, they need only be launched."""
        is_measured = self.gpu.capability == HOPPER
        return self.gpu.program_bytes if is_measured else self.gpu.bytes_of_each(programs)

    def _is_async(self, rows: int) -> bool:
        return self.gpu.has_async_products and rows >= ASYNC_ROWS

    def _loaded_bytes(self, rows: int, keys: int, stages: int) -> int:
        """Of keys and values; an asynchronous product still reads one stage more."""
        buffers = stages if self._is_async(rows) else stages - 1
        return buffers * 2 * keys * self.width * self.itemsize

    def _operand_bytes(self, rows: int, keys: int) -> int:
        """Of queries; and of weights, unless asynchronous products have those elsewhere."""
        beside = BARRIER_BYTES if self._is_async(rows) else rows * keys * self.itemsize
        return rows * self.width * self.itemsize + beside

    def _can_add_up(self, rows: int) -> bool:
        """Whether what products add up has room where the GPU keeps it."""
        is_elsewhere = self.gpu.has_tensor_memory and self._is_async(rows)
        return not is_elsewhere or self.width * self.itemsize <= MAX_HEAD_BYTES
