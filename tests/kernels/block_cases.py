"""Blocks as the Triton kernels compute them, beside float64 and the torch references."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from loramux_kernels.blocks import HeadLayout, RMSNorm, reference
from loramux_kernels.paged_attention import LayerCache

NARROW = {torch.float16, torch.bfloat16}


@contextmanager
def poisoned_outputs():
    """What is allocated and not written is NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@dataclass(frozen=True)
class Place:
    """Where tensors lie and what they are made of."""

    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device).to(self.dtype)

    def norm(self, width: int, plus_one: bool) -> RMSNorm:
        return RMSNorm(self.random(width), 1e-5, plus_one)

    def assert_near(self, out: Tensor, rounded: Tensor, exact: Tensor) -> None:
        """Near the exact result, and the reference's bits nearly everywhere above 1e-6.

        Rounding elsewhere than the reference does changes more than a tenth of all values.
        """
        assert out.dtype == self.dtype
        eps = torch.finfo(self.dtype).eps
        largest = float(torch.cat([exact.new_ones(1), exact.flatten().abs()]).max())
        torch.testing.assert_close(out.double(), exact, rtol=2 * eps, atol=4 * eps * largest)
        assert (out.double() - exact).norm() <= 2 * eps * exact.norm()
        if self.dtype in NARROW:
            changed = ((out.double() - rounded.double()).abs() > 1e-6).double().mean()
            assert changed <= 0.01, f"{float(changed):.3f} of all values are not the reference's"
        else:
            torch.testing.assert_close(out, rounded, rtol=1e-6, atol=1e-6 * largest)


def check_norm(place: Place, rows: int, width: int, plus_one: bool) -> None:
    """Both norms; the residual is bit for bit the reference's sum."""
    from loramux_kernels.triton_blocks import add_rms_norm_, rms_norm

    torch.manual_seed(width)
    x, before = place.random(rows, width), place.random(rows, width)
    norm = place.norm(width, plus_one)
    residual = before.clone()
    with poisoned_outputs():
        plain = rms_norm(x, norm)
        added = add_rms_norm_(x, residual, norm)
    total = before + x
    assert torch.equal(residual, total)
    place.assert_near(plain, reference.rms_norm(x, norm), exact_norm(x, norm))
    place.assert_near(added, reference.rms_norm(total, norm), exact_norm(total, norm))


def exact_norm(x: Tensor, norm: RMSNorm) -> Tensor:
    wide, weight = x.double(), norm.weight.double() + norm.plus_one
    return wide / (wide.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * weight


@dataclass(frozen=True)
class Attention:
    """The heads of a model; ``norms`` are those of heads, with or without one added."""

    heads: int = 4
    kv_heads: int = 2
    dim: int = 16
    rotary_dim: int = 16
    norms: bool | None = None

    def layout(self, place: Place) -> HeadLayout:
        q_norm, k_norm = (
            None if self.norms is None else place.norm(self.dim, self.norms) for _ in range(2)
        )
        return HeadLayout(self.heads, self.kv_heads, self.dim, self.rotary_dim, q_norm, k_norm)


def check_rotation(place: Place, attention: Attention, slots: list[int]) -> None:
    """Queries, and the cache, which holds random values in every slot before."""
    from loramux_kernels.triton_blocks import rotate_and_store_

    torch.manual_seed(attention.dim)
    layout = attention.layout(place)
    qkv = place.random(len(slots), layout.row_width)
    positions = torch.randint(0, 50, (len(slots),), device=place.device)
    cos, sin = rotary_table(50, layout.rotary_dim, place.device)
    shape = (max([3, *slots]) // 4 + 1, 4, layout.num_kv_heads, layout.head_dim)
    before = LayerCache(place.random(*shape), place.random(*shape))
    cache, expected = (LayerCache(before.keys.clone(), before.values.clone()) for _ in range(2))
    where = torch.tensor(slots, dtype=torch.long, device=place.device)
    with poisoned_outputs():
        out = rotate_and_store_(qkv, positions, cos, sin, layout, cache, where)
    rounded = reference.rotate_and_store_(qkv, positions, cos, sin, layout, expected, where)

    heads = qkv.view(len(slots), -1, layout.head_dim)
    queries, keys, _ = heads.split([attention.heads, attention.kv_heads, attention.kv_heads], 1)
    angles = cos[positions].double()[:, None], sin[positions].double()[:, None]
    place.assert_near(out, rounded, exact_rotation(queries, layout.q_norm, *angles))
    stored = where >= 0
    place.assert_near(
        cache.keys.flatten(0, 1)[where[stored]],
        expected.keys.flatten(0, 1)[where[stored]],
        exact_rotation(keys, layout.k_norm, *angles)[stored],
    )
    others = torch.ones(shape[0] * shape[1], dtype=torch.bool, device=place.device)
    others[where[stored]] = False
    assert torch.equal(cache.keys.flatten(0, 1)[others], before.keys.flatten(0, 1)[others])
    assert torch.equal(cache.values, expected.values)


def exact_rotation(heads: Tensor, norm: RMSNorm | None, cos: Tensor, sin: Tensor) -> Tensor:
    wide = heads.double() if norm is None else exact_norm(heads, norm)
    half = cos.shape[-1] // 2
    low, high, rest = wide.split([half, half, heads.shape[-1] - 2 * half], dim=-1)
    first = low * cos[..., :half] - high * sin[..., :half]
    second = high * cos[..., half:] + low * sin[..., half:]
    return torch.cat([first, second, rest], dim=-1)


def rotary_table(positions: int, rotary_dim: int, device: str) -> tuple[Tensor, Tensor]:
    """cos and sin whose halves differ, so that nobody takes one for the other."""
    angles = 6.3 * torch.rand(positions, rotary_dim, device=device)
    return angles.cos(), angles.sin()


EXACT = {
    "silu": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: 0.5 * x * torch.erfc(-x * 0.5**0.5),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    ),
}


def check_activation(place: Place, rows: int, width: int, kind: str) -> None:
    """Random values, among them some at which an exponential overflows."""
    from loramux_kernels.triton_blocks import gated_activation

    torch.manual_seed(width)
    gate_up = place.random(rows, 2 * width)
    gate_up[: rows // 2, 0] = 100.0
    gate_up[rows // 2 :, 0] = -100.0
    with poisoned_outputs():
        out = gated_activation(gate_up, kind)
    gate, up = gate_up.double().chunk(2, dim=-1)
    place.assert_near(out, reference.gated_activation(gate_up, kind), EXACT[kind](gate) * up)


def check_no_rows() -> None:
    """Nothing is launched, and the results have the right widths."""
    from loramux_kernels import triton_blocks

    place, layout = Place(), Attention().layout(Place())
    x, empty = torch.empty(0, 32), torch.empty(0, dtype=torch.long)
    norm = place.norm(32, plus_one=False)
    assert triton_blocks.rms_norm(x, norm).shape == (0, 32)
    assert triton_blocks.add_rms_norm_(x, x.clone(), norm).shape == (0, 32)
    assert triton_blocks.gated_activation(x, "silu").shape == (0, 16)
    cache = LayerCache(*torch.zeros(2, 1, 4, layout.num_kv_heads, layout.head_dim))
    table = rotary_table(4, layout.rotary_dim, "cpu")
    qkv = torch.empty(0, layout.row_width)
    out = triton_blocks.rotate_and_store_(qkv, empty, *table, layout, cache, empty)
    assert out.shape == (0, layout.num_heads, layout.head_dim)


def refusals() -> list[str]:
    """What the kernels say to tensors that they would misread."""
    from loramux_kernels.triton_blocks import add_rms_norm_, gated_activation, rms_norm

    x, norm = torch.zeros(4, 6), RMSNorm(torch.ones(6), 1e-5)
    calls = [
        lambda: rms_norm(x.t().contiguous().t(), norm),
        lambda: rms_norm(x[:, :5].contiguous(), norm),
        lambda: add_rms_norm_(x, x[:2], norm),
        lambda: gated_activation(x[:, ::2], "silu"),
    ]
    said = []
    for call in calls:
        try:
            call()
        except ValueError as error:
            said.append(str(error))
    return said
