"""The answer of ``/v1/embeddings``."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from loramux.outputs import PooledOutput, RequestOutput
from loramux.server.http.large_json import json_with_list


class EmbeddingUsage(BaseModel):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class Embedding(BaseModel):
    """The embedding of one input; in base64, its float32 numbers, the least byte first."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(BaseModel):
    """The embeddings of all inputs, in their order."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


def answer_pieces(
    head: Mapping[str, Any], outputs: Sequence[RequestOutput], encoding_format: str
) -> list[bytes]:
    """The body of the answer, an ``EmbeddingList``, in pieces.

    Args:
        head: its ``id``, ``created`` and ``model``.
    """
    tokens = sum(len(output.prompt_token_ids) for output in outputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    data = (
        {"object": "embedding", "index": index, "embedding": _encoded(output, encoding_format)}
        for index, output in enumerate(outputs)
    )
    whole = json_with_list({**head, "object": "list", "usage": usage}, "data", data)
    return list(whole)


def _encoded(output: RequestOutput, encoding_format: str) -> list[float] | str:
    assert isinstance(output, PooledOutput), "the engine makes embeddings"
    assert output.embedding is not None, "a request that fails raises its error"
    if encoding_format == "base64":
        return base64.b64encode(output.embedding.astype("<f4").tobytes()).decode()
    numbers: list[float] = output.embedding.tolist()
    return numbers
