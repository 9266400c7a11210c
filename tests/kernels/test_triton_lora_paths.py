"""Which path a step of LoRA updates takes, and what is refused; no kernel runs here."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from loramux_kernels.triton_lora import DECODE, PREFILL, apply_lora_, prefill
from loramux_kernels.triton_lora.prefill import is_dense
from tests.kernels.lora_cases import Layer


@pytest.mark.parametrize("segments", [[(0, range(3, 9))], [(0, range(3, 5)), (0, range(5, 9))]])
def test_one_adapter_that_owns_a_step_takes_plain_products(segments, monkeypatch):
    """In this process, where Triton has no driver: no kernel can have run."""
    monkeypatch.setattr(prefill, "MIN_DENSE_ROWS", 6)
    layer = Layer([(24, [16, 8, 8])], [[64, 3, 0], [0, 0, 0]], torch.float32)
    work = layer.work(PREFILL, 12)
    work.fill([(1, range(2)), *segments])
    assert is_dense(work.single, layer.table)
    x, before = torch.randn(12, 24), torch.randn(12, 32)
    y = before.clone()
    apply_lora_(y, x, layer.projections[0], work)
    layer.check(0, y, before, x, segments)


@pytest.mark.parametrize(
    "segments",
    [
        [(0, range(300)), (1, range(300, 301))],
        [(0, range(0, 512, 2))],
        [(0, list(range(300)))],
        [(0, range(100)), (0, range(101, 300))],
        [(0, range(100))],
        [(1, range(300))],
        [],
    ],
)
def test_other_steps_do_not(segments):
    layer = Layer([(8, [8])], [[64], [8]], torch.float32)
    work = layer.work(PREFILL, 512)
    work.fill(segments)
    assert not is_dense(work.single, layer.table)
    captured = layer.work(DECODE, 512)
    captured.fill([(0, range(512))])
    assert captured.single is None, "what is captured must not depend on the first step"


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(2, 24).double(), torch.zeros(2, 16), "arena of torch.float32"),
        (torch.zeros(2, 24), torch.zeros(2, 16).half(), "arena of torch.float32"),
        (torch.zeros(2, 16), torch.zeros(2, 16), "takes 24 and gives 16"),
        (torch.zeros(2, 24), torch.zeros(2, 24), "takes 24 and gives 16"),
    ],
)
def test_tensors_of_another_layer_are_refused(x, y, message):
    layer = Layer([(24, [16])], [[3]], torch.float32)
    with pytest.raises(ValueError, match=message):
        apply_lora_(y, x, layer.projections[0], layer.work(DECODE, 2))


def test_importing_the_package_does_not_import_triton():
    code = (
        "import torch, sys; before = 'triton' in sys.modules; "
        "import loramux_kernels.triton_lora; assert ('triton' in sys.modules) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "kernels"})
