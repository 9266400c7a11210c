"""What an embedding may be asked to be. Names are vLLM's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from loramux import field_checks as check
from loramux.errors import InvalidRequestError
from loramux.sampling_params import SamplingParams


class PoolingType(StrEnum):
    """Which hidden states of a prompt, after the last norm, become its embedding."""

    LAST = "LAST"
    """That of the last token, the only one that has seen the whole prompt."""
    MEAN = "MEAN"
    """The mean of all."""
    CLS = "CLS"
    """That of the first token."""


@dataclass(frozen=True)
class PoolerConfig:
    """How a server makes embeddings; what is None is as the model's files say.

    Args:
        pooling_type: ``LAST``, ``MEAN`` or ``CLS``.
        normalize: whether embeddings have the length 1.

    Raises:
        InvalidRequestError: naming the field that is wrong.
    """

    pooling_type: PoolingType | None = None
    normalize: bool | None = None

    def __post_init__(self) -> None:
        if self.pooling_type is not None:
            object.__setattr__(self, "pooling_type", _pooling_type(self.pooling_type))
        if self.normalize is not None:
            check.boolean("pooler_config.normalize", self.normalize)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> PoolerConfig:
        """From vLLM's fields, of which ``seq_pooling_type`` and ``use_activation`` are newer names.

        Raises:
            InvalidRequestError: naming the field that is unknown or wrong.
        """
        known = {
            "pooling_type": "pooling_type", "seq_pooling_type": "pooling_type",
            "normalize": "normalize", "use_activation": "normalize",
        }  # fmt: skip
        unknown = fields.keys() - known.keys()
        if unknown:
            raise InvalidRequestError(
                f"pooler_config has the unknown field {min(map(str, unknown))!r}; give "
                "pooling_type (LAST, MEAN or CLS) and normalize.",
                "pooler_config",
            )
        return cls(**{known[name]: value for name, value in fields.items() if value is not None})


@dataclass(frozen=True)
class PoolingParams:
    """What one request wants of its embedding.

    Args:
        dimensions: how many numbers of it, of models whose first ones are an embedding by
            themselves (Matryoshka, Kusupati et al. 2022, arXiv:2205.13147); None for all.
        normalize: whether it has the length 1; None for what the engine does.

    Raises:
        InvalidRequestError: naming the field that is wrong.
    """

    dimensions: int | None = None
    normalize: bool | None = None
    n: ClassVar[int] = 1
    """A prompt has one embedding."""

    def __post_init__(self) -> None:
        if self.dimensions is not None:
            check.integer("dimensions", self.dimensions, 1)
        if self.normalize is not None:
            check.boolean("normalize", self.normalize)


Params = SamplingParams | PoolingParams
"""Of a request, by what its engine is for."""

GENERATES = (
    "The model does not support the Embeddings API: it generates text; ask a server that runs an "
    "embedding model (loramux serve MODEL --runner pooling, in Python LLM(..., runner='pooling'))."
)
"""What is said to who wants an embedding of an engine that generates."""

POOLS = (
    "The model does not generate text: it makes embeddings; ask /v1/embeddings (in Python "
    "LLM.embed), or a server that was started with --runner generate."
)
"""What is said to who wants text of an engine that makes embeddings."""


def _pooling_type(value: Any) -> PoolingType:
    try:
        return PoolingType(str(value).upper())
    except ValueError:
        raise InvalidRequestError(
            f"pooling_type must be {', '.join(PoolingType)}, got {value!r}.", "pooler_config"
        ) from None
