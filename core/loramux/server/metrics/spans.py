"""From what was noted of a request to its trace: one span for it, and one for each stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from loramux.observability.tracing import FinishedRequest, Window
from loramux.server.metrics.record import RequestRecord


def finished_request(
    record: RequestRecord,
    route: str,
    request_id: str,
    headers: Mapping[str, str],
    adapter_stages: Mapping[str, Window],
) -> FinishedRequest:
    """What a tracer is told of a request.

    Args:
        adapter_stages: when its adapter was last fetched, read and placed; those count that
            ended while this request waited, whoever had asked for them first.
    """
    attributes: dict[str, str | int | float] = {
        "http.request.method": record.method,
        "http.route": route,
        "http.response.status_code": record.status,
        "loramux.request_id": request_id,
    }
    if record.refusal is not None:
        attributes["loramux.refusal"] = record.refusal
    if (generation := record.generation) is not None:
        attributes["gen_ai.request.model"] = generation.model
        attributes["gen_ai.usage.input_tokens"] = generation.prompt_tokens
        attributes["gen_ai.usage.output_tokens"] = generation.completion_tokens
        if generation.digest is not None:
            attributes["loramux.adapter.digest"] = generation.digest
    return FinishedRequest(
        name=f"{record.method} {route}",
        window=(record.began, record.ended),
        headers=headers,
        attributes=attributes,
        stages=list(stages_of(record, adapter_stages)),
        is_error=record.status >= 500,
    )


def stages_of(
    record: RequestRecord, adapter_stages: Mapping[str, Window]
) -> Iterator[tuple[str, Window]]:
    """What the request has waited for, in order, and then its generation."""
    generation = record.generation
    scheduled = record.ended
    if generation is not None:
        scheduled = generation.first_scheduled or record.ended
    waited = {
        name: (max(began, record.began), ended)
        for name, (began, ended) in adapter_stages.items()
        if record.began <= ended <= scheduled
    }
    if record.lookup is not None:
        began, ended = record.lookup
        # Looking includes reading what was found, which has spans of its own.
        ends = [ended, *(stage_began for stage_began, _ in waited.values())]
        yield "resolve", (began, max(began, min(ends)))
    yield from waited.items()
    if generation is not None:
        yield "queue", (generation.submitted, scheduled)
        yield "generate", (scheduled, record.ended)
