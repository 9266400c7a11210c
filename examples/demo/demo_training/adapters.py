"""The adapters: what shape each has, how it is trained, how it is saved."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM

from demo_training.loop import Batch, Schedule, train

BASE_NAME = "loramux-demo"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]

SHAPES = {
    "sql": LoraConfig(r=8, lora_alpha=16, target_modules=[*ATTENTION, *MLP]),
    "json": LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"),
    "pirate": LoraConfig(
        r=16,
        lora_alpha=8,
        use_rslora=True,
        target_modules=r".*\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
    ),
    "formal": LoraConfig(r=4, lora_alpha=8, target_modules=["v_proj", "o_proj", *MLP]),
    "french": LoraConfig(r=12, lora_alpha=24, target_modules=["q_proj", "v_proj", "o_proj", *MLP]),
}
"""Different in rank, scaling and targets on purpose: serving them meets every common form."""


def train_adapter(
    task: str,
    base: LlamaForCausalLM,
    rows: tuple[Tensor, Tensor],
    *,
    rows_per_batch: int,
    schedule: Schedule,
    seed: int,
) -> PeftModel:
    """Train the adapter of `task` on input ids and labels, both [examples, length]."""
    torch.manual_seed(seed)
    config = SHAPES[task]
    config.task_type = "CAUSAL_LM"
    model = get_peft_model(base, config)
    # PEFT fills in the folder of this machine, which would mean nothing to anybody else.
    config.base_model_name_or_path = BASE_NAME
    inputs, labels = (tensor.to(base.device) for tensor in rows)
    generator = torch.Generator().manual_seed(seed)

    def next_batch() -> Batch:
        chosen = torch.randint(len(inputs), (rows_per_batch,), generator=generator)
        chosen = chosen.to(base.device)
        return inputs[chosen].long(), labels[chosen].long()

    train(task, model, schedule, next_batch)
    _round_to_bfloat16(model)
    return model


def _round_to_bfloat16(model: PeftModel) -> None:
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.bfloat16().float()


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter's config and its weights in bfloat16, and nothing else."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.bfloat16()
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()
    for file in folder.iterdir():
        file.chmod(0o644)
