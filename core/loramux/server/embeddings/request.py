"""The body of ``POST /v1/embeddings``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from loramux.errors import InvalidRequestError
from loramux.pooling_params import PoolingParams
from loramux.server.generation.prompts import PROMPT_SCHEMA, parse_prompts
from loramux.server.generation.unsupported import UNSUPPORTED_IN_EMBEDDINGS, check_fields
from loramux.server.http.body import validate
from loramux.server.http.json_types import WHOLE

WHOLE_LENGTH = -1
"""``truncate_prompt_tokens`` that stands for the longest input that the model takes."""


class EmbeddingRequest(BaseModel):
    """OpenAI's fields and vLLM's extra ones."""

    model_config = ConfigDict(extra="ignore")

    input: Any = Field(json_schema_extra=PROMPT_SCHEMA)
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1), WHOLE] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=WHOLE_LENGTH), WHOLE] | None = None
    add_special_tokens: bool = True
    normalize: bool | None = None
    cache_salt: str | None = Field(default=None, min_length=1)

    @property
    def params(self) -> PoolingParams:
        """What is asked of each embedding."""
        return PoolingParams(dimensions=self.dimensions, normalize=self.normalize)

    def most_tokens(self, max_model_len: int) -> int | None:
        """Tokens to which longer inputs are cut, None where such are refused.

        Raises:
            InvalidRequestError: they are more than the model takes.
        """
        most = self.truncate_prompt_tokens
        if most is not None and most > max_model_len:
            raise InvalidRequestError(
                f"truncate_prompt_tokens is {most}, and this model takes at most {max_model_len}; "
                "give at most that, or -1 for it.",
                "truncate_prompt_tokens",
            )
        return max_model_len if most == WHOLE_LENGTH else most


@dataclass(frozen=True)
class ParsedEmbedding:
    """A checked body, and its inputs one by one."""

    body: EmbeddingRequest
    texts: list[str | list[int]]


def parse_embedding(payload: dict[str, Any]) -> ParsedEmbedding:
    """Check every field of a body.

    Raises:
        ApiError: 400 naming the first field that is wrong.
        InvalidRequestError: it holds no input, or too many.
    """
    check_fields(payload, EmbeddingRequest.model_fields, UNSUPPORTED_IN_EMBEDDINGS)
    body = validate(EmbeddingRequest, payload)
    return ParsedEmbedding(body, parse_prompts(body.input, "input"))
