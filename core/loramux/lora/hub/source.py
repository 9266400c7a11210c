"""Adapters on the Hugging Face Hub: how people write where they are, and how they are fetched.

huggingface_hub is imported when it is first needed, so that a program that uses no Hub starts fast.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from loramux.errors import AdapterRefusedError, AdapterUnavailableError
from loramux.lora.hub.ledger import HubLedger
from loramux.lora.hub.names import CONFIG_FILE, DEFAULT_BRANCH, WEIGHTS_FILE, is_commit
from loramux.lora.size_limit import max_adapter_bytes
from loramux.lora.source import AdapterSource, FetchProgress

log = logging.getLogger(__name__)

_REPOSITORY_PART = r"[A-Za-z0-9_](?:[\w.-]*\w)?"
_COMPONENT = r"[^./\\@:][^/\\@:]*"
_PATH = re.compile(
    rf"(?P<repo_id>{_REPOSITORY_PART}/{_REPOSITORY_PART})"
    rf"(?:/(?P<subpath>{_COMPONENT}(?:/{_COMPONENT})*))?"
    rf"(?:@(?P<revision>{_COMPONENT}(?:/{_COMPONENT})*))?",
    re.ASCII,
)


@dataclass(frozen=True)
class HubPath:
    """Where an adapter is on the Hub, as people write it."""

    repo_id: str
    subpath: str = ""
    revision: str | None = None
    """A branch, tag or commit; None is the branch ``main``."""

    @classmethod
    def parse(cls, text: str) -> HubPath | None:
        """Read ``org/repo``, ``org/repo/directory`` or either with ``@revision``.

        Returns None if the text is none of them.
        """
        match = _PATH.fullmatch(text) if text.isprintable() else None
        if match is None or re.search(r"--|\.\.|\.git$", match["repo_id"]):
            return None
        return cls(match["repo_id"], match["subpath"] or "", match["revision"])

    def __str__(self) -> str:
        directory = f"/{self.subpath}" if self.subpath else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repo_id}{directory}{revision}"

    def at(self, commit: str, num_bytes: int = 0) -> HubSource:
        """The source that this path is when its revision is ``commit``."""
        revision = self.revision or DEFAULT_BRANCH
        branch = None if is_commit(revision) else revision
        return HubSource(self.repo_id, commit, self.subpath, branch, num_bytes)

    def cached_source(self, commits: Iterable[str] = ()) -> HubSource | None:
        """What the local Hugging Face cache has for this path.

        Args:
            commits: where the revision was seen, besides what the cache itself has noted.
        """
        from loramux.lora.hub.cache import cached_commit

        revision = self.revision or DEFAULT_BRANCH
        noted = revision if is_commit(revision) else cached_commit(self.repo_id, revision)
        for commit in (noted, *commits):
            if commit is not None and self.at(commit).cached_directory() is not None:
                return self.at(commit)
        return None


@dataclass(frozen=True)
class HubSource(AdapterSource):
    """An adapter in one commit of a repository of the Hugging Face Hub.

    Args:
        repo_id: ``org/repo``.
        commit: the full commit hash.
        subpath: directory in the repository; empty for its root.
        branch: branch or tag that was found at this commit, to be noted in the local cache.
        num_bytes: size of its files as the Hub lists it, 0 if that is not known.
    """

    repo_id: str
    commit: str
    subpath: str = ""
    branch: str | None = field(default=None, compare=False)
    num_bytes: int = field(default=0, compare=False)

    @property
    def uri(self) -> str:
        """``hf://org/repo/directory``, as fsspec writes it."""
        return f"hf://{HubPath(self.repo_id, self.subpath)}"

    @property
    def revision(self) -> str:
        """The commit."""
        return self.commit

    @property
    def path(self) -> HubPath:
        """What somebody would write to get exactly this."""
        return HubPath(self.repo_id, self.subpath, self.commit)

    def cached_directory(self) -> Path | None:
        """Where its files are in the local Hugging Face cache, if all of them are there."""
        from loramux.lora.hub.cache import cached_directory

        return cached_directory(self.repo_id, self.commit, self._files())

    def held(self, records: Path, max_bytes: int) -> AbstractContextManager[None]:
        """Keep its files in the Hugging Face cache; see ``HubLedger``."""
        from loramux.lora.hub.cache import snapshot

        ledger = HubLedger(records, max_bytes)
        return ledger.held(snapshot(self.repo_id, self.commit), self._files(), self.num_bytes)

    def fetch(self, directory: Path, progress: FetchProgress) -> Path:
        """Bring its two files into the Hugging Face cache, if they are not there already.

        ``directory`` stays empty. ``LORAMUX_MAX_ADAPTER_BYTES`` (4 GiB) limits what is downloaded.

        Raises:
            AdapterRefusedError: it is too large, gated, or not there.
            AdapterUnavailableError: the Hub does not answer, sends nothing for
                ``LORAMUX_LORA_RESOLVE_TIMEOUT`` seconds, or something damaged.
        """
        self._check_size(self.num_bytes)
        if self.cached_directory() is None:
            self._download(progress)
        found = self.cached_directory()
        if found is None:
            raise AdapterUnavailableError(
                f"{self.path} left the Hugging Face cache as it was fetched; try again.",
                "it left the Hugging Face cache as it was fetched; try again.",
            )
        if self.branch is not None:
            from loramux.lora.hub.cache import remember_commit

            remember_commit(self.repo_id, self.branch, self.commit)
        return found

    def _download(self, progress: FetchProgress) -> None:
        from loramux.lora.hub.download import download

        def report(done: int, total: int) -> None:
            progress(done, max(total, self.num_bytes))

        download(self.repo_id, self.commit, self._files(), report, self._check_size)

    def _check_size(self, num_bytes: int) -> None:
        max_bytes = max_adapter_bytes()
        if num_bytes > max_bytes:
            problem = (
                f"has {num_bytes:,} bytes, more than the {max_bytes:,} that "
                "LORAMUX_MAX_ADAPTER_BYTES allows; raise it if the adapter is meant to be so large."
            )
            raise AdapterRefusedError(f"{self.path} {problem}", f"it {problem}")

    def _files(self) -> tuple[str, str]:
        prefix = f"{self.subpath}/" if self.subpath else ""
        return prefix + CONFIG_FILE, prefix + WEIGHTS_FILE


def find_on_hub(path: HubPath) -> HubSource:
    """The adapter at a path, at the commit that its branch or tag points to now.

    If the Hub does not answer, it is the one that the local cache has for this branch, and the log
    says so. Whether there is an adapter at that path is seen when it is fetched.

    Raises:
        AdapterNotFoundError: there is no such repository or revision.
        AdapterRefusedError: it is gated, or the token is not accepted.
        AdapterUnavailableError: the Hub does not answer, and the cache has nothing.
    """
    from loramux.lora.hub.api import answer_timeout, find_commit

    revision = path.revision or DEFAULT_BRANCH
    if is_commit(revision):
        return path.at(revision)
    try:
        return path.at(find_commit(path.repo_id, revision, answer_timeout()))
    except AdapterUnavailableError as error:
        source = path.cached_source()
        if source is None:
            raise
        log_served_from_cache(source, error)
        return source


def log_served_from_cache(source: HubSource, error: AdapterUnavailableError) -> None:
    """Say that an adapter may not be the newest."""
    log.warning(
        "%s Until then %s is served from the local cache, at commit %s, which was the last one "
        "seen there.",
        error,
        source.uri,
        source.commit,
    )
