"""``POST /tokenize`` and ``POST /detokenize``, as in vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from loramux.server.chat.template import ChatFields, render_chat
from loramux.server.generation.prompts import encode
from loramux.server.http.body import read_json, validate
from loramux.server.http.documented import answers, documented
from loramux.server.http.errors import bad_request
from loramux.server.http.json_types import WHOLE, within
from loramux.server.state import Server, ServerState

router = APIRouter()


class TokenizeTextRequest(BaseModel):
    """A text, as ``/v1/completions`` would take it."""

    model_config = ConfigDict(extra="ignore")

    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokenizeChatRequest(ChatFields):
    """A chat, as ``/v1/chat/completions`` would take it."""

    model_config = ConfigDict(extra="ignore")

    return_token_strs: bool = False


class DetokenizeRequest(BaseModel):
    """Token ids, special ones included in the text they become."""

    model_config = ConfigDict(extra="ignore")

    tokens: list[Annotated[int, within(minimum=0), WHOLE]]


class Tokens(BaseModel):
    """The answer of ``/tokenize``."""

    count: int
    tokens: list[int]
    token_strs: list[str] | None
    max_model_len: int


class TokensText(BaseModel):
    """The answer of ``/detokenize``."""

    prompt: str


@router.post(
    "/tokenize",
    openapi_extra=documented(TokenizeTextRequest, TokenizeChatRequest),
    **answers(Tokens),
)
async def tokenize(request: Request, server: Server) -> JSONResponse:
    """The token ids of a ``prompt``, or of ``messages``."""
    body = await read_json(request, _parse)
    if isinstance(body, TokenizeChatRequest):
        answer = await _tokenize_chat(server, body)
    else:
        answer = await _tokenize_text(server, body)
    return JSONResponse({**answer, "max_model_len": server.engine.max_model_len})


@router.post("/detokenize", openapi_extra=documented(DetokenizeRequest), **answers(TokensText))
async def detokenize(request: Request, server: Server) -> JSONResponse:
    """The text of token ids, of as many as the model takes."""
    body = await read_json(request, partial(_parse_tokens, most=server.engine.max_model_len))
    await server.tokenizer.run(partial(_check_known, token_ids=body.tokens))
    return JSONResponse({"prompt": await server.tokenizer.decode(body.tokens, param="tokens")})


def _parse(payload: dict[str, Any]) -> TokenizeTextRequest | TokenizeChatRequest:
    if payload.get("messages") is not None:
        return validate(TokenizeChatRequest, payload)
    return validate(TokenizeTextRequest, payload)


def _parse_tokens(payload: dict[str, Any], *, most: int) -> DetokenizeRequest:
    """Of too many none is looked at; the tokenizer would keep the interpreter while it does."""
    tokens = payload.get("tokens")
    if isinstance(tokens, list) and len(tokens) > most:
        raise bad_request(
            f"tokens holds {len(tokens)} token ids, and this model takes at most {most}; send "
            "them in parts.",
            "tokens",
        )
    return validate(DetokenizeRequest, payload)


def _check_known(tokenizer: Any, token_ids: Sequence[int]) -> None:
    """Raises InvalidRequestError for an id of no token, which would be left out in silence."""
    size, largest = len(tokenizer), max(token_ids, default=0)
    if largest >= size:
        raise bad_request(
            f"Token id {largest} is outside the vocabulary of {size} tokens; send ids that "
            "/tokenize gives.",
            "tokens",
        )


async def _tokenize_text(server: ServerState, body: TokenizeTextRequest) -> dict[str, Any]:
    def work(tokenizer: Any) -> dict[str, Any]:
        token_ids = encode(tokenizer, body.prompt, body.add_special_tokens, server.tokenizer.limit)
        return _tokens(tokenizer, token_ids, body.return_token_strs)

    return await server.tokenizer.run(work)


async def _tokenize_chat(server: ServerState, body: TokenizeChatRequest) -> dict[str, Any]:
    def work(tokenizer: Any) -> dict[str, Any]:
        token_ids = render_chat(tokenizer, body, server.chat_template, server.tokenizer.limit)
        return _tokens(tokenizer, token_ids, body.return_token_strs)

    return await server.tokenizer.run(work)


def _tokens(tokenizer: Any, token_ids: list[int], with_strings: bool) -> dict[str, Any]:
    strings = tokenizer.convert_ids_to_tokens(token_ids) if with_strings else None
    return {"count": len(token_ids), "tokens": token_ids, "token_strs": strings}
