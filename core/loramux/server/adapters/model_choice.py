"""From the ``model`` field of a request to the base model or an adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from urllib.parse import quote

from fastapi import Request

from loramux.errors import ModelNotFoundError
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.catalog_entry import CatalogEntry
from loramux.server.access.caller import Caller, access_of
from loramux.server.adapters.residents import make_room_for
from loramux.server.metrics.record import record_of
from loramux.server.state import ServerState

DIGEST_HEADER = "x-loramux-adapter-digest"
FOUND_BY_HEADER = "x-loramux-adapter-found-by"
LOAD_MILLISECONDS_HEADER = "x-loramux-adapter-load-ms"


@dataclass(frozen=True)
class ModelChoice:
    """The model a request is served by; ``headers`` tell the client how its adapter came about.

    Computed prompts are shared only among requests of the same ``cache_salt``.
    """

    name: str
    lora_request: LoRARequest | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cache_salt: str | None = None

    def headers_for(self, digest: str | None) -> dict[str, str]:
        """The headers of an answer that was computed with these weights."""
        return {**self.headers, DIGEST_HEADER: digest} if digest else self.headers


async def choose_model(
    request: Request, server: ServerState, name: str | None, cache_salt: str | None = None
) -> ModelChoice:
    """The base model for its names and for none, the adapter of that name otherwise.

    Args:
        cache_salt: the request's own; requests share a prefix only where it is the same.

    Raises:
        ModelNotFoundError: there is neither, or not for this caller.
        AdapterUnavailableError: the adapter's source does not answer.
        AdapterRefusedError: the adapter cannot be served.
        ApiError: 429 if the caller has too much under way.
    """
    caller = access_of(request)
    salt = _salt(None if server.share_prefix_cache else caller.name, cache_salt)
    if not name or name in server.base_names:
        server.base_use.count()
        return ModelChoice(name or server.base_names[0], cache_salt=salt)
    record = record_of(request)
    record.adapter = name
    with record.looking_up():
        entry, searched = await find_adapter(server, caller, name)
    if not searched:
        record.lookup = None
    milliseconds = ceil(1e3 * entry.search_seconds) if searched else 0
    # A header holds ASCII only; a resolver may be called anything.
    headers = {
        FOUND_BY_HEADER: quote(entry.found_by, safe=" /:@+"),
        LOAD_MILLISECONDS_HEADER: str(milliseconds),
    }
    return ModelChoice(name, entry.lora_request, headers, salt)


async def find_adapter(server: ServerState, caller: Caller, name: str) -> tuple[CatalogEntry, bool]:
    """The adapter of a name, and whether it had to be searched for.

    A name that the caller may not use is answered as one that nobody has, before anything that
    knows better is asked.

    Raises:
        ModelNotFoundError: there is none for this caller.
        AdapterUnavailableError: its source does not answer.
        AdapterRefusedError: it cannot be served.
        ApiError: 429 if the caller loads too many.
    """
    if not caller.may_use(name):
        raise server.catalog.unknown(name)
    if server.catalog.known(name, caller.name):
        entry, searched = await _find(server, caller, name)
    else:
        with server.quotas.loading(caller, name):
            entry, searched = await _find(server, caller, name)
    entry.use.count()
    if searched:
        await make_room_for(server, caller, entry)
    return entry, searched


async def _find(server: ServerState, caller: Caller, name: str) -> tuple[CatalogEntry, bool]:
    try:
        return await server.catalog.find(name, caller.name, caller.may_use)
    except ModelNotFoundError as error:
        raise server.catalog.unknown(name) from error


def _salt(caller: str | None, given: str | None) -> str | None:
    """Callers' names hold no NUL, so none can be put together with a salt to be another's."""
    return f"{caller or ''}\0{given or ''}" if caller or given else None
