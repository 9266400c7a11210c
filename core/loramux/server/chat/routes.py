"""``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from loramux.server.adapters.model_choice import choose_model
from loramux.server.chat.answer import ChatAnswer
from loramux.server.chat.described import ChatCompletion, ChatCompletionChunk
from loramux.server.chat.request import ChatRequest
from loramux.server.chat.template import render_chat
from loramux.server.generation.admission import admit
from loramux.server.generation.prompts import Prompt, check_length
from loramux.server.generation.route import GeneratingRoute
from loramux.server.generation.run import Generation
from loramux.server.generation.streaming import answer_streaming, answer_whole
from loramux.server.generation.unsupported import UNSUPPORTED_IN_CHAT, check_fields
from loramux.server.http.body import read_json, validate
from loramux.server.http.disconnect import while_connected
from loramux.server.http.documented import MODEL_ERRORS, answers, documented
from loramux.server.http.errors import fields_as
from loramux.server.http.request_id import request_id_of
from loramux.server.state import Server, ServerState

router = APIRouter(route_class=GeneratingRoute)


@router.post(
    "/v1/chat/completions",
    openapi_extra=documented(ChatRequest),
    **answers(ChatCompletion, events=ChatCompletionChunk, errors=MODEL_ERRORS),
)
async def create_chat_completion(request: Request, server: Server) -> Response:
    """Answer a chat, with the base model or with an adapter."""
    body = await read_json(request, _parse)
    with fields_as(body.names_of_fields):
        generation = await while_connected(request.receive, _prepare(request, server, body))
        answer = ChatAnswer(body, generation.head(), server.tools, server.tokenizer.token_bytes)
        if body.stream:
            return await answer_streaming(request, server, generation, answer)
        return await answer_whole(request, server, generation, answer)


def _parse(payload: dict[str, Any]) -> ChatRequest:
    check_fields(payload, ChatRequest.model_fields, UNSUPPORTED_IN_CHAT)
    return validate(ChatRequest, payload)


async def _prepare(request: Request, server: ServerState, body: ChatRequest) -> Generation:
    server.tools.check(body)
    admit(request, 1, body.n)
    token_ids = await server.tokenizer.run(
        lambda tokenizer: render_chat(tokenizer, body, server.chat_template, server.tokenizer.limit)
    )
    most, field = server.engine.max_model_len, body.length_field
    check_length(len(token_ids), body.tokens_to_generate, most, field)
    defaults = server.engine.default_sampling_params()
    params = body.params(defaults, server.tools.shows_special_tokens)
    model = await choose_model(request, server, body.model, body.cache_salt)
    request_id = f"chatcmpl-{request_id_of(request)}"
    return Generation(request_id, model, [Prompt(token_ids)], [params])
