"""What the core sends to the front: plain data that pickles, so that the two may part company.

The core knows token ids only. The front knows text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Embedding = NDArray[np.float32]
"""``[hidden_size]``, before it is shortened or normalized."""


class PositionLogprobs(NamedTuple):
    """Log probabilities at one position: of its own token, then of the likeliest tokens.

    The likeliest come in falling order, so the one at place ``i`` (from 1) has rank ``i``.
    The position's own token stands at place 0 and may stand among the likeliest again.
    """

    token_ids: list[int]
    logprobs: list[float]
    rank: int
    """Rank of the token at place 0; 1 is the likeliest of the vocabulary."""


@dataclass(slots=True)
class CoreOutput:
    """What one step brought for one sequence.

    Args:
        sequence_id: the core's name of the sequence; a request with ``n`` completions has ``n``.
        new_token_ids: tokens of this step, empty while the prompt is being computed.
        finish_reason: None while the sequence runs, else ``stop``, ``length``, ``abort`` or
            ``error``.
        stop_reason: the ``stop_token_ids`` member that ended it, None for end-of-sequence.
        logprobs: one entry per new token, where the request asked for them.
        prompt_logprobs: one entry per prompt token that this step passed, in order; the prompt's
            first token has none, since nothing comes before it.
        embedding: of the prompt, from an engine that makes embeddings, with ``finish_reason``.
        num_cached_tokens: prompt tokens whose keys and values came from the prefix cache; told
            once, or with every output.
        error: why the sequence could not be served, with ``finish_reason`` ``error``.
        adapter_digest: content identity of the adapter weights in use, None for the base model.
        first_scheduled_time: when the sequence first ran, by :func:`time.monotonic`.
    """

    sequence_id: str
    new_token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | None = None
    logprobs: list[PositionLogprobs] | None = None
    prompt_logprobs: list[PositionLogprobs] | None = None
    embedding: Embedding | None = None
    num_cached_tokens: int = 0
    error: Exception | None = None
    adapter_digest: str | None = None
    first_scheduled_time: float = 0.0
