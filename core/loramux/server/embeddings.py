"""``POST /v1/embeddings``, which a model that writes text does not answer."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from loramux.server.http.body import read_json, validate
from loramux.server.http.documented import documented
from loramux.server.http.errors import bad_request

router = APIRouter()


class EmbeddingRequest(BaseModel):
    """OpenAI's fields."""

    model_config = ConfigDict(extra="ignore")

    input: Any
    model: str | None = None


@router.post("/v1/embeddings", openapi_extra=documented(EmbeddingRequest))
async def create_embedding(request: Request) -> None:
    """Refused with one sentence, as vLLM does for models that generate."""
    await read_json(request, partial(validate, EmbeddingRequest))
    raise bad_request(
        "The model does not support the Embeddings API: it generates text; ask a server that runs "
        "an embedding model.",
        "model",
    )
