"""Finds adapters in repositories of the Hugging Face Hub that the operator has listed.

Set ``LORAMUX_LORA_RESOLVER_HF_REPO_LIST`` to ``org/repo1,org/repo2@revision``. An adapter's name is

- ``org/repo1``, for one in the root of that repository,
- ``org/repo1/directory``, for one below it,
- either with ``@revision`` (a branch, tag or commit), unless the list itself names a revision.

No request leaves this machine for any other name. A commit can be one of a pull request, which
anybody may open on a public repository; where that matters, list a revision.

A branch is looked up once in ``LORAMUX_LORA_RESOLVER_HF_REVISION_TTL`` seconds (30), and a commit's
files once. While the Hub does not answer, adapters come from the local Hugging Face cache, and the
log says so. Tokens, cache and endpoint are huggingface_hub's: ``HF_TOKEN``, ``HF_HOME``,
``HF_ENDPOINT``, ``HF_HUB_OFFLINE``. What was downloaded here is removed from that cache, the least
recently used first, to stay within ``LORAMUX_ADAPTER_CACHE_SIZE``; other tools' files never are.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from loramux import LoRARequest, LoRAResolver, env, hookimpl
from loramux.errors import AdapterNotFoundError, AdapterUnavailableError, PluginError
from loramux.lora.hub.daemon_call import call_in_daemon_thread
from loramux.lora.hub.names import DEFAULT_BRANCH, is_commit
from loramux.lora.hub.source import HubPath, HubSource, log_served_from_cache
from loramux.lora.resolver import stable_lora_int_id
from loramux_resolvers.answer_cache import AnswerCache
from loramux_resolvers.safe_names import why_unsafe

if TYPE_CHECKING:
    from loramux.lora.hub.api import Listing

log = logging.getLogger(__name__)

VARIABLE = env.ADAPTER_REPOSITORIES_VARIABLE
TTL_VARIABLE = "LORAMUX_LORA_RESOLVER_HF_REVISION_TTL"

ERROR_TTL = 5.0
"""Seconds for which the Hub is not asked again what it could not, or would not, tell."""

MAX_REVISIONS = 1024
MAX_LISTINGS = 64
MAX_QUESTIONS = 16
"""Questions to the Hub under way at a time, those included that nobody waits for any more."""

COMMITS_KEPT = 8
"""Former commits of a branch that are served from the cache if it is all there is."""

Answer = TypeVar("Answer")


@hookimpl
def missing_configuration() -> str | None:
    """The repositories have to be named."""
    if os.environ.get(VARIABLE, "").strip():
        return None
    return f"{VARIABLE} is not set; set it to the Hub repositories that hold the adapters."


@hookimpl
def register_lora_resolvers(register: Callable[[str, LoRAResolver], None]) -> None:
    """Offer one resolver for the repositories that the environment lists.

    Raises:
        PluginError: if the list, or a number of seconds, cannot be read.
    """
    repositories = _read_repositories(env.read_list(VARIABLE))
    try:
        resolver = HubLoRAResolver(repositories)
    except env.EnvironmentVariableError as error:
        raise PluginError(str(error)) from error
    register("lora_hf_hub_resolver", resolver)


def _read_repositories(entries: list[str]) -> dict[str, str | None]:
    repositories: dict[str, str | None] = {}
    for entry in entries:
        path = HubPath.parse(entry)
        if path is None or path.subpath:
            raise PluginError(
                f"{VARIABLE} holds {entry!r}, which is no repository; list repositories as "
                "org/repo or org/repo@revision, with commas between them."
            )
        if path.repo_id in repositories:
            raise PluginError(
                f"{VARIABLE} holds the repository {path.repo_id!r} twice; list each one once."
            )
        repositories[path.repo_id] = path.revision
    return repositories


class HubLoRAResolver(LoRAResolver):
    """Finds PEFT checkpoints in certain repositories of the Hugging Face Hub.

    Args:
        repositories: ``org/repo`` -> the revision that all its adapters are taken from, or None
            where a name may choose one and the branch ``main`` is the default.
        timeout: seconds that the Hub has for each of the two questions of a look-up; by default
            :func:`loramux.lora.hub.api.answer_timeout`.
        revision_ttl: seconds for which a branch is taken to be where it was;
            ``LORAMUX_LORA_RESOLVER_HF_REVISION_TTL`` or 30.

    Raises:
        EnvironmentVariableError: if a variable is needed and cannot be read.
    """

    def __init__(
        self,
        repositories: Mapping[str, str | None],
        *,
        timeout: float | None = None,
        revision_ttl: float | None = None,
    ) -> None:
        from loramux.lora.hub.api import answer_timeout

        if revision_ttl is None:
            revision_ttl = env.read_seconds(TTL_VARIABLE, 30.0, zero_allowed=True)
        self.repositories = dict(repositories)
        self._timeout = answer_timeout() if timeout is None else timeout
        self._commits: AnswerCache[tuple[str, str], str] = AnswerCache(
            revision_ttl, ERROR_TTL, MAX_REVISIONS
        )
        self._listings: AnswerCache[tuple[str, str, str], Listing] = AnswerCache(
            math.inf, ERROR_TTL, MAX_LISTINGS
        )
        self._seen: OrderedDict[tuple[str, str], tuple[str, ...]] = OrderedDict()
        self._questions = threading.BoundedSemaphore(MAX_QUESTIONS)

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Find the adapter at the path that ``lora_name`` is.

        Its ``adapter_config.json`` has to name the base model.

        Raises:
            AdapterRefusedError: the Hub does not let this server read the repository.
            AdapterUnavailableError: the Hub does not answer, and the cache has no such adapter.
        """
        path = self._listed(lora_name)
        source = None if path is None else await self._find(path)
        if source is None:
            return None
        return LoRARequest(
            lora_name=lora_name,
            lora_int_id=stable_lora_int_id(lora_name),
            lora_path=str(source.path),
            source=source,
        )

    def _listed(self, lora_name: str) -> HubPath | None:
        """The path that a name is, with its revision, if it is in a listed repository."""
        for part in lora_name.split("@", 1):
            if reason := why_unsafe(part):
                log.debug("adapter name %r is refused: %s", lora_name, reason)
                return None
        path = HubPath.parse(lora_name)
        if path is None or path.repo_id not in self.repositories:
            return None
        pinned = self.repositories[path.repo_id]
        if path.revision is None:
            return replace(path, revision=pinned or DEFAULT_BRANCH)
        # Below refs/ are pull requests, which are not the owner's.
        is_free = pinned is None and not path.revision.startswith("refs/")
        return path if is_free else None

    async def _find(self, path: HubPath) -> HubSource | None:
        from huggingface_hub import is_offline_mode

        if is_offline_mode():
            return await self._cached(path)
        try:
            return await self._find_on_hub(path)
        except AdapterNotFoundError as error:
            log.info("adapter %s is not found: %s", path, error)
            return None
        except AdapterUnavailableError as error:
            source = await self._cached(path)
            if source is None:
                raise
            log_served_from_cache(source, error)
            return source

    async def _find_on_hub(self, path: HubPath) -> HubSource | None:
        commit = await self._commit(path)
        source = path.at(commit)
        if await asyncio.to_thread(source.cached_directory) is not None:
            return source
        listing = await self._listing(path.repo_id, commit, "")
        if not listing.is_complete and path.subpath not in listing.adapters:
            listing = await self._listing(path.repo_id, commit, path.subpath)
        num_bytes = listing.adapters.get(path.subpath)
        return None if num_bytes is None else replace(source, num_bytes=num_bytes)

    async def _cached(self, path: HubPath) -> HubSource | None:
        seen = self._seen.get((path.repo_id, path.revision or DEFAULT_BRANCH), ())
        return await asyncio.to_thread(path.cached_source, seen)

    async def _commit(self, path: HubPath) -> str:
        from loramux.lora.hub.api import find_commit

        revision = path.revision or DEFAULT_BRANCH
        if is_commit(revision):
            return revision
        key = (path.repo_id, revision)
        ask = partial(self._ask, partial(find_commit, *key, self._timeout))
        commit = await self._commits.get(key, ask)
        self._note(key, commit)
        return commit

    async def _listing(self, repo_id: str, commit: str, directory: str) -> Listing:
        from loramux.lora.hub.api import list_adapters

        question = partial(list_adapters, repo_id, commit, self._timeout, directory)
        return await self._listings.get((repo_id, commit, directory), partial(self._ask, question))

    async def _ask(self, question: Callable[[], Answer]) -> Answer:
        """Ask the Hub from a thread that is left when it takes too long."""
        if not self._questions.acquire(blocking=False):
            raise AdapterUnavailableError(
                f"{MAX_QUESTIONS} questions to the Hugging Face Hub are unanswered; "
                "try again later."
            )
        work = call_in_daemon_thread("hub-question", question)
        work.add_done_callback(lambda _: self._questions.release())
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.wrap_future(work)
        except TimeoutError:
            raise AdapterUnavailableError(
                f"The Hugging Face Hub did not answer within {self._timeout:.3g} s; "
                "try again later."
            ) from None

    def _note(self, key: tuple[str, str], commit: str) -> None:
        """Remember where a branch was, the latest commit first."""
        former = (seen for seen in self._seen.get(key, ()) if seen != commit)
        self._seen[key] = (commit, *former)[:COMMITS_KEPT]
        self._seen.move_to_end(key)
        if len(self._seen) > MAX_REVISIONS:
            self._seen.popitem(last=False)
