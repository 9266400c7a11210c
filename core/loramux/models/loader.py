"""Brings a transformers model in and prepares it: configuration, tokenizer, weights."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers import PreTrainedConfig as Config
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import GENERATION_CONFIG_NAME

from loramux.engine.args import EngineArgs
from loramux.errors import InvalidRequestError
from loramux.logger import get_logger
from loramux.models.attention import (
    ATTENTION_NAME,
    BidirectionalError,
    KVShape,
    probe_kv_shapes,
)
from loramux.models.backbone import Backbone
from loramux.models.files import find_file, is_adapter, unreadable
from loramux.models.fused import FusedDecoder
from loramux.models.hf_overrides import override
from loramux.models.length import max_model_len
from loramux.models.refusals import (
    check_attention,
    check_complete,
    check_decoder,
    no_model_but_adapter,
    not_causal,
    reason_of,
    reason_of_absence,
    refuse_unsupported,
)

log = get_logger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to run over the paged cache."""

    model: nn.Module
    config: Config
    generation_config: GenerationConfig
    kv_shapes: dict[int, KVShape]
    device: torch.device
    dtype: torch.dtype
    decoder: FusedDecoder | None = None
    """The model over packed weights, where it is to run so; shares them with ``model``."""


def choose_dtype(name: str, device: torch.device, config: Config) -> torch.dtype:
    """``auto`` is float32 on a CPU, where lower precision is rarely faster, else the model's."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cpu":
        return torch.float32
    return config.dtype if config.dtype is not None else torch.bfloat16


def load_config(args: EngineArgs) -> Config:
    """Read the model's configuration, or say in one sentence why it cannot be.

    Raises:
        InvalidRequestError: there is no such model, or it cannot run here.
    """
    try:
        config = AutoConfig.from_pretrained(
            args.model,
            revision=args.revision,
            local_files_only=args.local_files_only,
            trust_remote_code=args.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        if is_adapter(args):
            raise no_model_but_adapter(args.model) from error
        raise InvalidRequestError(
            f"The model {args.model!r} cannot be loaded "
            f"({reason_of_absence(args.model, error)}); check its path or id.",
            "model",
        ) from error
    override(config, args.hf_overrides or {})
    refuse_unsupported(config, args.model)
    return config


def base_names(args: EngineArgs, config: Config) -> frozenset[str]:
    """What adapters may call the model that they were trained on."""
    return frozenset({args.model, config.name_or_path, *args.served_names}) - {""}


def load_tokenizer(args: EngineArgs) -> Tokenizer | None:
    """The model's tokenizer, None with ``skip_tokenizer_init``."""
    if args.skip_tokenizer_init:
        return None
    try:
        return AutoTokenizer.from_pretrained(
            args.tokenizer or args.model,
            revision=args.revision if args.tokenizer is None else None,
            local_files_only=args.local_files_only,
            trust_remote_code=args.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        name = args.tokenizer or args.model
        raise InvalidRequestError(
            f"The tokenizer of {name!r} cannot be loaded ({reason_of_absence(name, error)}); "
            "give another with tokenizer=, or skip_tokenizer_init.",
            "tokenizer",
        ) from error


def load_model(
    args: EngineArgs, config: Config, device: torch.device, *, pools: bool = False
) -> LoadedModel:
    """Load or make the weights on the engine's device, with paged attention in place.

    Args:
        pools: load the decoder without its output layer, a ``Backbone``.

    Raises:
        InvalidRequestError: its files are not whole, or it is of a kind that loramux cannot run.
    """
    dtype = choose_dtype(args.dtype, device, config)
    if pools:
        check_decoder(config, args.model)
    generation_config = load_generation_config(args, config)
    model = _make_model(args, config, device, dtype, pools).eval().requires_grad_(False)
    kv_shapes = _probe(model, args.model)
    check_attention(config, kv_shapes, args.model)
    log.info("%s on %s in %s, %d layers", args.model, device, dtype, len(kv_shapes))
    return LoadedModel(
        model=model,
        config=config,
        generation_config=generation_config,
        kv_shapes=kv_shapes,
        device=device,
        dtype=dtype,
        decoder=_fuse(args, config, model, device),
    )


def _fuse(
    args: EngineArgs, config: Config, model: nn.Module, device: torch.device
) -> FusedDecoder | None:
    """The model's fused decoder, None where transformers' own code is to run."""
    if args.model_impl == "transformers" or (args.model_impl == "auto" and device.type != "cuda"):
        return None
    decoder = FusedDecoder.of(model, max_model_len(args, config))
    if decoder is None and args.model_impl == "loramux":
        raise InvalidRequestError(
            f"The model {args.model!r} has no fused form here (the log says why); "
            "use model_impl 'auto' or 'transformers'.",
            "model_impl",
        )
    return decoder


def load_generation_config(args: EngineArgs, config: Config) -> GenerationConfig:
    """The model's own defaults for generation, or what its configuration implies.

    Raises:
        InvalidRequestError: there is a file of them, and it cannot be read.
    """
    if find_file(args, GENERATION_CONFIG_NAME) is None:
        return GenerationConfig.from_model_config(config)
    try:
        return GenerationConfig.from_pretrained(
            args.model, revision=args.revision, local_files_only=args.local_files_only
        )
    except (OSError, ValueError, TypeError) as error:
        raise unreadable(args, GENERATION_CONFIG_NAME, reason_of(error)) from error


def _make_model(
    args: EngineArgs, config: Config, device: torch.device, dtype: torch.dtype, pools: bool
) -> nn.Module:
    model_class = AutoModel if pools else AutoModelForCausalLM
    options: dict[str, Any] = {
        "attn_implementation": ATTENTION_NAME,
        "trust_remote_code": args.trust_remote_code,
    }
    if args.load_format == "dummy":
        torch.manual_seed(args.seed)
        with torch.device(device):
            model: nn.Module = model_class.from_config(config, dtype=dtype, **options)
        return Backbone(model) if pools else model
    if device.type == "cuda" and find_spec("accelerate") is not None:
        options["device_map"] = str(device)  # tensors go there one by one, not by way of the host
    try:
        model, info = model_class.from_pretrained(
            args.model,
            config=config,
            revision=args.revision,
            local_files_only=args.local_files_only,
            adapter_kwargs={"local_files_only": args.local_files_only},  # not passed on to PEFT's
            dtype=dtype,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InvalidRequestError(
            f"The weights of {args.model!r} cannot be loaded ({reason_of(error)}); "
            "check that its files are whole.",
            "model",
        ) from error
    check_complete(args.model, sorted(info["missing_keys"]))
    model = model.to(device)
    return Backbone(model) if pools else model


def _probe(model: nn.Module, name: str) -> dict[int, KVShape]:
    try:
        return probe_kv_shapes(model)
    except BidirectionalError as error:
        raise not_causal(name) from error
