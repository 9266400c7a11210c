"""Counts the tokens of one request, and the time between them, as they leave the server."""

from __future__ import annotations

import time

from loramux.outputs import CompletionOutput
from loramux.server.generation.outputs_stream import PromptOutput
from loramux.server.metrics.first_tokens import FirstTokens
from loramux.server.metrics.model_series import ModelSeries, ModelTable


class GenerationWatch:
    """Follows one request through its outputs, deltas or final ones.

    Args:
        models: where its model is counted.
        model: name of the model, one that is served.
        began: when the request came, by :func:`time.monotonic`.
        num_completions: completions that its prompts ask for together.
        first_tokens: where the time to the first token is counted for all models together.
        is_streamed: whether outputs come token by token; only then is a gap between them one
            between tokens.
    """

    def __init__(
        self,
        models: ModelTable,
        model: str,
        began: float,
        num_completions: int,
        first_tokens: FirstTokens,
        *,
        is_streamed: bool,
    ) -> None:
        self.model = model
        self.digest: str | None = None
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.submitted = time.monotonic()
        self.first_scheduled = 0.0
        self.first_token = 0.0
        self.finish_reason: str | None = None
        self._models = models
        self._began = began
        self._unfinished = num_completions
        self._first_tokens = first_tokens
        self._is_streamed = is_streamed
        self._prompts: set[int] = set()
        self._last_tokens: dict[tuple[int, int], float] = {}

    @property
    def _series(self) -> ModelSeries:
        """Asked for anew each time: a scrape drops that of an adapter which waits for memory."""
        return self._models.of(self.model)

    def saw(self, item: PromptOutput) -> None:
        """Count an output."""
        if item.prompt_index not in self._prompts:
            self._begin(item)
        for completion in item.output.outputs:
            if completion.token_ids:
                self._count_tokens(item.prompt_index, completion)
            if completion.finish_reason is not None:
                self._unfinished -= 1
                self.finish_reason = completion.finish_reason
                self._series.finished[completion.finish_reason] += 1

    def end(self, reason: str) -> None:
        """The request is over; completions that have not finished end for this reason."""
        if self._unfinished:
            self._series.finished[reason] += self._unfinished
            self._unfinished = 0
            self.finish_reason = reason
            return
        self._series.seconds["e2e_request_latency"].observe(time.monotonic() - self._began)

    def _begin(self, item: PromptOutput) -> None:
        output = item.output
        self._prompts.add(item.prompt_index)
        self.digest = output.adapter_digest
        self.prompt_tokens += len(output.prompt_token_ids)
        self._series.prompt_tokens += len(output.prompt_token_ids)
        if output.first_scheduled_time:
            queued = output.first_scheduled_time - self.submitted
            self._series.seconds["request_queue_time"].observe(max(queued, 0.0))
            self.first_scheduled = self.first_scheduled or output.first_scheduled_time

    def _count_tokens(self, prompt_index: int, completion: CompletionOutput) -> None:
        count, series = len(completion.token_ids), self._series
        self.completion_tokens += count
        series.generation_tokens += count
        if not self._is_streamed:
            return
        now = time.monotonic()
        if not self.first_token:
            self.first_token = now
            series.seconds["time_to_first_token"].observe(now - self._began)
            self._first_tokens.observe(self.digest, self._began, now)
        key = prompt_index, completion.index
        last = self._last_tokens.get(key)
        if last is not None:
            series.seconds["inter_token_latency"].observe(now - last)
        self._last_tokens[key] = now
