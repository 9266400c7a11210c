"""Adapters on disk that tell who they are: each answers every prompt with a text of its own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaForCausalLM

from tests.server.checkpoints import save_model

PROMPTS = ("hello", "lorem", "adapt")
TOKENS = 8

MARGIN = 1e-4
"""By which the best token is better than the next at every step: what is nearer to a tie may be
decided otherwise by the rounding of another batch."""

Texts = dict[str, str]
"""Prompt to what a model answers, greedily."""


@dataclass
class Era:
    """For how long a name meant something: these texts, or, without any, that there is none."""

    texts: Texts | None
    begin: float
    end: float = float("inf")


class Population:
    """A model and a directory of adapters for it, which PEFT made and PEFT answers for.

    Every name remembers what it meant when, so that an answer can be judged by the time at which
    it was asked for.
    """

    def __init__(self, root: Path) -> None:
        self.directory = root / "adapters"
        self.model = save_model(root / "model")
        self.eras: dict[str, list[Era]] = {}
        self._trash = root / "trash"
        self._seeds = count(1)
        self._known_texts: set[tuple[str, str]] = set()
        self._tokenizer = AutoTokenizer.from_pretrained(self.model)
        base = LlamaForCausalLM.from_pretrained(self.model)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
        self._network = get_peft_model(base, config).eval()
        self._config = {
            **{key: value for key, value in config.to_dict().items() if value is not None},
            "target_modules": sorted(config.target_modules),
            "base_model_name_or_path": str(self.model),
            "inference_mode": True,
        }
        with self._network.disable_adapter():
            self.base_texts = self._answers()
        self._known_texts |= set(self.base_texts.items())

    def publish(self, name: str) -> None:
        """Put new bytes under a name, in one step, whatever was there before."""
        texts = self._new_adapter()
        directory = self.directory / name
        draft = self.directory.parent / "draft.safetensors"
        save_file(get_peft_model_state_dict(self._network), draft)
        with self._changing(name, texts):
            if directory.exists():
                draft.replace(directory / "adapter_model.safetensors")
            else:
                directory.mkdir(parents=True)
                draft.rename(directory / "adapter_model.safetensors")
                self._write_config(directory)

    def remove(self, name: str) -> None:
        """Delete an adapter."""
        with self._changing(name, None):
            (self.directory / name).rename(self._trash)
        shutil.rmtree(self._trash)

    def is_there(self, name: str) -> bool:
        """Whether the name means an adapter just now."""
        return self.eras[name][-1].texts is not None

    def meanings(
        self, name: str, asked: float, answered: float, trust: float
    ) -> list[Texts | None]:
        """What a name may have meant to a request.

        Args:
            trust: seconds for which a server may go on believing what it saw.
        """
        return [
            era.texts
            for era in self.eras[name]
            if era.begin <= answered and asked <= era.end + trust
        ]

    def staleness(self, name: str, prompt: str, text: str, now: float) -> float:
        """For how many seconds a name had not meant any more what this text shows."""
        ends = [
            era.end
            for era in self.eras[name]
            if era.texts is not None and era.texts[prompt] == text
        ]
        return max(0.0, now - max(ends, default=now))

    def whose(self, prompt: str, text: str, now: float) -> str:
        """Whose answer a text is, for people who look for the fault."""
        if text == self.base_texts[prompt]:
            return "the base model's"
        for name, eras in self.eras.items():
            for era in eras:
                if era.texts and era.texts[prompt] == text:
                    return f"that of {name}, which ended {now - era.end:.1f} s before the question"
        return "nobody's"

    @contextmanager
    def _changing(self, name: str, texts: Texts | None) -> Iterator[None]:
        """The new meaning may show from the first moment, and the old one until the last."""
        eras = self.eras.setdefault(name, [])
        eras.append(Era(texts, time.monotonic()))
        yield
        if len(eras) > 1:
            eras[-2].end = time.monotonic()

    def _write_config(self, directory: Path) -> None:
        draft = directory / "draft.json"
        draft.write_text(json.dumps(self._config, default=str))
        draft.rename(directory / "adapter_config.json")

    def _new_adapter(self) -> Texts:
        """Fill the network with an adapter all of whose texts are its own, and no accident."""
        while True:
            torch.manual_seed(next(self._seeds))
            for name, parameter in self._network.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(parameter, std=0.4)
            texts = self._answers()
            if self._margin > MARGIN and self._known_texts.isdisjoint(texts.items()):
                self._known_texts |= set(texts.items())
                return texts

    @torch.inference_mode()
    def _answers(self) -> Texts:
        ids = torch.tensor([self._tokenizer(prompt).input_ids for prompt in PROMPTS])
        output = self._network.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS,
            do_sample=False, pad_token_id=self._tokenizer.eos_token_id,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        first, second = torch.stack(output.logits).topk(2).values.unbind(-1)
        self._margin = (first - second).min().item()
        answers = self._tokenizer.batch_decode(
            output.sequences[:, ids.shape[1] :], skip_special_tokens=True
        )
        return dict(zip(PROMPTS, answers, strict=True))
