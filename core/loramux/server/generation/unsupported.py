"""Fields of the OpenAI API and of vLLM that loramux does not honour.

A field that would change the answer is refused by name unless its value changes nothing; a field
that changes nothing here is ignored; a field nobody knows is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from loramux.server.http.errors import bad_request

log = logging.getLogger(__name__)

NeutralValues = Mapping[str, tuple[Any, ...]]
"""Field to the values that ask for nothing; null always does."""

UNSUPPORTED: NeutralValues = {
    "allowed_token_ids": (),
    "bad_words": ([],),
    "detokenize": (True,),
    "kv_transfer_params": (),
    "length_penalty": (1, 1.0),
    "logits_processors": ([],),
    "priority": (0,),
    "repetition_detection": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "spaces_between_special_tokens": (True,),
    "thinking_token_budget": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
}

UNSUPPORTED_IN_COMPLETIONS: NeutralValues = {
    **UNSUPPORTED,
    "prompt_embeds": (),
    "suffix": ("",),
}

UNSUPPORTED_IN_CHAT: NeutralValues = {
    **UNSUPPORTED,
    "audio": (),
    "chat_template": (),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}

UNSUPPORTED_IN_EMBEDDINGS: NeutralValues = {
    "chat_template": (),
    "embed_dtype": ("float32",),
    "endianness": ("little", "native"),
    "messages": (),
    "mm_processor_kwargs": ({},),
    "priority": (0,),
    "use_activation": (),
}

IGNORED = frozenset(
    {
        "guided_decoding_backend",
        "include_reasoning",
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Bookkeeping and hints: the text is the same without them."""


def check_fields(
    payload: Mapping[str, Any], supported: Collection[str], unsupported: NeutralValues
) -> None:
    """Let through what can be honoured.

    Raises:
        ApiError: 400 naming a field whose value would have to be ignored.
    """
    unknown = []
    for name, value in payload.items():
        if name in supported or name in IGNORED or value is None:
            continue
        if name not in unsupported:
            unknown.append(name)
        elif value not in unsupported[name]:
            raise bad_request(f"{name!r} is not supported by this server; leave it out.", name)
    if unknown:
        log.debug("ignoring request fields that nobody knows: %s", ", ".join(sorted(unknown)))
