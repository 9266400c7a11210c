"""On a GPU: are embeddings those of transformers, in captured steps and kernel by kernel?

``PYTHONPATH=core:kernels:. python -m tests.engine.gpu_embeddings`` prints a table and fails if one
of them is further from the oracle in float64 than rounding explains. Needs no PEFT: the adapter's
oracle is the model with its weights added.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model

from loramux import LLM, LoRARequest

CONFIG = Qwen3Config(
    vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=1024,
    initializer_range=0.05,
)  # fmt: skip
RANK, SCALING = 8, 2.0
LENGTHS = (1, 1, 7, 64, 65, 300, 700, 1024)
ALLOWED = {"float32": 1e-3, "bfloat16": 5e-2}
"""Length of the difference of two embeddings of length 1."""


def save(directory: Path) -> tuple[Qwen3Model, Qwen3Model]:
    """A model and an adapter of its down projections; returned is the oracle of each."""
    torch.manual_seed(0)
    base = Qwen3Model(CONFIG)
    base.save_pretrained(directory / "model")
    adapted, tensors = Qwen3Model(CONFIG), {}
    adapted.load_state_dict(base.state_dict())
    for index, layer in enumerate(adapted.layers):
        linear: nn.Linear = layer.mlp.down_proj
        a, b = torch.randn(RANK, linear.in_features), torch.randn(linear.out_features, RANK)
        name = f"base_model.model.layers.{index}.mlp.down_proj"
        tensors |= {f"{name}.lora_A.weight": 0.05 * a, f"{name}.lora_B.weight": 0.05 * b}
        linear.weight.data += SCALING * 0.05**2 * b @ a
    (directory / "adapter").mkdir()
    save_file(tensors, directory / "adapter/adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "FEATURE_EXTRACTION", "r": RANK,
        "lora_alpha": SCALING * RANK, "target_modules": ["down_proj"],
    }  # fmt: skip
    (directory / "adapter/adapter_config.json").write_text(json.dumps(config))
    return base.double().cuda().eval(), adapted.double().cuda().eval()


@torch.no_grad()
def oracle(model: Qwen3Model, prompt: list[int], kind: str) -> Tensor:
    hidden = model(torch.tensor([prompt], device="cuda")).last_hidden_state[0]
    pooled = {"LAST": hidden[-1], "MEAN": hidden.mean(0), "CLS": hidden[0]}[kind]
    return nn.functional.normalize(pooled, dim=0).cpu()


def check(directory: Path, oracles: tuple[Qwen3Model, Qwen3Model], way: tuple[str, ...]) -> bool:
    kind, dtype, impl = way
    llm = LLM(
        str(directory / "model"), pooler_config={"pooling_type": kind}, dtype=dtype,
        model_impl=impl, skip_tokenizer_init=True, enable_lora=True, max_num_batched_tokens=512,
        max_num_seqs=64, kv_cache_memory_bytes=2**28, lora_memory_bytes=2**26,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(512, (n,), generator=generator).tolist() for n in LENGTHS]
    lora = LoRARequest("adapter", 1, str(directory / "adapter"))
    requests = [*[None] * len(prompts), *[lora] * len(prompts)]
    outputs = llm.embed(
        [{"prompt_token_ids": prompt} for prompt in prompts * 2],
        lora_request=requests, use_tqdm=False,
    )  # fmt: skip
    differences = [
        torch.dist(
            torch.tensor(output.outputs.embedding, dtype=torch.float64),
            oracle(oracles[request is not None], output.prompt_token_ids, kind),
        ).item()
        for output, request in zip(outputs, requests, strict=True)
    ]
    llm.shutdown()
    print(f"{kind:5} {dtype:9} {impl:13} {max(differences):.1e}")
    return max(differences) <= ALLOWED[dtype]


def main() -> int:
    with TemporaryDirectory() as scratch:
        directory = Path(scratch)
        oracles = save(directory)
        ways = product(("LAST", "MEAN", "CLS"), ALLOWED, ("loramux", "transformers"))
        are_exact = [check(directory, oracles, way) for way in ways]
        return 0 if all(are_exact) else 1


if __name__ == "__main__":
    sys.exit(main())
