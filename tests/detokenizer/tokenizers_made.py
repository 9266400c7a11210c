"""Small tokenizers of each family, made on the spot."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizer

TEXTS = [
    "Hello world, this is a plain sentence.  With  two spaces.\nAnd a new line.",
    "你好世界。这是一个测试。 日本語のテキスト 한국어 텍스트",
    "مرحبا بالعالم، هذا اختبار. שלום עולם",
    "e\u0301 n\u0303 a\u0308\u0332 नमस्ते दुनिया ကမ္ဘာ ไทย",
    "😀😃 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽 \U0001f9d1\u200d\U0001f680",
    "mixed 中 a😀b é� ½ \x00\x7f\u2028 end",
]
SPECIALS = ["<s>", "</s>", "<|im_end|>"]


@cache
def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens(["<tool>", "<é>", "中é"])
    return tokenizer


def _sentencepiece(decoder: Any) -> Tokenizer:
    pieces = ["▁", "▁▁", "▁Hello", "▁world", "lo", "中文", "😀", "é", "\u0301", "م", "\n", "�"]
    letters = sorted({c for c in "".join(TEXTS[:1]) if c not in " \n"})
    names = ["<unk>", *SPECIALS, *[f"<0x{b:02X}>" for b in range(256)], *pieces, *letters]
    vocab = {name: i for i, name in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    return tokenizer


@cache
def llama_like() -> Tokenizer:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return _sentencepiece(decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)]))


@cache
def gemma_like() -> Tokenizer:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return _sentencepiece(decoders.Sequence(steps))


@cache
def metaspace_with_bytes() -> Tokenizer:
    steps = [decoders.Metaspace(), decoders.ByteFallback(), decoders.Fuse()]
    return _sentencepiece(decoders.Sequence(steps))


@cache
def metaspace() -> Tokenizer:
    vocab = [(piece, -1.0) for piece in ["<unk>", "▁", "▁Hello", "▁a", "a", "b", "▁中", "文", "."]]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


@cache
def word_piece() -> Tokenizer:
    pieces = ["[UNK]", "hello", "world", "##ing", "##s", ".", ",", "'", "n't", "do", "中", "é"]
    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


@cache
def word_ends() -> Tokenizer:
    """BPE with an end-of-word mark, as in GPT-1: the last word has no space yet."""
    pieces = ["a</w>", "b</w>", "ab", "c", ".</w>", "中</w>"]
    tokenizer = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[]))
    tokenizer.decoder = decoders.BPEDecoder()
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


@cache
def no_decoder() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


class SlowByteTokenizer(PreTrainedTokenizer):
    """A transformers tokenizer without fast backend: one token per byte, and some of two."""

    def __init__(self, **kwargs: Any) -> None:
        pairs = [b"he", b"ll", " 中".encode()[:2], "😀".encode()[1:3], b"\xad\x80"]
        self._bytes = [*[bytes([b]) for b in range(256)], *pairs]
        super().__init__(eos_token="</s>", **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    def get_vocab(self) -> dict[str, int]:
        return {raw.hex(): i for i, raw in enumerate(self._bytes)} | self.added_tokens_encoder

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [f"{byte:02x}" for byte in text.encode()]

    def _convert_token_to_id(self, token: str) -> int:
        return self.get_vocab()[token]

    def _convert_id_to_token(self, index: int) -> str:
        return self._bytes[index].hex()

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        raw = b"".join(t.encode() if t == "</s>" else bytes.fromhex(t) for t in tokens)
        return raw.decode(errors="replace")


@cache
def slow() -> SlowByteTokenizer:
    return SlowByteTokenizer()
