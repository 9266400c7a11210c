"""What a download's thread and the one that waits for it know of each other."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from loramux.errors import AdapterUnavailableError
from loramux.lora.fetch.shared_work import Abandoned

MAX_ERROR_BYTES = 2**20
"""Of an error's description, which the client keeps in memory."""


class Transfer:
    """One download: how far it is, whether it goes on, and whether it is still wanted.

    Args:
        repo_id: the repository, for messages.
        commit: whose files are fetched.
        check_size: called with the bytes of all files so far; it raises if they are too many.
    """

    def __init__(self, repo_id: str, commit: str, check_size: Callable[[int], None]) -> None:
        self.repo_id = repo_id
        self._commit = commit
        self._check_size = check_size
        self.is_abandoned = False
        self._expected = 0
        self._total = 0
        self._written = 0
        self._whole_files = (0, 0)
        """What ``_total`` and ``_written`` were when the latest file was complete."""
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
        """Raises AdapterUnavailableError if nothing has come for ``patience`` seconds.

        Or if an error takes more words than anybody needs.
        """
        if self._is_endless_error():
            raise self._nonsense()
        done, _ = self.bytes_done_and_total()
        if done != self._last_done:
            self._last_done = done
            self._last_sign = time.monotonic()
        elif time.monotonic() > self._last_sign + patience:
            raise AdapterUnavailableError(
                f"The download of {self.repo_id} from the Hugging Face Hub brought nothing for "
                f"{patience:.3g} s; try again later.",
                f"its download brought nothing for {patience:.3g} s; try again later.",
            )

    def expect(self, total: int) -> None:
        """At least so many bytes are going to come."""
        self._check_size(total)
        self._expected = total

    def begin_file(self) -> None:
        """The next file is about to be fetched, or the same one anew."""
        self.check_wanted()
        self._total, self._written = self._whole_files

    def end_file(self) -> None:
        """The file is there."""
        self._whole_files = (self._total, self._written)

    def begin_content(self, total: int, already: int) -> None:
        """``total`` bytes are about to come, except for those that are there already."""
        self._total += total
        self._written += already
        self._check_size(self._total)

    def write(self, count: int) -> None:
        """Bytes have been written; fewer than none when the client starts over."""
        self.check_wanted()
        self._written += count
        self._check_size(self._written)

    def check_wanted(self) -> None:
        """Raises Abandoned if nobody waits any more."""
        if self.is_abandoned:
            raise Abandoned

    def after_response(self, response: Any) -> None:
        """The Hub, or its store, has begun to answer.

        Raises:
            AdapterUnavailableError: huggingface_hub would write elsewhere than in its place for
                this commit, since it makes paths of what the answer says.
        """
        if not self._names_are_plain(response):
            raise self._nonsense()
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

    def _is_endless_error(self) -> bool:
        response = self._response
        return (
            response is not None
            and response.is_error
            and response.num_bytes_downloaded > MAX_ERROR_BYTES
        )

    def _names_are_plain(self, response: Any) -> bool:
        if response.headers.get("x-repo-commit", self._commit) != self._commit:
            return False
        if response.request.method != "HEAD":
            return True  # the name of a file's content is asked for so
        tags = [response.headers.get(name) for name in ("x-linked-etag", "etag")]
        return all(_is_file_name(tag) for tag in tags if tag is not None)

    def _nonsense(self) -> AdapterUnavailableError:
        return AdapterUnavailableError(
            f"What answers at HF_ENDPOINT for {self.repo_id} is no Hugging Face Hub, or means "
            "harm; correct HF_ENDPOINT or the proxy.",
            "what answers for the Hugging Face Hub is something else; try again later.",
        )


def _is_file_name(tag: str) -> bool:
    """Whether an ETag, as huggingface_hub reads it, is the name of a file and no path."""
    name = tag.lstrip("W/").strip('"')
    return name not in ("", ".", "..") and name == os.path.basename(name)
