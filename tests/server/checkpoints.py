"""A model of 2 layers with random weights, and PEFT adapters for it, as directories on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tests.server.tokenizer import letter_tokenizer


def save_model(directory: Path) -> Path:
    tokenizer = letter_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, initializer_range=0.4,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_adapter(directory: Path, model: Path, *, seed: int, rank: int = 4) -> Path:
    torch.manual_seed(seed)
    base = LlamaForCausalLM.from_pretrained(model)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj", "down_proj"]
    )
    peft = get_peft_model(base, config)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    peft.save_pretrained(directory)
    return directory


def greedy(model: Path, adapter: Path | None, prompt: str, tokens: int) -> str:
    """What transformers and PEFT answer."""
    network = LlamaForCausalLM.from_pretrained(model)
    if adapter is not None:
        network = PeftModel.from_pretrained(network, adapter)
    tokenizer = letter_tokenizer()
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        output = network.generate(input_ids=ids, max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
