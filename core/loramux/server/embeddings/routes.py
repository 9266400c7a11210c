"""``POST /v1/embeddings``, as in vLLM."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from loramux.errors import InvalidRequestError
from loramux.pooling_params import GENERATES
from loramux.server.adapters.model_choice import choose_model
from loramux.server.embeddings.answer import EmbeddingList, answer_pieces
from loramux.server.embeddings.request import EmbeddingRequest, ParsedEmbedding, parse_embedding
from loramux.server.embeddings.token_ids import token_ids_of
from loramux.server.generation.admission import admit
from loramux.server.generation.prompts import Prompt
from loramux.server.generation.route import ModelRoute
from loramux.server.generation.run import Generation
from loramux.server.generation.streaming import collect
from loramux.server.http.body import read_json
from loramux.server.http.disconnect import while_connected
from loramux.server.http.documented import MODEL_ERRORS, answers, documented
from loramux.server.http.errors import fields_as
from loramux.server.http.large_json import PiecesResponse
from loramux.server.http.request_id import request_id_of
from loramux.server.state import Server, ServerState

router = APIRouter(route_class=ModelRoute)


@router.post(
    "/v1/embeddings",
    openapi_extra=documented(EmbeddingRequest),
    **answers(EmbeddingList, errors=MODEL_ERRORS),
)
async def create_embedding(request: Request, server: Server) -> Response:
    """Embeddings of one input or several, by the base model or by an adapter."""
    parsed = await read_json(request, parse_embedding)
    with fields_as({"prompt": "input"}):
        generation = await while_connected(request.receive, _prepare(request, server, parsed))
        outputs = await collect(request, server, generation)
    # On a thread: a thousand embeddings are millions of numbers to write.
    head, encoding = generation.head(), parsed.body.encoding_format
    pieces = await asyncio.to_thread(answer_pieces, head, outputs, encoding)
    return PiecesResponse(pieces, generation.model.headers_for(outputs[0].adapter_digest))


async def _prepare(request: Request, server: ServerState, parsed: ParsedEmbedding) -> Generation:
    """Tokens, parameters and model of a request, each checked.

    Raises:
        LoramuxError: the request cannot be served.
    """
    body, texts = parsed.body, parsed.texts
    plan, limit = server.engine.pooling, server.engine.max_model_len
    if plan is None:
        raise InvalidRequestError(GENERATES, "model")
    plan.check(body.params)
    admit(request, len(texts), 1)
    tokens = await asyncio.gather(
        *(token_ids_of(server.tokenizer, text, body, limit) for text in texts)
    )
    model = await choose_model(request, server, body.model, body.cache_salt)
    prompts = [Prompt(token_ids) for token_ids in tokens]
    return Generation(f"embd-{request_id_of(request)}", model, prompts, [body.params] * len(texts))
