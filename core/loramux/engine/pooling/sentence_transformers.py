"""What a model's sentence-transformers files say of its embeddings.

``modules.json`` lists what a text goes through, one folder for each: the transformer, the pooling,
and mostly a normalization, which has no settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from loramux.engine.args import EngineArgs
from loramux.errors import InvalidRequestError
from loramux.models.files import find_file, unreadable
from loramux.pooling_params import PoolerConfig, PoolingType

Form = TypeVar("Form")

POOLING_TYPES = {
    "lasttoken": PoolingType.LAST,
    "mean_tokens": PoolingType.MEAN,
    "mean": PoolingType.MEAN,
    "cls_token": PoolingType.CLS,
    "cls": PoolingType.CLS,
}
"""By what follows ``pooling_mode_`` in the older files, or is ``pooling_mode`` in the newer."""

KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}


def read_pooler_config(args: EngineArgs) -> PoolerConfig | None:
    """How the model's makers pool, None where no such files say so.

    Raises:
        InvalidRequestError: in a way that is not computed here.
    """
    modules = {_kind(module): module for module in _read(args, "modules.json", list) or []}
    if "Pooling" not in modules:
        return None
    if args.pooler_config is None or args.pooler_config.pooling_type is None:
        settings = f"{modules['Pooling'].get('path', '')}/config.json".removeprefix("/")
        pooling_type = _pooling_type(_read(args, settings, dict) or {}, args.model)
    else:
        pooling_type = args.pooler_config.pooling_type
    if unknown := modules.keys() - KNOWN_MODULES:
        raise InvalidRequestError(
            f"The model {args.model!r} makes its embeddings with a module of kind "
            f"{min(unknown)} (modules.json), which loramux does not compute; choose another model.",
            "model",
        )
    return PoolerConfig(pooling_type, normalize="Normalize" in modules)


def _pooling_type(config: Mapping[str, Any], model: str) -> PoolingType:
    newer = config.get("pooling_mode") or []
    modes = list(map(str, newer)) if isinstance(newer, list) else [str(newer)]
    prefix = "pooling_mode_"
    modes += [
        key.removeprefix(prefix)
        for key, on in config.items()
        if on is True and key.startswith(prefix)
    ]
    if len(modes) != 1 or modes[0] not in POOLING_TYPES:
        raise InvalidRequestError(
            f"The model {model!r} pools by {' and '.join(modes) or 'nothing'} (as its "
            f"sentence-transformers files say), and loramux by {', '.join(PoolingType)}; "
            "choose one of them with --pooler-config.",
            "pooler_config",
        )
    return POOLING_TYPES[modes[0]]


def _kind(module: Any) -> str:
    """``Pooling`` of ``sentence_transformers.models.Pooling``, wherever the class lies."""
    kind = module.get("type", "") if isinstance(module, dict) else ""
    return str(kind).rpartition(".")[2]


def _read(args: EngineArgs, name: str, form: type[Form]) -> Form | None:
    """A JSON file of the model, None if it has none of this name."""
    path = find_file(args, name)
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if not isinstance(content, form):
            raise ValueError(f"it holds no {form.__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(args, name, error) from error
    return content
