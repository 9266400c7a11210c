"""A form that any text takes, whose masks come late, and which may break."""

from __future__ import annotations

from collections.abc import Sequence

ENDING = 2
"""The token that completes a text of the form."""


class SimulatedGrammar:
    """Stands in for a ``GrammarState``.

    Args:
        delay: how often it is asked in vain whether the mask after a token is known.
        breaks_after: tokens after which it cannot go on; None for never.
        overdue_after: how often it is asked whether it broke before it says that a mask is overdue.
    """

    ending_token_ids = frozenset([ENDING])

    def __init__(
        self, delay: int = 0, breaks_after: int | None = None, overdue_after: int = 1000
    ) -> None:
        self._delay = delay
        self._questions_until_overdue = overdue_after
        self._breaks_after = breaks_after
        self._token_ids: list[int] = []
        self._questions_left = 0

    def advance(self, token_id: int) -> None:
        assert not self._questions_left, "it moves on from a mask that was used"
        assert ENDING not in self._token_ids, "it is complete"
        self._token_ids.append(token_id)
        self._questions_left = self._delay

    def is_ready(self, _seconds: float = 0.0) -> bool:
        if not self._questions_left:
            return True
        self._questions_left -= 1
        return False

    def error(self) -> Exception | None:
        if self._questions_left:
            self._questions_until_overdue -= 1
            return None if self._questions_until_overdue > 0 else RuntimeError("overdue")
        is_broken = len(self._token_ids) == self._breaks_after
        return RuntimeError("broken") if is_broken else None

    def check_mask_of(self, token_ids: Sequence[int]) -> None:
        """The next token may be chosen: what may follow ``token_ids`` is known."""
        assert not self._questions_left
        assert not self.error()
        assert self._token_ids == token_ids
