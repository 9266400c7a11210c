"""How long a sequence may be."""

from __future__ import annotations

from transformers import PreTrainedConfig as Config

from loramux.engine.args import EngineArgs
from loramux.errors import InvalidRequestError

LENGTH_DEPENDENT_ROPES = {"longrope", "dynamic"}

DEFAULT_LENGTH = 2048
"""In tokens, of models whose configuration names no limit."""


def max_model_len(args: EngineArgs, config: Config) -> int:
    """Longest sequence in tokens: what was asked for, within what the model was made for.

    Raises:
        InvalidRequestError: more was asked for than the model's positions reach.
    """
    text_config = config.get_text_config()
    limit = getattr(text_config, "max_position_embeddings", None)
    if (uniform := _uniform_rope_limit(text_config)) is not None:
        limit = min(limit or uniform, uniform)
    if args.max_model_len is None:
        return int(limit or DEFAULT_LENGTH)
    if limit is not None and args.max_model_len > limit:
        raise InvalidRequestError(
            f"max_model_len {args.max_model_len} is more than the {limit} positions that loramux "
            f"can serve of {args.model}; ask for at most that.",
            "max_model_len",
        )
    return args.max_model_len


def _uniform_rope_limit(text_config: Config) -> int | None:
    """Longest sequence for which rotary factors do not depend on what else is in the batch.

    transformers chooses the factors of ``longrope`` and ``dynamic`` by the largest position of the
    whole batch; beyond this length, one long sequence would change everybody else's tokens.
    """
    ropes = getattr(text_config, "rope_parameters", None) or {}
    by_layer = [rope for rope in ropes.values() if isinstance(rope, dict)] or [ropes]
    if not any(rope.get("rope_type") in LENGTH_DEPENDENT_ROPES for rope in by_layer):
        return None
    original = [rope.get("original_max_position_embeddings") for rope in by_layer]
    original.append(getattr(text_config, "original_max_position_embeddings", None))
    known = [int(limit) for limit in original if limit]
    return min(known) if known else int(text_config.max_position_embeddings)
