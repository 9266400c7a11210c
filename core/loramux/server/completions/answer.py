"""The answers of ``/v1/completions``, whole and in chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from loramux.outputs import CompletionOutput, RequestOutput, TokenLogprobs
from loramux.server.completions.request import CompletionRequest
from loramux.server.generation.logprobs import CompletionLogprobs, prompt_logprobs
from loramux.server.generation.outputs_stream import PromptOutput
from loramux.server.generation.prompts import Prompt
from loramux.server.generation.usage import Usage


class CompletionAnswer:
    """Builds choices from outputs; one object for one request, so that echo comes once.

    Args:
        request: what was asked.
        prompts: what was asked of the model, for ``echo``.
        head: ``id``, ``created`` and ``model`` of every answer.
    """

    def __init__(
        self, request: CompletionRequest, prompts: Sequence[Prompt], head: Mapping[str, Any]
    ) -> None:
        self._request = request
        self._prompts = prompts
        self._head = {**head, "object": "text_completion"}
        self._usage = Usage()
        self._logprobs: dict[int, CompletionLogprobs] = {}
        self._prompt_steps: dict[int, list[TokenLogprobs | None]] = {}

    def whole(self, outputs: Sequence[RequestOutput]) -> dict[str, Any]:
        """The answer that is not streamed."""
        items = [PromptOutput(index, output) for index, output in enumerate(outputs)]
        choices = [choice for item in items for choice in self._choices(item)]
        return {**self._head, "choices": choices, "usage": self._usage.as_json()}

    def chunks(self, item: PromptOutput) -> list[dict[str, Any]]:
        """The chunks of one delta."""
        options = self._request.stream_options
        usage: dict[str, Any] = {}
        choices = self._choices(item)
        if options.include_usage:
            usage["usage"] = self._usage.as_json() if options.continuous_usage_stats else None
        return [
            {**self._head, "choices": [choice], **usage} for choice in choices if _has_news(choice)
        ]

    def last_chunks(self) -> list[dict[str, Any]]:
        """What a stream ends with."""
        if not self._request.stream_options.include_usage:
            return []
        return [{**self._head, "choices": [], "usage": self._usage.as_json()}]

    def _choices(self, item: PromptOutput) -> list[dict[str, Any]]:
        if self._request.wants_prompt_only:
            item = _without_answer(item)
        self._usage.add(item)
        if item.output.prompt_logprobs is not None:  # only a stream's first output has them
            self._prompt_steps[item.prompt_index] = item.output.prompt_logprobs
        return [self._choice(item, completion) for completion in item.output.outputs]

    def _choice(self, item: PromptOutput, completion: CompletionOutput) -> dict[str, Any]:
        index = item.prompt_index * self._request.n + completion.index
        is_first = index not in self._logprobs
        prompt = self._prompts[item.prompt_index]
        logprobs = self._logprobs.setdefault(index, CompletionLogprobs(prompt.first_token))
        text, token_ids = completion.text, completion.token_ids
        steps: Sequence[TokenLogprobs | None] = completion.logprobs or []
        if self._request.echo and is_first:
            text, token_ids = prompt.text + text, [*prompt.token_ids, *token_ids]
            steps = [*self._prompt_steps.get(item.prompt_index, []), *steps]
        choice: dict[str, Any] = {
            "index": index,
            "text": text,
            "logprobs": None,
            "finish_reason": completion.finish_reason,
            "stop_reason": completion.stop_reason,
        }
        if self._request.logprobs is not None:
            choice["logprobs"] = logprobs.of(token_ids, steps, self._request.logprobs)
        if is_first and self._request.prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(self._prompt_steps.get(item.prompt_index))
        return choice


def _without_answer(item: PromptOutput) -> PromptOutput:
    """The one token that the engine has to generate is not what the client asked for."""
    empty = [
        replace(completion, text="", token_ids=[], logprobs=[])
        for completion in item.output.outputs
    ]
    return PromptOutput(item.prompt_index, replace(item.output, outputs=empty))


def _has_news(choice: Mapping[str, Any]) -> bool:
    """Whether a chunk would tell the client anything; half a character has no text yet."""
    logprobs = choice["logprobs"]
    return bool(choice["text"] or choice["finish_reason"] or (logprobs and logprobs["tokens"]))
