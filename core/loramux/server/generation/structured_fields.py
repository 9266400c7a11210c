"""The request fields that say what form the text has to have."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from loramux.server.http.errors import bad_request
from loramux.structured_outputs import StructuredOutputsParams

_NO_MEANING_HERE = frozenset({"disable_fallback", "disable_additional_properties", "backend"})
"""Members of vLLM's ``structured_outputs`` that choose between its backends."""

_KINDS_OF_OUR_OWN = ("regex", "choice", "grammar")
"""Of ``response_format``: ``{"type": "regex", "regex": "[ab]{3}"}``."""


class StructuredFields(BaseModel):
    """OpenAI's ``response_format``, vLLM's ``structured_outputs``, and its older ``guided_...``."""

    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None

    @property
    def form_field(self) -> str:
        """Which of these fields is at fault where the form is."""
        return "structured_outputs" if self.response_format is None else "response_format"

    def form(self) -> StructuredOutputsParams | None:
        """What these fields ask for, None where they ask for nothing.

        Raises:
            ApiError: two of them ask for something, or one is malformed.
            InvalidRequestError: what is asked for cannot be had.
        """
        asked = {
            "response_format": self._of_response_format(),
            "structured_outputs": self._of_structured_outputs(),
            "guided_json": self._of_guided_fields(),
        }
        given = {name: form for name, form in asked.items() if form is not None}
        if len(given) > 1:
            first, second = list(given)[:2]
            raise bad_request(f"{first} and {second} cannot both be given; give one.", second)
        return next(iter(given.values()), None)

    def _of_structured_outputs(self) -> StructuredOutputsParams | None:
        fields = {
            name: value
            for name, value in (self.structured_outputs or {}).items()
            if value is not None and name not in _NO_MEANING_HERE
        }
        return StructuredOutputsParams.of(fields) if fields else None

    def _of_guided_fields(self) -> StructuredOutputsParams | None:
        fields = {
            "json": self.guided_json,
            "regex": self.guided_regex,
            "choice": self.guided_choice,
            "grammar": self.guided_grammar,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        if not given:
            return None
        return StructuredOutputsParams.of(
            {**given, "whitespace_pattern": self.guided_whitespace_pattern}
        )

    def _of_response_format(self) -> StructuredOutputsParams | None:
        asked = self.response_format
        kind = None if asked is None else asked.get("type")
        if asked is None or kind == "text":
            return None
        if kind == "json_object":
            return StructuredOutputsParams(json_object=True)
        if kind == "json_schema":
            return StructuredOutputsParams(json=_schema_of(asked))
        if kind in _KINDS_OF_OUR_OWN and kind in asked:
            return StructuredOutputsParams.of({kind: asked[kind]})
        raise bad_request(
            f"response_format has type {kind!r}; it can be text, json_object or json_schema, or "
            f"one of {', '.join(_KINDS_OF_OUR_OWN)} with a member of that name.",
            "response_format",
        )


def _schema_of(response_format: dict[str, Any]) -> dict[str, Any]:
    described = response_format.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    if not isinstance(schema, dict):
        raise bad_request(
            "response_format has no schema; give it as json_schema.schema.", "response_format"
        )
    return schema
