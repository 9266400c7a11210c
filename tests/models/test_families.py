"""Every model family, with and without an adapter, token for token against ``generate``."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from loramux import LLM, EngineArgs, LoRARequest, SamplingParams
from loramux.errors import InvalidRequestError
from loramux.models.attention import ATTENTION_NAME, KVShape, probe_kv_shapes
from loramux.models.length import max_model_len
from tests.models.families import FAMILIES

NUM_TOKENS = 24
PROMPT_LENGTHS = (1, 3, 19, 40, 7)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(3, 128, (n,), generator=generator).tolist() for n in PROMPT_LENGTHS]


def save_model(family: str, directory: Path) -> str:
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]())
    for parameter in model.parameters():
        # the default initialisation is so small that every token looks alike
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(directory)
    return str(directory)


def save_adapter(model: str, directory: Path) -> str:
    """An adapter of large random updates on every linear layer (with experts: of attention)."""
    torch.manual_seed(13)
    base = AutoModelForCausalLM.from_pretrained(model)
    has_experts = hasattr(base.config, "num_experts_per_tok")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"] if has_experts else "all-linear"
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets)
    adapted = peft.get_peft_model(base, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    adapted.save_pretrained(directory)
    return str(directory)


def generate(model: torch.nn.Module) -> list[list[int]]:
    """What transformers itself generates, one prompt at a time, in eager attention."""
    completions = []
    for prompt in prompts():
        output = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NUM_TOKENS,
            min_new_tokens=NUM_TOKENS,
            do_sample=False,
        )
        completions.append(output[0, len(prompt) :].tolist())
    return completions


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_transformers(family: str, tmp_path: Path) -> None:
    model = save_model(family, tmp_path / "model")
    adapter = save_adapter(model, tmp_path / "adapter")
    reference = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager").eval()
    expected_base = generate(reference)
    expected_adapted = generate(peft.PeftModel.from_pretrained(reference, adapter).eval())
    assert expected_base != expected_adapted, "the adapter must change what is generated"

    llm = LLM(
        model,
        skip_tokenizer_init=True,
        enable_lora=True,
        block_size=4,
        max_num_seqs=8,
        max_num_batched_tokens=16,  # prompts are computed in chunks beside running sequences
    )
    lora = LoRARequest("adapter", 1, adapter)
    tokens = [{"prompt_token_ids": prompt} for prompt in prompts()]
    outputs = llm.generate(
        tokens + tokens,
        SamplingParams(temperature=0, max_tokens=NUM_TOKENS, min_tokens=NUM_TOKENS),
        lora_request=[None] * len(tokens) + [lora] * len(tokens),
        use_tqdm=False,
    )
    llm.shutdown()
    completions = [output.outputs[0].token_ids for output in outputs]
    assert completions[: len(tokens)] == expected_base
    assert completions[len(tokens) :] == expected_adapted


def test_heads_are_those_that_layers_attend_with() -> None:
    config = FAMILIES["llama"]()
    model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION_NAME)
    expected = KVShape(num_heads=2, key_dim=8, value_dim=8, group=2)
    assert probe_kv_shapes(model) == dict.fromkeys(range(3), expected)


@pytest.mark.parametrize("rope_type", ["longrope", "dynamic"])
def test_rotary_factors_that_depend_on_the_batch_limit_the_length(rope_type: str) -> None:
    """Beyond it, transformers would turn everybody's positions by a long neighbour's factors."""
    config = FAMILIES["llama"]()
    config.rope_parameters = {"rope_type": rope_type, "original_max_position_embeddings": 64}
    assert max_model_len(EngineArgs(model="any"), config) == 64
    with pytest.raises(InvalidRequestError, match="more than the 64 positions"):
        max_model_len(EngineArgs(model="any", max_model_len=65), config)
    config.rope_parameters = {"rope_type": "llama3", "original_max_position_embeddings": 64}
    assert max_model_len(EngineArgs(model="any"), config) == config.max_position_embeddings
