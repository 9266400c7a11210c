"""On a GPU: is every family as exact fused as unfused, and what memory does packing take?

``PYTHONPATH=core:kernels:. python -m tests.models.gpu_fused`` prints two tables and fails if the
fused logits are further from those in float64 than the transformers modules' are, or if packing
takes more than its layer.
"""

from __future__ import annotations

import copy
import sys

import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from tests.models.paged_steps import (
    CONFIGS,
    FUSED,
    Tokens,
    fuse,
    make_caches,
    make_model,
    run_fused,
    run_model,
)

LARGER = LlamaConfig(
    vocab_size=256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=8,
    num_attention_heads=16,
    num_key_value_heads=4,
)
ALLOWED = {torch.float32: 1.5, torch.bfloat16: 1.3}
"""Error of the fused logits over that of the transformers modules; the sums differ in order."""


def unfused(model: nn.Module) -> Tensor:
    return run_model(model, make_caches(model), Tokens.prefill()).double()


def check_logits(family: str, dtype: torch.dtype) -> bool:
    model = make_model(CONFIGS[family](), dtype)
    exact = unfused(copy.deepcopy(model).double())
    before = (unfused(model) - exact).norm() / exact.norm()
    fused = run_fused(fuse(model), make_caches(model), Tokens.prefill()).double()
    after = (fused - exact).norm() / exact.norm()
    same = torch.equal(fused.argmax(-1), exact.argmax(-1))
    print(f"{family:16} {str(dtype)[6:]:9} {before:.2e} {after:.2e} {'same' if same else 'other'}")
    return bool(after <= ALLOWED[dtype] * before + 1e-6)


def check_memory() -> bool:
    model = make_model(LARGER, torch.bfloat16)
    layer = sum(p.nbytes for p in model.model.layers[0].parameters())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    fuse(model)
    rows = {
        "one layer": layer,
        "allocated more, peak": torch.cuda.max_memory_allocated() - allocated,
        "allocated more, after": torch.cuda.memory_allocated() - allocated,
        "reserved more, peak": torch.cuda.max_memory_reserved() - reserved,
        "reserved more, after": torch.cuda.memory_reserved() - reserved,
    }
    for name, size in rows.items():
        print(f"{name:22} {size / 2**20:8.1f} MiB")
    return rows["reserved more, peak"] <= 2 * layer and rows["allocated more, peak"] <= 1.1 * layer


def main() -> int:
    torch.set_default_device("cuda")
    print("family           dtype     unfused  fused    tokens")
    cases = [(family, dtype) for family in FUSED for dtype in ALLOWED]
    exact = [check_logits(family, dtype) for family, dtype in cases]
    return 0 if all(exact) and check_memory() else 1


if __name__ == "__main__":
    sys.exit(main())
