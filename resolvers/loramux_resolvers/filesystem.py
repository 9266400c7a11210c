"""Finds adapters in a local directory.

Set ``LORAMUX_LORA_RESOLVER_CACHE_DIR`` to a directory. An adapter called ``name`` is the PEFT
checkpoint in, whichever comes first,

- ``<directory>/<base model>/<name>``, the base model under its full name or the last part of it,
- ``<directory>/<name>``.

Names may hold slashes. Whatever leads out of the directory, by its form or through a symbolic
link, is not found.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from loramux import LoRARequest, LoRAResolver, env, hookimpl
from loramux.errors import PluginError
from loramux.lora.resolver import stable_lora_int_id
from loramux_resolvers.safe_names import why_unsafe

log = logging.getLogger(__name__)

VARIABLE = env.ADAPTER_DIRECTORY_VARIABLE

CONFIG_FILE = "adapter_config.json"
CHECKPOINT_FILES = (CONFIG_FILE, "adapter_model.safetensors", "adapter_model.bin")

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""Errors that mean that a path leads nowhere; any other means that one cannot tell."""


@hookimpl
def missing_configuration() -> str | None:
    """The directory has to be named."""
    if os.environ.get(VARIABLE, "").strip():
        return None
    return f"{VARIABLE} is not set; set it to the directory that holds the adapters."


@hookimpl
def register_lora_resolvers(register: Callable[[str, LoRAResolver], None]) -> None:
    """Offer one resolver for the directory that the environment names.

    Raises:
        PluginError: if it is not a directory.
    """
    directory = Path(os.environ[VARIABLE].strip()).expanduser()
    if not directory.is_dir():
        raise PluginError(
            f"{VARIABLE} is {str(directory)!r}, which is not a directory; create it, or set "
            f"{VARIABLE} to the directory that holds the adapters."
        )
    register("lora_filesystem_resolver", FilesystemLoRAResolver(directory))


class FilesystemLoRAResolver(LoRAResolver):
    """Finds PEFT checkpoints below one directory.

    Args:
        directory: where they are. It is looked at anew for each name, so adapters may come and
            go while the server runs.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).absolute()

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Find the checkpoint called ``lora_name``.

        In a base model's own directory the checkpoint is taken to belong to that base model;
        elsewhere its ``adapter_config.json`` has to say so.

        Raises:
            OSError: if the directory cannot be read.
        """
        if reason := why_unsafe(lora_name):
            log.debug("adapter name %r is refused: %s", lora_name, reason)
            return None
        return await asyncio.to_thread(self._find, base_model_name, lora_name)

    def _find(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        root = os.path.realpath(self.directory, strict=True)
        for folder in _base_folders(base_model_name):
            if directories := _checkpoint(root, f"{folder}/{lora_name}"):
                return _request(lora_name, directories, base_model_name)
        directories = _checkpoint(root, lora_name)
        return _request(lora_name, directories, None) if directories else None


def _base_folders(base_model_name: str) -> Iterator[str]:
    """Relative paths under which a base model's own adapters may be; a local path has but one."""
    name = base_model_name.rstrip("/")
    for folder in dict.fromkeys((name, name.rpartition("/")[2])):
        if why_unsafe(folder) is None:
            yield folder


def _checkpoint(root: str, relative: str) -> tuple[str, ...]:
    """The real path of a checkpoint's directory and those of its files' directories.

    Nothing if there is no checkpoint all of which is inside ``root``.

    Raises:
        OSError: if it is there and cannot be looked at.
    """
    directory = os.path.realpath(os.path.join(root, relative))
    files = [_followed(os.path.join(directory, name)) for name in CHECKPOINT_FILES]
    for path in (directory, *files):
        if os.path.commonpath((root, path)) != root:
            log.debug("adapter %r is refused: %s is outside of %s", relative, path, root)
            return ()
    if not _is_file(files[0]):
        return ()
    return tuple(dict.fromkeys((directory, *map(os.path.dirname, files))))


def _followed(path: str) -> str:
    """The real path of something in a directory whose path is real already.

    ``realpath`` would look at every directory on the way again, which takes most of a look-up.
    """
    return os.path.realpath(path) if os.path.islink(path) else path


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise


def _request(
    lora_name: str, directories: tuple[str, ...], base_model_name: str | None
) -> LoRARequest:
    return LoRARequest(
        lora_name=lora_name,
        lora_int_id=stable_lora_int_id(lora_name),
        lora_path=directories[0],
        base_model_name=base_model_name,
        allowed_directories=directories,
    )
