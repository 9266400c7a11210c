"""From the ``model`` field of a request to the base model or an adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from urllib.parse import quote

from fastapi import Request

from loramux.errors import ModelNotFoundError
from loramux.lora.request import LoRARequest
from loramux.server.state import ServerState

DIGEST_HEADER = "x-loramux-adapter-digest"
FOUND_BY_HEADER = "x-loramux-adapter-found-by"
LOAD_MILLISECONDS_HEADER = "x-loramux-adapter-load-ms"


@dataclass(frozen=True)
class ModelChoice:
    """The model a request is served by; ``headers`` tell the client how its adapter came about."""

    name: str
    lora_request: LoRARequest | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def headers_for(self, digest: str | None) -> dict[str, str]:
        """The headers of an answer that was computed with these weights."""
        return {**self.headers, DIGEST_HEADER: digest} if digest else self.headers


async def choose_model(request: Request, server: ServerState, name: str | None) -> ModelChoice:
    """The base model for its names and for none, the adapter of that name otherwise.

    Raises:
        ModelNotFoundError: there is neither.
        AdapterUnavailableError: the adapter's source does not answer.
        AdapterRefusedError: the adapter cannot be served.
    """
    if not name or name in server.base_names:
        return ModelChoice(name or server.base_names[0])
    try:
        entry, searched = await server.catalog.find(name, caller_of(request))
    except ModelNotFoundError as error:
        raise server.catalog.unknown(name) from error
    milliseconds = ceil(1e3 * entry.search_seconds) if searched else 0
    # A header holds ASCII only; a resolver may be called anything.
    headers = {
        FOUND_BY_HEADER: quote(entry.found_by, safe=" /:@+"),
        LOAD_MILLISECONDS_HEADER: str(milliseconds),
    }
    return ModelChoice(name, entry.lora_request, headers)


def caller_of(request: Request) -> str | None:
    """Who asks, as the API key tells; None where the server has no keys."""
    caller: str | None = request.scope.get("loramux.caller")
    return caller
