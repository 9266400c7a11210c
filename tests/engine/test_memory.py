"""How many blocks an engine gives itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from loramux.engine.args import EngineArgs
from loramux.engine.running import kv_budget, largest_step
from loramux.engine.running.forward.transformers import TransformersForward
from loramux.errors import InvalidRequestError
from tests.engine.world import (
    BLOCK,
    MAX_MODEL_LEN,
    NUM_TOKENS,
    PROMPTS,
    Job,
    make_engine,
    run,
    tokens,
)

LAYERS, KV_HEADS, HEAD_DIM, FLOAT = 2, 2, 16, 4
BLOCK_BYTES = LAYERS * KV_HEADS * 2 * HEAD_DIM * FLOAT * BLOCK
FULL = -(-MAX_MODEL_LEN // BLOCK)
"""Blocks of one sequence as long as may be."""


def num_blocks(world, **changes: object) -> int:
    engine = make_engine(world.model, num_gpu_blocks_override=None, **changes)
    engine.shutdown()
    caches = engine.core.runner._caches
    total = sum(cache.keys.nbytes + cache.values.nbytes for cache in caches.values())
    assert total == engine.core.runner.num_blocks * BLOCK_BYTES
    return engine.core.runner.num_blocks


@pytest.mark.parametrize("blocks", [FULL, FULL + 3])
def test_bytes_are_spent_to_the_last_block(world, blocks):
    size = blocks * BLOCK_BYTES
    assert num_blocks(world, kv_cache_memory_bytes=size) == blocks
    assert num_blocks(world, kv_cache_memory_bytes=size + BLOCK_BYTES - 1) == blocks


def test_a_block_too_few_is_refused(world):
    with pytest.raises(InvalidRequestError, match=f"room for {(FULL - 1) * BLOCK} tokens"):
        num_blocks(world, kv_cache_memory_bytes=FULL * BLOCK_BYTES - 1)


def test_no_more_than_all_sequences_could_fill(world):
    assert num_blocks(world, max_num_seqs=3) == 3 * FULL


def test_on_a_cpu_memory_is_taken_when_it_is_first_written_to(world):
    before = resident_bytes()
    engine = make_engine(world.model, num_gpu_blocks_override=(1 << 29) // BLOCK_BYTES)
    taken = resident_bytes() - before
    run(engine, [Job(PROMPTS[0])])
    engine.shutdown()
    assert taken < 1 << 28
    assert all(
        cache.keys[-1].any().item() is False for cache in engine.core.runner._caches.values()
    )


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("lora", [True, False])
def test_the_largest_step_can_be_run_before_there_is_a_cache(world, monkeypatch, lora):
    """As a GPU's memory is measured; it leaves nothing behind."""
    num_rows: list[int] = []
    original = TransformersForward.__call__

    def recorded(self: object, layout: object, logit_rows: list[int]) -> torch.Tensor:
        num_rows.append(len(logit_rows))
        return original(self, layout, logit_rows)

    def measured(args: object, loaded: object, run_largest_step: object) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(TransformersForward, "__call__", recorded)
            run_largest_step()
        return FULL * BLOCK_BYTES

    monkeypatch.setattr(largest_step, "MAX_SCORED_POSITIONS", 11)
    monkeypatch.setattr(kv_budget, "_memory_budget", measured)
    engine = make_engine(world.model, num_gpu_blocks_override=None, enable_lora=lora)
    output = run(engine, [Job(PROMPTS[6])])[0]
    engine.shutdown()
    assert num_rows == [engine.args.max_num_seqs + 11], "prompts that are scored as well"
    assert tokens(output) == world.greedy(None, PROMPTS[6], NUM_TOKENS)


@pytest.mark.parametrize(
    ("max_model_len", "num_sequences", "lengths"),
    [(100, 4, [37, 1, 1, 1]), (16, 4, [16, 16, 7, 1]), (16, 2, [16, 16]), (50, 1, [40])],
)
def test_the_largest_step_has_as_many_tokens_as_any_step_may(
    max_model_len, num_sequences, lengths, monkeypatch
):
    """In prompts that may be short: kernels of long steps are named by taking this one."""
    monkeypatch.setattr(largest_step, "MAX_SCORED_POSITIONS", 20)
    args = EngineArgs(model="m", max_num_seqs=num_sequences, max_num_batched_tokens=40)
    chunks = largest_step.largest_step(args, max_model_len)
    assert [chunk.num_tokens for chunk in chunks] == lengths
    assert sum(len(chunk.scored) for chunk in chunks) == min(20, sum(lengths) - len(lengths))
