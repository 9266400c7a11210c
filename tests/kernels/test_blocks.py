"""The torch blocks, held to the modules of transformers: bit for bit in float32."""

from __future__ import annotations

import pytest
import torch
from transformers.activations import ACT2FN
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_all
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb as rotate_part
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from loramux_kernels.blocks import (
    HeadLayout,
    RMSNorm,
    add_rms_norm_,
    gated_activation,
    rms_norm,
    rotate_and_store_,
)
from loramux_kernels.paged_attention import LayerCache

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
NORMS = {"llama": (LlamaRMSNorm, False), "gemma": (GemmaRMSNorm, True)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def module_and_norm(kind, width, dtype=torch.float32, plus_one=False):
    """A module of transformers with random weights, and the same as data."""
    module = kind(width, eps=1e-5).to(dtype)
    torch.nn.init.normal_(module.weight)
    return module, RMSNorm(module.weight.data, 1e-5, plus_one)


def table(positions: int, rotary_dim: int):
    """cos and sin as the rotary module of transformers makes them."""
    config = LlamaConfig(hidden_size=rotary_dim, num_attention_heads=1, head_dim=rotary_dim)
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(positions)[None])
    return cos[0], sin[0]


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "plus_one"), NORMS.values(), ids=NORMS.keys())
@pytest.mark.parametrize("width", [1, 96, 576])
def test_rms_norm_is_that_of_transformers(kind, plus_one, dtype, width):
    module, norm = module_and_norm(kind, width, dtype, plus_one)
    x = 3 * torch.randn(5, width, dtype=dtype)
    out = rms_norm(x, norm)
    assert out.dtype == dtype
    assert torch.equal(out, module(x))


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "plus_one"), NORMS.values(), ids=NORMS.keys())
def test_a_sum_is_rounded_before_it_is_normalized(kind, plus_one, dtype):
    module, norm = module_and_norm(kind, 64, dtype, plus_one)
    x, residual = torch.randn(2, 5, 64, dtype=dtype)
    total = residual + x
    out = add_rms_norm_(x, residual, norm)
    assert torch.equal(residual, total)
    assert torch.equal(out, module(total))


HEAD_NORMS = {"none": None, "qwen3": (Qwen3RMSNorm, False), "gemma3": (Gemma3RMSNorm, True)}


@torch.no_grad()
@pytest.mark.parametrize("head_norms", HEAD_NORMS.values(), ids=HEAD_NORMS.keys())
@pytest.mark.parametrize(("dim", "rotary_dim"), [(16, 16), (80, 32), (96, 96)])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1)])
def test_rotation_is_that_of_transformers(head_norms, dim, rotary_dim, heads):
    num_heads, num_kv_heads = heads
    q_module = k_module = torch.nn.Identity()
    q_norm = k_norm = None
    if head_norms is not None:
        kind, plus_one = head_norms
        q_module, q_norm = module_and_norm(kind, dim, plus_one=plus_one)
        k_module, k_norm = module_and_norm(kind, dim, plus_one=plus_one)
    layout = HeadLayout(num_heads, num_kv_heads, dim, rotary_dim, q_norm, k_norm)
    cos, sin = table(40, rotary_dim)
    positions = torch.tensor([0, 39, 7, 7, 12])
    slots = torch.tensor([5, 0, -1, 11, 2])
    qkv = torch.randn(5, layout.row_width)
    cache = LayerCache(*torch.full((2, 3, 4, num_kv_heads, dim), 8.0))
    out = rotate_and_store_(qkv, positions, cos, sin, layout, cache, slots)

    q, k, v = (
        qkv.view(1, 5, -1, dim).transpose(1, 2).split([num_heads, num_kv_heads, num_kv_heads], 1)
    )
    rotate = rotate_all if rotary_dim == dim else rotate_part
    q, k = rotate(q_module(q), k_module(k), cos[positions][None], sin[positions][None])
    assert torch.equal(out, q[0].transpose(0, 1))
    assert out.is_contiguous()
    for stored, new in ((cache.keys, k), (cache.values, v)):
        expected = torch.full((12, num_kv_heads, dim), 8.0)
        expected[slots[slots >= 0]] = new[0].transpose(0, 1)[slots >= 0]
        assert torch.equal(stored.flatten(0, 1), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rotation_in_narrow_types_is_rounded_once(dtype):
    layout = HeadLayout(2, 1, 64, 64, None, None)
    cos, sin = table(2000, 64)
    positions = torch.tensor([0, 1999, 1234])
    qkv = torch.randn(3, layout.row_width, dtype=dtype)
    cache = LayerCache(*torch.zeros(2, 1, 4, 1, 64, dtype=dtype))
    out = rotate_and_store_(qkv, positions, cos, sin, layout, cache, torch.arange(3))
    heads = qkv.double().view(3, -1, 64)
    angles = cos[positions].double(), sin[positions].double()
    queries, keys = rotate_all(heads[:, :2], heads[:, 2:3], *angles)
    half_step = torch.finfo(dtype).eps / 2 * 1.001
    torch.testing.assert_close(out.double(), queries, rtol=half_step, atol=1e-6)
    torch.testing.assert_close(cache.keys[0, :3].double(), keys, rtol=half_step, atol=1e-6)
    assert torch.equal(cache.values[0, :3], qkv.view(3, -1, 64)[:, 3:])


ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "name"), ACTIVATIONS.items())
def test_activation_is_that_of_transformers(kind, name, dtype):
    gate_up = 4 * torch.randn(3, 2 * 37, dtype=dtype)
    gate, up = gate_up[:, :37], gate_up[:, 37:]
    assert torch.equal(gated_activation(gate_up, kind), ACT2FN[name](gate) * up)


@pytest.mark.parametrize("rotary_dim", [0, 15, 18])
def test_a_rotated_part_that_no_head_has_is_refused(rotary_dim):
    with pytest.raises(ValueError, match=f"is {rotary_dim} wide"):
        HeadLayout(4, 2, 16, rotary_dim, None, None)


def test_heads_that_cannot_be_shared_out_are_refused():
    with pytest.raises(ValueError, match="4 query heads cannot share 3 key heads"):
        HeadLayout(4, 3, 16, 16, None, None)


def test_no_rows():
    layout = HeadLayout(4, 2, 16, 16, None, None)
    cache = LayerCache(*torch.zeros(2, 1, 4, 2, 16))
    none = torch.empty(0, dtype=torch.long)
    out = rotate_and_store_(torch.empty(0, 128), none, *table(4, 16), layout, cache, none)
    assert out.shape == (0, 4, 16)
    assert gated_activation(torch.empty(0, 12), "silu").shape == (0, 6)
