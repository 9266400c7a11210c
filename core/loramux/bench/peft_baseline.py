"""The same requests through PEFT and transformers, one at a time."""

from __future__ import annotations

from pathlib import Path

import torch

from loramux.bench.workload import Workload


class PeftBaseline:
    """PEFT's ``generate`` on the same model and adapters in the same type.

    Raises:
        ImportError: peft is not installed.
    """

    def __init__(self, model: str, adapters: list[Path], dtype: torch.dtype, device: str) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to(device).eval()
        self._names = [directory.name for directory in adapters]
        self._model = PeftModel.from_pretrained(base, adapters[0], adapter_name=self._names[0])
        for directory in adapters[1:]:
            self._model.load_adapter(directory, adapter_name=directory.name)

    @torch.inference_mode()
    def run(self, workload: Workload) -> list[list[int]]:
        """Output tokens of every request; the base model takes the last turn of each deal."""
        deal = [*self._names, None]
        return [
            self._generate(prompt, deal[i % len(deal)], workload.output_len)
            for i, prompt in enumerate(workload.prompts)
        ]

    def _generate(self, prompt: list[int], adapter: str | None, num_tokens: int) -> list[int]:
        if adapter is None:
            with self._model.disable_adapter():
                return self._complete(prompt, num_tokens)
        self._model.set_adapter(adapter)
        return self._complete(prompt, num_tokens)

    def _complete(self, prompt: list[int], num_tokens: int) -> list[int]:
        ids = torch.tensor([prompt], device=self._model.device)
        output = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            do_sample=False,
        )
        tokens: list[int] = output[0, len(prompt) :].tolist()
        return tokens
