"""What a server is started with besides its engine."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from loramux import field_checks as check
from loramux.errors import InvalidRequestError
from loramux.lora.resolve.catalog import AdapterModule
from loramux.server.chat.tools.options import ToolOptions
from loramux.server.http.connections import ConnectionOptions
from loramux.server.http.foreign_pages import ANY_ORIGIN

MODULE = '{"name": "sql", "path": "/srv/adapters/sql"}'
"""An example of an adapter to begin with."""


_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")

LEAST = {"max_body_bytes": 1, "max_queued_requests": 1, "shutdown_seconds": 0}
"""Options that are numbers, and the least that each can be."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where to listen, whom to answer, and which adapters to begin with.

    Args:
        port: 0 takes a free one.
        api_keys: may do everything; neither these nor a file lets anybody in.
        api_keys_file: of keys with roles, adapters and quotas.
        allowed_origins: of pages that may ask, such as ``https://app.example.com``, or ``*``.
        share_prefix_cache: whether callers may profit from prompts that others sent.
        allowed_roots: directories, and ``hf://org/repo``, from which clients may load adapters.
        connections: time and size limits, and TLS.
        adapters: loaded before the first request is taken.
        chat_template: a Jinja file used instead of the model's own template.
        tools: how calls of tools are read from the model's text.
        max_queued_requests: sequences of all requests that may wait or run at one time.
        dashboard: whether there is a page at ``/``.
        shutdown_seconds: how long running requests may go on once the server is asked to end.
        access_log: whether each request gets a line in the log.
        metrics_without_key: whether anybody may read ``/metrics``.
        otlp_traces_endpoint: where to send traces, instead of where OpenTelemetry's variables say.

    Raises:
        InvalidRequestError: a key is empty, an origin is none, or no request could ever be taken.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    api_keys_file: Path | None = None
    allowed_origins: tuple[str, ...] | None = None
    share_prefix_cache: bool = False
    allowed_roots: tuple[str, ...] = ()
    connections: ConnectionOptions = field(default_factory=ConnectionOptions)
    adapters: tuple[AdapterModule, ...] = ()
    chat_template: Path | None = None
    tools: ToolOptions = field(default_factory=ToolOptions)
    max_body_bytes: int = 8 * 1024 * 1024
    max_queued_requests: int = 4096
    shutdown_seconds: int = 30
    uvicorn_log_level: str = "warning"
    access_log: bool = True
    metrics_without_key: bool = False
    otlp_traces_endpoint: str | None = None
    dashboard: bool = True

    def __post_init__(self) -> None:
        if not all(key.strip() for key in self.api_keys):
            raise InvalidRequestError(
                "--api-key was given an empty key, perhaps from a variable that is not set; "
                "give a key, or leave the flag out to let anybody in.",
                "api_key",
            )
        for origin in self.allowed_origins or ():
            if not _ORIGIN.fullmatch(origin):
                raise InvalidRequestError(
                    "--allowed-origins takes *, or origins such as https://app.example.com, with "
                    f"nothing after the host and its port, got {origin!r}.",
                    "allowed_origins",
                )
        for name, least in LEAST.items():
            check.integer(f"--{name.replace('_', '-')}", getattr(self, name), least)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def origins(self) -> tuple[str, ...]:
        """Of pages that may ask; unless it is said, of all where a key is needed, else of none."""
        if self.allowed_origins is not None:
            return self.allowed_origins
        return (ANY_ORIGIN,) if self.api_keys or self.api_keys_file else ()

    def read_chat_template(self) -> str | None:
        """The text of the template.

        Raises:
            InvalidRequestError: the file cannot be read.
        """
        if self.chat_template is None:
            return None
        try:
            return self.chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InvalidRequestError(
                f"--chat-template {str(self.chat_template)!r} cannot be read ({reason}); give the "
                "path of a Jinja file in UTF-8.",
                "chat_template",
            ) from error


def parse_adapter_module(text: str) -> AdapterModule:
    """``name=path``, or a JSON object with ``name``, ``path`` and maybe ``base_model_name``.

    Raises:
        InvalidRequestError: it is neither.
    """
    if text.lstrip().startswith("{"):
        return _from_json(text)
    name, _, path = text.partition("=")
    if not name or not path:
        raise InvalidRequestError(
            f"--lora-modules takes name=path or a JSON object, got {text!r}.", "lora_modules"
        )
    return AdapterModule(name, path)


def _from_json(text: str) -> AdapterModule:
    given = check.json_object("lora_modules", MODULE, text)
    fields = {name: value for name, value in given.items() if value is not None}
    if fields.get("is_3d_lora_weight") is False:
        del fields["is_3d_lora_weight"]
    is_text = all(isinstance(value, str) for value in fields.values())
    if not is_text or not {"name", "path"} <= fields.keys() <= {"name", "path", "base_model_name"}:
        raise InvalidRequestError(
            "--lora-modules takes name, path and maybe base_model_name, all of them text, "
            f"got {text!r}.",
            "lora_modules",
        )
    return AdapterModule(**fields)
