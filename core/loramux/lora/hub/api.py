"""The two questions that find an adapter on the Hugging Face Hub.

They go through huggingface_hub's session, with its headers, token and endpoint, but not through
its methods: those retry for 23 s, the one that lists files takes no timeout at all, and a page that
is on another host would be sent the token.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from huggingface_hub import constants, get_session
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, not in __all__
    build_hf_headers,
    hf_raise_for_status,
)

from loramux.errors import AdapterUnavailableError
from loramux.lora.hub.errors import hub_errors
from loramux.lora.hub.names import CONFIG_FILE, WEIGHTS_FILE, is_commit
from loramux.lora.hub.session import again_if_closed
from loramux.lora.resolve.deadline import resolve_timeout

MAX_PAGES = 10
"""Pages (of 1,000 files each, on the Hub) up to which a whole repository is listed."""

MAX_ANSWER_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Listing:
    """The adapters among a commit's files: directory -> bytes of its files."""

    adapters: Mapping[str, int]
    is_complete: bool
    """False if there are more files than were listed."""


def answer_timeout() -> float:
    """Seconds for one question, so that two of them leave time to turn to the local cache.

    5, and at most a sixth of ``LORAMUX_LORA_RESOLVE_TIMEOUT``.
    """
    return min(5.0, resolve_timeout() / 6)


def find_commit(repo_id: str, revision: str, timeout: float) -> str:
    """The commit that a branch or tag points to now.

    Raises:
        AdapterNotFoundError: there is no such repository or revision.
        AdapterRefusedError: it is gated, or the token is not accepted.
        AdapterUnavailableError: the Hub does not answer within ``timeout`` seconds.
    """
    what = f"revision {revision!r}"
    path = f"{repo_id}/revision/{quote(revision, safe='')}"
    with hub_errors(repo_id, what):
        answer, _ = again_if_closed(partial(_get, path, {}, time.monotonic() + timeout))
    commit = answer.get("sha") if isinstance(answer, dict) else None
    if isinstance(commit, str) and is_commit(commit):
        return commit
    raise _nonsense(repo_id, what)


def list_adapters(repo_id: str, commit: str, timeout: float, directory: str = "") -> Listing:
    """Find the adapters of a commit, or the one of a single directory.

    Args:
        directory: where to look; the whole repository if empty.

    Raises:
        AdapterNotFoundError, AdapterRefusedError, AdapterUnavailableError: as for ``find_commit``.
    """
    path = f"{repo_id}/tree/{commit}"
    if directory:
        path += f"/{quote(directory, safe='')}"
    sizes: dict[str, int] = {}
    is_complete = False
    with hub_errors(repo_id, f"directory {directory!r}" if directory else f"commit {commit}"):
        pages = _pages(path, recursive=not directory, deadline=time.monotonic() + timeout)
        for entries, is_last in pages:
            if not isinstance(entries, list):
                raise _nonsense(repo_id, "its files")
            sizes |= dict(_files(entries))
            is_complete = is_last
    return Listing(_adapters(sizes), is_complete)


def _pages(path: str, *, recursive: bool, deadline: float) -> Iterator[tuple[Any, bool]]:
    query = {"recursive": str(recursive).lower(), "expand": "false"}
    for _ in range(MAX_PAGES):
        answer, next_url = again_if_closed(partial(_get, path, query, deadline))
        yield answer, next_url is None
        if next_url is None:
            return
        # Only its query: a mirror may pass the upstream's address on, and our token stays here.
        query |= {key: values[-1] for key, values in parse_qs(urlsplit(next_url).query).items()}


def _get(path: str, query: Mapping[str, str], deadline: float) -> tuple[Any, str | None]:
    """The JSON of an answer, and the address of its next page."""
    url = f"{constants.ENDPOINT}/api/models/{path}"
    headers = build_hf_headers(library_name="loramux")
    timeout = max(deadline - time.monotonic(), 0.001)
    body = bytearray()
    with get_session().stream(
        "GET", url, params=dict(query), headers=headers, timeout=timeout
    ) as response:
        if response.is_error:
            response.close()  # or all of its body would be read, which may have no end
        hf_raise_for_status(response)
        for chunk in response.iter_bytes():
            body += chunk
            # The client's timeout is for each chunk; a server may send many small ones.
            if len(body) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                raise TimeoutError("the answer is too long, or takes too long")
    return _parsed(body), response.links.get("next", {}).get("url")


def _parsed(body: bytearray) -> Any:
    """None if it is no JSON, which is what neither question is answered with."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def _files(entries: list[Any]) -> Iterator[tuple[str, int]]:
    """Path and size of each file in a page of a listing."""
    for entry in entries:
        if isinstance(entry, dict) and entry.get("type") == "file":
            lfs = entry.get("lfs")
            size = lfs.get("size") if isinstance(lfs, dict) else entry.get("size")
            yield str(entry.get("path")), size if isinstance(size, int) else 0


def _adapters(sizes: Mapping[str, int]) -> dict[str, int]:
    found = {}
    for path, size in sizes.items():
        directory, _, name = path.rpartition("/")
        weights = f"{directory}/{WEIGHTS_FILE}".removeprefix("/")
        if name == CONFIG_FILE and weights in sizes:
            found[directory] = size + sizes[weights]
    return found


def _nonsense(repo_id: str, what: str) -> AdapterUnavailableError:
    return AdapterUnavailableError(
        f"What answers at HF_ENDPOINT is no Hugging Face Hub: asked for {what} of {repo_id}, it "
        "sends something else; correct HF_ENDPOINT or the proxy.",
        "what answers for the Hugging Face Hub is something else; try again later.",
    )
