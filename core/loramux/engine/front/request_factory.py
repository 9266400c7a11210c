"""From a request as a user states it to the sequences the core runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import GenerationConfig

from loramux.engine.front.prompts import Prompt, PromptProcessor, TokenizedPrompt
from loramux.engine.pooling.plan import PoolingPlan
from loramux.engine.scheduling.sequence import Sequence
from loramux.engine.structured.compiler import GrammarCompiler
from loramux.engine.structured.matcher import Grammar
from loramux.errors import InvalidRequestError
from loramux.lora.adapter import Adapter
from loramux.pooling_params import GENERATES, POOLS, Params, PoolingParams
from loramux.sampling_params import SamplingParams

NO_SAMPLING = SamplingParams(max_tokens=1)

DEFAULT_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Sampling parameters that a model's generation_config may set for those who set none."""


@dataclass(frozen=True)
class RequestFactory:
    """Checks requests against one model and splits them into sequences."""

    prompts: PromptProcessor
    generation_config: GenerationConfig
    use_generation_config: bool
    pooling: PoolingPlan | None = None
    """How embeddings are made, of an engine that does not generate."""

    @cached_property
    def grammars(self) -> GrammarCompiler:
        """Where requests for structured outputs get their grammar."""
        primary, others = self._eos_token_ids()
        prompts = self.prompts
        return GrammarCompiler(prompts.tokenizer, prompts.vocab_size, primary | others)

    def default_sampling_params(self) -> dict[str, Any]:
        """What the model's makers recommend, as keyword arguments of ``SamplingParams``."""
        if not self.use_generation_config:
            return {}
        values = {name: getattr(self.generation_config, name, None) for name in DEFAULT_FIELDS}
        return {name: value for name, value in values.items() if value is not None}

    def tokenize(self, prompt: Prompt, *, add_special_tokens: bool = True) -> TokenizedPrompt:
        return self.prompts.process(prompt, add_special_tokens=add_special_tokens)

    def check(self, params: Params) -> None:
        """Refuse parameters that this model cannot honour.

        Raises:
            InvalidRequestError: naming the parameter.
        """
        if isinstance(params, PoolingParams) or self.pooling is not None:
            self._check_pooling(params)
        else:
            self._check_sampling(params)

    def _check_pooling(self, params: Params) -> None:
        if self.pooling is None:
            raise InvalidRequestError(GENERATES, "model")
        if not isinstance(params, PoolingParams):
            raise InvalidRequestError(POOLS, "model")
        self.pooling.check(params)

    def _check_sampling(self, params: Params) -> None:
        if not isinstance(params, SamplingParams):
            raise InvalidRequestError(
                f"Sampling parameters must be SamplingParams, got {type(params).__name__}.",
                "sampling_params",
            )
        vocab_size = self.prompts.vocab_size
        for token_id in params.logit_bias or {}:
            if token_id >= vocab_size:
                raise InvalidRequestError(
                    f"logit_bias names token {token_id}, outside the vocabulary of {vocab_size}; "
                    "name ids of this model's tokens.",
                    "logit_bias",
                )
        if params.stop and self.prompts.tokenizer is None:
            raise InvalidRequestError(
                "stop strings need a tokenizer, and this engine was started without one; "
                "use stop_token_ids.",
                "stop",
            )

    def sequences(
        self,
        ids: list[str],
        prompt: TokenizedPrompt,
        params: Params,
        adapter: Adapter | None,
        grammar: Grammar | None = None,
    ) -> list[Sequence]:
        """One sequence for each id: the completions of one request, or its embedding."""
        if isinstance(params, PoolingParams):
            return [self._pooled_sequence(sequence_id, prompt, adapter) for sequence_id in ids]
        room = self.prompts.max_model_len - len(prompt.token_ids)
        max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        primary, others = self._eos_token_ids()
        stop_token_ids = set(params.stop_token_ids or ())
        if not params.ignore_eos:
            stop_token_ids |= others
        return [
            Sequence(
                sequence_id=sequence_id,
                prompt_token_ids=prompt.token_ids,
                params=params,
                max_tokens=max_tokens,
                eos_token_ids=primary,
                stop_token_ids=frozenset(stop_token_ids),
                adapter=adapter,
                cache_salt=prompt.cache_salt,
                index=index,
                grammar=None if grammar is None else grammar.begin(),
            )
            for index, sequence_id in enumerate(ids)
        ]

    def _pooled_sequence(
        self, sequence_id: str, prompt: TokenizedPrompt, adapter: Adapter | None
    ) -> Sequence:
        assert self.pooling is not None, "check() has seen to it"
        return Sequence(
            sequence_id=sequence_id,
            prompt_token_ids=prompt.token_ids,
            params=NO_SAMPLING,
            max_tokens=1,  # the step that would choose it is the last one
            adapter=adapter,
            cache_salt=prompt.cache_salt,
            pools_all_tokens=self.pooling.needs_all_tokens,
        )

    def _eos_token_ids(self) -> tuple[frozenset[int], frozenset[int]]:
        """The tokenizer's end-of-sequence token, and what else the model's makers name as one.

        As in vLLM, only the others are told as a ``stop_reason``.
        """
        configured = self.generation_config.eos_token_id
        named = set(configured if isinstance(configured, list) else [configured]) - {None}
        tokenizer = self.prompts.tokenizer
        primary = {tokenizer.eos_token_id} - {None} if tokenizer is not None else named
        return frozenset(primary), frozenset(named - primary)
