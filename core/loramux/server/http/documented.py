"""What routes take and answer, in the API's own documentation.

Routes read bodies and write answers themselves, so that a bad body gets one sentence and a token
costs no validation; the tests hold every answer against what is said here.
"""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import WithDefaultSchema

JSON = "application/json"
EVENTS = "text/event-stream"

MODEL_ERRORS = (400, 404, 429, 503)
"""Of routes that look for a model: it is refused, there is none of that name, too much is under
way, or it cannot be told now whether there is one."""

_answers: dict[str, type[BaseModel]] = {}
"""Every model that routes have been described with, by name."""


class ErrorDetails(BaseModel):
    """``type`` is vLLM's word for the error, ``param`` the field that is wrong."""

    message: str
    type: str
    param: str | None
    code: int


class ErrorAnswer(BaseModel):
    """Every answer that is not a success, and the last event of a stream that fails."""

    error: ErrorDetails


def documented(*models: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's description of a JSON body; ``stream_options`` and the like are written out.

    Args:
        models: of the body; several are alternatives.
    """
    bodies = [_body(model) for model in models]
    schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


def answers(
    model: type[BaseModel] | None = None,
    *,
    events: type[BaseModel] | None = None,
    text: tuple[str, ...] = (),
    errors: tuple[int, ...] = (),
) -> dict[str, Any]:
    """The keyword arguments of a route that say what it answers.

    Args:
        model: of the JSON.
        events: of one event of the stream that may come instead.
        text: media types of an answer that is text.
        errors: statuses of this route; ``Application`` adds those that any route may answer.
    """
    content = {media_type: {"schema": {"type": "string"}} for media_type in text}
    if model is not None:
        content[JSON] = {"schema": reference(model)}
    if events is not None:
        content[EVENTS] = {"schema": _event(events)}
    success: dict[str, Any] = {"content": content} if content else {}
    failures = {status: error_response() for status in errors}
    return {"responses": {200: success, **failures}, "response_class": Response}


def error_response() -> dict[str, Any]:
    """The description of any answer that is not a success."""
    return {"content": {JSON: {"schema": reference(ErrorAnswer)}}}


def reference(model: type[BaseModel]) -> dict[str, Any]:
    """Where ``definitions()`` has the schema of ``model``."""
    _answers[model.__name__] = model
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def definitions() -> dict[str, Any]:
    """The schema of every model that has been referred to, by name."""
    models = [(model, "serialization") for model in _answers.values()]
    _, schema = models_json_schema(
        models,  # type: ignore[arg-type]  # the mode is a literal in its eyes
        ref_template="#/components/schemas/{model}",
        schema_generator=_WithoutDefaults,
    )
    found: dict[str, Any] = schema.get("$defs", {})
    return found


class _WithoutDefaults(GenerateJsonSchema):
    """A field that may be left out of an answer has no value then."""

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def _event(model: type[BaseModel]) -> dict[str, Any]:
    """One event of a stream: JSON, or the last one's ``[DONE]``."""
    chunk = {
        "type": "string",
        "contentMediaType": JSON,
        "contentSchema": {"anyOf": [reference(model), reference(ErrorAnswer)]},
    }
    data = {"anyOf": [{"const": "[DONE]"}, chunk]}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    body: dict[str, Any] = _inlined(schema, definitions)
    required = body.get("required", [])
    body["properties"] = {
        name: value if name in required else _or_null(value)
        for name, value in body["properties"].items()
    }
    return body


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if pointer := schema.get("$ref"):
        return _inlined(definitions[pointer.rsplit("/", 1)[-1]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Null stands for a field that is not there, see ``validate`` of ``body.py``."""
    takes_anything = not schema.keys() - {"title", "description", "default"}
    if takes_anything or {"type": "null"} in schema.get("anyOf", []):
        return schema
    return {"anyOf": [schema, {"type": "null"}]}
