"""Streamed text is the decoded text, for each family of tokenizers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders
from transformers import PreTrainedTokenizerFast

from loramux.engine.detokenizer import DetokenizerFactory
from loramux.engine.detokenizer.pieces import PieceDetokenizer
from loramux.engine.detokenizer.window import WindowDetokenizer
from tests.detokenizer import tokenizers_made as made

MARK = "\N{REPLACEMENT CHARACTER}"
Made = Callable[[], Any]
EXACT: list[Made] = [
    made.byte_level,
    made.metaspace,
    made.word_piece,
    made.word_ends,
    made.no_decoder,
]
WITH_BYTE_TOKENS: list[Made] = [made.llama_like, made.gemma_like, made.metaspace_with_bytes]
FACTORIES = {make: DetokenizerFactory(make()) for make in [*EXACT, *WITH_BYTE_TOKENS, made.slow]}


def deltas(make: Made, prompt: list[int], output: list[int], skip: bool = True) -> list[str]:
    detokenizer = FACTORIES[make].detokenizer(prompt, skip)
    return [*[detokenizer.push(token) for token in output], detokenizer.finish()]


def added_text(make: Made, prompt: list[int], output: list[int], skip: bool = True) -> str:
    """What the tokenizer decodes from prompt and output, less the prompt's own text."""
    decode = make().decode
    before = decode(prompt, skip_special_tokens=skip)
    whole = decode(prompt + output, skip_special_tokens=skip)
    assert whole.startswith(before)
    return whole[len(before) :]


@pytest.mark.parametrize("make", [made.byte_level, made.llama_like, made.gemma_like])
def test_common_families_take_the_quick_way(make: Made):
    assert isinstance(FACTORIES[make].detokenizer([]), PieceDetokenizer)


@pytest.mark.parametrize("make", [made.word_piece, made.metaspace, made.slow])
def test_other_families_take_the_general_way(make: Made):
    assert isinstance(FACTORIES[make].detokenizer([]), WindowDetokenizer)


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)]),
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 2, 0)]),
        decoders.Sequence([decoders.Replace("▁▁", " "), decoders.Fuse()]),
        decoders.Sequence([decoders.Replace(Regex("▁"), " "), decoders.Fuse()]),
        decoders.Sequence([decoders.Fuse(), decoders.Replace("▁", " ")]),
    ],
)
def test_decoders_that_look_across_tokens_take_the_general_way(decoder: Any):
    tokenizer = Tokenizer.from_str(made.llama_like().to_str())
    tokenizer.decoder = decoder
    assert isinstance(DetokenizerFactory(tokenizer).detokenizer([]), WindowDetokenizer)


def test_a_transformers_tokenizer_is_taken_by_its_backend():
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made.byte_level())
    assert isinstance(DetokenizerFactory(wrapped).detokenizer([]), PieceDetokenizer)


@pytest.mark.parametrize("text", made.TEXTS)
@pytest.mark.parametrize(
    "make", [made.byte_level, made.llama_like, made.gemma_like, made.metaspace_with_bytes]
)
def test_real_text_comes_back_in_whole_characters(make: Made, text: str):
    prompt = make().encode("Hello world").ids
    output = make().encode(text).ids
    parts = deltas(make, prompt, output)
    assert "".join(parts) == added_text(make, prompt, output)
    for part in parts:
        assert part.count(MARK) <= text.count(MARK)


@pytest.mark.parametrize("make", EXACT)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_tokens_give_exactly_the_decoded_text(make: Made, data: st.DataObject):
    tokenizer = make()
    # A few ids past the end: models often have more rows than the tokenizer has tokens.
    ids = st.lists(st.integers(0, tokenizer.get_vocab_size() + 2), max_size=40)
    skip = data.draw(st.booleans())
    prompt, output = data.draw(ids), data.draw(ids)
    if tokenizer.decode(prompt, skip_special_tokens=skip).endswith(MARK):
        prompt = [*prompt, *tokenizer.encode("a").ids]
    expected = added_text(make, prompt, output, skip)
    assert "".join(deltas(make, prompt, output, skip)) == expected


@pytest.mark.parametrize("make", [made.no_decoder, made.word_piece, made.metaspace])
def test_tokens_without_text_do_not_come_between(make: Made):
    nothing = [make().get_vocab_size() + 1] * 30
    for prompt, output in [([1, 1], [*nothing, 1, 1]), ([1, *nothing], [1, 1])]:
        assert "".join(deltas(make, prompt, output)) == added_text(make, prompt, output)


STRAY = st.lists(
    st.sampled_from([0x80, 0xBF, 0xC3, 0xE4, 0xB8, 0xAD, 0xF0, 0x9F, 0xFF]), min_size=1
)


@settings(max_examples=200, deadline=None)
@given(raw=st.lists(st.one_of(STRAY.map(bytes), st.text(min_size=1, max_size=3).map(str.encode))))
def test_broken_bytes_through_the_general_way(raw: list[bytes]):
    output = [byte for piece in raw for byte in piece]
    parts = deltas(made.slow, [0x61], output)
    assert "".join(parts) == bytes(output).decode(errors="replace")


@pytest.mark.parametrize("repeated", [b"\x80", b"\xf0\x9f", b"\xf0\x9f\x98", b"\xe4\xb8\xf0"])
@pytest.mark.parametrize("before", range(4))
def test_long_broken_texts_are_cut_between_marks(repeated: bytes, before: int):
    output = [*b"\xff" * before, *repeated * 20, *"中".encode()]
    parts = deltas(made.slow, [0x61], output)
    assert "".join(parts) == bytes(output).decode(errors="replace")
    assert sum(map(bool, parts)) > 3


def test_long_broken_texts_are_not_cut_inside_a_character():
    ends_and_breaks = made.slow().convert_tokens_to_ids("ad80")
    output = [*[0x80] * 5, 0xE4, 0xB8, ends_and_breaks, 0xFF, 0x61]
    assert "".join(deltas(made.slow, [0x61], output)) == MARK * 5 + "中" + MARK * 2 + "a"


def test_a_decoder_that_can_be_cut_nowhere_is_read_as_a_whole():
    def decode(token_ids: list[int]) -> str:
        return "x" + MARK * len(token_ids)

    detokenizer = WindowDetokenizer(decode, [1], frozenset())
    parts = [*[detokenizer.push(2) for _ in range(25)], detokenizer.finish()]
    assert "".join(parts) == MARK * 25
    assert sum(map(bool, parts)) == 3


def test_text_handed_out_stays_when_later_bytes_spoil_the_run():
    make = made.metaspace_with_bytes
    output = [*byte_ids(make, "中".encode() + b"\xff"), make().token_to_id("é")]
    assert deltas(make, byte_ids(make, b"a"), output) == ["", "", "中", "", f"{MARK}é", ""]


def run_by_run(tokenizer: Any, token_ids: list[int], skip: bool) -> str:
    """Whole characters as they are, every other byte a mark: SentencePiece's own reading."""
    text, run = "", b""
    for token_id in [*token_ids, None]:
        token = "" if token_id is None else tokenizer.id_to_token(token_id)
        if skip and token in made.SPECIALS:
            continue
        if match := re.fullmatch("<0x(..)>", token):
            run += bytes.fromhex(match[1])
            continue
        while run:
            sizes = [n for n in (1, 2, 3, 4) if is_character(run[:n])]
            text += run[: sizes[0]].decode() if sizes else MARK
            run = run[sizes[0] if sizes else 1 :]
        text += token.replace("▁", " ")
    return text


def is_character(raw: bytes) -> bool:
    try:
        return len(raw.decode()) == 1
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("make", [made.llama_like, made.gemma_like])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_byte_tokens_are_read_character_by_character(make: Made, data: st.DataObject):
    tokenizer = make()
    vocabulary = st.integers(0, tokenizer.get_vocab_size() - 1)
    a_byte = STRAY.map(lambda raw: [tokenizer.token_to_id(f"<0x{b:02X}>") for b in raw])
    a_character = st.characters(codec="utf-8").map(
        lambda c: [tokenizer.token_to_id(f"<0x{b:02X}>") for b in c.encode()]
    )
    pieces = st.lists(st.one_of(vocabulary.map(lambda i: [i]), a_byte, a_character), max_size=12)
    output = [token for piece in data.draw(pieces) for token in piece]
    skip = data.draw(st.booleans())
    prompt = tokenizer.encode("Hello").ids
    text = "".join(deltas(make, prompt, output, skip))
    assert text == run_by_run(tokenizer, output, skip)
    whole = added_text(make, prompt, output, skip)
    assert text == whole or MARK in whole


@pytest.mark.parametrize("make", WITH_BYTE_TOKENS)
@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("Helo wrd中文😀é\u0301م\nकि"), max_size=20))
def test_byte_fallback_text_without_a_prompt(make: Made, text: str):
    output = make().encode(text).ids
    assert "".join(deltas(make, [], output)) == make().decode(output)


@pytest.mark.parametrize("make", [made.llama_like, made.metaspace, made.metaspace_with_bytes])
def test_the_leading_space_belongs_to_the_text_only_after_a_prompt(make: Made):
    hello = make().token_to_id("▁Hello")
    bos = make().token_to_id("<s>")
    assert "".join(deltas(make, [], [hello, hello])) == "Hello Hello"
    assert "".join(deltas(make, [bos], [hello, hello])) == "Hello Hello"
    assert "".join(deltas(make, [bos, hello, bos], [hello])) == " Hello"


@pytest.mark.parametrize("make", [made.byte_level, made.llama_like, made.slow])
def test_characters_come_when_their_last_byte_does(make: Made):
    output = byte_ids(make, "😀".encode())
    assert deltas(make, byte_ids(make, b"a"), output) == ["", "", "", "😀", ""]


@pytest.mark.parametrize("make", [made.byte_level, made.llama_like, made.slow])
def test_unfinished_characters_are_marked_at_the_end_as_decoding_marks_them(make: Made):
    prompt, output = byte_ids(make, b"a"), byte_ids(make, "b😀".encode()[:3])
    parts = deltas(make, prompt, output)
    assert parts[:-1] == ["b", "", ""]
    assert parts[-1] == make().decode(prompt + output)[2:]
    assert set(parts[-1]) == {MARK}


@pytest.mark.parametrize("make", [made.byte_level, made.llama_like, made.slow])
def test_an_output_may_complete_or_break_the_prompts_last_character(make: Made):
    prompt = byte_ids(make, b"a" + "中".encode()[:2])
    assert "".join(deltas(make, prompt, byte_ids(make, "中".encode()[2:] + b"x"))) == "中x"
    assert "".join(deltas(make, prompt, byte_ids(make, b"xy"))) == "xy"
    assert "".join(deltas(make, prompt, [])) == ""


def byte_ids(make: Made, raw: bytes) -> list[int]:
    if make is made.slow:
        return list(raw)
    if make is made.byte_level:
        by_byte = {made_piece(i): i for i in range(make().get_vocab_size())}
        return [by_byte[bytes([byte])] for byte in raw]
    return [make().token_to_id(f"<0x{byte:02X}>") for byte in raw]


def made_piece(token_id: int) -> bytes:
    from loramux.engine.detokenizer.rules import piece_rules

    rules = piece_rules(made.byte_level())
    assert rules is not None
    return rules.piece(made.byte_level().id_to_token(token_id))


@pytest.mark.parametrize("make", [made.byte_level, made.llama_like, made.word_piece])
def test_special_tokens_are_skipped_or_shown(make: Made):
    end = make().token_to_id("</s>")
    prompt = [4]
    assert "".join(deltas(make, prompt, [end, end])) == ""
    assert "".join(deltas(make, prompt, [end], skip=False)).strip() == "</s>"


def test_texts_of_single_tokens():
    factory = FACTORIES[made.llama_like]
    tokenizer = made.llama_like()
    assert factory.token_texts[tokenizer.token_to_id("▁Hello")] == " Hello"
    assert factory.token_texts[tokenizer.token_to_id("</s>")] == "</s>"
    assert factory.token_texts[tokenizer.token_to_id("<0xE4>")] == MARK
    assert FACTORIES[made.word_piece].token_texts[1] == "hello"
