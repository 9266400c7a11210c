"""Offline inference: all prompts in, all completions or embeddings out, in the order given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar, cast

from tqdm import tqdm

from loramux.engine.args import EngineArgs
from loramux.engine.front.prompts import Prompt
from loramux.engine.llm_engine import LLMEngine
from loramux.errors import InvalidRequestError
from loramux.garbage import only_among_young
from loramux.lora.request import LoRARequest
from loramux.models.device import choose_device
from loramux.outputs import (
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PooledOutput,
    RequestOutput,
)
from loramux.pooling_params import Params, PoolingParams
from loramux.sampling_params import RequestOutputKind, SamplingParams

OFFLINE_TOKENS = 8192
Message = dict[str, Any]
Value = TypeVar("Value")


class LLM:
    """A model with any number of LoRA adapters, for work that needs no server.

    Nobody watches single tokens here, so on a GPU a step takes in up to ``OFFLINE_TOKENS`` tokens
    unless ``max_num_batched_tokens`` says otherwise, and prompts need not go gently beside streams.

    Args:
        model: directory or Hugging Face id of the base model.
        engine_args: everything else that ``EngineArgs`` takes, e.g. ``enable_lora=True``.

    Raises:
        InvalidRequestError: the model or the arguments do not fit.
    """

    def __init__(self, model: str, **engine_args: Any) -> None:
        if choose_device(engine_args.get("device", "auto")).type == "cuda":
            engine_args.setdefault("max_num_batched_tokens", OFFLINE_TOKENS)
            engine_args.setdefault("prefill_chunk_size", engine_args["max_num_batched_tokens"])
        self.llm_engine = LLMEngine.from_engine_args(EngineArgs(model=model, **engine_args))
        self._ids = count()

    def get_tokenizer(self) -> Any:
        return self.llm_engine.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's makers recommend."""
        return SamplingParams(**self.llm_engine.default_sampling_params())

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Complete prompts, together as far as ``max_num_seqs`` and ``max_loras`` allow.

        Args:
            prompts: one or many; each is text, ``{"prompt_token_ids": [...]}`` or
                ``{"messages": [...]}``.
            sampling_params: one for all, or one each.
            lora_request: one adapter for all, or one (or None, the base model) each.
            use_tqdm: show a progress bar, where stderr is a terminal.

        Returns:
            One output for each prompt, in the order of the prompts.

        Raises:
            InvalidRequestError: a prompt or parameter is wrong.
            AdapterError: an adapter cannot be used; nothing goes on running.
        """
        params = self.get_default_sampling_params() if sampling_params is None else sampling_params
        all_prompts = _as_list(prompts)
        all_params = _parameters(params, SamplingParams, len(all_prompts), "sampling_params")
        return self._run_all(all_prompts, all_params, lora_request, use_tqdm)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        pooling_params: PoolingParams | Sequence[PoolingParams] | None = None,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        use_tqdm: bool = True,
    ) -> list[EmbeddingRequestOutput]:
        """Make embeddings of prompts, with ``LLM(..., runner="pooling")``.

        Args:
            pooling_params: one for all, or one each.

        See ``generate`` for the other arguments and what is raised.
        """
        params = PoolingParams() if pooling_params is None else pooling_params
        all_prompts = _as_list(prompts)
        all_params = _parameters(params, PoolingParams, len(all_prompts), "pooling_params")
        outputs = self._run_all(all_prompts, all_params, lora_request, use_tqdm)
        return [_embedding(output) for output in outputs]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        use_tqdm: bool = True,
        **template_options: Any,
    ) -> list[RequestOutput]:
        """Answer one conversation or many; ``template_options`` go to the chat template.

        See ``generate`` for the other arguments, the result and what is raised.
        """
        processor = self.llm_engine.requests.prompts
        prompts: list[Prompt] = [
            processor.encode_rendered(processor.render_chat(conversation, **template_options))
            for conversation in _conversations(messages)
        ]
        return self.generate(prompts, sampling_params, lora_request=lora_request, use_tqdm=use_tqdm)

    def shutdown(self) -> None:
        """End the threads that load adapters and compile grammars, and what they need."""
        self.llm_engine.shutdown()

    def _run_all(
        self,
        prompts: Sequence[Prompt],
        params: Sequence[Params],
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None,
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        """The last output of each prompt."""
        all_lora = _one_each(lora_request, len(prompts), "lora_request")
        ids = [str(next(self._ids)) for _ in prompts]
        try:
            for arguments in zip(ids, prompts, params, all_lora, strict=True):
                self._add(*arguments)
            with only_among_young():
                return self._run(ids, use_tqdm)
        except BaseException:
            self.llm_engine.abort_request(ids)
            raise

    def _add(
        self, request_id: str, prompt: Prompt, params: Params, lora: LoRARequest | None
    ) -> None:
        if isinstance(params, SamplingParams):
            params = replace(params, output_kind=RequestOutputKind.FINAL_ONLY)
        self.llm_engine.add_request(request_id, prompt, params, lora)

    def _run(self, ids: list[str], use_tqdm: bool) -> list[RequestOutput]:
        finished: dict[str, RequestOutput] = {}
        hidden = None if use_tqdm else True  # None: where no terminal shows it
        with tqdm(total=len(ids), desc="Processed prompts", disable=hidden) as progress:
            num_tokens = 0
            while len(finished) < len(ids):
                for output in self.llm_engine.step():
                    if output.error is not None:
                        raise output.error
                    finished[output.request_id] = output
                    num_tokens += sum(len(one.token_ids) for one in output.outputs)
                    progress.update()
                    if num_tokens:  # embeddings have none
                        progress.set_postfix_str(f"{num_tokens} tokens")
        return [finished[request_id] for request_id in ids]


def _embedding(output: RequestOutput) -> EmbeddingRequestOutput:
    assert isinstance(output, PooledOutput), "PoolingParams are refused by other engines"
    assert output.embedding is not None, "_run raises for a request that failed"
    return EmbeddingRequestOutput(
        request_id=output.request_id,
        outputs=EmbeddingOutput(output.embedding.tolist()),
        prompt_token_ids=output.prompt_token_ids,
        num_cached_tokens=output.num_cached_tokens,
        lora_request=output.lora_request,
        adapter_digest=output.adapter_digest,
    )


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or many as a list; a flat list of integers is one prompt of token ids."""
    is_one = isinstance(prompts, (str, Mapping)) or (prompts and isinstance(prompts[0], int))
    return cast(list[Prompt], [prompts] if is_one else list(prompts))


def _conversations(
    messages: Sequence[Message] | Sequence[Sequence[Message]],
) -> Sequence[Sequence[Message]]:
    is_one = bool(messages) and isinstance(messages[0], Mapping)
    return cast(Sequence[Sequence[Message]], [messages] if is_one else messages)


def _parameters(value: Any, kind: type[Value], count: int, name: str) -> list[Value]:
    """Parameters of each prompt, where the caller calls them ``name``."""
    params: list[Value] = _one_each(value, count, name)
    for one in params:
        if not isinstance(one, kind):
            raise InvalidRequestError(
                f"{name} must be {kind.__name__}, got {type(one).__name__}.", name
            )
    return params


def _one_each(value: Value | Sequence[Value], count: int, name: str) -> list[Value]:
    if not isinstance(value, (list, tuple)):
        return [value] * count  # type: ignore[list-item]
    if len(value) != count:
        raise InvalidRequestError(
            f"{name} has {len(value)} entries for {count} prompts; give one, or one each.", name
        )
    return list(value)
