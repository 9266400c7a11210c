"""The names PEFT gives to the tensors of a LoRA checkpoint."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

PREFIX = "base_model.model."

_MAX_REMEMBERED_LENGTH = 256
"""Adapters of one base model have the same names; those that nobody gave in earnest are no loss."""

_LORA_NAME = re.compile(
    r"(?P<site>.+)\."
    r"(?:lora_(?P<linear>[AB])(?:\.(?P<linear_adapter>[^.]+))?\.weight"
    r"|lora_embedding_(?P<embedding>[AB])(?:\.(?P<embedding_adapter>[^.]+))?)",
    re.DOTALL,
)


class TensorName(NamedTuple):
    """What the name of a LoRA tensor says.

    Attributes:
        site: dotted path of the layer in the base model.
        half: ``A`` or ``B``.
        is_embedding: whether it is named as PEFT names the halves of an embedding.
        adapter: name of the adapter inside the tensor's name, which PEFT leaves out when it saves
            and other tools keep.
    """

    site: str
    half: str
    is_embedding: bool
    adapter: str | None


def parse_tensor_name(name: str) -> TensorName | None:
    """Take a tensor's name apart, or return None if it does not name half of a LoRA pair."""
    return (_parse_once if len(name) <= _MAX_REMEMBERED_LENGTH else _parse)(name)


def _parse(name: str) -> TensorName | None:
    found = _LORA_NAME.fullmatch(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    if found is None:
        return None
    if found["linear"]:
        return TensorName(found["site"], found["linear"], False, found["linear_adapter"])
    return TensorName(found["site"], found["embedding"], True, found["embedding_adapter"])


_parse_once = lru_cache(maxsize=4096)(_parse)


def base_parameter_name(name: str) -> str | None:
    """Return the parameter of the base model that a checkpoint's tensor is a copy of.

    PEFT saves the embeddings along with an adapter that targets them (``.base_layer.``) or whose
    trainer resized them.
    """
    if not name.startswith(PREFIX):
        return None
    return name.removeprefix(PREFIX).replace(".base_layer.", ".")
