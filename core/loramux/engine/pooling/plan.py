"""Whether an engine makes embeddings, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from transformers import MODEL_MAPPING
from transformers import PreTrainedConfig as Config

from loramux.engine.args import EngineArgs
from loramux.engine.pooling.sentence_transformers import read_pooler_config
from loramux.errors import InvalidRequestError
from loramux.pooling_params import PoolerConfig, PoolingParams, PoolingType


@dataclass(frozen=True)
class PoolingPlan:
    """How the embeddings of one engine are made.

    Args:
        model: its name, for refusals.
        normalize: whether embeddings have the length 1, unless a request wants another.
        hidden_size: numbers of an embedding.
        is_matryoshka: whether the first ones of them are an embedding, too.
        matryoshka_dimensions: how many first ones are; empty where any number is.
    """

    model: str
    pooling_type: PoolingType
    normalize: bool
    hidden_size: int
    is_matryoshka: bool = False
    matryoshka_dimensions: tuple[int, ...] = ()

    @classmethod
    def of(cls, args: EngineArgs, config: Config) -> Self | None:
        """As arguments and the model's files say; None for an engine that generates.

        Raises:
            InvalidRequestError: the model's own way is none of those computed here.
        """
        if args.runner == "generate":
            return None
        files = read_pooler_config(args)
        if args.runner == "auto" and files is None and not _lacks_output(config):
            return None
        asked, own = args.pooler_config or PoolerConfig(), files or PoolerConfig()
        normalize = own.normalize if asked.normalize is None else asked.normalize
        dimensions = tuple(getattr(config, "matryoshka_dimensions", None) or ())
        return cls(
            model=args.served_names[0],
            pooling_type=asked.pooling_type or own.pooling_type or PoolingType.LAST,
            normalize=True if normalize is None else normalize,
            hidden_size=config.get_text_config().hidden_size,
            is_matryoshka=bool(dimensions) or bool(getattr(config, "is_matryoshka", False)),
            matryoshka_dimensions=dimensions,
        )

    def __str__(self) -> str:
        return self.pooling_type + (", normalized" if self.normalize else "")

    @property
    def needs_all_tokens(self) -> bool:
        """Whether hidden states of a prompt's beginning are wanted, which no cache holds."""
        return self.pooling_type is not PoolingType.LAST

    def check(self, params: PoolingParams) -> None:
        """Refuse what this model's embeddings cannot be.

        Raises:
            InvalidRequestError: naming the parameter.
        """
        wanted = params.dimensions
        if wanted is None:
            return
        if not self.is_matryoshka:
            raise InvalidRequestError(
                f"Model {self.model!r} does not support matryoshka representation, so its "
                "embeddings cannot be shortened; leave dimensions out.",
                "dimensions",
            )
        known = self.matryoshka_dimensions
        if (known and wanted not in known) or wanted > self.hidden_size:
            choices = (
                f"one of {', '.join(map(str, known))}" if known else f"1 to {self.hidden_size}"
            )
            raise InvalidRequestError(
                f"Model {self.model!r} makes embeddings of other dimensions than {wanted}; "
                f"ask for {choices}.",
                "dimensions",
            )


def _lacks_output(config: Config) -> bool:
    """Whether the checkpoint is that of a bare decoder: ``Qwen3Model``, not ``...ForCausalLM``."""
    bare = MODEL_MAPPING.get(type(config), ())
    classes = bare if isinstance(bare, tuple) else (bare,)
    return any(each.__name__ in (config.architectures or ()) for each in classes)
