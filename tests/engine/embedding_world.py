"""A tiny Qwen3 without its output layer, adapters for it, and what transformers and PEFT say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from tests.server.tokenizer import letter_tokenizer

MAX_MODEL_LEN = 64
TARGETS = ["q_proj", "v_proj", "down_proj"]


@dataclass
class EmbeddingWorld:
    """``bare`` and ``whole`` are adapters trained on the model without and with ``lm_head``."""

    model: Path
    adapters: dict[str | None, Path | None]
    networks: dict[str | None, PreTrainedModel | PeftModel]

    @classmethod
    def make(cls, directory: Path) -> EmbeddingWorld:
        model = directory / "model"
        tokenizer = letter_tokenizer()
        tokenizer.save_pretrained(model)
        config = Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8,
            max_position_embeddings=MAX_MODEL_LEN, initializer_range=0.4,
            is_matryoshka=True, matryoshka_dimensions=[8, 16],
        )  # fmt: skip
        torch.manual_seed(0)
        base = Qwen3Model(config).eval()
        base.save_pretrained(model)
        bare = _adapted(Qwen3Model.from_pretrained(model), directory / "bare", 1)
        causal = Qwen3ForCausalLM(config)
        causal.model.load_state_dict(base.state_dict())
        causal.save_pretrained(directory / "causal")
        whole = _adapted(causal, directory / "whole", 2).base_model.model.model
        return cls(
            model,
            {None: None, "bare": directory / "bare", "whole": directory / "whole"},
            {None: base, "bare": bare, "whole": whole},
        )

    def embedding(
        self, name: str | None, tokens: list[int], kind: str, *, first: int | None = None
    ) -> np.ndarray:
        """The oracle's, normalized, of its first numbers."""
        with torch.no_grad():
            hidden = self.networks[name](input_ids=torch.tensor([tokens])).last_hidden_state[0]
        pooled = {"LAST": hidden[-1], "MEAN": hidden.mean(0), "CLS": hidden[0]}[kind][:first]
        return torch.nn.functional.normalize(pooled, dim=0).numpy()


def _adapted(model: PreTrainedModel, directory: Path, seed: int) -> PeftModel:
    torch.manual_seed(seed)
    kind = "FEATURE_EXTRACTION" if isinstance(model, Qwen3Model) else "CAUSAL_LM"
    layers = {"layers_to_transform": [1]} if kind == "CAUSAL_LM" else {}
    config = LoraConfig(task_type=kind, r=4, target_modules=TARGETS, **layers)
    adapted = get_peft_model(model, config).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(directory)
    return adapted


def write_sentence_transformers(
    model: Path, mode: str | None, modules: tuple[str, ...] = ("Transformer", "Pooling")
) -> None:
    """The files of sentence-transformers; without a ``mode``, none at all."""
    if mode is None:
        (model / "modules.json").unlink(missing_ok=True)
        return
    entries = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}", "type": f"sentence_transformers.{kind}"}
        for i, kind in enumerate(modules)
    ]
    (model / "modules.json").write_text(json.dumps(entries))
    (model / "1_Pooling").mkdir(exist_ok=True)
    (model / "1_Pooling/config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
