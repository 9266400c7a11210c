"""Downloads from the Hugging Face Hub that tell how far they are and stop when told to.

huggingface_hub does the work, in a thread of its own, because it neither knows a deadline nor can
be interrupted. Two hooks of its HTTP client, which are part of that client's interface, count the
bytes as they come and end the transfer of a download that has been left.
"""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, get_session, hf_hub_download, hf_hub_url
from tqdm.std import tqdm

from loramux.errors import AdapterUnavailableError
from loramux.lora.fetch.shared_work import Abandoned
from loramux.lora.hub.api import answer_timeout
from loramux.lora.hub.cache import cached_directory
from loramux.lora.hub.daemon_call import call_in_daemon_thread
from loramux.lora.hub.errors import hub_errors
from loramux.lora.resolve.deadline import resolve_timeout
from loramux.lora.source import FetchProgress

POLL_SECONDS = 0.1

_this_thread = threading.local()


def download(
    repo_id: str,
    commit: str,
    files: Sequence[str],
    progress: FetchProgress,
    check_size: Callable[[int], None],
) -> None:
    """Bring files of a commit into the Hugging Face cache.

    Args:
        progress: called ten times a second; when it raises, the transfer is ended.
        check_size: called with the bytes of all files so far, before the content of a file is
            read and as it is written; it raises if they are too many.

    Raises:
        AdapterNotFoundError: a file is not there.
        AdapterRefusedError: access is refused.
        AdapterUnavailableError: nothing comes for ``LORAMUX_LORA_RESOLVE_TIMEOUT`` seconds, or
            what comes is damaged.
    """
    patience = resolve_timeout()
    transfer = _Transfer(repo_id, check_size)
    work = call_in_daemon_thread("hub-download", partial(_fetch, transfer, commit, files))
    try:
        while not wait([work], POLL_SECONDS).done:
            progress(*transfer.bytes_done_and_total())
            transfer.check_alive(patience)
    except BaseException:
        transfer.abandon()
        raise
    work.result()
    progress(*transfer.bytes_done_and_total())


class _Transfer:
    """What a download's thread and the one that waits for it know of each other."""

    def __init__(self, repo_id: str, check_size: Callable[[int], None]) -> None:
        self.repo_id = repo_id
        self._check_size = check_size
        self.is_abandoned = False
        self._expected = 0
        self._total = 0
        self._written = 0
        self._response: Any = None
        """The HTTP client's latest response; the client is another in each major version."""
        self._written_before = 0
        self._last_done = 0
        self._last_sign = time.monotonic()

    def bytes_done_and_total(self) -> tuple[int, int]:
        """Bytes that have come, and how many that should be as far as is known."""
        response = self._response
        coming = 0 if response is None else response.num_bytes_downloaded
        done = max(self._written, self._written_before + coming)
        return done, max(self._expected, self._total)

    def check_alive(self, patience: float) -> None:
        """Raises AdapterUnavailableError if nothing has come for ``patience`` seconds."""
        done, _ = self.bytes_done_and_total()
        if done != self._last_done:
            self._last_done = done
            self._last_sign = time.monotonic()
        elif time.monotonic() > self._last_sign + patience:
            raise AdapterUnavailableError(
                f"The download of {self.repo_id} from the Hugging Face Hub brought nothing for "
                f"{patience:.3g} s; try again later."
            )

    def expect(self, total: int) -> None:
        """At least so many bytes are going to come."""
        self._check_size(total)
        self._expected = total

    def begin(self, total: int) -> None:
        """A file of ``total`` bytes is about to come."""
        self._total += total
        self._check_size(self._total)

    def write(self, count: int) -> None:
        """Bytes have been written; fewer than none when the client starts over."""
        if self.is_abandoned:
            raise Abandoned
        self._written += count
        self._check_size(self._written)

    def before_request(self) -> None:
        if self.is_abandoned:
            raise Abandoned

    def after_response(self, response: Any) -> None:
        self._written_before = self._written
        self._response = response
        self._last_sign = time.monotonic()

    def abandon(self) -> None:
        """End the transfer: its thread wakes up, asks to go on, and is told not to."""
        self.is_abandoned = True
        response = self._response
        # A closed response has given its connection back, and HTTP/2 shares it all along.
        if response is None or response.is_closed or response.http_version == "HTTP/2":
            return
        stream = response.extensions.get("network_stream")
        connection = stream.get_extra_info("socket") if stream is not None else None
        if connection is not None:
            with suppress(OSError):  # it has ended by itself
                connection.shutdown(socket.SHUT_RDWR)


def _fetch(transfer: _Transfer, commit: str, files: Sequence[str]) -> None:
    _this_thread.transfer = transfer
    _install_hooks()
    missing = [file for file in files if not cached_directory(transfer.repo_id, commit, [file])]
    if missing:
        _probe(transfer, commit, missing[-1])
    for file in missing:
        with hub_errors(transfer.repo_id, f"file {file!r}"):
            _fetch_file(transfer, commit, file)


def _probe(transfer: _Transfer, commit: str, file: str) -> None:
    """Ask for a file once, because huggingface_hub would retry for 23 s if the Hub is away."""
    with hub_errors(transfer.repo_id, f"file {file!r}"):
        url = hf_hub_url(transfer.repo_id, file, revision=commit)
        found = get_hf_file_metadata(url, timeout=answer_timeout(), library_name="loramux")
    transfer.expect(found.size or 0)


def _fetch_file(transfer: _Transfer, commit: str, file: str) -> None:
    path = hf_hub_download(
        transfer.repo_id,
        file,
        revision=commit,
        library_name="loramux",
        tqdm_class=_bar_class(transfer),
    )
    _verify(Path(path), transfer.repo_id)


def _verify(path: Path, repo_id: str) -> None:
    """Compare a large file with its name in the cache, which is its SHA-256.

    huggingface_hub compares sizes alone. A small file's name is another hash, or none.
    """
    # One link only: a blob may itself be a link into a store whose names are other hashes.
    blob = path.readlink() if path.is_symlink() else path
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != blob.name:
        (path.parent / blob).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise AdapterUnavailableError(
            f"{path.name} of {repo_id} was damaged on its way from the Hugging Face Hub (its "
            "SHA-256 is another); try again."
        )


def _bar_class(transfer: _Transfer) -> type[tqdm[Any]]:
    """A progress bar that shows nothing and tells ``transfer``."""

    class Bar(tqdm):  # type: ignore[type-arg]  # it takes none when the program runs
        def __init__(self, *args: Any, total: float | None = None, **kwargs: Any) -> None:
            super().__init__(total=total, disable=True)
            transfer.begin(int(total or 0))

        def update(self, n: float | None = 1) -> bool | None:
            transfer.write(int(n or 0))
            return None

        def update_transfer(self, n: float | None = 1) -> None:
            """Having this, huggingface_hub makes one bar for a file and not two."""

        def set_transfer_postfix_str(self, *args: Any, **kwargs: Any) -> None:
            """Goes with ``update_transfer``."""

    return Bar


def _install_hooks() -> None:
    """Add the hooks to the client that huggingface_hub uses now, unless it has them."""
    hooks = get_session().event_hooks
    for event, hook in (("request", _before_request), ("response", _after_response)):
        if hook not in hooks[event]:
            hooks[event].append(hook)


def _before_request(request: Any) -> None:
    if transfer := getattr(_this_thread, "transfer", None):
        transfer.before_request()


def _after_response(response: Any) -> None:
    if transfer := getattr(_this_thread, "transfer", None):
        transfer.after_response(response)
