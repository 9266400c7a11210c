"""Rows, batches and reference distributions for the sampler's tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from loramux.engine.sampling import (
    HostTokens,
    Sampler,
    SamplingBatch,
    SamplingRow,
    seeded_generator,
)
from loramux.sampling_params import SamplingParams

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
on_each_device = pytest.mark.parametrize("device", DEVICES)


def make_row(
    prompt: list[int] | None = None,
    output: list[int] | None = None,
    eos: set[int] | None = None,
    device: str = "cpu",
    **params: Any,
) -> SamplingRow:
    settings = SamplingParams(max_tokens=None, **params)
    seed = settings.seed
    return SamplingRow(
        params=settings,
        prompt_token_ids=[0] if prompt is None else prompt,
        output_token_ids=[] if output is None else output,
        generator=None if seed is None else seeded_generator(seed, torch.device(device)),
        eos_token_ids=frozenset(eos or ()),
    )


def sample(logits: Tensor, rows: list[SamplingRow], sampler: Sampler | None = None) -> HostTokens:
    batch = SamplingBatch.build(rows, logits.shape[1], logits.device)
    return (sampler or Sampler(seed=0))(logits, batch).to_host()


def random_logits(rows: int, vocab: int, seed: int = 0, device: str = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocab, generator=generator) * 3).to(device)
