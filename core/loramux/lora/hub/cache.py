"""What the Hugging Face cache of this machine holds; no request leaves it.

The cache is huggingface_hub's: ``refs/<branch>`` names the commit that a branch was last seen at,
``snapshots/<commit>/`` holds that commit's files as far as they were fetched.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from loramux.lora.hub.names import is_commit
from loramux.lora.hub.snapshot import Snapshot

log = logging.getLogger(__name__)


def snapshot(repo_id: str, commit: str) -> Snapshot:
    """Where the files of a commit are, or would be."""
    return Snapshot(_repository(repo_id), commit)


def cached_directory(repo_id: str, commit: str, files: Sequence[str]) -> Path | None:
    """The directory of these files at this commit if all of them are there."""
    here = snapshot(repo_id, commit)
    return here.path(files[0]).parent if all(map(here.has, files)) else None


def cached_commit(repo_id: str, revision: str) -> str | None:
    """The commit that a branch or tag was last seen at."""
    try:
        commit = _reference(repo_id, revision).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if is_commit(commit) else None


def remember_commit(repo_id: str, revision: str, commit: str) -> None:
    """Note where a branch or tag was seen, for times when the Hub does not answer.

    huggingface_hub does so only where it resolves the branch itself, and then before the files
    are there.
    """
    if cached_commit(repo_id, revision) == commit:
        return
    path = _reference(repo_id, revision)
    draft = _repository(repo_id) / f".{uuid.uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(commit)
        draft.replace(path)
    except OSError as error:  # a cache that may only be read is good enough for everything else
        draft.unlink(missing_ok=True)
        log.info("revision %s of %s could not be noted in the cache: %s", revision, repo_id, error)


def _reference(repo_id: str, revision: str) -> Path:
    return _repository(repo_id) / "refs" / revision


def _repository(repo_id: str) -> Path:
    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo_id, repo_type="model"))
