"""Names that the Hub and PEFT give to revisions and files."""

from __future__ import annotations

import re

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

DEFAULT_BRANCH = "main"


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, which never changes, and not a branch or tag."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None
