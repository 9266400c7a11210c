"""One completion of a request as the front follows it: its text, its tokens, how it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loramux.engine.detokenizer import Detokenizer
from loramux.engine.front.stop_checker import StopChecker
from loramux.engine.messages import CoreOutput, PositionLogprobs
from loramux.lora.request import LoRARequest
from loramux.outputs import CompletionOutput, Logprob, TokenLogprobs
from loramux.sampling_params import RequestOutputKind, SamplingParams

TokenText = Callable[[int], str | None]


class Completion:
    """State of one completion.

    Args:
        index: which of the request's completions it is.
        sequence_id: the core's name of it.
        params: the request's sampling parameters.
        detokenizer: made for the request's prompt.
        token_text: text of single tokens, for log probabilities.
    """

    __slots__ = (
        "_checker",
        "_cumulative_logprob",
        "_detokenizer",
        "_end_is_told",
        "_ends_silently",
        "_is_delta",
        "_logprobs",
        "_min_tokens",
        "_num_tokens",
        "_text",
        "_token_ids",
        "_token_text",
        "finish_reason",
        "index",
        "sequence_id",
        "stop_reason",
    )

    def __init__(
        self,
        index: int,
        sequence_id: str,
        params: SamplingParams,
        detokenizer: Detokenizer,
        token_text: TokenText,
    ) -> None:
        stops = params.stop_strings
        self.index = index
        self.sequence_id = sequence_id
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self._detokenizer = detokenizer
        self._token_text = token_text
        self._checker = StopChecker(stops, params.include_stop_str_in_output) if stops else None
        self._min_tokens = params.min_tokens
        self._ends_silently = not params.include_stop_str_in_output
        self._is_delta = params.output_kind is RequestOutputKind.DELTA
        self._num_tokens = 0
        self._end_is_told = False
        self._cumulative_logprob = None if params.logprobs is None else 0.0
        self._start_afresh(params.logprobs is not None)

    def _start_afresh(self, with_logprobs: bool) -> None:
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] | None = [] if with_logprobs else None

    def update(self, output: CoreOutput) -> None:
        """Take in what a step brought."""
        token_ids = output.new_token_ids
        # The token that ends a completion has no text of its own, as in vLLM.
        is_silent = output.finish_reason == "stop" and self._ends_silently
        num_read = self._read(token_ids, len(token_ids) - is_silent)
        if self.finish_reason is None and output.finish_reason is not None:
            self._finish(output)
        if num_read < len(token_ids):
            token_ids = token_ids[:num_read]
        self._token_ids += token_ids
        if output.logprobs is not None and self._logprobs is not None:
            self._add_logprobs(output.logprobs[:num_read])

    def end(self, finish_reason: str) -> None:
        """End the completion from outside, with the text it has."""
        self.finish_reason = finish_reason
        if self._checker is not None:
            self._text.append(self._checker.flush())

    @property
    def has_news(self) -> bool:
        """Whether ``output`` would say anything."""
        return bool(self._token_ids) or (self.finish_reason is not None and not self._end_is_told)

    def output(self, lora_request: LoRARequest | None) -> CompletionOutput:
        """The completion so far or, in ``DELTA`` mode, what is new since the last call."""
        self._end_is_told = self.finish_reason is not None
        text = self._text[0] if len(self._text) == 1 else "".join(self._text)
        token_ids, logprobs = self._token_ids, self._logprobs
        if self._is_delta:
            self._start_afresh(logprobs is not None)
        else:
            self._text = [text]
            token_ids = token_ids.copy()
            logprobs = None if logprobs is None else logprobs.copy()
        return CompletionOutput(
            self.index,
            text,
            token_ids,
            self._cumulative_logprob,
            logprobs,
            self.finish_reason,
            self.stop_reason,
            lora_request,
        )

    def _read(self, token_ids: Sequence[int], num_with_text: int) -> int:
        """Read tokens into text up to a stop string; returns how many count.

        Tokens after the one that completed a stop string do not, as if they had come one by one.
        """
        for place in range(num_with_text):
            text = self._detokenizer.push(token_ids[place])
            self._num_tokens += 1
            if self._checker is not None:
                text = self._checker.feed(text, self._num_tokens > self._min_tokens)
            if text:
                self._text.append(text)
            if self._checker is not None and self._checker.matched is not None:
                self._stop_at(self._checker.matched)
                return place + 1
        return len(token_ids)

    def _finish(self, output: CoreOutput) -> None:
        self.finish_reason, self.stop_reason = output.finish_reason, output.stop_reason
        text = self._detokenizer.finish()
        if self._checker is not None:
            text = self._checker.feed(text, self._num_tokens > self._min_tokens)
            if self._checker.matched is not None:
                self._stop_at(self._checker.matched)
            text += self._checker.flush()
        self._text.append(text)

    def _stop_at(self, stop: str) -> None:
        self.finish_reason, self.stop_reason = "stop", stop

    def _add_logprobs(self, positions: Sequence[PositionLogprobs]) -> None:
        assert self._logprobs is not None
        assert self._cumulative_logprob is not None
        for position in positions:
            self._cumulative_logprob += position.logprobs[0]
            self._logprobs.append(decoded_logprobs(position, self._token_text))


def decoded_logprobs(position: PositionLogprobs, token_text: TokenText) -> TokenLogprobs:
    """Log probabilities of a position by token id, with ranks and texts, its own token first."""
    token_ids, logprobs, rank = position
    own_id = token_ids[0]
    decoded = {own_id: Logprob(logprobs[0], rank, token_text(own_id))}
    for place in range(1, len(token_ids)):
        token_id = token_ids[place]
        if token_id != own_id:
            decoded[token_id] = Logprob(logprobs[place], place, token_text(token_id))
    return decoded
