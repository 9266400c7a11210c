"""Which tokens a sequence holds and how often it generated them, counted as it grows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


class TokenHistory:
    """Distinct tokens of a sequence, each with the number of times it was generated.

    Tokens of the prompt count 0. Ids outside the vocabulary (placeholders of other modalities)
    are left out, since no logit belongs to them.
    """

    def __init__(self, prompt_token_ids: Iterable[int], vocab_size: int) -> None:
        distinct = [i for i in dict.fromkeys(prompt_token_ids) if 0 <= i < vocab_size]
        self._vocab_size = vocab_size
        self._place = {token_id: place for place, token_id in enumerate(distinct)}
        self._ids = np.array(distinct, dtype=np.int64)
        self._counts = np.zeros(len(distinct), dtype=np.float32)
        self._num_outputs = 0

    def __len__(self) -> int:
        return len(self._place)

    @property
    def token_ids(self) -> NDArray[np.int64]:
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> NDArray[np.float32]:
        return self._counts[: len(self._place)]

    def update(self, output_token_ids: Sequence[int]) -> None:
        """Count the tokens that were generated since the last call."""
        for position in range(self._num_outputs, len(output_token_ids)):
            self._count(output_token_ids[position])
        self._num_outputs = len(output_token_ids)

    def _count(self, token_id: int) -> None:
        if not 0 <= token_id < self._vocab_size:
            return
        place = self._place.setdefault(token_id, len(self._place))
        if place == len(self._ids):
            self._grow()
        self._ids[place] = token_id
        self._counts[place] += 1.0

    def _grow(self) -> None:
        spare = max(64, len(self._ids))
        self._ids = np.concatenate([self._ids, np.zeros(spare, dtype=np.int64)])
        self._counts = np.concatenate([self._counts, np.zeros(spare, dtype=np.float32)])
