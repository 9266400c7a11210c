"""Rows whose logits are unusable fail alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loramux.engine.sampling import INVALID_TOKEN_ID
from tests.sampling.batches import make_row, on_each_device, random_logits, sample

VOCAB = 50
KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {},
    {"top_p": 0.9},
    {"top_k": 5, "min_p": 0.1},
    {"seed": 7},
    {"logprobs": 3},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.1},
    {"logit_bias": {1: 2.0}},
]


def spoil(logits: torch.Tensor, row: int, how: str):
    if how == "one nan":
        logits[row, 17] = torch.nan
    elif how == "one inf":
        logits[row, 17] = torch.inf
    else:
        logits[row] = {"all nan": torch.nan, "all -inf": -torch.inf}[how]


@on_each_device
@pytest.mark.parametrize("how", ["one nan", "all nan", "all -inf", "one inf"])
@pytest.mark.parametrize("bad", range(len(KINDS)))
def test_only_the_spoilt_row_is_marked(device: str, how: str, bad: int):
    clean = random_logits(len(KINDS), VOCAB, device=device)
    logits = clean.clone()
    spoil(logits, bad, how)

    def rows():
        return [make_row([1, 2], [3], device=device, **fields) for fields in KINDS]

    expected, host = sample(clean, rows()), sample(logits, rows())
    assert host.invalid_rows == [bad]
    assert host.token_ids[bad] == INVALID_TOKEN_ID
    assert host.logprobs[bad] is None
    for row in set(range(len(KINDS))) - {bad}:
        assert host.token_ids[row] == expected.token_ids[row]
        assert host.logprobs[row] == expected.logprobs[row]


def test_masked_tokens_do_not_spoil_a_row():
    logits = torch.full((2, VOCAB), -torch.inf)
    logits[:, 4] = 1.0
    rows = [make_row(top_p=0.5), make_row(temperature=0)]
    host = sample(logits, rows)
    assert host.token_ids == [4, 4]
    assert host.invalid_rows == []


def test_a_row_left_without_any_token_is_invalid():
    logits = torch.full((1, VOCAB), -torch.inf)
    logits[:, 4] = 1.0
    assert sample(logits, [make_row(min_tokens=1, eos={4})]).invalid_rows == [0]
