"""One sequence as the sampler sees it, kept for as long as the sequence runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from loramux.engine.sampling.history import TokenHistory
from loramux.sampling_params import SamplingParams

if TYPE_CHECKING:
    from loramux.engine.structured.matcher import GrammarState


@dataclass(slots=True, eq=False)
class SamplingRow:
    """What decides one sequence's next token, besides its logits.

    Make one when the sequence enters the batch and hand in the same object at every step: what
    it has counted so far is kept here, so that a step costs the same however long the sequence.

    Args:
        params: the request's sampling parameters.
        prompt_token_ids: the prompt, for ``repetition_penalty``.
        output_token_ids: tokens generated so far; a live reference that only ever grows.
        generator: the row's own source of randomness if the request has a seed, on the device
            of the logits (see ``seeded_generator``).
        eos_token_ids: the model's end-of-sequence tokens, for ``min_tokens``.
        grammar: what the text must be like, if the request says so.
    """

    params: SamplingParams
    prompt_token_ids: Sequence[int]
    output_token_ids: list[int]
    generator: torch.Generator | None = None
    eos_token_ids: frozenset[int] = frozenset()
    grammar: GrammarState | None = None
    has_penalties: bool = field(init=False)
    ending_token_ids: tuple[int, ...] = field(init=False)
    """Tokens that may not come before ``min_tokens`` were generated."""
    _history: TokenHistory | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        params = self.params
        self.has_penalties = params.has_penalties
        self.ending_token_ids = tuple(self.eos_token_ids.union(params.stop_token_ids or ()))

    @property
    def awaits_min_tokens(self) -> bool:
        """Whether it may not end yet; a form that is complete ends it all the same."""
        if len(self.output_token_ids) >= self.params.min_tokens:
            return False
        return self.grammar is None or self.grammar.may_go_on(self.ending_token_ids)

    def history(self, vocab_size: int) -> TokenHistory:
        """The row's token counts, brought up to date."""
        if self._history is None:
            prompt = self.prompt_token_ids if self.params.repetition_penalty != 1.0 else ()
            self._history = TokenHistory(prompt, vocab_size)
        self._history.update(self.output_token_ids)
        return self._history


def seeded_generator(seed: int, device: torch.device, index: int = 0) -> torch.Generator:
    """A generator for completion ``index`` of a request with this seed.

    The completions of one request get consecutive seeds, as in vLLM, so that they differ.
    """
    generator = torch.Generator(device=device)
    generator.manual_seed((seed + index) % 2**64)
    return generator
