"""All that is asked of llguidance, which is there only where it was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from loramux.errors import InvalidRequestError
from loramux.structured_outputs import PARAM, StructuredOutputsParams

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

PACKAGE = "llguidance"

WHITESPACE = r" |\n {0,20}|\n\t{0,8}"
"""Between the parts of JSON: what people write, on one line or indented. Models that may write any
whitespace sometimes write nothing else until their tokens are used up."""


LIMITS: dict[str, Any] = {
    "max_grammar_size": 100_000,
    "max_lexer_states": 50_000,
    "step_lexer_fuel": 100_000,
    "verbose_errors": False,
}
"""Below llguidance's own, so that one request's grammar fills neither memory nor time."""


def require_library() -> None:
    """See that llguidance is here.

    Raises:
        InvalidRequestError: it is not.
    """
    if find_spec(PACKAGE) is None:
        raise InvalidRequestError(
            f"Structured outputs need the package {PACKAGE}, which is not installed here; "
            "install 'loramux[structured]'.",
            PARAM,
        )


def load_vocabulary(tokenizer: Any, vocab_size: int, ending: Iterable[int]) -> LLTokenizer:
    """The tokenizer as llguidance reads it; takes about a second for a large vocabulary.

    Args:
        tokenizer: of transformers.
        vocab_size: width of the model's logits.
        ending: ids that end a text; at least one.

    Raises:
        InvalidRequestError: it is of a kind that llguidance cannot read.
    """
    from llguidance.hf import from_tokenizer

    try:
        return from_tokenizer(
            tokenizer, n_vocab=max(vocab_size, len(tokenizer)), eos_token=sorted(ending)
        )
    except ValueError as error:
        raise InvalidRequestError(
            f"Structured outputs do not work with this model's tokenizer ({error}); "
            "leave them out.",
            PARAM,
        ) from error


def compile_matcher(vocabulary: LLTokenizer, wanted: StructuredOutputsParams) -> LLMatcher:
    """The automaton of a form, at its beginning.

    Raises:
        InvalidRequestError: llguidance does not take it; its reason is told.
    """
    from llguidance import LLMatcher, LLParserLimits

    try:
        grammar = _grammar(wanted)
    except (ValueError, RecursionError) as error:
        raise _refused(str(error)) from error
    matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=LLParserLimits(**LIMITS))
    if matcher.is_error():
        raise _refused(matcher.get_error())
    return matcher


def _grammar(wanted: StructuredOutputsParams) -> str:
    """The form in llguidance's own notation."""
    from llguidance import LLMatcher, grammar_from

    if wanted.regex is not None:
        return LLMatcher.grammar_from_regex(wanted.regex)
    if wanted.grammar is not None:
        return grammar_from("grammar", wanted.grammar)
    if wanted.choice is not None:
        # as one terminal: alternatives of a rule are limited in number
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in wanted.choice)
        return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {texts}")
    return LLMatcher.grammar_from_json_schema(
        json.dumps(wanted.json_schema), overrides=_json_options(wanted)
    )


def _json_options(wanted: StructuredOutputsParams) -> Any:
    pattern = WHITESPACE if wanted.whitespace_pattern is None else wanted.whitespace_pattern
    if wanted.disable_any_whitespace:
        return {"whitespace_flexible": False}
    return {"whitespace_flexible": True, "whitespace_pattern": pattern}


def _refused(reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The structured output is refused: {first_line(reason)}; correct its form.", PARAM
    )


def first_line(reason: str) -> str:
    """What matters of an error of llguidance; an excerpt of the grammar may follow it.

    What is wrong with a regular expression comes after the excerpt, behind ``error:``.
    """
    first, _, others = reason.strip().partition("\n")
    for line in others.splitlines() if first.endswith(":") else ():
        if line.startswith("error: "):
            first = f"{first[:200]} {line.removeprefix('error: ')}"
    return first.rstrip(".:")[:300]
