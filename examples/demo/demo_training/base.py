"""The base model: first it learns to copy random tokens, then to read and chat.

A model this small never finds out how to copy from text alone. On pure repetition it does within a
few hundred steps, all at once, and then keeps the ability while it learns everything else.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demo_training.data import repeated_rows
from demo_training.loop import Batch, Schedule, autocast, train
from demo_training.tokenizer import MAX_LENGTH, SPECIAL_TOKENS

COPY_ROWS, COPY_LENGTH = 256, 256
REPEATS_PER_BATCH = 3


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A fresh Llama of about 4.7 million parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


@torch.no_grad()
def copying_accuracy(model: LlamaForCausalLM, generator: torch.Generator) -> float:
    """How often the model predicts a token of random text that it has already seen repeat."""
    rows, periods = repeated_rows(32, COPY_LENGTH, _tokens(model), generator)
    with autocast(rows.device):
        guesses = model(input_ids=rows, use_cache=False).logits[:, :-1].argmax(-1)
    known = torch.arange(1, COPY_LENGTH, device=rows.device) > periods
    return float((guesses == rows[:, 1:])[known].float().mean())


def learn_to_copy(model: LlamaForCausalLM, schedule: Schedule, seed: int, goal: float) -> None:
    """Stage 1: repeated random tokens until the copying accuracy reaches `goal`.

    Raises:
        RuntimeError: when the schedule ends and not even half of the tokens are copied.
    """
    generator = torch.Generator(model.device).manual_seed(seed)

    def next_batch() -> Batch:
        rows, periods = repeated_rows(COPY_ROWS, COPY_LENGTH, _tokens(model), generator)
        first = torch.arange(COPY_LENGTH, device=rows.device) < periods
        return rows, rows.masked_fill(first, -100)

    def copies_well(step: int) -> bool:
        if step == 0 or step % 50:
            return False
        accuracy = copying_accuracy(model, generator)
        print(f"copy: step {step}, accuracy {accuracy:.3f}", flush=True)
        return accuracy >= goal

    train("copy", model, schedule, next_batch, copies_well)
    if (accuracy := copying_accuracy(model, generator)) < goal / 2:
        raise RuntimeError(
            f"Stage 1 ended at a copying accuracy of {accuracy:.2f}, too low for the adapters "
            "to learn from; give it more steps or seconds."
        )


def learn_to_read(
    model: LlamaForCausalLM, corpus: Tensor, rows_per_batch: int, schedule: Schedule, seed: int
) -> None:
    """Stage 2: the corpus [rows, length] in random order, with a few repeating rows a batch."""
    generator = torch.Generator(model.device).manual_seed(seed)
    order: Iterator[Tensor] = iter(())

    def next_batch() -> Batch:
        nonlocal order
        batch = next(order, None)
        if batch is None or len(batch) < rows_per_batch:
            shuffled = torch.randperm(len(corpus), generator=generator, device=model.device)
            order = iter(torch.split(shuffled, rows_per_batch))
            batch = next(order)
        repeats, _ = repeated_rows(REPEATS_PER_BATCH, corpus.shape[1], _tokens(model), generator)
        rows = torch.cat([corpus[batch].long(), repeats])
        return rows, rows

    train("base", model, schedule, next_batch)


def save_base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model and tokenizer to `folder`, the weights in bfloat16."""
    rounded = copy.deepcopy(model).to("cpu", torch.bfloat16)
    rounded.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    rounded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)


def _tokens(model: LlamaForCausalLM) -> range:
    return range(len(SPECIAL_TOKENS), model.config.vocab_size)
