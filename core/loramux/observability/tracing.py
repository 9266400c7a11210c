"""Spans for an OpenTelemetry collector, where one is configured."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from loramux import env
from loramux.errors import LoramuxError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

Window = tuple[float, float]
"""When something began and ended, by :func:`time.monotonic`."""


@dataclass(frozen=True)
class FinishedRequest:
    """A request as its trace shows it.

    Args:
        name: method and route.
        headers: of the request; its ``traceparent`` is continued.
        attributes: of the request's span.
        stages: one span inside of it for each.
        is_error: whether the server failed.
    """

    name: str
    window: Window
    headers: Mapping[str, str]
    attributes: Mapping[str, str | int | float]
    stages: Sequence[tuple[str, Window]] = field(default=())
    is_error: bool = False


class RequestTracer:
    """Makes spans of requests that are over; a thread of the SDK's sends them.

    Args:
        give_up: lets the sending of what is left fail at once.
    """

    def __init__(
        self, provider: TracerProvider, give_up: Callable[[], object] = lambda: None
    ) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._give_up = give_up
        self._tracer = provider.get_tracer("loramux")
        self._propagator = TraceContextTextMapPropagator()

    def trace(self, request: FinishedRequest) -> None:
        """Make the spans of one request."""
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        # Windows are of a clock that never jumps; spans want nanoseconds since 1970.
        shift = time.time() - time.monotonic()
        context = self._propagator.extract(dict(request.headers))
        began, ended = _nanoseconds(request.window, shift)
        span = self._tracer.start_span(
            request.name, context, SpanKind.SERVER, dict(request.attributes), start_time=began
        )
        if request.is_error:
            span.set_status(StatusCode.ERROR)
        inside = set_span_in_context(span, context)
        for name, window in request.stages:
            stage_began, stage_ended = _nanoseconds(window, shift)
            stage = self._tracer.start_span(name, inside, start_time=stage_began)
            stage.end(stage_ended)
        span.end(ended)

    def close(self, seconds: float = 2.0) -> None:
        """Send what has not been sent, if the collector takes it within ``seconds``. Blocks."""
        timer = threading.Timer(seconds, self._give_up)
        timer.start()
        try:
            self._provider.shutdown()
        finally:
            timer.cancel()


def tracer_for(endpoint: str | None) -> RequestTracer | None:
    """A tracer that sends to ``endpoint``, or to where OpenTelemetry's own variables say.

    Returns:
        None where nobody asks for traces.

    Raises:
        LoramuxError: traces were asked for with a flag, and the SDK is not installed. With a
            variable alone, which may be set for a whole cluster, a warning says so.
    """
    variable = next((name for name in ENDPOINT_VARIABLES if env.read_text(name)), None)
    if endpoint is None and (variable is None or env.read_bool("OTEL_SDK_DISABLED")):
        return None
    try:
        return _tracer(endpoint)
    except ImportError as error:
        asked = "--otlp-traces-endpoint" if endpoint else variable
        sentence = (
            f"Traces were asked for with {asked}, and OpenTelemetry is not installed "
            f"({error.name} is missing); install it with: pip install 'loramux[otel]'."
        )
        if endpoint:
            raise LoramuxError(sentence) from error
        log.warning("%s", sentence)
        return None


def _tracer(endpoint: str | None) -> RequestTracer:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    settings: dict[str, Any] = {} if endpoint is None else {"endpoint": _traces_url(endpoint)}
    provider = TracerProvider(
        resource=Resource.create({} if named else {"service.name": "loramux"})
    )
    exporter = OTLPSpanExporter(**settings)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return RequestTracer(provider, exporter.shutdown)


def _traces_url(endpoint: str) -> str:
    """A collector's address alone means its usual path."""
    has_path = urlsplit(endpoint).path.strip("/")
    return endpoint if has_path else f"{endpoint.rstrip('/')}/v1/traces"


def _nanoseconds(window: Window, shift: float) -> tuple[int, int]:
    began, ended = window
    return int((began + shift) * 1e9), int((ended + shift) * 1e9)
