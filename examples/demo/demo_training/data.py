"""Token tensors, made up front so that no training step waits for text."""

from __future__ import annotations

import multiprocessing
import random
from functools import partial

import numpy
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from demo_text import Example, examples
from demo_text.chat import SYSTEM_PROMPTS
from demo_text.corpus import documents, markup

CHUNK = 4096
IGNORED = -100


def _encoded_chunk(seed: int, tokenizer: PreTrainedTokenizerFast) -> numpy.ndarray:
    encoded = tokenizer(documents(CHUNK, seed), add_special_tokens=False)["input_ids"]
    return numpy.concatenate([numpy.asarray(ids, dtype=numpy.int32) for ids in encoded])


def corpus_rows(tokenizer: PreTrainedTokenizerFast, chunks: int, length: int) -> Tensor:
    """The corpus as int32 rows [rows, length], documents end to end, whatever the core count."""
    work = partial(_encoded_chunk, tokenizer=tokenizer)
    with multiprocessing.get_context("fork").Pool() as pool:
        stream = numpy.concatenate(pool.map(work, range(chunks), chunksize=1))
    rows = len(stream) // length
    return torch.from_numpy(stream[: rows * length]).view(rows, length)


def repeated_rows(
    rows: int, length: int, tokens: range, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows [rows, length] of random tokens that repeat, and the period [rows, 1] of each row."""
    device = generator.device
    periods = torch.randint(8, length // 2, (rows, 1), generator=generator, device=device)
    noise = torch.randint(
        tokens.start, tokens.stop, (rows, length), generator=generator, device=device
    )
    positions = torch.arange(length, device=device).expand(rows, length) % periods
    return noise.gather(1, positions), periods


def _pair(
    example: Example, rng: random.Random, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[int]]:
    messages = list(example.messages)
    if rng.random() < 0.1:
        messages.insert(0, {"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    answered = [*messages, {"role": "assistant", "content": example.expected}]
    text = markup(answered)
    prompt = text[: -len(example.expected + tokenizer.eos_token)]
    return tokenizer.encode(prompt, add_special_tokens=False), tokenizer.encode(
        text, add_special_tokens=False
    )


def _encoded_pairs(
    seed: int, task: str, count: int, tokenizer: PreTrainedTokenizerFast
) -> list[tuple[list[int], list[int]]]:
    rng = random.Random(seed)
    return [_pair(example, rng, tokenizer) for example in examples(task, count, seed, "train")]


def task_rows(
    task: str, count: int, length: int, tokenizer: PreTrainedTokenizerFast
) -> tuple[Tensor, Tensor]:
    """`count` training pairs as right-padded input ids and labels, both [count, length].

    Labels are IGNORED outside the answer. Pairs longer than `length` are left out.
    """
    chunks, share = 16, count // 16
    work = partial(_encoded_pairs, task=task, count=share, tokenizer=tokenizer)
    with multiprocessing.get_context("fork").Pool() as pool:
        pairs = [pair for chunk in pool.map(work, range(chunks)) for pair in chunk]
    pairs = [pair for pair in pairs if len(pair[1]) <= length]
    inputs = numpy.full((len(pairs), length), tokenizer.pad_token_id, dtype=numpy.int32)
    labels = numpy.full((len(pairs), length), IGNORED, dtype=numpy.int32)
    for row, (prompt, whole) in enumerate(pairs):
        inputs[row, : len(whole)] = whole
        labels[row, len(prompt) : len(whole)] = whole[len(prompt) :]
    return torch.from_numpy(inputs), torch.from_numpy(labels)
