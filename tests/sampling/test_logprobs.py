"""Log probabilities of chosen, likeliest and prompt tokens."""

from __future__ import annotations

import pickle

import pytest
import torch

from loramux.engine.sampling import logprobs, prompt_logprobs
from tests.sampling.batches import make_row, on_each_device, random_logits, sample

VOCAB = 77


@on_each_device
def test_each_row_gets_as_many_as_it_asked_for(device: str):
    logits = random_logits(5, VOCAB, device=device)
    asked = [None, 0, 3, -1, 7]
    host = sample(
        logits, [make_row(logprobs=count, seed=i, device=device) for i, count in enumerate(asked)]
    )
    reference = logits.cpu().double().log_softmax(-1)
    assert host.logprobs[0] is None
    for row, count in list(enumerate(asked))[1:]:
        entry = host.logprobs[row]
        assert entry is not None
        size = VOCAB if count == -1 else count
        order = reference[row].argsort(descending=True).tolist()
        chosen = host.token_ids[row]
        assert entry.token_ids == [chosen, *order[:size]]
        assert entry.rank == order.index(chosen) + 1
        assert entry.logprobs == pytest.approx(reference[row][entry.token_ids].tolist(), abs=1e-5)


def test_they_are_of_the_raw_logits():
    logits = random_logits(1, VOCAB)
    row = make_row(
        [1],
        [2],
        logprobs=4,
        temperature=0.3,
        top_k=1,
        repetition_penalty=1.7,
        logit_bias={5: 100.0},
        frequency_penalty=1.0,
    )
    host = sample(logits, [row])
    assert host.token_ids == [5]
    entry = host.logprobs[0]
    assert entry is not None
    expected = logits[0].double().log_softmax(-1)
    assert entry.logprobs == pytest.approx(expected[entry.token_ids].tolist(), abs=1e-5)
    assert entry.token_ids[1:] == expected.topk(4).indices.tolist()


def test_ties_share_the_better_rank():
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    host = sample(logits, [make_row(logprobs=0, logit_bias={2: 100.0})])
    entry = host.logprobs[0]
    assert entry is not None
    assert (host.token_ids, entry.rank) == ([2], 1)


@on_each_device
@pytest.mark.parametrize(("positions", "count"), [(1, 0), (600, 2), (4, -1)])
def test_prompt_tokens(monkeypatch, device: str, positions: int, count: int):
    monkeypatch.setattr(logprobs, "TOKENS_AT_ONCE", 2 * (1 + VOCAB))
    logits = random_logits(positions, VOCAB, device=device)
    following = torch.randint(VOCAB, (positions,), generator=torch.Generator().manual_seed(1))
    entries = prompt_logprobs(logits, following.to(device), count)
    reference = logits.cpu().double().log_softmax(-1)
    assert len(entries) == positions
    for position, entry in enumerate(entries):
        order = reference[position].argsort(descending=True).tolist()
        token = int(following[position])
        assert entry.token_ids == [token, *order[: VOCAB if count == -1 else count]]
        assert entry.rank == order.index(token) + 1
        expected = reference[position][entry.token_ids].tolist()
        assert entry.logprobs == pytest.approx(expected, abs=1e-5)


def test_entries_are_plain_data():
    entry = sample(random_logits(1, VOCAB), [make_row(logprobs=2)]).logprobs[0]
    assert entry is not None
    assert pickle.loads(pickle.dumps(entry)) == entry
    assert {type(i) for i in entry.token_ids} == {int}
    assert {type(v) for v in entry.logprobs} == {float}
