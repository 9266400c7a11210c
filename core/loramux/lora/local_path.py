"""Paths of this machine, as anyone may have written them."""

from __future__ import annotations

import os


def expanded(path: str) -> str:
    """The path with ``~`` or ``~user`` replaced; the path itself where that leads nowhere."""
    try:
        return os.path.expanduser(path)
    except ValueError:  # what stands for the user is no text that a system would take
        return path


def is_directory(path: str) -> bool:
    """Whether there is a directory of that path; no for what no system would take for one."""
    # os.path.isdir says no where Path.is_dir raises, and Path.expanduser raises for no such user.
    return os.path.isdir(expanded(path))
