"""Draws: their frequencies, their repeatability, and greedy rows among them."""

from __future__ import annotations

import math
from typing import Any

import torch

from loramux.engine.sampling import Sampler, SamplingBatch
from tests.sampling.batches import make_row, on_each_device, random_logits, sample

VOCAB = 64


def chi_square_bound(degrees: int) -> float:
    """The 1 - 1e-6 quantile, by Wilson and Hilferty's approximation."""
    z = 4.7534
    return degrees * (1 - 2 / (9 * degrees) + z * math.sqrt(2 / (9 * degrees))) ** 3


def assert_frequencies(tokens: list[int], probabilities: torch.Tensor):
    expected = probabilities.double() * len(tokens)
    counts = torch.bincount(torch.tensor(tokens), minlength=len(expected)).double()
    assert not counts[probabilities == 0].any()
    frequent = expected >= 5
    pooled = torch.stack([counts[~frequent].sum(), expected[~frequent].sum()])
    statistic = ((counts - expected) ** 2 / expected)[frequent].sum()
    if pooled[1] >= 5:
        statistic += (pooled[0] - pooled[1]) ** 2 / pooled[1]
    assert statistic < chi_square_bound(int(frequent.sum()))


@on_each_device
def test_frequencies_are_the_probabilities(device: str):
    one = random_logits(1, VOCAB, device=device)
    logits = one.expand(20_000, VOCAB)
    tokens = sample(logits, [make_row(temperature=1.3)] * len(logits), Sampler(seed=5)).token_ids
    assert_frequencies(tokens, (one[0].cpu().double() / 1.3).softmax(-1))


@on_each_device
def test_frequencies_after_truncation(device: str):
    one = random_logits(1, VOCAB, device=device)
    logits = one.expand(20_000, VOCAB)
    row = make_row(temperature=0.9, top_k=9)
    tokens = sample(logits, [row] * len(logits), Sampler(seed=6)).token_ids
    scores = one[0].cpu().double() / 0.9
    scores[scores < scores.topk(9).values[-1]] = -torch.inf
    assert_frequencies(tokens, scores.softmax(-1))


@on_each_device
def test_frequencies_of_one_seeded_row_over_steps(device: str):
    logits = random_logits(1, 8, device=device)
    row = make_row(seed=11, device=device)
    batch = SamplingBatch.build([row], 8, logits.device)
    sampler = Sampler()
    tokens = torch.cat([sampler(logits, batch).token_ids for _ in range(2000)]).tolist()
    assert_frequencies(tokens, logits[0].cpu().double().softmax(-1))


def stream(device: str, others: int, place: int, seed: int, **params: Any) -> list[int]:
    """Ten tokens of one seeded row among other rows, its logits differing from step to step."""
    sampler = Sampler(seed=others)
    mine = make_row(seed=seed, device=device, **params)
    rows = [make_row(temperature=i % 2, seed=None) for i in range(others)]
    rows.insert(place, mine)
    tokens = []
    for step in range(10):
        logits = random_logits(len(rows), VOCAB, seed=1000 * others + step, device=device)
        logits[place] = random_logits(1, VOCAB, seed=step, device=device)[0]
        tokens.append(sample(logits, rows, sampler).token_ids[place])
    return tokens


@on_each_device
def test_seeded_rows_do_not_depend_on_company_or_place(device: str):
    for params in ({}, {"top_p": 0.9}, {"top_k": 10, "min_p": 0.01, "temperature": 1.7}):
        alone = stream(device, 0, 0, seed=42, **params)
        assert len(set(alone)) > 1
        assert stream(device, 1, 0, seed=42, **params) == alone
        assert stream(device, 6, 3, seed=42, **params) == alone
        assert stream(device, 6, 6, seed=42, **params) == alone
        assert stream(device, 0, 0, seed=43, **params) != alone


def test_two_seeded_rows_swap_places():
    first, second = random_logits(1, VOCAB, seed=1), random_logits(1, VOCAB, seed=2)
    ahead = sample(torch.cat([first, second]), [make_row(seed=1), make_row(seed=2)]).token_ids
    behind = sample(torch.cat([second, first]), [make_row(seed=2), make_row(seed=1)]).token_ids
    assert ahead == behind[::-1]


def test_unseeded_rows_differ_and_follow_the_samplers_seed():
    logits = torch.zeros(32, VOCAB)
    rows = [make_row() for _ in range(32)]
    tokens = sample(logits, rows, Sampler(seed=1)).token_ids
    assert len(set(tokens)) > 8
    assert sample(logits, rows, Sampler(seed=1)).token_ids == tokens
    assert sample(logits, rows, Sampler(seed=2)).token_ids != tokens
    assert sample(logits, rows, Sampler()).token_ids != sample(logits, rows, Sampler()).token_ids


@on_each_device
def test_greedy_rows_take_the_maximum_whatever_stands_beside_them(device: str):
    logits = random_logits(9, VOCAB, device=device)
    best = logits.argmax(-1).tolist()
    greedy = sample(logits, [make_row(temperature=0)] * 9).token_ids
    assert greedy == best
    mixed = sample(logits, [make_row(temperature=i % 3) for i in range(9)]).token_ids
    assert mixed[::3] == best[::3]


def test_greedy_takes_the_maximum_after_bias_and_penalties():
    logits = torch.zeros(3, VOCAB)
    logits[:, 5] = 4.0
    logits[:, 6] = 3.0
    rows = [
        make_row(temperature=0, logit_bias={5: -2.0}),
        make_row([5], temperature=0, repetition_penalty=2.0),
        make_row(output=[5, 5], temperature=0, frequency_penalty=0.6),
    ]
    assert sample(logits, rows).token_ids == [6, 6, 6]


def test_half_precision_logits():
    logits = random_logits(4, VOCAB).bfloat16()
    rows = [make_row(temperature=0), make_row(top_k=1), make_row(seed=3), make_row(logprobs=2)]
    host = sample(logits, rows)
    assert host.token_ids[:2] == logits.argmax(-1).tolist()[:2]
    assert all(0 <= token < VOCAB for token in host.token_ids)


def test_logits_are_left_as_they_were():
    logits = random_logits(4, VOCAB)
    before = logits.clone()
    rows = [
        make_row(temperature=0),
        make_row(top_p=0.5, logit_bias={1: 3.0}),
        make_row([1, 2], repetition_penalty=3.0),
        make_row(min_tokens=5, eos={3}),
    ]
    sample(logits, rows)
    assert torch.equal(logits, before)


def test_min_tokens_keeps_endings_away_until_then():
    logits = torch.zeros(3, VOCAB)
    logits[:, 9] = 50.0
    logits[:, 8] = 40.0
    logits[:, 7] = 30.0
    rows = [
        make_row(output=[1, 1], min_tokens=3, eos={9, VOCAB + 1}, stop_token_ids=[8]),
        make_row(output=[1, 1, 1], min_tokens=3, eos={9}),
        make_row(output=[1], min_tokens=3, eos={9}, ignore_eos=True, temperature=0),
    ]
    assert sample(logits, rows).token_ids == [7, 9, 8]


def test_a_batch_takes_over_from_the_one_before_only_what_stays():
    output: list[int] = []
    rows = [make_row(output=output, min_tokens=2, eos={9}, temperature=0), make_row(top_k=3)]
    logits = torch.zeros(2, VOCAB)
    logits[:, 9] = 5.0
    batch = SamplingBatch.build(rows, VOCAB, logits.device)
    sampler = Sampler(seed=0)
    assert sampler(logits, batch).to_host().token_ids[0] != 9
    output.extend([1, 1])
    later = SamplingBatch.build(rows, VOCAB, logits.device, previous=batch)
    assert later.random is batch.random
    assert sampler(logits, later).to_host().token_ids[0] == 9
    swapped = SamplingBatch.build(rows[::-1], VOCAB, logits.device, previous=later)
    flat = torch.zeros(40, 2, VOCAB)
    flat[:, 1, 9] = 1e-3
    tokens = [sampler(step, swapped).to_host().token_ids for step in flat]
    assert {token for _, token in tokens} == {9}
    assert len({token for token, _ in tokens}) > 1


def test_an_empty_batch():
    host = sample(torch.zeros(0, VOCAB), [])
    assert (host.token_ids, host.invalid_rows) == ([], [])
