"""Prefixes are found again under the adapter that computed them, and under no other."""

from __future__ import annotations

import pytest

from loramux.engine.scheduling.kv_cache import KVCacheManager
from loramux.engine.scheduling.sequence import Sequence
from loramux.lora.adapter import Adapter
from loramux.sampling_params import SamplingParams
from tests.lora.residents import make_adapter

BLOCK = 4
A, B = make_adapter("a"), make_adapter("b")


@pytest.fixture
def cache() -> KVCacheManager:
    return KVCacheManager(12, BLOCK, enable_prefix_caching=True)


def sequence(tokens: range, adapter: Adapter | None = None, **params: object) -> Sequence:
    return Sequence("s", list(tokens), SamplingParams(**params), 16, adapter=adapter)


def compute(cache: KVCacheManager, computed: Sequence, num_tokens: int | None = None) -> None:
    num_tokens = num_tokens or computed.num_uncomputed_tokens
    assert cache.grow(computed, num_tokens)
    computed.num_computed_tokens += num_tokens
    cache.publish_computed(computed, computed.num_computed_tokens)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 11, 12, 13])
def test_all_full_blocks_but_the_last_token_are_found(cache, length):
    compute(cache, first := sequence(range(length)))
    assert cache.attach_cached_prefix(second := sequence(range(length))) == (
        (length - 1) // BLOCK * BLOCK
    )
    assert second.block_ids == first.block_ids[: len(second.block_ids)]
    assert second.num_uncomputed_tokens >= 1


def test_a_prefix_ends_where_the_tokens_differ(cache):
    compute(cache, sequence(range(12)))
    other = Sequence("o", [*range(6), 99, *range(7, 13)], SamplingParams(), 16)
    assert cache.attach_cached_prefix(other) == 4


@pytest.mark.parametrize("mine", [None, A, B])
@pytest.mark.parametrize("theirs", [None, A, B])
def test_only_the_same_weights_share(cache, mine, theirs):
    compute(cache, sequence(range(9), theirs))
    found = cache.attach_cached_prefix(sequence(range(9), mine))
    assert found == (8 if mine is theirs else 0)


def test_equal_bytes_share_whatever_object_they_are(cache):
    compute(cache, sequence(range(9), make_adapter("a")))
    assert cache.attach_cached_prefix(sequence(range(9), make_adapter("a"))) == 8


@pytest.mark.parametrize("mine", [b"", b"mine", b"theirs"])
@pytest.mark.parametrize("adapter", [None, A])
def test_only_the_same_salt_shares(cache, adapter, mine):
    theirs = sequence(range(9), adapter)
    theirs.cache_salt = b"theirs"
    compute(cache, theirs)
    asking = sequence(range(9), adapter)
    asking.cache_salt = mine
    assert cache.attach_cached_prefix(asking) == (8 if mine == b"theirs" else 0)


def test_a_salt_cannot_take_the_place_of_a_block_that_is_cached(cache):
    compute(cache, first := sequence(range(9)))
    crafted = sequence(range(BLOCK, 9))
    crafted.cache_salt = first.block_hashes[0]
    assert cache.attach_cached_prefix(crafted) == 0


def test_what_is_half_computed_is_shared_as_far_as_it_goes(cache):
    compute(cache, sequence(range(12)), 6)
    assert cache.attach_cached_prefix(sequence(range(12))) == 4


def test_generated_tokens_are_found_too(cache):
    first = sequence(range(6))
    first.output_token_ids += [6, 7, 8]
    compute(cache, first)
    assert cache.attach_cached_prefix(sequence(range(9))) == 8


def test_prompts_whose_logprobs_are_asked_for_are_computed_anew(cache):
    compute(cache, sequence(range(9)))
    assert cache.attach_cached_prefix(sequence(range(9), prompt_logprobs=1)) == 0


def test_without_caching_nothing_is_shared():
    cache = KVCacheManager(12, BLOCK, enable_prefix_caching=False)
    compute(cache, sequence(range(9)))
    assert cache.attach_cached_prefix(sequence(range(9))) == 0


def test_blocks_that_are_shared_outlive_the_first_owner(cache):
    compute(cache, first := sequence(range(9)))
    cache.attach_cached_prefix(second := sequence(range(9)))
    cache.free(first)
    assert cache.pool.num_free == 10
    cache.free(second)
    assert cache.pool.num_free == 12


def test_growing_takes_only_what_is_missing_and_never_more_than_there_is(cache):
    grown = sequence(range(40))
    assert cache.grow(grown, 5)
    assert len(grown.block_ids) == 2
    grown.num_computed_tokens = 5
    assert cache.grow(grown, 3)
    assert len(grown.block_ids) == 2
    assert not cache.grow(grown, 60)
    assert len(grown.block_ids) == 2, "a refusal takes nothing"


def test_blocks_that_change_hands_are_told_once(cache):
    compute(cache, first := sequence(range(9)))
    assert sorted(cache.take_fresh_blocks()) == sorted(first.block_ids)
    cache.attach_cached_prefix(second := sequence(range(9)))
    compute(cache, second)
    assert cache.take_fresh_blocks() == second.block_ids[2:], "a shared block is nobody's news"
    assert cache.take_fresh_blocks() == []
