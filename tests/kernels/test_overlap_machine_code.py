"""Kernels that overlap with the one ahead, as compiled for Hopper: all keep the rule of overlap."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from tests.kernels.machine_code import broken_overlap, compiled, loads_before_the_wait
from tests.kernels.test_attention_machine_code import compiles

pytest.importorskip("triton", reason="the GPU kernels need the extra gpu")

BF16 = ("out", "query", "keys", "values", "key_cache", "value_cache", "queries", "qkv")
BF16 += ("x", "residual", "weight", "gate_up", "q_weight", "k_weight")
INTEGERS = (
    "block_table",
    "work",
    "padding",
    "arrivals",
    "query_start_loc",
    "lengths",
    "positions",
    "slots",
)
FLOATS = ("partial", "partial_log", "cos", "sin", "sinks")
SCALARS = ("factor", "tanh_factor", "eps", "q_eps", "k_eps")
TYPES = (
    dict.fromkeys(BF16, "*bf16")
    | dict.fromkeys(INTEGERS, "*i32")
    | dict.fromkeys(FLOATS, "*fp32")
    | dict.fromkeys(SCALARS, "fp32")
)
HEADS = {"NUM_HEADS": 32, "NUM_KV_HEADS": 8}
ATTENTION = HEADS | {"KEY_DIM": 128, "VALUE_DIM": 128, "BLOCK_SIZE": 16, "HAS_SOFTCAP": False}
DECODE = ATTENTION | {"ROWS": 16, "TILE": 32, "MANY": 16}
PLAN = {"SEQUENCES": 64, "NUM_KV_HEADS": 8, "TILE": 32, "MIN_TOKENS": 64}
NORMS = {"Q_PLUS_ONE": False, "K_PLUS_ONE": False}
TILES = {"x_tiles": "tensordesc<bf16[16, 256]>", "weight_tiles": "tensordesc<bf16[64, 256]>"}
STORE = {"NUM_HEADS": 8, "KEY_DIM": 128, "VALUE_DIM": 128}

KERNELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "triton_attention.plan.plan_chunks": ("", PLAN, 0),
    "triton_attention.plan.plan_tiles": ("", {"SEQUENCES": 64, "QUERIES": 16}, 0),
    "triton_attention.kv_write.store_tokens": ("", STORE, 0),
    "triton_attention.decode.attend_chunks": ("", DECODE, 30),
    "triton_blocks.normalization._normalize_row": (
        "",
        {"WIDTH": 4096, "BLOCK": 4096, "PLUS_ONE": False},
        0,
    ),
    "triton_blocks.rotation._rotate_and_store": (
        "q_weight k_weight",
        HEADS | NORMS | {"DIM": 128, "HALF": 64, "GROUP": 16},
        0,
    ),
    "triton_blocks.activation._activate": (
        "",
        {"WIDTH": 14336, "COLUMNS": 1024, "KIND": "silu"},
        0,
    ),
    "triton_products.streamed._multiply": (
        "bias",
        {"ROWS": 16, "COLUMNS": 64, "STEP": 256, "STAGES": 4, "FETCH": 512, "WEIGHTS_FIRST": True},
        0,
    ),
}
"""Arguments that are None, constants, and loads that need not wait: of plans, and of blocks."""


@pytest.fixture(scope="module")
def compiler():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=compiles) as process:
        yield process


def code_of(name: str) -> str:
    from importlib import import_module

    module, _, function = name.rpartition(".")
    kernel = getattr(import_module(f"loramux_kernels.{module}"), function)
    absent, constants, _ = KERNELS[name]
    constants = constants | dict.fromkeys(absent.split()) | {"OVERLAP": True}
    integers = {argument: "i32" for argument in kernel.arg_names if argument.islower()}
    types = {k: v for k, v in (integers | TYPES | TILES).items() if k not in constants}
    return compiled(kernel, types, constants, num_warps=4, num_stages=3)


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_is_written_and_no_kernel_begins_before_the_wait(compiler, name):
    code = compiler.submit(code_of, name).result()
    assert "PREEXIT" in code, "the next kernel may begin early"
    assert not broken_overlap(code)
    assert loads_before_the_wait(code) <= KERNELS[name][2]


def test_a_program_that_does_not_wait_is_found():
    lines = ["@!P0 BRA 0x0030", "ACQBULK", "PREEXIT", "STG.E desc[UR4][R2.64], R5", "EXIT"]
    for line, found in (("ACQBULK", ["STG.E", "EXIT"]), ("NOP", ["PREEXIT", "STG.E", "EXIT"])):
        text = [line if each == "ACQBULK" else each for each in lines]
        code = "\n".join(f"        /*{16 * i:04x}*/    {each} ;" for i, each in enumerate(text))
        assert [each.split()[1] for each in broken_overlap(code)] == found
    waits = "\n".join(
        f"        /*{16 * i:04x}*/    {each} ;" for i, each in enumerate(["LDG.E R1", *lines[1:]])
    )
    assert not broken_overlap(waits)
    assert loads_before_the_wait(waits) == 1
