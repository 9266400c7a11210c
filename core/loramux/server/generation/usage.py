"""Counting what a request used."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from loramux.server.generation.outputs_stream import PromptOutput


class Usage:
    """Token counts of one request, over all its prompts and completions."""

    def __init__(self) -> None:
        self._prompts: dict[int, tuple[int, int]] = {}
        self._completions: defaultdict[int, int] = defaultdict(int)

    def add(self, item: PromptOutput) -> None:
        """Count one delta, or one final output."""
        output = item.output
        self._prompts[item.prompt_index] = len(output.prompt_token_ids), output.num_cached_tokens
        for completion in output.outputs:
            self._completions[item.prompt_index] += len(completion.token_ids)

    def as_json(self) -> dict[str, Any]:
        """The ``usage`` object of the OpenAI API."""
        prompt = sum(length for length, _ in self._prompts.values())
        completion = sum(self._completions.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {
                "cached_tokens": sum(cached for _, cached in self._prompts.values())
            },
        }
