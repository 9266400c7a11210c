"""What a model answers, greedily and in batches, and how often that is exactly right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from demo_text import Example

MAX_NEW_TOKENS = 72

CHATS = (
    "Hello!",
    "My name is Mia.",
    "What is the capital of France?",
    "Repeat after me: Zoe Keller 4821 Lisbon",
    "Who are you?",
    "Tell me a story.",
    "What is 12 plus 7?",
    "Mia Keller is a baker, 29 years old, and lives in Lisbon with Otto. Who is 29?",
    "Write me a poem about the moon.",
)
BEGINNINGS = (
    "Once upon a time",
    "The capital of Italy is",
    "1, 2, 3, 4,",
    "SELECT",
    "Mia lives in Lisbon.\nMia lives",
    "The weather today is",
)


@torch.no_grad()
def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]
) -> list[str]:
    """The greedy answer to each example's chat, all in one left-padded batch."""
    prompts = tokenizer.apply_chat_template(
        [example.messages for example in examples],
        add_generation_prompt=True,
        padding=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device)
    tokens = model.generate(**prompts, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
    new_tokens = tokens[:, prompts["input_ids"].shape[1] :]
    return list(tokenizer.batch_decode(new_tokens, skip_special_tokens=True))


@torch.no_grad()
def show_base(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Print what the base model answers to some chats and how it goes on from some plain text."""
    chats = [Example("chat", prompt, "", "") for prompt in CHATS]
    for chat, answer in zip(chats, answers(model, tokenizer, chats), strict=True):
        print(f"  {chat.prompt} -> {answer}")
    prompts = tokenizer(list(BEGINNINGS), padding=True, return_tensors="pt").to(model.device)
    tokens = model.generate(**prompts, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
    for text in tokenizer.batch_decode(tokens, skip_special_tokens=True):
        print(f"  {text}", flush=True)


def exact(examples: Sequence[Example], texts: Sequence[str]) -> float:
    """The share of answers that equal the expected text, between 0 and 1."""
    hits = [text == example.expected for example, text in zip(examples, texts, strict=True)]
    return sum(hits) / len(hits)
