"""Before a step: which sequences know what may come next."""

from __future__ import annotations

import time
from collections.abc import Iterable

from loramux.engine.scheduling.sequence import Sequence

SETTLE_SECONDS = 0.01
"""How long a step waits for masks. Who is later than that sits the step out."""


def settle_grammars(running: Iterable[Sequence]) -> list[tuple[Sequence, Exception]]:
    """Give masks a moment to arrive; returns the sequences that cannot go on, with the reason."""
    deadline = time.monotonic() + SETTLE_SECONDS
    settled = list(running)
    for sequence in settled:
        if sequence.grammar is not None:
            sequence.grammar.is_ready(max(0.0, deadline - time.monotonic()))
    return broken_grammars(settled)


def broken_grammars(sequences: Iterable[Sequence]) -> list[tuple[Sequence, Exception]]:
    """The sequences that cannot go on, with the reason; nothing is waited for."""
    return [
        (sequence, error)
        for sequence in sequences
        if sequence.grammar is not None and (error := sequence.grammar.error()) is not None
    ]
