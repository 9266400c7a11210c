"""Blocks that add LoRA updates, as compiled for Hopper: they fit, and keep the rule of overlap."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from typing import Any

import pytest

from loramux_kernels.triton_lora import DECODE, GRANULE, PREFILL
from tests.kernels.machine_code import broken_overlap, compiled, instructions
from tests.kernels.test_attention_machine_code import compiles

pytest.importorskip("triton", reason="the GPU kernels need the extra gpu")

BF16 = ("out", "gate_up", "y", "residual", "weight", "queries", "key_cache", "value_cache", "qkv")
TYPES = (
    dict.fromkeys((*BF16, "arena"), "*bf16")
    | dict.fromkeys(
        ("site_records", "counts", "row_tiles", "tile_rows", "positions", "slots"), "*i32"
    )
    | dict.fromkeys(("partials", "cos", "sin"), "*fp32")
    | dict.fromkeys(("eps", "q_eps", "k_eps"), "fp32")
)
HEADS = {"NUM_HEADS": 32, "NUM_KV_HEADS": 8, "DIM": 128, "HALF": 64, "GROUP": 16}
NO_NORMS = {"q_weight": None, "k_weight": None, "Q_PLUS_ONE": False, "K_PLUS_ONE": False}
ROW = {"WIDTH": 4096, "BLOCK": 4096, "PLUS_ONE": False, "SLICES": 1}
TILED, WALKING = PREFILL.fused.normalization, PREFILL.fused.activation

KERNELS: dict[str, tuple[dict[str, Any], int, int]] = {
    "activation._activate_updated": (
        {
            "WIDTH": 14336,
            "COLUMNS": DECODE.fused.activation.columns,
            "STEPS": DECODE.fused.activation.steps,
            "KIND": "silu",
            "SLICES": 2,
        },
        DECODE.fused.activation.warps,
        DECODE.fused.activation.max_registers,
    ),
    "rotation._rotate_updated": (
        HEADS | NO_NORMS | {"HEADS": DECODE.fused.rotation.heads, "SLICES": 3},
        4,
        DECODE.fused.rotation.max_registers,
    ),
    "normalization._add_normalize_tile": (
        ROW | {"PARTS": 1, "COLUMNS": 256, "WIDE": 1024, "ROWS": TILED.rows, "SPLITS": 1},
        8,
        TILED.max_registers,
    ),
    "walking_activation._activate_walking": (
        {
            "WIDTH": 14336,
            "COLUMNS": WALKING.columns,
            "KIND": "silu",
            "SLICES": 2,
            "ROWS": PREFILL.fused.rows,
            "SPLITS": 1,
        },
        WALKING.warps,
        WALKING.max_registers,
    ),
}
"""Constants, warps and registers of Llama 3.1 8B's."""
SPILLS = {
    "normalization._add_normalize_tile": 2,
    "walking_activation._activate_walking": 24,
}
"""Where a few are the price of more programs a multiprocessor."""


@pytest.fixture(scope="module")
def compiler():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=compiles) as process:
        yield process


def code_of(name: str) -> str:
    module, _, function = name.rpartition(".")
    kernel = getattr(import_module(f"loramux_kernels.triton_lora.fused.{module}"), function)
    constants, warps, registers = KERNELS[name]
    common = {"GRANULE": GRANULE, "ROWS": DECODE.fused.rows, "RANK": 16, "SPLITS": 8, "WHOLE": True}
    constants = common | constants | {"OVERLAP": True}
    integers = {argument: "i32" for argument in kernel.arg_names if argument.islower()}
    types = {k: v for k, v in (integers | TYPES).items() if k not in constants}
    types = {k: v for k, v in types.items() if k in kernel.arg_names}
    return compiled(kernel, types, constants, num_warps=warps, maxnreg=registers)


@pytest.mark.parametrize("name", KERNELS)
def test_little_spills_and_nothing_is_written_before_the_wait(compiler, name):
    """Nor is a product asynchronous: ptxas before 13.3 would overwrite what it reads."""
    code = compiler.submit(code_of, name).result()
    assert "PREEXIT" in code, "the next kernel may begin early"
    assert not broken_overlap(code)
    operations = [text.split("{")[0] for _, text in instructions(code)]
    assert not [text for text in operations if text.startswith("HGMMA")]
    spilled = [text for text in operations if text.startswith(("STL", "LDL"))]
    assert len(spilled) <= SPILLS.get(name, 0)
    assert any("LDG.E.128" in text for text in operations)
    assert not [text for text in operations if "STG.E" in text and "STG.E.128" not in text]


def code_of_shrink() -> str:
    from loramux_kernels.triton_lora.shrink import _shrink

    shape, rows = DECODE.shrink, DECODE.rows
    constants = {"GRANULE": GRANULE, "PADDED": rows, "PARTS": 1, "ROWS": rows, "RANK": 16}
    constants |= {"SLICES": 1, "FEATURES": shape.features, "STAGES": shape.stages}
    constants |= {"DIRECT": True, "OVERLAP": True}
    integers = {argument: "i32" for argument in _shrink.arg_names if argument.islower()}
    more = {"tiles": "*i32", "x": "*bf16"}
    types = integers | {k: v for k, v in (TYPES | more).items() if k in integers}
    return compiled(_shrink, types, constants, num_warps=shape.warps, maxnreg=shape.max_registers)


def test_shrink_of_decodes_writes_nothing_before_the_wait(compiler):
    """It lets the next kernel begin before, as ``loramux_kernels.overlap`` says."""
    code = compiler.submit(code_of_shrink).result()
    assert all("PREEXIT" in text for text in broken_overlap(code))
    operations = [text for _, text in instructions(code)]
    assert any("LDGSTS.E.BYPASS.128" in text for text in operations)
    assert not [text for text in operations if text.startswith(("STL", "LDL", "HGMMA"))]
