"""The flags of ``loramux serve`` for those who watch it: logs, metrics and traces."""

from __future__ import annotations

import argparse
from typing import Any

from loramux import env
from loramux.observability.log_lines import LOG_FORMATS

LOG_FORMAT_VARIABLE = "LORAMUX_LOG_FORMAT"


def add_watching_arguments(group: Any) -> None:
    """Add the flags."""
    add = group.add_argument
    add("--log-format", choices=LOG_FORMATS,
        help=f"json writes one object a line (default: {LOG_FORMAT_VARIABLE}, or text)",
        )  # fmt: skip
    add("--no-access-log", dest="access_log", action="store_false",
        help="write no line for each request")  # fmt: skip
    add(
        "--metrics-without-key",
        action="store_true",
        help="let anybody read /metrics, which otherwise takes an admin's key where there are keys",
    )
    add("--otlp-traces-endpoint", metavar="URL",
        help="send a trace of each request there, with OTLP over HTTP; OpenTelemetry's own "
        "OTEL_EXPORTER_OTLP_ENDPOINT works too; needs loramux[otel]")  # fmt: skip


def watching_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of ``ServeOptions`` that the flags stand for."""
    names = ("access_log", "metrics_without_key", "otlp_traces_endpoint")
    return {name: getattr(arguments, name) for name in names}


def log_format_of(arguments: argparse.Namespace) -> str:
    """The flag's value, or the variable's.

    Raises:
        EnvironmentVariableError: the variable names no format.
    """
    chosen: str | None = arguments.log_format
    if chosen is not None:
        return chosen
    value = env.read_text(LOG_FORMAT_VARIABLE) or LOG_FORMATS[0]
    if value not in LOG_FORMATS:
        raise env.EnvironmentVariableError(LOG_FORMAT_VARIABLE, value, " or ".join(LOG_FORMATS))
    return value
