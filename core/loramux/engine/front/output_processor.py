"""The front's half of a step: what the core sends, turned into what callers get."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loramux.engine.detokenizer import Detokenizer, DetokenizerFactory
from loramux.engine.front.completion import Completion
from loramux.engine.front.request_state import FrontRequest, RequestState
from loramux.engine.messages import CoreOutput
from loramux.outputs import RequestOutput
from loramux.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class ProcessedOutputs:
    """What a step means to callers, and what the core has to be told.

    Args:
        request_outputs: at most one per request, in the order the core named them.
        to_abort: sequences that the core still runs and nobody waits for: their text has come to
            a stop string, or their request has failed or was aborted.
    """

    request_outputs: list[RequestOutput]
    to_abort: list[str]


class OutputProcessor:
    """Follows every request of the engine from its first token to its last.

    Args:
        tokenizer: see ``DetokenizerFactory``; None for an engine without one, whose outputs have
            token ids but no text.
    """

    def __init__(self, tokenizer: Any | None) -> None:
        self._factory = None if tokenizer is None else DetokenizerFactory(tokenizer)
        self._token_text = self._factory.token_texts.__getitem__ if self._factory else _no_text
        self._requests: dict[str, RequestState] = {}
        self._sequences: dict[str, tuple[RequestState, Completion]] = {}

    @property
    def num_unfinished_requests(self) -> int:
        return len(self._requests)

    def add_request(self, request: FrontRequest[SamplingParams]) -> None:
        """Follow a request from now on, whose id and parameters have been checked."""
        completions = [
            Completion(
                index, sequence_id, request.params, self._detokenizer(request), self._token_text
            )
            for index, sequence_id in enumerate(request.sequence_ids)
        ]
        state = RequestState(request, completions, self._token_text)
        self._requests[request.request_id] = state
        for completion in completions:
            self._sequences[completion.sequence_id] = (state, completion)

    def process(self, core_outputs: Sequence[CoreOutput]) -> ProcessedOutputs:
        """Take in what a step brought; outputs of sequences nobody waits for are passed over."""
        told: dict[RequestState, None] = {}
        to_abort: list[str] = []
        for core_output in core_outputs:
            entry = self._sequences.get(core_output.sequence_id)
            if entry is None:
                continue
            state, completion = entry
            try:
                state.update(completion, core_output)
            except Exception as error:
                # A tokenizer may fail on one request's tokens; the others must not notice.
                state.fail(completion, error)
            told[state] = None
            if completion.finish_reason is not None:
                del self._sequences[core_output.sequence_id]
                if core_output.finish_reason is None:
                    to_abort.append(core_output.sequence_id)
        return self._outputs(told, to_abort)

    def abort(self, request_id: str) -> ProcessedOutputs:
        """End a request with what it has; a name that is not running brings nothing."""
        state = self._requests.get(request_id)
        if state is None:
            return ProcessedOutputs([], [])
        state.abort()
        return self._outputs([state], [])

    def _outputs(self, states: Iterable[RequestState], to_abort: list[str]) -> ProcessedOutputs:
        outputs: list[RequestOutput] = []
        for state in states:
            output = state.output()
            if output is None:
                continue
            outputs.append(output)
            if output.finished:
                to_abort += self._forget(state)
        return ProcessedOutputs(outputs, to_abort)

    def _forget(self, state: RequestState) -> list[str]:
        """Stop following a request; returns its sequences that the core still runs."""
        del self._requests[state.request.request_id]
        followed = self._sequences
        return [name for name in state.request.sequence_ids if followed.pop(name, None) is not None]

    def _detokenizer(self, request: FrontRequest[SamplingParams]) -> Detokenizer:
        if self._factory is None:
            return NoText()
        return self._factory.detokenizer(
            request.prompt_token_ids, request.params.skip_special_tokens
        )


class NoText:
    """Stands in for a detokenizer where there is no tokenizer."""

    def push(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def _no_text(token_id: int) -> None:
    return None
