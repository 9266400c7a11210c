"""What the text of a request must be like. Field names and meanings are vLLM's."""

from __future__ import annotations

import json as json_text
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from loramux import field_checks as check
from loramux.errors import InvalidRequestError

MAX_SCHEMA_CHARACTERS = 64 * 1024
"""Of a JSON schema, or of all choices together."""

MAX_GRAMMAR_CHARACTERS = 16 * 1024
"""Of a grammar: what may be nested in it makes it dearer than a schema of the same length."""

MAX_REGEX_CHARACTERS = 4 * 1024
"""Of a regular expression, or of all ``pattern`` of a schema together; time is quadratic in it."""

PARAM = "structured_outputs"
KINDS = ("json", "regex", "choice", "grammar", "json_object")


@dataclass(frozen=True, kw_only=True)
class StructuredOutputsParams:
    """A form that the whole completion takes; exactly one of the first five.

    Args:
        json: a JSON schema, as a mapping or as text.
        regex: a regular expression that the text matches from its first to its last character.
        choice: the text is one of these.
        grammar: a context-free grammar in Lark's notation or in GBNF (``root ::= ...``).
        json_object: any JSON object.
        disable_any_whitespace: JSON without whitespace between its parts.
        whitespace_pattern: a regular expression of the whitespace between the parts of JSON.

    Raises:
        InvalidRequestError: none or several are given, or one is of the wrong type or too long.
    """

    json: str | Mapping[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in KINDS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise InvalidRequestError(
                f"structured_outputs takes exactly one of {', '.join(KINDS)}, got {found}.", PARAM
            )
        check.boolean("disable_any_whitespace", self.disable_any_whitespace)
        _check_text("regex", self.regex, MAX_REGEX_CHARACTERS)
        _check_text("grammar", self.grammar, MAX_GRAMMAR_CHARACTERS)
        _check_text("whitespace_pattern", self.whitespace_pattern, MAX_REGEX_CHARACTERS)
        _check_choice(self.choice)
        if self.json is not None:
            _check_schema(self.json_schema)

    @property
    def json_schema(self) -> Any:
        """``json`` as a value, or the schema of any object.

        Raises:
            InvalidRequestError: it is no JSON.
        """
        if self.json is None:
            return {"type": "object"}
        if not isinstance(self.json, str):
            return self.json
        try:
            return json_text.loads(self.json)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"The JSON schema is no JSON: {error}.", PARAM) from error

    @cached_property
    def key(self) -> str:
        """A text that is the same for equal forms, and no other; made once, however many ask."""
        return json_text.dumps(asdict(self), default=dict)

    @classmethod
    def of(cls, value: Any) -> StructuredOutputsParams | None:
        """The same from a mapping with these fields; nothing from None.

        Raises:
            InvalidRequestError: it is of another type, or has other fields.
        """
        if value is None or isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise InvalidRequestError(
                "structured_outputs must be StructuredOutputsParams or a mapping, got "
                f"{type(value).__name__}.",
                PARAM,
            )
        unknown = value.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise InvalidRequestError(
                f"structured_outputs has no field {sorted(map(str, unknown))[0]!r}; it takes "
                f"{', '.join(field.name for field in fields(cls))}.",
                PARAM,
            )
        given = {name: each for name, each in value.items() if each is not None}
        return cls(**given)


def _check_text(name: str, value: Any, longest: int) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name} must be text, got {type(value).__name__}.", PARAM)
    if len(value) > longest:
        raise InvalidRequestError(
            f"{name} has {len(value)} characters, and at most {longest} are taken; shorten it.",
            PARAM,
        )


def _check_choice(choice: Any) -> None:
    if choice is None:
        return
    texts = list(choice) if isinstance(choice, list | tuple) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequestError("choice must be a list of texts, none of them empty.", PARAM)
    _check_text("choice", "".join(texts), MAX_SCHEMA_CHARACTERS)


def _check_schema(schema: Any) -> None:
    try:
        text = json_text.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"The JSON schema is no JSON: {error}.", PARAM) from error
    _check_text("The JSON schema", text, MAX_SCHEMA_CHARACTERS)
    _check_text("All pattern of the JSON schema", "".join(_patterns(schema)), MAX_REGEX_CHARACTERS)


def _patterns(schema: Any) -> list[str]:
    """Every regular expression in a schema, however deep."""
    found: list[str] = []
    pending = [schema]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            found += _patterns_of(value)
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value
    return found


def _patterns_of(schema: Mapping[str, Any]) -> list[str]:
    pattern, by_pattern = schema.get("pattern"), schema.get("patternProperties")
    found = [pattern] if isinstance(pattern, str) else []
    return found + (list(map(str, by_pattern)) if isinstance(by_pattern, Mapping) else [])
