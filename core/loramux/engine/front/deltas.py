"""Deltas that nobody has taken yet become one."""

from __future__ import annotations

from typing import TypeVar

from loramux.outputs import CompletionOutput, RequestOutput

Entry = TypeVar("Entry")


def join_deltas(first: RequestOutput, second: RequestOutput) -> None:
    """Make ``first`` say what both say, one after the other; ``second`` is used up."""
    known = {completion.index: completion for completion in first.outputs}
    for completion in second.outputs:
        if completion.index in known:
            _join_completions(known[completion.index], completion)
        else:
            first.outputs.append(completion)
    first.outputs.sort(key=_index)
    first.finished = second.finished
    first.error = second.error
    first.adapter_digest = second.adapter_digest
    first.num_cached_tokens = second.num_cached_tokens
    first.first_scheduled_time = second.first_scheduled_time
    if second.prompt_logprobs is not None:
        first.prompt_logprobs = _extended(first.prompt_logprobs, second.prompt_logprobs)


def _join_completions(first: CompletionOutput, second: CompletionOutput) -> None:
    first.text += second.text
    first.token_ids += second.token_ids
    if second.logprobs is not None:
        first.logprobs = _extended(first.logprobs, second.logprobs)
    first.cumulative_logprob = second.cumulative_logprob
    first.finish_reason = second.finish_reason
    first.stop_reason = second.stop_reason


def _extended(first: list[Entry] | None, second: list[Entry]) -> list[Entry]:
    """In place: a caller far behind has thousands of deltas joined one by one."""
    if first is None:
        return second
    first += second
    return first


def _index(completion: CompletionOutput) -> int:
    return completion.index
