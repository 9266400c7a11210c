"""Answers a generation, whole or streamed, for as long as the client is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from loramux.errors import LoramuxError
from loramux.outputs import RequestOutput
from loramux.pooling_params import Params
from loramux.sampling_params import SamplingParams
from loramux.server.generation.outputs_stream import PromptOutput, StartedStream
from loramux.server.generation.run import Generation
from loramux.server.http.disconnect import while_connected
from loramux.server.http.errors import as_api_error, unexpected_error
from loramux.server.http.events import DONE, EventStreamResponse, event
from loramux.server.http.large_json import PiecesResponse, in_pieces, json_with_list
from loramux.server.metrics.generation_watch import GenerationWatch
from loramux.server.metrics.record import record_of
from loramux.server.state import ServerState

log = logging.getLogger(__name__)

LARGE_TEXT_CHARS = 64 * 1024
"""Of all completions; more is written beside the event loop."""


class WholeAnswer(Protocol):
    """How an endpoint words what the engine gave."""

    def whole(self, outputs: Sequence[RequestOutput]) -> Mapping[str, Any]:
        """The answer to these prompts."""


class StreamedAnswer(Protocol):
    """How an endpoint words what the engine gives as it comes."""

    def events(self, item: PromptOutput) -> str:
        """The server-sent events of one delta; empty if it has nothing to tell."""

    def event_parts(self, item: PromptOutput) -> Iterator[str]:
        """The same in parts, where they may be long."""

    def last_events(self) -> str:
        """Those that a stream ends with."""


async def answer_whole(
    request: Request, server: ServerState, generation: Generation, answer: WholeAnswer
) -> Response:
    """Wait for the end of the generation.

    Raises:
        LoramuxError: the request cannot be served.
        ClientDisconnect: nobody waits for the answer any more.
    """
    outputs = await collect(request, server, generation)
    headers = generation.model.headers_for(outputs[0].adapter_digest)
    if not _takes_long(outputs):
        return JSONResponse(answer.whole(outputs), headers=headers)
    # On a thread: of some long prompts they are a million numbers to write.
    return PiecesResponse(await asyncio.to_thread(_written, answer, outputs), headers)


def _takes_long(outputs: Sequence[RequestOutput]) -> bool:
    """Whether an answer holds log probabilities, or much text."""
    completions = [completion for output in outputs for completion in output.outputs]
    return (
        any(output.prompt_logprobs is not None for output in outputs)
        or any(completion.logprobs for completion in completions)
        or sum(len(completion.text) for completion in completions) > LARGE_TEXT_CHARS
    )


def _written(answer: WholeAnswer, outputs: Sequence[RequestOutput]) -> list[bytes]:
    whole = dict(answer.whole(outputs))
    name = "choices" if "choices" in whole else "text"  # the latter of ``/generate``
    items = whole.pop(name)
    return list(json_with_list(whole, name, items))


async def collect(
    request: Request, server: ServerState, generation: Generation
) -> list[RequestOutput]:
    """The final output of each prompt, counted; raises what :func:`answer_whole` does."""
    watch = server.metrics.begin(record_of(request), generation, is_streamed=False)
    outputs = await while_connected(request.receive, generation.collect(server.engine))
    for index, output in enumerate(outputs):
        watch.saw(PromptOutput(index, output))
    return outputs


async def answer_streaming(
    request: Request, server: ServerState, generation: Generation, answer: StreamedAnswer
) -> Response:
    """Send what the engine gives as it comes, once it has given anything.

    The first output is awaited before any header is sent, so that a request that cannot be
    served gets the status it deserves.

    Raises:
        LoramuxError: the request cannot be served.
        ClientDisconnect: nobody waits for the answer any more.
    """
    watch = server.metrics.begin(record_of(request), generation, is_streamed=True)
    start = StartedStream.start(generation.outputs(server.engine))
    stream = await while_connected(request.receive, start)
    headers = generation.model.headers_for(stream.first.output.adapter_digest)
    events = _events(stream, answer, generation, request, watch)
    return EventStreamResponse(events, stream.aclose, headers)


async def _events(
    stream: StartedStream,
    answer: StreamedAnswer,
    generation: Generation,
    request: Request,
    watch: GenerationWatch,
) -> AsyncGenerator[bytes, None]:
    takes_long = any(map(_scores_prompt, generation.params))
    try:
        item: PromptOutput | None = stream.first
        while item is not None:
            watch.saw(item)
            for piece in await _said(answer, item, takes_long=takes_long):
                yield piece
                if takes_long:  # and the client takes it all at once, which waits for nobody
                    await asyncio.sleep(0)
            item = await anext(stream.rest, None)
        if said := answer.last_events():
            yield said.encode()
    except LoramuxError as error:
        record_of(request).refuse(error)
        yield event(as_api_error(error, request).body())
    except Exception as error:
        record_of(request).refuse(error)
        log.exception("request %s failed while it was streamed", generation.request_id)
        yield event(unexpected_error(generation.request_id).body())
    yield DONE


def _scores_prompt(params: Params) -> bool:
    return isinstance(params, SamplingParams) and params.prompt_logprobs is not None


async def _said(answer: StreamedAnswer, item: PromptOutput, *, takes_long: bool) -> Sequence[bytes]:
    if not takes_long:
        events = answer.events(item)
        return (events.encode(),) if events else ()
    # On a thread: the first events have what was asked of the whole prompt.
    return await asyncio.to_thread(lambda: list(in_pieces(answer.event_parts(item))))
