"""What a grammar leaves of the vocabulary, beside every other sampling parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from loramux.engine.sampling import SamplingBatch
from tests.sampling.batches import make_row, on_each_device, random_logits, sample

VOCABULARY = 50


class FixedGrammar:
    """A grammar that allows the same tokens at every step."""

    def __init__(self, allowed: set[int], num_tokens: int = VOCABULARY) -> None:
        bits = np.array([token in allowed for token in range(num_tokens)])
        self.bits = np.packbits(bits, bitorder="little")
        self.allowed = allowed

    def mask(self) -> Any:
        return self.bits

    def may_go_on(self, ending: tuple[int, ...]) -> bool:
        return bool(self.allowed - set(ending))


def masked(allowed: set[int], num_tokens: int = VOCABULARY, **params: Any) -> Any:
    row = make_row(**params)
    row.grammar = FixedGrammar(allowed, num_tokens)
    return row


@on_each_device
def test_only_masked_rows_change(device: str) -> None:
    logits = random_logits(3, VOCABULARY, device=device)
    rows = [make_row(temperature=0), masked({3, 17, 49}, temperature=0), make_row(temperature=0)]
    edited = SamplingBatch.build(rows, VOCABULARY, logits.device).edited(logits)
    assert edited[[0, 2]].equal(logits[[0, 2]])
    assert edited[1].isfinite().nonzero().flatten().tolist() == [3, 17, 49]
    assert edited[1, [3, 17, 49]].equal(logits[1, [3, 17, 49]])
    best = max((3, 17, 49), key=lambda token: float(logits[1, token]))
    assert sample(logits, rows).token_ids[1] == best


@pytest.mark.parametrize("num_tokens", [40, 64, 200])
def test_vocabularies_narrower_and_wider_than_the_logits(num_tokens: int) -> None:
    logits = random_logits(1, VOCABULARY)
    row = masked({2, 39}, num_tokens, temperature=0)
    edited = SamplingBatch.build([row], VOCABULARY, logits.device).edited(logits)
    assert edited[0].isfinite().nonzero().flatten().tolist() == [2, 39]


@on_each_device
@pytest.mark.parametrize(
    "params",
    [
        {"top_k": 5},
        {"top_p": 0.5},
        {"min_p": 0.3},
        {"top_k": 3, "top_p": 0.9, "min_p": 0.1},
        {"repetition_penalty": 1.5, "presence_penalty": 1.0, "logit_bias": {4: -100, 5: 50}},
    ],
    ids=str,
)
def test_draws_stay_within(params: dict[str, Any], device: str) -> None:
    logits = random_logits(64, VOCABULARY, device=device)
    allowed = {4, 8, 15}
    rows = [
        masked(allowed, temperature=1.5, seed=seed, prompt=[4], output=[8], device=device, **params)
        for seed in range(64)
    ]
    drawn = set(sample(logits, rows).token_ids)
    assert drawn <= allowed
    assert len(drawn) > 1


def test_the_draw_is_the_models_own_distribution_over_what_is_allowed() -> None:
    logits = random_logits(1, VOCABULARY)
    allowed = [1, 2, 3, 4]
    rows = [masked(set(allowed), temperature=1.0) for _ in range(20_000)]
    drawn = torch.tensor(sample(logits.expand(len(rows), -1), rows).token_ids)
    shares = torch.stack([(drawn == token).float().mean() for token in allowed])
    assert torch.allclose(shares, logits[0, allowed].softmax(-1), atol=0.015)


def test_logprobs_are_those_of_the_model() -> None:
    logits = random_logits(1, VOCABULARY)
    result = sample(logits, [masked({7}, temperature=0, logprobs=1)])
    assert result.token_ids == [7]
    own, likeliest = result.logprobs[0].logprobs
    assert own == pytest.approx(float(logits.log_softmax(-1)[0, 7]), abs=1e-5)
    assert likeliest == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-5)


def test_min_tokens_gives_way_where_only_the_end_is_allowed() -> None:
    logits = random_logits(2, VOCABULARY)
    rows = [
        masked({9}, eos={9}, min_tokens=5, temperature=0),
        masked({9, 11}, eos={9}, min_tokens=5, temperature=0),
    ]
    assert sample(logits, rows).token_ids == [9, 11]


def test_a_mask_of_nothing_spoils_its_own_row_only() -> None:
    rows = [masked(set(), temperature=0), make_row(temperature=0)]
    assert sample(random_logits(2, VOCABULARY), rows).invalid_rows == [0]
