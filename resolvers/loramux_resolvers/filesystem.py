"""Finds adapters in a local directory.

Set ``LORAMUX_LORA_RESOLVER_CACHE_DIR`` to a directory. An adapter called ``name`` is the PEFT
checkpoint in, whichever comes first,

- ``<directory>/<base model>/<name>``, the base model under its full name or the last part of it,
- ``<directory>/<name>``.

Names may hold slashes. Whatever leads out of the directory, by its form or through a symbolic
link, is not found. What a link leads to that is another adapter's is found with that one's name, so
that the server can tell who may use it.
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
from loramux.lora.links import FollowedPath, is_below
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
        folders = tuple(_base_folders(base_model_name))
        for folder in folders:
            if places := _checkpoint(root, f"{folder}/{lora_name}"):
                return _request(lora_name, root, folders, places, base_model_name)
        places = _checkpoint(root, lora_name)
        return _request(lora_name, root, folders, places, None) if places else None


def _base_folders(base_model_name: str) -> Iterator[str]:
    """Relative paths under which a base model's own adapters may be; a local path has but one."""
    name = base_model_name.rstrip("/")
    for folder in dict.fromkeys((name, name.rpartition("/")[2])):
        if why_unsafe(folder) is None:
            yield folder


def _checkpoint(root: str, relative: str) -> list[FollowedPath]:
    """Where a checkpoint's directory really is, and the directories of its files.

    Nothing if there is no checkpoint all of which is inside ``root``.

    Raises:
        OSError: if it is there and cannot be looked at.
    """
    directory = FollowedPath(root).to(relative)
    files = [FollowedPath(directory.real).to(name) for name in CHECKPOINT_FILES]
    places = [directory, *(file.directory for file in files)]
    for place in places:
        if not is_below(root, place.real):
            log.debug("adapter %r is refused: %s is outside of %s", relative, place.real, root)
            return []
    return places if _is_file(files[0].real) else []


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise


def _request(
    lora_name: str,
    root: str,
    base_folders: tuple[str, ...],
    places: list[FollowedPath],
    base_model_name: str | None,
) -> LoRARequest:
    linked = (_name_of(place.real, root, base_folders) for place in places if place.leads_away)
    return LoRARequest(
        lora_name=lora_name,
        lora_int_id=stable_lora_int_id(lora_name),
        lora_path=places[0].real,
        base_model_name=base_model_name,
        allowed_directories=tuple(dict.fromkeys(place.real for place in places)),
        linked_names=tuple(dict.fromkeys(linked)),
    )


def _name_of(directory: str, root: str, base_folders: tuple[str, ...]) -> str:
    """The name under which a directory below ``root`` is found."""
    relative = os.path.relpath(directory, root)
    for folder in base_folders:
        if relative.startswith(f"{folder}/"):
            return relative.removeprefix(f"{folder}/")
    return relative
