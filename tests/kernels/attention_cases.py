"""Batches over a shuffled cache full of NaN, computed by the Triton kernels and in float64."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loramux_kernels.paged_attention import (
    AttentionBatch,
    AttentionOptions,
    DecodeGroup,
    LayerCache,
    PrefillChunk,
)

if TYPE_CHECKING:
    from loramux_kernels.triton_attention import Metadata, Tiles


@dataclass(frozen=True)
class Case:
    """``shapes`` are (length, new tokens) of each sequence; (0, 1) pads a batch."""

    shapes: tuple[tuple[int, int], ...]
    heads: int = 4
    kv_heads: int = 2
    key_dim: int = 16
    value_dim: int = 16
    block_size: int = 16
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    scale: float | None = None
    seed: int = 0

    def with_(self, **changes: Any) -> Case:
        return replace(self, **changes)


@dataclass
class Batch:
    """Everything random about a case, and the float64 answer."""

    query: Tensor
    cache: LayerCache
    metadata: Metadata
    options: AttentionOptions
    new_keys: Tensor
    new_values: Tensor
    expected: Tensor
    blocks: list[list[int]] = field(default_factory=list)


def make_batch(case: Case, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Batch:
    """Sequences in shuffled blocks, their new tokens not yet in the cache; the rest is NaN."""
    from loramux_kernels.triton_attention import Metadata

    torch.manual_seed(case.seed)
    generator = torch.Generator(device).manual_seed(case.seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(dtype)

    counts = [-(-length // case.block_size) for length, _ in case.shapes]
    # Block 0 is nobody's: what reads it in place of no block finds NaN.
    order = (torch.randperm(sum(counts) + 2) + 1).tolist()
    blocks = [[order.pop() for _ in range(count)] for count in counts]
    cache = LayerCache(
        _poison(sum(counts) + 3, case, case.key_dim, dtype, device),
        _poison(sum(counts) + 3, case, case.value_dim, dtype, device),
    )
    sinks = random(case.heads) if case.sinks else None
    scale = case.key_dim**-0.5 if case.scale is None else case.scale
    options = AttentionOptions(scale, case.window, case.softcap, sinks)
    rows, slots, expected = [], [], []
    for (length, new), ids in zip(case.shapes, blocks, strict=True):
        keys = random(length, case.kv_heads, case.key_dim)
        values = random(length, case.kv_heads, case.value_dim)
        query = random(new, case.heads, case.key_dim)
        where = _slots(ids, length, case.block_size, device)
        old = max(0, length - new)
        cache.write(where[:old], keys[:old], values[:old])
        padding = torch.full((new - (length - old),), -1, device=device)
        slots.append(torch.cat([where[old:], padding]))
        lost = len(padding)
        rows.append((query, _pad(keys[old:], lost), _pad(values[old:], lost)))
        expected.append(plain_attention(query, keys, values, options))
    query, keys, values = (torch.cat(parts) for parts in zip(*rows, strict=True))
    lengths = [length for length, _ in case.shapes]
    new_tokens = [new for _, new in case.shapes]
    metadata = Metadata.build(torch.cat(slots), blocks, lengths, new_tokens, case.block_size)
    return Batch(query, cache, metadata, options, keys, values, torch.cat(expected), blocks)


def compute(batch: Batch, tiles: Tiles | None = None) -> Tensor:
    """Store the new tokens and attend, with all memory poisoned that nobody wrote."""
    from loramux_kernels.triton_attention import triton_paged_attention, write_kv

    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what is "empty" with NaN
    try:
        write_kv(batch.cache, batch.metadata.slots, batch.new_keys, batch.new_values)
        return triton_paged_attention(
            batch.query, batch.cache, batch.metadata, batch.options, tiles=tiles
        )
    finally:
        torch.use_deterministic_algorithms(False)


def relative_error(out: Tensor, expected: Tensor) -> float:
    """Distance over length; NaN where the output has NaN."""
    distance = (out.double() - expected).norm() / expected.norm().clamp(min=1e-30)
    return float(distance)


def plain_attention(
    query: Tensor, keys: Tensor, values: Tensor, options: AttentionOptions
) -> Tensor:
    """Attention of a sequence's last tokens in float64; zeros for an empty sequence."""
    (new, heads, _), length = query.shape, len(keys)
    if length == 0:
        return torch.zeros(new, heads, values.shape[-1], dtype=torch.float64, device=query.device)
    repeats = heads // keys.shape[1]
    keys, values = (x.double().repeat_interleave(repeats, dim=1) for x in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", query.double(), keys) * options.scale
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    position = torch.arange(length - new, length, device=query.device)[:, None]
    key_position = torch.arange(length, device=query.device)
    hidden = key_position > position
    if options.window is not None:
        hidden |= key_position <= position - options.window
    scores = scores.masked_fill(hidden, float("-inf"))
    if options.sinks is not None:
        sinks = options.sinks.double()[:, None, None].expand(heads, new, 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., :length]
    return torch.einsum("hqk,khd->qhd", weights, values)


def _poison(blocks: int, case: Case, dim: int, dtype: torch.dtype, device: str) -> Tensor:
    shape = (blocks, case.block_size, case.kv_heads, dim)
    return torch.full(shape, float("nan"), dtype=dtype, device=device)


def _slots(blocks: list[int], length: int, block_size: int, device: str) -> Tensor:
    position = torch.arange(length, device=device)
    ids = torch.tensor([*blocks, 0], device=device)
    return ids[position // block_size] * block_size + position % block_size


def _pad(tokens: Tensor, count: int) -> Tensor:
    return torch.cat([tokens, tokens.new_full((count, *tokens.shape[1:]), float("nan"))])


def check(case: Case, tiles: tuple[int, int, int] = (16, 16, 16), programs: int = 6) -> None:
    """Compare in float32, under the interpreter, with small tiles.

    ``tiles`` are the keys of a decode tile, and rows and keys of a prefill tile; ``programs`` is
    among how many all decodes are shared.
    """
    batch = make_batch(case)
    out = compute(batch, small_tiles(*tiles, programs * case.kv_heads))
    torch.testing.assert_close(out.double(), batch.expected, atol=5e-6, rtol=1e-5)


def check_padded(case: Case, is_decode: bool) -> None:
    """The way the engine's captured steps ask for their attention."""
    from loramux.engine.running.attention import PaddedBatch, TritonAttention

    batch = make_batch(case)
    compute(batch)  # stores the new tokens
    made = batch.metadata
    tensors = (made.slots, made.block_table, made.lengths, made.query_start_loc)
    padded = PaddedBatch(*tensors, made.block_size, is_decode)
    attend = TritonAttention(len(case.shapes)).over_padded(padded)
    out = attend(batch.query, batch.cache, batch.options)
    torch.testing.assert_close(out.double(), batch.expected, atol=5e-6, rtol=1e-5)


def check_torch_reference(case: Case) -> None:
    """The same batch through ``paged_attention``, whose unused slots must be numbers."""
    from loramux_kernels.paged_attention import paged_attention

    batch = make_batch(case)
    out = compute(batch, small_tiles(16, 16, 16))
    batch.cache.keys.nan_to_num_()
    batch.cache.values.nan_to_num_()
    reference = paged_attention(batch.query, batch.cache, torch_batch(case, batch), batch.options)
    torch.testing.assert_close(out, reference, atol=5e-6, rtol=1e-5)


def torch_batch(case: Case, batch: Batch) -> AttentionBatch:
    """The batch as the torch reference takes it."""
    decodes, prefills, row = [], [], 0
    for (length, new), ids in zip(case.shapes, batch.blocks, strict=True):
        table = torch.tensor(ids)
        if new > 1:
            prefills.append(PrefillChunk(row, row + new, length, table))
        else:
            decodes.append(DecodeGroup(torch.tensor([row]), table[None], torch.tensor([length])))
        row += new
    return AttentionBatch(batch.metadata.slots, decodes, prefills, case.block_size)


def small_tiles(
    decode_keys: int, prefill_rows: int, prefill_keys: int, decode_programs: int = 12
) -> Tiles:
    from loramux_kernels.triton_attention import DecodeTiles, PrefillTiles, Tiles

    decode = DecodeTiles(decode_keys, min_tokens=8, programs_per_processor=decode_programs)
    return Tiles(decode, PrefillTiles(prefill_rows, prefill_keys))


def newness_of_plans(windows: list[int | None]) -> list[bool]:
    """What layers with these windows, one after another, are told about their plan."""
    from loramux_kernels.triton_attention import DecodeTiles

    metadata = _metadata([(40, 1)])
    return [metadata.chunk_plan(1, window, DecodeTiles()).is_new() for window in windows]


def chunk_plan(
    shapes: list[tuple[int, int]], window: int | None, keys: int, min_tokens: int, programs: int
) -> tuple[list[list[list[int]]], list[int]]:
    """Items of each program, and rows to be cleared, as the programs find them."""
    from loramux_kernels.triton_attention import DecodeTiles

    tiles = DecodeTiles(keys, min_tokens=min_tokens, programs_per_processor=programs)
    plan = _metadata(shapes).chunk_plan(1, window, tiles)
    assert plan.num_programs == programs
    assert not plan.arrivals.any()
    return [_linked(plan.work.tolist(), program) for program in range(programs)], [
        row
        for program in range(programs)
        for row in takewhile(lambda row: row >= 0, plan.padding[program::programs].tolist())
    ]


def _linked(work: list[list[int]], index: int) -> list[list[int]]:
    items = []
    while index >= 0 and work[index][0] >= 0:
        *item, index = work[index]
        items.append(item)
    return items


def tile_plan(shapes: list[tuple[int, int]], queries: int) -> list[list[int]]:
    plan: list[list[int]] = _metadata(shapes).tile_plan(queries).tolist()
    return plan


def _metadata(shapes: list[tuple[int, int]]) -> Metadata:
    from loramux_kernels.triton_attention import Metadata

    slots = torch.zeros(sum(new for _, new in shapes), dtype=torch.long)
    lengths, new_tokens = zip(*shapes, strict=True)
    return Metadata.build(slots, [[0] for _ in shapes], lengths, new_tokens, 16)


def written_slots(slots: list[int], key_dim: int, value_dim: int, contiguous: bool) -> None:
    """Rows go to their slots and nowhere else, whatever the strides."""
    from loramux_kernels.triton_attention import write_kv

    cache = LayerCache(torch.zeros(4, 4, 3, key_dim), torch.zeros(4, 4, 3, value_dim))
    keys, values = torch.randn(len(slots), 3, key_dim), torch.randn(len(slots), 3, value_dim)
    expected = LayerCache(cache.keys.clone(), cache.values.clone())
    kept = torch.tensor([slot >= 0 for slot in slots])
    expected.write(torch.tensor(slots)[kept], keys[kept], values[kept])
    if not contiguous:
        fused = torch.cat([keys, values], dim=2)
        keys, values = fused[..., :key_dim], fused[..., key_dim:]
    write_kv(cache, torch.tensor(slots), keys, values)
    torch.testing.assert_close(cache.keys, expected.keys, rtol=0, atol=0)
    torch.testing.assert_close(cache.values, expected.values, rtol=0, atol=0)


def refusals() -> list[str]:
    """What the kernels say to layouts that they do not know."""
    from loramux_kernels.triton_attention import triton_paged_attention

    batch = make_batch(Case(((3, 3),)))
    strided = LayerCache(batch.cache.keys.transpose(1, 2), batch.cache.values)
    arguments = [
        (batch.query, strided, batch.metadata),
        (batch.query.transpose(1, 2).contiguous().transpose(1, 2), batch.cache, batch.metadata),
        (batch.query, batch.cache, replace(batch.metadata, block_size=32)),
    ]
    said = []
    for query, cache, metadata in arguments:
        try:
            triton_paged_attention(query, cache, metadata, batch.options)
        except ValueError as error:
            said.append(str(error))
    return said
