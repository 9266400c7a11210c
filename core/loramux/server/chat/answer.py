"""The answers of ``/v1/chat/completions``, whole and in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loramux.outputs import CompletionOutput, RequestOutput
from loramux.server.chat.request import ChatRequest
from loramux.server.chat.tools.options import ToolOptions
from loramux.server.chat.tools.reader import CallReader
from loramux.server.generation.logprobs import chat_logprobs, prompt_logprobs
from loramux.server.generation.outputs_stream import PromptOutput
from loramux.server.generation.prompts import TokenBytes
from loramux.server.generation.usage import Usage
from loramux.server.http.events import ChunkEvents, as_json

ROLE = "assistant"


class ChatAnswer:
    """Builds choices from outputs; one object for one request, so that the role comes once.

    Args:
        request: what was asked.
        head: ``id``, ``created`` and ``model`` of every answer.
        tools: how calls are read.
        bytes_of: single tokens, for log probabilities.
    """

    def __init__(
        self,
        request: ChatRequest,
        head: Mapping[str, Any],
        tools: ToolOptions,
        bytes_of: TokenBytes,
    ) -> None:
        self._request = request
        self._head = head
        self._usage = Usage()
        self._has_begun = False
        self._tools = tools
        self._bytes_of = bytes_of
        self._readers: dict[int, CallReader] = {}
        self._events = ChunkEvents({**head, "object": "chat.completion.chunk"})
        options = request.stream_options
        self._no_usage = "null" if options.include_usage else ""
        self._counts_on = options.include_usage and options.continuous_usage_stats
        self._is_plain = not (request.may_call or request.logprobs)
        """Whether deltas hold text alone."""

    def whole(self, outputs: Sequence[RequestOutput]) -> dict[str, Any]:
        """The answer that is not streamed."""
        (output,) = outputs
        self._usage.add(PromptOutput(0, output))
        answer = {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choice(completion) for completion in output.outputs],
            "usage": self._usage.as_json(),
        }
        if self._request.prompt_logprobs is not None:
            answer["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs)
        return answer

    def events(self, item: PromptOutput) -> str:
        """The events of one delta; the first ones announce the role of every choice."""
        self._usage.add(item)
        outputs = item.output.outputs
        opening = "" if self._has_begun else self._opening_events()
        self._has_begun = True
        if self._is_plain:
            choices = [_plain_choice(c) for c in outputs if c.text or c.finish_reason]
        else:
            deltas = map(self._delta, outputs)
            choices = [as_json(choice) for choice in deltas if _has_news(choice)]
        usage = self._usage_of_chunk()
        return opening + "".join([self._events.of(choice, usage) for choice in choices])

    def event_parts(self, item: PromptOutput) -> Iterator[str]:
        """The same; no delta of a chat is long."""
        yield self.events(item)

    def last_events(self) -> str:
        """What a stream ends with."""
        if not self._request.stream_options.include_usage:
            return ""
        return self._events.of("", as_json(self._usage.as_json()))

    def _opening_events(self) -> str:
        delta = {"role": ROLE, "content": ""}
        choices = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            for index in range(self._request.n)
        ]
        usage = self._usage_of_chunk()
        return "".join([self._events.of(as_json(choice), usage) for choice in choices])

    def _usage_of_chunk(self) -> str:
        return as_json(self._usage.as_json()) if self._counts_on else self._no_usage

    def _choice(self, completion: CompletionOutput) -> dict[str, Any]:
        reader = self._reader(completion)
        said = {"content": completion.text} if reader is None else reader.message(completion.text)
        message = {"role": ROLE, **said, "refusal": None}
        return {**self._common(completion), "message": message}

    def _delta(self, completion: CompletionOutput) -> dict[str, Any]:
        reader = self._reader(completion)
        if reader is not None:
            delta = reader.delta(completion.text, completion.finished())
        else:
            delta = {"content": completion.text} if completion.text else {}
        return {**self._common(completion), "delta": delta}

    def _common(self, completion: CompletionOutput) -> dict[str, Any]:
        return {
            "index": completion.index,
            "logprobs": self._logprobs(completion),
            "finish_reason": self._finish_reason(completion),
            "stop_reason": completion.stop_reason,
        }

    def _reader(self, completion: CompletionOutput) -> CallReader | None:
        """Who looks for calls in this choice; None where there can be none."""
        if not self._request.may_call:
            return None
        if completion.index not in self._readers:
            self._readers[completion.index] = self._tools.reader(self._request)
        return self._readers[completion.index]

    def _finish_reason(self, completion: CompletionOutput) -> str | None:
        """Calls that the model chose to make are a reason of their own; as OpenAI's API has it,
        a function that the client named is not."""
        reader = self._readers.get(completion.index)
        has_chosen = reader is not None and reader.num_calls and not self._request.named_tool
        is_over = completion.finish_reason == "stop"
        return "tool_calls" if is_over and has_chosen else completion.finish_reason

    def _logprobs(self, completion: CompletionOutput) -> dict[str, Any] | None:
        if not self._request.logprobs:
            return None
        top = self._request.top_logprobs or 0
        steps = completion.logprobs or []
        return chat_logprobs(completion.token_ids, steps, top, self._bytes_of)


def _plain_choice(completion: CompletionOutput) -> str:
    """JSON of a choice that holds text alone, as ``_delta`` has it."""
    ending = '"finish_reason":null,"stop_reason":null'
    if completion.finish_reason is not None:
        reasons = as_json(completion.finish_reason), as_json(completion.stop_reason)
        ending = '"finish_reason":{},"stop_reason":{}'.format(*reasons)
    delta = f'{{"content":{as_json(completion.text)}}}' if completion.text else "{}"
    return f'{{"index":{completion.index},"logprobs":null,{ending},"delta":{delta}}}'


def _has_news(choice: Mapping[str, Any]) -> bool:
    """Whether a chunk would tell the client anything; half a character has no text yet."""
    logprobs = choice["logprobs"]
    return bool(choice["delta"] or choice["finish_reason"] or (logprobs and logprobs["content"]))
