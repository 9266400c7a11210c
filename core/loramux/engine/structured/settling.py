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
    broken = []
    for sequence in running:
        grammar = sequence.grammar
        if grammar is None:
            continue
        grammar.is_ready(max(0.0, deadline - time.monotonic()))
        if (error := grammar.error()) is not None:
            broken.append((sequence, error))
    return broken
