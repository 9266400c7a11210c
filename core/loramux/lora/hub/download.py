"""Downloads from the Hugging Face Hub that tell how far they are and stop when told to.

huggingface_hub does the work, in a thread of its own, because it neither knows a deadline nor can
be interrupted. Two hooks of its HTTP client, which are part of that client's interface, count the
bytes as they come and end the transfer of a download that has been left.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, get_session, hf_hub_download, hf_hub_url
from tqdm.std import tqdm

from loramux.errors import AdapterUnavailableError
from loramux.lora.hub.api import answer_timeout
from loramux.lora.hub.cache import cached_directory
from loramux.lora.hub.daemon_call import call_in_daemon_thread
from loramux.lora.hub.errors import hub_errors
from loramux.lora.hub.session import again_if_closed
from loramux.lora.hub.transfer import Transfer
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
    transfer = Transfer(repo_id, commit, check_size)
    work = call_in_daemon_thread("hub-download", partial(_fetch, transfer, commit, files))
    try:
        while not wait([work], POLL_SECONDS).done:
            _install_hooks()
            progress(*transfer.bytes_done_and_total())
            transfer.check_alive(patience)
    except BaseException:
        transfer.abandon()
        call_in_daemon_thread("hub-download-end", partial(_await_end, work))
        raise
    work.result()
    progress(*transfer.bytes_done_and_total())


def _await_end(work: Future[None]) -> None:
    """Keep the hooks in place, or the download would go on if somebody closed the session."""
    while not wait([work], POLL_SECONDS).done:
        _install_hooks()


def _fetch(transfer: Transfer, commit: str, files: Sequence[str]) -> None:
    _this_thread.transfer = transfer
    _install_hooks()
    missing = [file for file in files if not cached_directory(transfer.repo_id, commit, [file])]
    if missing:
        _probe(transfer, commit, missing[-1])
    for file in missing:
        with hub_errors(transfer.repo_id, f"file {file!r}"):
            again_if_closed(partial(_fetch_file, transfer, commit, file))
        transfer.end_file()


def _probe(transfer: Transfer, commit: str, file: str) -> None:
    """Ask for a file once, because huggingface_hub would retry for 23 s if the Hub is away."""
    with hub_errors(transfer.repo_id, f"file {file!r}"):
        url = hf_hub_url(transfer.repo_id, file, revision=commit)
        ask = partial(get_hf_file_metadata, url, timeout=answer_timeout(), library_name="loramux")
        found = again_if_closed(ask)
    transfer.expect(found.size or 0)


def _fetch_file(transfer: Transfer, commit: str, file: str) -> None:
    transfer.begin_file()
    _install_hooks()
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
            "SHA-256 is another); try again.",
            "it was damaged on its way from the Hugging Face Hub; try again.",
        )


def _bar_class(transfer: Transfer) -> type[tqdm[Any]]:
    """A progress bar that shows nothing and tells ``transfer``."""

    class Bar(tqdm):  # type: ignore[type-arg]  # it takes none when the program runs
        def __init__(
            self, *args: Any, total: float | None = None, initial: float = 0, **kwargs: Any
        ) -> None:
            super().__init__(total=total, disable=True)
            transfer.begin_content(int(total or 0), int(initial))

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
        transfer.check_wanted()


def _after_response(response: Any) -> None:
    if transfer := getattr(_this_thread, "transfer", None):
        transfer.after_response(response)
