"""From chat messages to the token ids the model was trained to read."""

from __future__ import annotations

from typing import Any, Self

from jinja2 import TemplateError
from pydantic import Field, model_validator

from loramux.engine.front.text_limit import TextLimit
from loramux.errors import InvalidRequestError
from loramux.server.chat.messages import plain_messages
from loramux.server.chat.tools.request import ToolFields
from loramux.server.generation.prompts import encode

MAX_VARIABLES = 256
"""Of a template, that one request may set."""

_RESERVED = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "max_length",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "documents",
        "truncation",
    }
)
"""Arguments of ``apply_chat_template`` itself, which a client must not set behind our back."""


_TEMPLATE_ERRORS = (
    TemplateError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""A template is a program written for well-formed chats; it says no in its own ways."""

_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}

_MESSAGES_SCHEMA: dict[str, Any] = {
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {
            "role": {"type": "string"},
            "content": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": _TEXT_PART},
                    {"type": "null"},
                ]
            },
        },
        "required": ["role"],
    },
}
"""What holds for every message; the rest is between it and the model's template."""


class ChatFields(ToolFields):
    """The fields that decide what the prompt of a chat is."""

    messages: list[dict[str, Any]] = Field(json_schema_extra=_MESSAGES_SCHEMA)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict, max_length=MAX_VARIABLES)

    @model_validator(mode="after")
    def _check_ending(self) -> Self:
        if not self.messages:
            raise InvalidRequestError("messages must hold at least one message.", "messages")
        if self.continue_final_message and self.add_generation_prompt:
            if "add_generation_prompt" in self.model_fields_set:
                raise InvalidRequestError(
                    "continue_final_message and add_generation_prompt cannot both be true.",
                    "continue_final_message",
                )
            self.add_generation_prompt = False
        return self


def render_chat(
    tokenizer: Any, fields: ChatFields, chat_template: str | None, limit: TextLimit | None
) -> list[int]:
    """Token ids of a chat.

    Raises:
        InvalidRequestError: there is no template, it does not take these messages, or they are
            so long that they cannot fit the model.
    """
    _check_template(tokenizer, fields, chat_template)
    if limit is not None and len(fields.messages) > limit.max_model_len:
        raise InvalidRequestError(
            f"This model's maximum context length is {limit.max_model_len} tokens, and the chat "
            f"has {len(fields.messages)} messages; leave some out.",
            "messages",
        )
    messages = plain_messages(fields.messages)
    if "developer" not in str(chat_template or tokenizer.chat_template):
        messages = [_from_system(message) for message in messages]
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tools=fields.tools_for_template,
            chat_template=chat_template,
            tokenize=False,
            add_generation_prompt=fields.add_generation_prompt,
            continue_final_message=fields.continue_final_message,
            **fields.chat_template_kwargs,
        )
    except _TEMPLATE_ERRORS as error:
        raise InvalidRequestError(
            f"The chat template does not take these messages: {str(error).rstrip('.')}.",
            "messages",
        ) from error
    return encode(tokenizer, text, fields.add_special_tokens, limit)


def _check_template(tokenizer: Any, fields: ChatFields, chat_template: str | None) -> None:
    if chat_template is None and not tokenizer.chat_template:
        raise InvalidRequestError(
            "This model has no chat template; start the server with --chat-template FILE, or use "
            "/v1/completions.",
            "messages",
        )
    if reserved := _RESERVED & fields.chat_template_kwargs.keys():
        raise InvalidRequestError(
            f"chat_template_kwargs must not hold {sorted(reserved)[0]!r}; it is for variables of "
            "the template.",
            "chat_template_kwargs",
        )


def _from_system(message: dict[str, Any]) -> dict[str, Any]:
    """A template that knows no developers has their words from the system, as OpenAI once did."""
    return {**message, "role": "system"} if message["role"] == "developer" else message
