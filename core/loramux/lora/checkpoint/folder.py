"""The checkpoints below one directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from loramux.lora.checkpoint.peft_config import CONFIG_NAME
from loramux.lora.links import is_below


def find_checkpoints(root: Path) -> Iterator[Path]:
    """Every directory below ``root`` that holds an adapter's configuration, in order of path.

    Hidden directories are left out, and so is what a symbolic link reaches outside of ``root``;
    links to directories inside are checkpoints of their own, but are not searched.

    Raises:
        OSError: if a directory cannot be read.
    """
    fence = os.path.realpath(root)
    for directory, folders, files in os.walk(root, onerror=_raise):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        if CONFIG_NAME in files and Path(directory) != root:
            yield Path(directory)
        for folder in folders:
            path = Path(directory, folder)
            stays = path.is_symlink() and is_below(fence, os.path.realpath(path))
            if stays and (path / CONFIG_NAME).is_file():
                yield path


def _raise(error: OSError) -> None:
    raise error
