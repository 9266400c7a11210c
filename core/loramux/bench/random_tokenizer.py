"""A tokenizer for a random model: every token is a number with a space before it.

Each token is a text of its own, so a stream shows each as soon as it is there, and the tokens of
a text can be counted without the tokenizer.
"""

from __future__ import annotations

from pathlib import Path


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """Write the files of the tokenizer; it has no special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # A byte-level vocabulary writes a space as this letter.
    vocabulary = {f"\u0120{index:06d}": index for index in range(vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="\u0120000000"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)


def count_tokens(text: str) -> int:
    """Tokens in a piece of a stream: its words, and one where a foreign tokenizer's has none."""
    return max(1, len(text.split())) if text else 0
