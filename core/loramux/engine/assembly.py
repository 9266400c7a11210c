"""Puts an engine together from its arguments."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase as Tokenizer

from loramux import env
from loramux.engine.args import EngineArgs
from loramux.engine.core import EngineCore
from loramux.engine.front.prompts import PromptProcessor
from loramux.engine.front.request_factory import RequestFactory
from loramux.lora.checkpoint.reader import check_base_name, read_adapter
from loramux.lora.device.runtime import LoRALimits, LoRARuntime
from loramux.lora.fetch.materializer import Materializer, ReadCheckpoint
from loramux.lora.fetch.origin import LocalCheckpoint
from loramux.lora.site import LoRASite
from loramux.lora.size_limit import max_adapter_bytes
from loramux.lora.weights import AdapterWeights
from loramux.models.loader import (
    LoadedModel,
    load_config,
    load_model,
    load_tokenizer,
    max_model_len,
)
from loramux.models.sites import find_sites


@dataclass(frozen=True, eq=False)
class EngineParts:
    """What the synchronous and the asynchronous engine are both made of."""

    args: EngineArgs
    tokenizer: Tokenizer | None
    max_model_len: int
    core: EngineCore
    requests: RequestFactory
    materializer: Materializer | None
    lora: LoRARuntime | None


def assemble(args: EngineArgs) -> EngineParts:
    """Load the model and build everything around it.

    Raises:
        InvalidRequestError: the model or the arguments do not fit.
    """
    config = load_config(args)
    length = max_model_len(args, config)
    tokenizer = load_tokenizer(args)
    loaded = load_model(args, config)
    materializer, lora = _assemble_lora(args, loaded) if args.enable_lora else (None, None)
    return EngineParts(
        args=args,
        tokenizer=tokenizer,
        max_model_len=length,
        core=EngineCore(args, loaded, length, lora),
        requests=RequestFactory(
            PromptProcessor(tokenizer, length, config.get_text_config().vocab_size),
            loaded.generation_config,
            use_generation_config=args.generation_config == "auto",
        ),
        materializer=materializer,
        lora=lora,
    )


def _assemble_lora(args: EngineArgs, loaded: LoadedModel) -> tuple[Materializer, LoRARuntime]:
    sites = find_sites(loaded.model)
    max_concurrent = env.read_int("LORAMUX_MAX_CONCURRENT_FETCHES", 8, minimum=1)
    read = _reader(args, loaded, sites)
    materializer = Materializer(read, args.host_cache_size, max_concurrent)
    projections = None if loaded.decoder is None else loaded.decoder.projections
    lora = LoRARuntime(
        loaded.model,
        sites,
        args.max_loras,
        materializer.weights_later,
        projections,
        limits=LoRALimits(
            memory_bytes=args.lora_memory_bytes,
            max_rank=args.max_lora_rank,
            max_rows=args.max_num_batched_tokens,
            max_decode_rows=args.max_num_seqs,
        ),
    )
    materializer.on_replaced = lambda adapter: lora.pool.retire(adapter.digest)
    return materializer, lora


def _reader(args: EngineArgs, loaded: LoadedModel, sites: dict[str, LoRASite]) -> ReadCheckpoint:
    max_bytes = max_adapter_bytes()
    ours = {args.model, loaded.config.name_or_path, *args.served_names} - {""}

    def read(source: LocalCheckpoint) -> AdapterWeights:
        declared = source.base_model_name
        if args.verify_lora_base and declared is not None:
            check_base_name(declared, ours)
        return read_adapter(
            source.directory,
            sites,
            max_rank=args.max_lora_rank,
            max_bytes=max_bytes,
            base_names=ours if args.verify_lora_base and declared is None else None,
            base_parameter=loaded.model.get_parameter,
        )

    return read
