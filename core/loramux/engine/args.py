"""What an engine is started with. Field names are vLLM's; ``help`` is shown on the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from loramux import field_checks as check
from loramux.errors import InvalidRequestError
from loramux.pooling_params import PoolerConfig

OVERRIDES = '{"is_matryoshka": true}'
POOLER = '{"pooling_type": "MEAN", "normalize": true}'
"""Examples of what fields that are JSON objects on the command line may be."""


def option(default: Any, help: str, **extra: Any) -> Any:
    """A dataclass field that carries its command-line help."""
    metadata = {"help": help, **extra}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class EngineArgs:
    """Arguments of an engine, shared by ``LLM``, ``LLMEngine``, the server and the benchmarks.

    Raises:
        InvalidRequestError: a ``ValueError`` naming the argument that is out of range.
    """

    model: str = field(
        metadata={"help": "directory or Hugging Face id of the base model", "positional": True}
    )
    tokenizer: str | None = option(
        None, "directory or Hugging Face id of another tokenizer than the model's own"
    )
    skip_tokenizer_init: bool = option(False, "take and give token ids only")
    served_model_name: list[str] | None = option(
        None, "name(s) clients use for the base model; its path or id otherwise"
    )
    revision: str | None = option(None, "branch, tag or commit of the model on the Hub")
    local_files_only: bool = option(
        False, "ask the Hub for nothing; so by itself where the Hub does not answer", cli=False
    )
    trust_remote_code: bool = option(False, "run Python code that ships with the model")
    load_format: str = option(
        "auto", "auto reads the weights; dummy makes random ones", choices=("auto", "dummy")
    )
    hf_overrides: Mapping[str, Any] | None = option(
        None,
        f"fields of the model's configuration that are to be others, such as {OVERRIDES}",
        parse=partial(check.json_object, "hf_overrides", OVERRIDES),
    )
    dtype: str = option(
        "auto",
        "type of weights and activations; auto is float32 on a CPU, the model's own on a GPU",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    seed: int = option(0, "seed of draws that have none of their own")
    max_model_len: int | None = option(
        None, "longest sequence, prompt and output together; the model's own limit otherwise"
    )
    generation_config: str = option(
        "auto",
        "auto takes default sampling parameters from the model's generation_config.json, "
        "loramux takes none",
        choices=("auto", "loramux"),
    )

    runner: str = option(
        "auto",
        "generate writes text, pooling makes embeddings; auto is pooling where the model has the "
        "files of sentence-transformers or no output layer",
        choices=("auto", "generate", "pooling"),
    )
    task: str = option(
        "auto",
        "older name of runner: embed is pooling",
        choices=("auto", "generate", "embed", "embedding"),
    )
    pooler_config: PoolerConfig | None = option(
        None,
        f"how embeddings are made, such as {POOLER}, with LAST, MEAN or CLS; otherwise as the "
        "model's files say, or else LAST and normalized",
        parse=partial(check.json_object, "pooler_config", POOLER),
    )

    model_impl: str = option(
        "auto",
        "loramux runs the model through fused blocks where its family is known, transformers "
        "through its own code; auto is loramux on a GPU and transformers on a CPU",
        choices=("auto", "loramux", "transformers"),
    )
    attention_backend: str = option(
        "auto",
        "attention over the paged cache; auto is triton on a GPU and torch elsewhere; flashinfer "
        "and flash_attn are those libraries, where installed; the latter not run yet",
        choices=("auto", "torch", "triton", "flashinfer", "flash_attn"),
    )
    enforce_eager: bool = option(False, "launch every kernel anew instead of whole CUDA graphs")
    async_scheduling: bool | None = option(
        None,
        "launch a step before the results of the last one are looked at; so on a GPU, unless "
        "told otherwise",
    )
    stream_interval: int | None = option(
        None,
        "steps whose tokens a stream is sent as one event; 1, or 2 while there are more than 128 "
        "streams, unless told otherwise",
    )

    block_size: int = option(16, "tokens in one block of the KV cache")
    gpu_memory_utilization: float = option(
        0.9, "share of the GPU's memory that weights, activations and KV cache may fill"
    )
    kv_cache_memory_bytes: int | None = option(
        None, "bytes for the KV cache, instead of what gpu_memory_utilization leaves"
    )
    num_gpu_blocks_override: int | None = option(
        None, "number of KV cache blocks, instead of what memory allows"
    )
    enable_prefix_caching: bool = option(True, "keep the KV of finished prompts for reuse")
    max_num_seqs: int = option(256, "sequences that may run at once")
    max_num_batched_tokens: int = option(4096, "tokens one step may compute")
    prefill_chunk_size: int = option(
        320,
        "tokens of a step that computes prompts beside running streams while few wait; a multiple "
        "of it when many wait, up to max_num_batched_tokens",
    )

    enable_lora: bool = option(False, "serve LoRA adapters")
    max_loras: int = option(1, "adapters that may run in one batch")
    max_lora_rank: int = option(16, "largest rank accepted; memory is paid for true ranks only")
    lora_memory_bytes: int | None = option(
        None,
        "bytes of GPU memory for adapters, each at its true size; a tenth of the GPU otherwise",
    )
    max_cpu_loras: int | None = option(
        None, "adapters kept in host memory; four times max_loras, and at least 32, otherwise"
    )
    lora_drain_wait_threshold: float = option(
        1.0,
        "seconds an adapter may wait for others to finish before one of them takes no more "
        "requests for its sake",
    )
    verify_lora_base: bool = option(
        True, "refuse adapters whose configuration names another base model"
    )
    default_mm_loras: Mapping[str, str] | None = option(
        None, "adapters applied by modality (not supported yet)", cli=False
    )

    def __post_init__(self) -> None:
        if isinstance(self.served_model_name, str):
            self.served_model_name = [self.served_model_name]
        if self.hf_overrides is not None:
            check.mapping("hf_overrides", self.hf_overrides)
        if self.pooler_config is not None and not isinstance(self.pooler_config, PoolerConfig):
            self.pooler_config = PoolerConfig.of(check.mapping("pooler_config", self.pooler_config))
        self._check_ranges()
        self._check_lora()
        self._choose_runner()

    @property
    def served_names(self) -> list[str]:
        """Names under which clients reach the base model; the first is shown."""
        return self.served_model_name or [self.model]

    @property
    def host_cache_size(self) -> int:
        """Adapters the host cache may hold."""
        return self.max_cpu_loras or max(4 * self.max_loras, 32)

    def _check_ranges(self) -> None:
        for name in (
            "max_model_len", "block_size", "kv_cache_memory_bytes", "num_gpu_blocks_override",
            "max_num_seqs", "max_num_batched_tokens", "prefill_chunk_size", "stream_interval",
            "max_loras", "max_lora_rank", "max_cpu_loras", "lora_memory_bytes",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                check.integer(name, value, 1)
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise InvalidRequestError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least "
                f"max_num_seqs ({self.max_num_seqs}), so that every sequence can go on each step.",
                "max_num_batched_tokens",
            )
        check.positive("gpu_memory_utilization", self.gpu_memory_utilization, 1.0)
        check.real("lora_drain_wait_threshold", self.lora_drain_wait_threshold, 0.0, math.inf)
        for spec in fields(self):
            choices = spec.metadata.get("choices")
            if choices and getattr(self, spec.name) not in choices:
                raise InvalidRequestError(
                    f"{spec.name} must be one of {', '.join(choices)}, "
                    f"got {getattr(self, spec.name)!r}.",
                    spec.name,
                )

    def _choose_runner(self) -> None:
        """What ``task`` says, where it says anything."""
        if self.task == "auto":
            return
        runner = "generate" if self.task == "generate" else "pooling"
        if self.runner not in ("auto", runner):
            raise InvalidRequestError(
                f"task {self.task!r} asks for the runner {runner!r}, and runner is "
                f"{self.runner!r}; give one of them.",
                "task",
            )
        self.runner = runner

    def _check_lora(self) -> None:
        if self.max_cpu_loras is not None and self.max_cpu_loras < self.max_loras:
            raise InvalidRequestError(
                f"max_cpu_loras ({self.max_cpu_loras}) must be at least max_loras "
                f"({self.max_loras}).",
                "max_cpu_loras",
            )
        if self.default_mm_loras:
            raise InvalidRequestError(
                "default_mm_loras is not supported yet; pass lora_request with each prompt.",
                "default_mm_loras",
            )
