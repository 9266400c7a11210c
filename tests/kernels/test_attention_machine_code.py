"""The prefill kernel as compiled for Hopper, which no interpreter sees and no GPU is needed for."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from loramux_kernels.gpu import INTERPRETER
from tests.kernels.machine_code import (
    broken_overlap,
    compiled,
    loads_before_the_wait,
    overwritten_operands,
    register_products,
)
from tests.kernels.machine_code import instructions as parse

pytest.importorskip("triton", reason="the GPU kernels need the extra gpu")

PREFILL_TYPES = (
    dict.fromkeys(("out", "query", "keys", "values"), "*bf16")
    | dict.fromkeys(("block_table", "work"), "*i32")
    | dict.fromkeys(("table_stride", "query_row_stride", "query_head_stride"), "i32")
    | dict.fromkeys(("factor", "tanh_factor"), "fp32")
)


@pytest.fixture(scope="module")
def compiler():
    """A process that compiles, whatever Triton does in this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=compiles) as process:
        yield process


def compiles() -> None:
    import os

    os.environ["TRITON_INTERPRET"] = "0"


def prefill_code(dim: int, heads: int, kv_heads: int, window: int) -> str:
    from loramux_kernels.triton_attention.prefill import attend_queries
    from loramux_kernels.tuned.attention import attention_tiles

    tiles = attention_tiles(INTERPRETER, dim, 2, heads // kv_heads).prefill
    constants = {
        "sinks": None,
        "NUM_HEADS": heads,
        "NUM_KV_HEADS": kv_heads,
        "KEY_DIM": dim,
        "VALUE_DIM": dim,
        "BLOCK_SIZE": 16,
        "HAS_SOFTCAP": False,
        "WINDOW": window,
        "ROWS": tiles.rows,
        "TILE": tiles.keys,
        "OVERLAP": True,
    }
    options = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
    return compiled(attend_queries, PREFILL_TYPES, constants, **options)


@pytest.mark.parametrize(
    ("dim", "heads", "kv_heads", "window", "spills"),
    [(64, 64, 8, 0, 0), (128, 32, 8, 0, 0), (128, 28, 4, 4096, 10), (256, 16, 8, 0, 120)],
)
def test_prefill(compiler, dim, heads, kv_heads, window, spills):
    """With a window some spill between their loops; at width 256 the fastest tile does in them."""
    code = compiler.submit(prefill_code, dim, heads, kv_heads, window).result()
    assert register_products(parse(code)), "weights reach the tensor cores from registers"
    assert not overwritten_operands(code)
    assert not broken_overlap(code)
    assert not loads_before_the_wait(code)
    spilled = [text for _, text in parse(code) if text.startswith(("STL", "LDL"))]
    assert len(spilled) <= spills


def test_a_write_before_the_wait_is_found():
    lines = [
        "HGMMA.64x128x16.F32.BF16 R24, R120, gdesc[UR8].tnspB, R24, gsb0",
        "FADD R7, R120, R121",
        "@P0 BRA 0x0050",
        "WARPGROUP.DEPBAR.LE gsb0, 0x0",
        "F2FP.BF16.F32.PACK_AB R121, R6, R7",
        "EXIT",
    ]
    code = "\n".join(f"        /*{16 * i:04x}*/    {line} ;" for i, line in enumerate(lines))
    assert not overwritten_operands(code)
    for hidden in ("LDS.64 R122, [R3]", "HGMMA.64x64x16.F32.BF16 R96, gdesc[UR8], R96"):
        assert len(overwritten_operands(code.replace("FADD R7, R120, R121", hidden))) == 1
    assert len(overwritten_operands(code.replace("0x0050", "0x0040"))) == 1
