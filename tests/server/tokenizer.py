"""Real tokenizers that need no file: one token for each byte, and a chat template."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'forbidden' %}{{ raise_exception('no such role.') }}{% endif %}"
    "<{{ message['role'] }}>{{ message['content'] }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{{ mood or '' }}{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Takes any text."""
    return _tokenizer(sorted(pre_tokenizers.ByteLevel.alphabet()))


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """Takes printable ASCII, so that whatever a model says is readable."""
    return _tokenizer([chr(code) for code in range(33, 127)] + ["\u0120"])


def _tokenizer(alphabet: list[str]) -> PreTrainedTokenizerFast:
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    vocabulary["</s>"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", chat_template=CHAT_TEMPLATE
    )
