"""Blocks that add LoRA updates, beside float64 and the block after the separate update."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from loramux_kernels.blocks import HeadLayout, Rotation
from loramux_kernels.paged_attention import LayerCache
from loramux_kernels.triton_lora import (
    LoRATiles,
    LoRAWork,
    activate_with_lora,
    add_rms_norm_with_lora_,
    apply_lora_,
    rotate_and_store_with_lora_,
)
from tests.kernels.block_cases import (
    EXACT,
    Attention,
    Place,
    exact_norm,
    exact_rotation,
    poisoned_outputs,
    rotary_table,
)
from tests.kernels.lora_cases import Layer, Segments, same_bits

MAX_POSITIONS = 50


@dataclass
class Step:
    """One product of a step, before and after its updates, by float64 and by ``apply_lora_``."""

    in_features: int
    widths: list[int]
    ranks: list[list[int]]
    segments: Segments
    num_rows: int
    tiles: LoRATiles
    place: Place = field(default_factory=Place)
    padding: int = 0
    layer: Layer = field(init=False)
    work: LoRAWork = field(init=False)

    def __post_init__(self) -> None:
        shapes, device = [(self.in_features, self.widths)], self.place.device
        page = 8192 if device == "cuda" else 64
        self.layer = Layer(shapes, self.ranks, self.place.dtype, device, page)
        rows = self.num_rows + self.padding
        self.work = self.layer.work(self.tiles, rows)
        self.work.fill(self.segments, self.num_rows)
        self.x = self.place.random(rows, self.in_features)
        self.y = self.place.random(rows, sum(self.widths))

    @property
    def projection(self):
        return self.layer.projections[0]

    def updated(self) -> Tensor:
        """The product as ``apply_lora_`` leaves it."""
        y = self.y.clone()
        apply_lora_(y, self.x, self.projection, self.work)
        self.work.partials.fill_(float("nan"))
        return y

    def exact(self) -> Tensor:
        y = self.y.double()
        for slot, some_rows in self.segments:
            rows = list(some_rows)
            y[rows] += self.layer.updates(0, self.x[rows], slot)[0]
        return y

    def rows_of_base(self) -> list[int]:
        """Those of no adapter, and those of adapters that leave the product alone."""
        named = {row for slot, rows in self.segments if any(self.ranks[slot]) for row in rows}
        return [row for row in range(self.num_rows) if row not in named]

    @property
    def has_norm(self) -> bool:
        """Whether the norm itself adds updates, and leaves rows of padding alone."""
        return self.tiles.for_rows(len(self.y)).fused.normalization is not None

    def check(
        self, out: Tensor, separate: Tensor, exact: Tensor, plain: Tensor, is_plain: bool = False
    ) -> None:
        """The step's rows are right, those of the base model to the bit; no other is written,
        unless by a plain block."""
        rows, base = slice(0, self.num_rows), self.rows_of_base()
        self.place.assert_near(out[rows], separate[rows], exact[rows])
        assert same_bits(out[base], plain[base])
        assert is_plain or out[self.num_rows :].isnan().all()


def check_activation(step: Step, kind: str) -> None:
    from loramux_kernels.triton_blocks import gated_activation

    separate, plain = gated_activation(step.updated(), kind), gated_activation(step.y, kind)
    gate, up = step.exact().chunk(2, dim=-1)
    before = step.y.clone()
    with poisoned_outputs():
        out = activate_with_lora(step.y, step.x, step.projection, step.work, kind)
    assert same_bits(step.y, before)
    step.check(out, separate, EXACT[kind](gate) * up, plain)


def check_rotation(step: Step, attention: Attention) -> None:
    """Every third row is stored nowhere; what no row is stored in keeps its bits."""
    layout, rows, device = attention.layout(step.place), len(step.y), step.place.device
    positions = torch.randint(0, MAX_POSITIONS, (rows,), device=device)
    table = rotary_table(MAX_POSITIONS, layout.rotary_dim, device)
    slots = torch.randperm(rows + 3, device=device)[:rows]
    slots[2::3] = -1
    shape = ((rows + 3) // 4 + 1, 4, layout.num_kv_heads, layout.head_dim)
    before = LayerCache(step.place.random(*shape), step.place.random(*shape))
    caches = [LayerCache(before.keys.clone(), before.values.clone()) for _ in range(3)]
    where = [(positions, *table, layout, cache, slots) for cache in caches]

    from loramux_kernels.triton_blocks import rotate_and_store_

    separate = rotate_and_store_(step.updated(), *where[0])
    plain = rotate_and_store_(step.y, *where[1])
    rotation = Rotation(*where[2])
    with poisoned_outputs():
        out = rotate_and_store_with_lora_(step.y, step.x, step.projection, step.work, rotation)

    exact = step.exact().view(rows, -1, layout.head_dim)
    queries, keys, values = exact.split([attention.heads, *[attention.kv_heads] * 2], 1)
    angles = table[0][positions].double()[:, None], table[1][positions].double()[:, None]
    step.check(out, separate, exact_rotation(queries, layout.q_norm, *angles), plain)
    exact_keys = exact_rotation(keys, layout.k_norm, *angles)
    for name, exact_part in (("keys", exact_keys), ("values", values)):
        parts = [getattr(cache, name).flatten(0, 1) for cache in (*caches, before)]
        _check_stored(step, slots, exact_part, *parts)


def check_norm(step: Step, plus_one: bool) -> None:
    """Tiles without a norm have the plain one, which computes rows of padding as well."""
    from loramux_kernels.triton_blocks import add_rms_norm_

    norm, before = step.place.norm(sum(step.widths), plus_one), step.place.random(*step.y.shape)
    residual, separate, plain = before.clone(), before.clone(), before.clone()
    separate_out = add_rms_norm_(step.updated(), separate, norm)
    plain_out = add_rms_norm_(step.y.clone(), plain, norm)
    with poisoned_outputs():
        out = add_rms_norm_with_lora_(
            step.y.clone(), step.x, residual, step.projection, step.work, norm
        )
    # The sum is rounded before it is normalized, and the update before it is added.
    rounded = before.double() + step.exact().to(before.dtype).double()
    rows, base = slice(0, step.num_rows), step.rows_of_base()
    step.place.assert_near(residual[rows], separate[rows], rounded[rows])
    assert same_bits(residual[base], plain[base])
    if step.has_norm:
        assert same_bits(residual[step.num_rows :], before[step.num_rows :])
    exact = exact_norm(separate, norm)
    step.check(out, separate_out, exact, plain_out, is_plain=not step.has_norm)


def _check_stored(
    step: Step, slots: Tensor, exact: Tensor,
    separate: Tensor, plain: Tensor, out: Tensor, before: Tensor,
) -> None:  # fmt: skip
    stored = (slots >= 0).nonzero()[:, 0]
    stored = stored[stored < step.num_rows]
    target = slots[stored]
    step.place.assert_near(out[target], separate[target], exact[stored])
    base = torch.tensor(step.rows_of_base(), dtype=torch.long, device=slots.device)
    base = slots[base][slots[base] >= 0]
    assert same_bits(out[base], plain[base])
    others = torch.ones(len(out), dtype=torch.bool, device=slots.device)
    others[target] = False
    assert same_bits(out[others], before[others])


def packed_widths(layout: HeadLayout) -> list[int]:
    """Widths of the queries, keys and values."""
    keys = layout.num_kv_heads * layout.head_dim
    return [layout.num_heads * layout.head_dim, keys, keys]
