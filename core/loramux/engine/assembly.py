"""Puts an engine together from its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedTokenizerBase as Tokenizer

from loramux import env
from loramux.engine.args import EngineArgs
from loramux.engine.core import EngineCore
from loramux.engine.front.prompts import PromptProcessor
from loramux.engine.front.request_factory import RequestFactory
from loramux.engine.head_start import HeadStart
from loramux.engine.phases import Phases
from loramux.engine.pooling.plan import PoolingPlan
from loramux.engine.running.rehearsal import rehearse
from loramux.lora.checkpoint.reader import check_base_name
from loramux.lora.device.runtime import LoRALimits, LoRARuntime
from loramux.lora.fetch.materializer import Materializer, ReadCheckpoint
from loramux.lora.fetch.origin import LocalCheckpoint
from loramux.lora.read_process.reader import AdapterReader
from loramux.lora.size_limit import max_adapter_bytes
from loramux.lora.weights import AdapterWeights
from loramux.models.hub import reachable
from loramux.models.length import max_model_len
from loramux.models.loader import (
    LoadedModel,
    base_names,
    load_config,
    load_model,
    load_tokenizer,
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


def assemble(args: EngineArgs, head_start: HeadStart, phases: Phases) -> EngineParts:
    """Load the model and build everything around it.

    Args:
        head_start: what gets ready meanwhile; whoever began it ends it, should this fail.
        phases: is told what took how long.

    Raises:
        InvalidRequestError: the model or the arguments do not fit.
    """
    args = reachable(args)
    config = load_config(args)
    pooling = PoolingPlan.of(args, config)
    length = max_model_len(args, config)
    tokenizer = load_tokenizer(args)
    phases.end("configuration and tokenizer")
    loaded = load_model(args, config, head_start.device, pools=pooling is not None)
    phases.end("model")
    materializer, lora = None, None
    if head_start.reader is not None:
        materializer, lora = _assemble_lora(args, loaded, head_start.reader)
        phases.end("room for adapters")
    if head_start.compiler is not None:
        head_start.compiler.prepare(partial(rehearse, args, loaded, length, lora))
        phases.end("kernels")
    core = EngineCore(args, loaded, length, lora, pooling)
    phases.end("cache and graphs")
    return EngineParts(
        args=args,
        tokenizer=tokenizer,
        max_model_len=length,
        core=core,
        requests=_request_factory(args, loaded, tokenizer, length, pooling),
        materializer=materializer,
        lora=lora,
    )


def _request_factory(
    args: EngineArgs,
    loaded: LoadedModel,
    tokenizer: Tokenizer | None,
    length: int,
    pooling: PoolingPlan | None,
) -> RequestFactory:
    vocab_size = loaded.config.get_text_config().vocab_size
    least_output = 1 if pooling is None else 0
    return RequestFactory(
        PromptProcessor(tokenizer, length, vocab_size, least_output),
        loaded.generation_config,
        use_generation_config=args.generation_config == "auto",
        pooling=pooling,
    )


def _assemble_lora(
    args: EngineArgs, loaded: LoadedModel, reader: AdapterReader
) -> tuple[Materializer, LoRARuntime]:
    sites = find_sites(loaded.model)
    max_concurrent = env.read_int("LORAMUX_MAX_CONCURRENT_FETCHES", 8, minimum=1)
    reader.serve(sites)
    materializer = Materializer(
        _read_with(reader, args, loaded),
        args.host_cache_size,
        max_concurrent,
        on_shutdown=reader.shutdown,
    )
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


def _read_with(reader: AdapterReader, args: EngineArgs, loaded: LoadedModel) -> ReadCheckpoint:
    max_bytes = max_adapter_bytes()
    ours = base_names(args, loaded.config)

    def read(source: LocalCheckpoint) -> AdapterWeights:
        declared = source.base_model_name
        if args.verify_lora_base and declared is not None:
            check_base_name(source.directory, declared, ours)
        return reader.read(
            source.directory,
            max_rank=args.max_lora_rank,
            max_bytes=max_bytes,
            allowed_directories=source.allowed_directories,
            base_names=ours if args.verify_lora_base and declared is None else None,
            base_parameter=loaded.model.get_parameter,
        )

    return read
