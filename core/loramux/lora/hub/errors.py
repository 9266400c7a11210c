"""What the Hugging Face Hub's client raises, as errors of ours.

The client's transport is another library in each of its major versions, and connection faults
reach us as that library's exceptions. So they are told apart by what they are not: whatever carries
no answer of the Hub is taken for a Hub that does not answer.

The messages hold no URL: a download's address may carry a signature.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from loramux.errors import (
    AdapterError,
    AdapterNotFoundError,
    AdapterRefusedError,
    AdapterUnavailableError,
)
from loramux.lora.disk_cache.disk_full import DISK_FULL, causes
from loramux.lora.fetch.shared_work import Abandoned

_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
_REASONS: dict[type[AdapterError], str] = {
    AdapterNotFoundError: "there is none at its address on the Hugging Face Hub.",
    AdapterRefusedError: "the Hugging Face Hub does not give it to this server.",
    AdapterUnavailableError: "the Hugging Face Hub does not answer; try again later.",
}
"""For whoever may not know the repository."""

_TOKEN = "give this server a token that may read it (HF_TOKEN, or `hf auth login`)"


@contextmanager
def hub_errors(repo_id: str, what: str) -> Iterator[None]:
    """Turn every exception of the Hub's client into an AdapterError.

    Args:
        repo_id: the repository that is asked about.
        what: what is wanted of it, for the message.

    Raises:
        AdapterNotFoundError: the Hub says that there is no such thing.
        AdapterRefusedError: the Hub does not give it to us.
        AdapterUnavailableError: no answer, or none that says anything about the adapter.
    """
    try:
        yield
    except (AdapterError, Abandoned):
        raise
    except Exception as error:
        translated = _translated(error, repo_id, what)
        translated.reason = translated.reason or _REASONS[type(translated)]
        raise translated from error


def _translated(error: Exception, repo_id: str, what: str) -> AdapterError:
    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, HfHubHTTPError):
            return _answered(cause, repo_id, what)
        if isinstance(cause, OfflineModeIsEnabled):
            return AdapterUnavailableError(
                f"{what} of {repo_id} is not in the local Hugging Face cache, and HF_HUB_OFFLINE "
                "forbids to fetch it; download it first, or unset HF_HUB_OFFLINE."
            )
        if isinstance(cause, OSError) and _is_local(cause):
            return AdapterUnavailableError(
                f"{what} of {repo_id} could not be stored in {constants.HF_HUB_CACHE} "
                f"({cause.strerror}); make room there, or point HF_HUB_CACHE elsewhere.",
                f"it could not be stored ({cause.strerror}); try again later.",
            )
    return AdapterUnavailableError(
        f"{_hub()} does not answer when asked for {what} of {repo_id} "
        f"({type(chain[-1]).__name__}); try again later."
    )


def _is_local(error: OSError) -> bool:
    """Whether it is the disk's; a connection that is not permitted names no file."""
    is_file = error.filename is not None and error.errno in _NOT_WRITABLE
    return is_file or error.errno in DISK_FULL


def _answered(error: HfHubHTTPError, repo_id: str, what: str) -> AdapterError:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return AdapterRefusedError(
            f"{repo_id} is gated on the Hugging Face Hub; accept its terms there with your "
            f"account, and {_TOKEN}."
        )
    if isinstance(error, RepositoryNotFoundError):
        return AdapterNotFoundError(
            f"{_hub()} knows no repository {repo_id}, or keeps it private; check its name, or "
            f"{_TOKEN}."
        )
    missing = (RevisionNotFoundError, RemoteEntryNotFoundError)
    if isinstance(error, missing) or status in (404, 410):
        return AdapterNotFoundError(f"{_hub()} has no {what} in {repo_id}; check the name.")
    if status in (401, 403):
        return AdapterRefusedError(
            f"{_hub()} refuses access to {repo_id} with status {status}; {_TOKEN}."
        )
    return AdapterUnavailableError(
        f"{_hub()} answers with status {status} when asked for {what} of {repo_id}; "
        "try again later."
    )


def _hub() -> str:
    # Without the rest of the endpoint, which may hold a password.
    return f"The Hugging Face Hub ({urlsplit(constants.ENDPOINT).hostname})"
