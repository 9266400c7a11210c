"""One row of generation: a prompt, what has been generated, and where its KV lies."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loramux.engine.sampling.row import SamplingRow
from loramux.sampling_params import SamplingParams

if TYPE_CHECKING:
    from torch import Tensor

    from loramux.engine.scheduling.block_pool import BlockHash
    from loramux.engine.structured.matcher import GrammarState
    from loramux.lora.adapter import Adapter


@dataclass(eq=False)
class Sequence:
    """A sequence as the scheduler and the model runner see it: token ids only.

    ``num_computed_tokens`` counts tokens whose keys and values are in the cache, or will be when
    the steps that have been launched are done. A running sequence has at least one token that is
    not; computing the last of them yields the next, which is in flight until the step that samples
    it is done: it has a position, and its id is on the device only.
    """

    sequence_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    max_tokens: int
    """Tokens to generate at most, the model's length already considered."""
    eos_token_ids: frozenset[int] = frozenset()
    """Tokens by which the model itself ends a text."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end this sequence and are told as its ``stop_reason``."""
    adapter: Adapter | None = None
    cache_salt: bytes = b""
    """Cached prefixes are shared only among sequences with the same one."""
    index: int = 0
    """Which of the request's completions this is; tells seeded draws of one request apart."""
    arrival_time: float = field(default_factory=time.monotonic)
    first_scheduled_time: float = 0.0

    pools_all_tokens: bool = False
    """Its embedding is made of more than its last token."""
    grammar: GrammarState | None = None
    """Where it stands in the form that its text must have."""

    output_token_ids: list[int] = field(default_factory=list)
    sampling: SamplingRow | None = None
    """Made by the model runner when the sequence first samples; lives as long as it."""
    pooled: Tensor | None = None
    """What its embedding needs of the tokens computed so far, on the device."""
    block_ids: list[int] = field(default_factory=list)
    block_hashes: list[BlockHash] = field(default_factory=list)
    num_published_blocks: int = 0
    num_computed_tokens: int = 0
    num_in_flight: int = 0
    """Tokens that launched steps sample and that nobody has seen yet."""
    sampled_row: int = 0
    """Where its latest token stands among those that its step sampled."""
    num_cached_tokens: int = 0
    """Prompt tokens found in the prefix cache when it was first scheduled."""
    num_prompt_logprobs: int = 0
    """Prompt positions whose log probabilities the launched steps have given."""
    num_preemptions: int = 0
    is_suspended: bool = False
    """It was preempted and waits to go on; it still holds its adapter."""

    @property
    def num_known_tokens(self) -> int:
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def num_tokens(self) -> int:
        """All tokens that have a position, the one in flight included."""
        return self.num_known_tokens + self.num_in_flight

    @property
    def num_uncomputed_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    @property
    def awaits_last_token(self) -> bool:
        """Whether the token in flight is the last one: there is nothing left to compute."""
        return len(self.output_token_ids) + self.num_in_flight >= self.max_tokens

    @property
    def ending(self) -> tuple[str | None, int | None]:
        """``(finish_reason, stop_reason)`` after its latest token, ``(None, None)`` to go on."""
        token_id, num_output = self.output_token_ids[-1], len(self.output_token_ids)
        is_complete = self.grammar is not None and token_id in self.grammar.ending_token_ids
        if is_complete or num_output >= self.params.min_tokens:
            if token_id in self.eos_token_ids and (is_complete or not self.params.ignore_eos):
                return "stop", None
            if is_complete or token_id in self.stop_token_ids:
                return "stop", token_id
        return ("length" if num_output >= self.max_tokens else None), None

    @property
    def sits_out(self) -> bool:
        """Whether it can do nothing at this step, though it runs."""
        return self.awaits_last_token or self.awaits_mask

    @property
    def awaits_mask(self) -> bool:
        """Whether it is not known yet which tokens its grammar allows next."""
        return self.grammar is not None and not self.grammar.is_ready()

    @property
    def awaits_token_in_flight(self) -> bool:
        """Whether its next choice depends on the id of a token that nobody has seen yet."""
        params = self.params
        return self.num_in_flight > 0 and (
            params.has_penalties
            or len(self.output_token_ids) < params.min_tokens
            or self.grammar is not None
        )

    @property
    def needs_all_tokens(self) -> bool:
        """Whether each token of its prompt has to be computed, cached or not."""
        return self.pools_all_tokens or self.num_unscored > 0

    @property
    def num_unscored(self) -> int:
        """Prompt positions whose log probabilities were asked for and have not been given.

        Those of a request's first completion are those of all.
        """
        if self.index or self.params.prompt_logprobs is None:
            return 0
        return len(self.prompt_token_ids) - 1 - self.num_prompt_logprobs

    def tokens(self, start: int, stop: int) -> list[int]:
        """Known token ids at positions ``start`` to ``stop`` of prompt and output together."""
        boundary = len(self.prompt_token_ids)
        if stop <= boundary:
            return self.prompt_token_ids[start:stop]
        if start >= boundary:
            return self.output_token_ids[start - boundary : stop - boundary]
        return self.prompt_token_ids[start:] + self.output_token_ids[: stop - boundary]
