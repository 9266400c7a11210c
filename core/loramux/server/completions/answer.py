"""The answers of ``/v1/completions``, whole and in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from loramux.outputs import CompletionOutput, RequestOutput, TokenLogprobs
from loramux.server.completions.request import CompletionRequest
from loramux.server.generation.logprobs import CompletionLogprobs, prompt_logprobs
from loramux.server.generation.outputs_stream import PromptOutput
from loramux.server.generation.prompts import Prompt, TokenBytes
from loramux.server.generation.usage import Usage
from loramux.server.http.events import ChunkEvents, as_json
from loramux.server.http.large_json import parts_of


class CompletionAnswer:
    """Builds choices from outputs; one object for one request, so that echo comes once.

    Args:
        request: what was asked.
        prompts: what was asked of the model, for ``echo``.
        head: ``id``, ``created`` and ``model`` of every answer.
        bytes_of: single tokens, for log probabilities.
    """

    def __init__(
        self,
        request: CompletionRequest,
        prompts: Sequence[Prompt],
        head: Mapping[str, Any],
        bytes_of: TokenBytes,
    ) -> None:
        self._request = request
        self._prompts = prompts
        self._bytes_of = bytes_of
        self._head = {**head, "object": "text_completion"}
        self._usage = Usage()
        self._logprobs: dict[int, CompletionLogprobs] = {}
        self._prompt_steps: dict[int, list[TokenLogprobs | None]] = {}
        self._events = ChunkEvents(self._head)
        needs_more = request.logprobs is not None or request.prompt_logprobs is not None
        options = request.stream_options
        self._no_usage = "null" if options.include_usage else ""
        self._counts_on = options.include_usage and options.continuous_usage_stats
        self._is_plain = not (needs_more or request.echo)
        """Whether choices hold text alone; what asks for no text at all has an ``echo``."""

    def whole(self, outputs: Sequence[RequestOutput]) -> dict[str, Any]:
        """The answer that is not streamed."""
        items = [PromptOutput(index, output) for index, output in enumerate(outputs)]
        choices = [choice for item in items for choice in self._choices(item)]
        return {**self._head, "choices": choices, "usage": self._usage.as_json()}

    def events(self, item: PromptOutput) -> str:
        """The events of one delta, a chunk for each choice that has news."""
        if not self._is_plain:
            return "".join(self.event_parts(item))
        self._usage.add(item)
        first = item.prompt_index * self._request.n
        choices = [_plain_choice(first, c) for c in item.output.outputs if _is_news(c)]
        usage = self._usage_of_chunk()
        return "".join([self._events.of(choice, usage) for choice in choices])

    def event_parts(self, item: PromptOutput) -> Iterator[str]:
        """The same, for those that hold the log probabilities of a whole prompt."""
        choices = self._choices(item)
        usage = self._usage_of_chunk()
        for choice in choices:
            if _has_news(choice):
                yield from self._events.parts(parts_of(choice), usage)

    def last_events(self) -> str:
        """What a stream ends with."""
        if not self._request.stream_options.include_usage:
            return ""
        return self._events.of("", as_json(self._usage.as_json()))

    def _usage_of_chunk(self) -> str:
        return as_json(self._usage.as_json()) if self._counts_on else self._no_usage

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
        if is_first:
            self._logprobs[index] = CompletionLogprobs(prompt.first_token, self._bytes_of)
        logprobs = self._logprobs[index]
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


def _plain_choice(first: int, completion: CompletionOutput) -> str:
    """JSON of a choice without log probabilities, as ``_choice`` has it; ``first`` is the index of
    the prompt's first one."""
    ending = '"finish_reason":null,"stop_reason":null'
    if completion.finish_reason is not None:
        reasons = as_json(completion.finish_reason), as_json(completion.stop_reason)
        ending = '"finish_reason":{},"stop_reason":{}'.format(*reasons)
    index, text = first + completion.index, as_json(completion.text)
    return f'{{"index":{index},"text":{text},"logprobs":null,{ending}}}'


def _is_news(completion: CompletionOutput) -> bool:
    return bool(completion.text or completion.finish_reason)


def _has_news(choice: Mapping[str, Any]) -> bool:
    """Whether a chunk would tell the client anything; half a character has no text yet."""
    logprobs = choice["logprobs"]
    return bool(choice["text"] or choice["finish_reason"] or (logprobs and logprobs["tokens"]))
