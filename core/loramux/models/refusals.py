"""Models that loramux does not run, each with the sentence that says why.

Every check raises InvalidRequestError.
"""

from __future__ import annotations

import os

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # not in __all__
    validate_repo_id,
)
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers import PreTrainedConfig as Config

from loramux.errors import InvalidRequestError
from loramux.lora.checkpoint.peft_config import CONFIG_NAME
from loramux.models.attention import KVShape

SUPPORTED_LAYER_TYPES = {"full_attention", "sliding_attention"}


def refuse_unsupported(config: Config, name: str) -> None:
    """Refuse what a configuration says that loramux does not compute."""
    text_config = config.get_text_config()
    layer_types = set(getattr(text_config, "layer_types", None) or ())
    if not layer_types <= SUPPORTED_LAYER_TYPES:
        kinds = ", ".join(sorted(layer_types - SUPPORTED_LAYER_TYPES))
        raise InvalidRequestError(
            f"The model {name!r} has layers of kind {kinds}, which loramux cannot run yet; "
            "choose a model with full or sliding attention.",
            "model",
        )
    if getattr(config, "is_causal", True) is False:
        raise not_causal(name)
    if getattr(text_config, "alibi", False):
        raise InvalidRequestError(
            f"The model {name!r} uses ALiBi position biases, which loramux cannot run yet; "
            "choose a model with rotary or learned positions.",
            "model",
        )


def check_decoder(config: Config, name: str) -> None:
    """Whether the model is one that could write text, if it had an output layer."""
    is_remote = "AutoModel" in (getattr(config, "auto_map", None) or {})
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not is_remote:
        raise not_causal(name)


def not_causal(name: str) -> InvalidRequestError:
    """The refusal of a model whose tokens see those that follow them."""
    return InvalidRequestError(
        f"The model {name!r} is no causal decoder, its tokens see those that follow them, so "
        "loramux cannot run it; choose a decoder such as Qwen3-Embedding.",
        "model",
    )


def no_model_but_adapter(name: str) -> InvalidRequestError:
    """The refusal of an adapter that was given as the model."""
    return InvalidRequestError(
        f"The model {name!r} is an adapter, as its {CONFIG_NAME} tells; give the base model that "
        "this file names, and the adapter with --lora-modules or --lora-path (generate and chat: "
        "--lora).",
        "model",
    )


def check_complete(name: str, missing: list[str]) -> None:
    """transformers fills what a checkpoint lacks with random numbers, and only warns."""
    if missing:
        raise InvalidRequestError(
            f"The weights of {name!r} lack {len(missing)} tensors, {missing[0]} among them; "
            "check that its files are whole and belong to its config.json.",
            "model",
        )


def check_attention(config: Config, kv_shapes: dict[int, KVShape], name: str) -> None:
    """Whether every layer's attention is ours."""
    expected = config.get_text_config().num_hidden_layers
    if len(kv_shapes) != expected:
        raise InvalidRequestError(
            f"The model {name!r} sends {len(kv_shapes)} of its {expected} layers through "
            "transformers' attention interface, so loramux cannot run it; choose another model.",
            "model",
        )


def reason_of_absence(name: str, error: Exception) -> str:
    """Why no model has that name; who writes a path need not know the Hub's rules for ids."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        if not os.path.isdir(name):
            return "there is no such directory"
    return reason_of(error)


def reason_of(error: Exception) -> str:
    """The first sentence of what transformers says, to be quoted in one of ours."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].split(". ")[0].rstrip(".:") if lines else type(error).__name__
