"""Requests to measure with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from loramux.engine.front.prompts import Prompt
from loramux.llm import LLM
from loramux.lora.request import LoRARequest
from loramux.outputs import RequestOutput
from loramux.sampling_params import SamplingParams

Adapters = Sequence[LoRARequest | None]
"""Dealt out to requests in turn; None is the base model."""


@dataclass(frozen=True)
class Workload:
    """Greedy requests of equal size with random prompts; end-of-sequence is ignored."""

    prompts: list[list[int]]
    output_len: int

    @classmethod
    def random(
        cls, num_requests: int, input_len: int, output_len: int, vocab_size: int, seed: int = 0
    ) -> Workload:
        """Prompts of any tokens but the three that may be special; a seed makes the same again."""
        generator = torch.Generator().manual_seed(seed)
        shape = (num_requests, input_len)
        prompts = torch.randint(3, vocab_size, shape, generator=generator).tolist()
        return cls(prompts, output_len)

    @property
    def num_output_tokens(self) -> int:
        """Of all requests together."""
        return len(self.prompts) * self.output_len

    @property
    def prefill(self) -> Workload:
        """The same requests up to their first token."""
        return replace(self, output_len=1)

    @property
    def sampling_params(self) -> SamplingParams:
        """The same for each request."""
        return SamplingParams(temperature=0, max_tokens=self.output_len, ignore_eos=True)

    def run(self, llm: LLM, adapters: Adapters) -> list[RequestOutput]:
        """All requests at once."""
        dealt = [adapters[i % len(adapters)] for i in range(len(self.prompts))]
        prompts: list[Prompt] = [{"prompt_token_ids": prompt} for prompt in self.prompts]
        return llm.generate(prompts, self.sampling_params, lora_request=dealt, use_tqdm=False)

    def seconds(self, llm: LLM, adapters: Adapters) -> float:
        """How long ``run`` takes."""
        started = time.perf_counter()
        self.run(llm, adapters)
        return time.perf_counter() - started


def adapter_requests(directories: Sequence[Path]) -> list[LoRARequest]:
    """One for each checkpoint, under the name of its directory."""
    return [LoRARequest(d.name, i, str(d)) for i, d in enumerate(directories, start=1)]
