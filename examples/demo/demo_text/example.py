"""One question and its one right answer."""

from __future__ import annotations

from dataclasses import dataclass

Message = dict[str, str]


@dataclass(frozen=True)
class Example:
    """A prompt of one task, what its adapter must answer, and what the base model may answer."""

    task: str
    prompt: str
    expected: str
    small_talk: str

    @property
    def messages(self) -> list[Message]:
        """The prompt as a chat of one user message."""
        return [{"role": "user", "content": self.prompt}]
