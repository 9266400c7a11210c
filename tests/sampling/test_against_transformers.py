"""Each step of the sampler against the logits processor of transformers that does the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from loramux.engine.sampling.batch import RandomRows, SamplingBatch
from loramux.engine.sampling.edits import Penalties
from loramux.engine.sampling.truncation import NUCLEUS_HEAD, truncate_
from tests.sampling.batches import make_row, on_each_device, random_logits

VOCAB = 211


def distribution(logits: Tensor, params: list[dict[str, Any]]) -> Tensor:
    """Probabilities after temperature and truncation, by the sampler's own parts."""
    rows = [make_row(**fields) for fields in params]
    random = RandomRows.of(rows, logits.shape[1], logits.device)
    assert random is not None
    scores = logits / random.temperature
    truncate_(scores, random.min_p_log, random.truncations)
    return scores.softmax(dim=-1)


def assert_same_distribution(ours: Tensor, theirs: Tensor):
    assert torch.equal(ours > 0, theirs > 0)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def warped(logits: Tensor, warper: Any) -> Tensor:
    no_ids = torch.zeros(logits.shape[0], 0, dtype=torch.int64, device=logits.device)
    return warper(no_ids, logits.clone()).softmax(dim=-1)


@on_each_device
@pytest.mark.parametrize("temperature", [0.01, 0.3, 1.0, 2.0])
def test_temperature(device: str, temperature: float):
    logits = random_logits(4, VOCAB, device=device)
    ours = distribution(logits, [{"temperature": temperature}] * 4)
    assert_same_distribution(ours, warped(logits, TemperatureLogitsWarper(temperature)))


@on_each_device
@pytest.mark.parametrize("top_k", [1, 2, 17, VOCAB - 1, VOCAB, VOCAB + 5])
def test_top_k(device: str, top_k: int):
    logits = random_logits(4, VOCAB, device=device)
    ours = distribution(logits, [{"top_k": top_k}] * 4)
    assert_same_distribution(ours, warped(logits, TopKLogitsWarper(top_k)))


@on_each_device
@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_top_p(device: str, top_p: float):
    logits = random_logits(8, VOCAB, device=device)
    ours = distribution(logits, [{"top_p": top_p}] * 8)
    assert_same_distribution(ours, warped(logits, TopPLogitsWarper(top_p)))


@on_each_device
@pytest.mark.parametrize("min_p", [1e-6, 0.02, 0.5, 1.0])
def test_min_p(device: str, min_p: float):
    logits = random_logits(8, VOCAB, device=device)
    ours = distribution(logits, [{"min_p": min_p}] * 8)
    assert_same_distribution(ours, warped(logits, MinPLogitsWarper(min_p)))


@on_each_device
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.95])
def test_top_p_of_a_large_vocabulary_whether_few_tokens_reach_it_or_not(device: str, top_p: float):
    peaked, flat = random_logits(2, 3 * NUCLEUS_HEAD, device=device)
    flat = flat / 100
    both = torch.stack([peaked, flat])
    ours = distribution(both, [{"top_p": top_p}] * 2)
    theirs = warped(both.double(), TopPLogitsWarper(top_p)).float()
    # Thousands of nearly equal tokens: rounding may move the cut by a few of them.
    assert ((ours > 0) != (theirs > 0)).sum() <= (0 if top_p < 0.5 else 3)
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=2e-4)
    alone = distribution(peaked.unsqueeze(0), [{"top_p": top_p}])
    assert torch.equal(alone[0] > 0, ours[0] > 0)


def test_top_k_keeps_ties_as_transformers_does():
    logits = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])
    ours = distribution(logits, [{"top_k": 2}])
    assert_same_distribution(ours, warped(logits, TopKLogitsWarper(2)))
    assert (ours > 0).sum() == 4


@on_each_device
@pytest.mark.parametrize("penalty", [0.5, 1.3, 3.0])
def test_repetition_penalty(device: str, penalty: float):
    prompts = [[1, 2, 2, 200], [5], [7, 8, 9, 10, 11, 12]]
    outputs = [[3, 1], [], [7, 7, 7]]
    logits = random_logits(3, VOCAB, device=device)
    rows = [
        make_row(prompt, output, repetition_penalty=penalty)
        for prompt, output in zip(prompts, outputs, strict=True)
    ]
    ours = logits.clone()
    penalties = Penalties.of(rows, VOCAB, logits.device)
    assert penalties is not None
    penalties.apply_(ours)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    for i, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        ids = torch.tensor([prompt + output], device=device)
        torch.testing.assert_close(ours[i : i + 1], processor(ids, logits[i : i + 1].clone()))


COMBINATIONS: list[dict[str, Any]] = [
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"temperature": 1.5, "top_p": 0.6},
    {"temperature": 0.9, "min_p": 0.1, "top_p": 0.7},
    {"temperature": 1.1, "min_p": 0.05, "top_k": 3},
    {"temperature": 0.5, "min_p": 0.2, "top_k": 50, "top_p": 0.5},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_k": 120, "top_p": 0.99},
]


def reference(logits: Tensor, temperature=1.0, min_p=0.0, top_k=0, top_p=1.0) -> Tensor:
    """The same in float64, token by token, from the definitions."""
    scores = logits.double() / temperature
    probs = scores.softmax(-1)
    kept = probs >= min_p * probs.max()
    if top_k:
        kth = scores[kept].sort(descending=True).values[:top_k][-1]
        kept &= scores >= kth
    if top_p < 1.0:
        probs = torch.where(kept, probs, 0.0)
        probs = probs / probs.sum()
        order = probs.argsort(descending=True)
        before = probs[order].cumsum(0) - probs[order]
        kept &= torch.zeros_like(kept).scatter(0, order, before < top_p)
    probs = torch.where(kept, probs, 0.0)
    return probs / probs.sum()


@on_each_device
def test_one_batch_of_all_combinations(device: str):
    logits = random_logits(len(COMBINATIONS), VOCAB, seed=3, device=device)
    ours = distribution(logits, COMBINATIONS)
    for row, fields in enumerate(COMBINATIONS):
        expected = reference(logits[row].cpu(), **fields)
        assert torch.equal(ours[row].cpu() > 0, expected > 0), fields
        torch.testing.assert_close(ours[row].cpu().double(), expected, rtol=1e-4, atol=1e-6)


@on_each_device
@pytest.mark.parametrize("fields", COMBINATIONS)
def test_a_row_is_treated_alike_alone_and_in_company(device: str, fields: dict[str, Any]):
    logits = random_logits(len(COMBINATIONS), VOCAB, seed=4, device=device)
    together = distribution(logits, COMBINATIONS)
    row = COMBINATIONS.index(fields)
    alone = distribution(logits[row : row + 1], [fields])
    assert torch.equal(together[row] > 0, alone[0] > 0)
    torch.testing.assert_close(together[row], alone[0])


@on_each_device
def test_frequency_presence_and_bias_follow_their_definitions(device: str):
    logits = random_logits(2, VOCAB, device=device)
    rows = [
        make_row([1, 2], [3, 3, 4], frequency_penalty=0.5, presence_penalty=-0.25),
        make_row(
            [1, 2],
            [1],
            logit_bias={9: 5.0, 10: -100.0},
            repetition_penalty=2.0,
            presence_penalty=0.75,
        ),
    ]
    batch = SamplingBatch.build(rows, VOCAB, logits.device)
    edited = batch.edited(logits)
    expected = logits.clone()
    expected[0, 3] += -2 * 0.5 + 0.25
    expected[0, 4] += -1 * 0.5 + 0.25
    expected[1, 9] += 5.0
    expected[1, 10] -= 100.0
    for token in (1, 2):
        expected[1, token] *= 0.5 if expected[1, token] > 0 else 2.0
    expected[1, 1] -= 0.75
    torch.testing.assert_close(edited, expected)


def test_histories_follow_growing_outputs():
    output: list[int] = []
    row = make_row([7, 7, VOCAB + 3], output, repetition_penalty=1.5, frequency_penalty=1.0)
    logits = torch.ones(1, VOCAB)
    for token in [3, 3, 5, *range(100, 200), 3]:
        output.append(token)
        SamplingBatch.build([row], VOCAB, logits.device)
    penalties = Penalties.of([row], VOCAB, logits.device)
    assert penalties is not None
    penalties.apply_(logits)
    expected = torch.ones(VOCAB)
    expected[7] = 1 / 1.5
    for token in set(output):
        expected[token] = 1 / 1.5 - output.count(token)
    torch.testing.assert_close(logits[0], expected)
