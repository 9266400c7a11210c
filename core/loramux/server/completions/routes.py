"""``POST /v1/completions``."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from loramux.server.adapters.model_choice import choose_model
from loramux.server.completions.answer import CompletionAnswer
from loramux.server.completions.described import Completion, CompletionChunk
from loramux.server.completions.request import (
    CompletionRequest,
    ParsedCompletion,
    parse_completion,
)
from loramux.server.generation.admission import admit
from loramux.server.generation.prompts import Prompt, check_length
from loramux.server.generation.route import GeneratingRoute
from loramux.server.generation.run import Generation
from loramux.server.generation.streaming import answer_streaming, answer_whole
from loramux.server.http.body import read_json
from loramux.server.http.disconnect import while_connected
from loramux.server.http.documented import MODEL_ERRORS, answers, documented
from loramux.server.http.errors import fields_as
from loramux.server.http.request_id import request_id_of
from loramux.server.state import Server, ServerState

router = APIRouter(route_class=GeneratingRoute)


@router.post(
    "/v1/completions",
    openapi_extra=documented(CompletionRequest),
    **answers(Completion, events=CompletionChunk, errors=MODEL_ERRORS),
)
async def create_completion(request: Request, server: Server) -> Response:
    """Continue one prompt or several, with the base model or with an adapter."""
    parsed = await read_json(request, parse_completion)
    body = parsed.body
    with fields_as({"structured_outputs": body.form_field}):
        generation = await while_connected(request.receive, prepare(request, server, parsed))
        answer = CompletionAnswer(
            body, generation.prompts, generation.head(), server.tokenizer.token_bytes
        )
        if body.stream:
            return await answer_streaming(request, server, generation, answer)
        return await answer_whole(request, server, generation, answer)


async def prepare(request: Request, server: ServerState, parsed: ParsedCompletion) -> Generation:
    """Tokens, sampling parameters and model of a request, each checked.

    Raises:
        LoramuxError: the request cannot be served.
    """
    body, texts = parsed.body, parsed.texts
    admit(request, len(texts), body.n)
    prompts = await asyncio.gather(*(_encode(server, body, text) for text in texts))
    params = body.params_for(
        [len(prompt.token_ids) for prompt in prompts],
        server.engine.max_model_len,
        server.engine.default_sampling_params(),
    )
    model = await choose_model(request, server, body.model, body.cache_salt)
    return Generation(f"cmpl-{request_id_of(request)}", model, prompts, params)


async def _encode(server: ServerState, body: CompletionRequest, prompt: str | list[int]) -> Prompt:
    tokenizer = server.tokenizer
    if isinstance(prompt, str):
        token_ids = await tokenizer.encode(prompt, add_special_tokens=body.add_special_tokens)
    else:
        token_ids = prompt
    check_length(len(token_ids), body.max_tokens, server.engine.max_model_len)
    if not body.echo:
        return Prompt(token_ids)
    text = prompt if isinstance(prompt, str) else await tokenizer.decode(token_ids)
    return Prompt(token_ids, text, await tokenizer.decode(token_ids[:1]))
