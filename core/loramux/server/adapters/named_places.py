"""Places where adapters lie that have names: those of resolvers and of ``--lora-modules``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from loramux import env
from loramux.lora import links
from loramux.lora.hub.source import HubPath
from loramux.lora.resolve.catalog import AdapterModule

HUB_SCHEME = "hf://"

MAX_PATH_LENGTH = 4096
"""Linux takes no longer one; to follow one part by part takes time that grows with its square."""


@dataclass(frozen=True)
class NamedPlace:
    """A directory of this machine, or ``hf://org/repo/directory@revision``.

    Args:
        root: as the operator wrote it.
        places: what it is, without links and revision, and the directories in it that are as good
            as it: ``<root>/<base model>``.
        name: of the adapter that lies right there; one below has the way to it behind that, or
            the way alone where this is empty.
    """

    root: str
    places: tuple[str, ...]
    name: str

    @classmethod
    def directory(cls, path: str, name: str = "", folders: Iterable[str] = ()) -> NamedPlace:
        """A directory, and folders in it. Asks the file system."""
        inside = (os.path.join(path, folder) for folder in folders)
        return cls(path, tuple(map(real_path, [*inside, path])), name)

    @classmethod
    def repository(cls, text: str, name: str | None = None) -> NamedPlace:
        """What the Hub has at a path; by itself, that path without its revision is the name."""
        path = HubPath.parse(text)  # None is for ``AllowedPaths`` to refuse
        place = text if path is None else str(replace(path, revision=None))
        return cls(f"{HUB_SCHEME}{text}", (place,), place if name is None else name)

    def name_of(self, place: str) -> str | None:
        """What the adapter at a place is called, None if it does not lie here.

        Args:
            place: a path without links, or one of the Hub without its revision.
        """
        for own in self.places:
            if f"{place}/".startswith(f"{own.rstrip('/')}/"):
                return f"{self.name}/{place[len(own) :].strip('/')}".strip("/")
        return None


def named_places(modules: Iterable[AdapterModule], base_model_name: str) -> Iterator[NamedPlace]:
    """Where adapters come from without being asked for by path.

    Args:
        modules: with which the server begins.
        base_model_name: below whose name the filesystem resolver looks, too.
    """
    if directory := env.read_text(env.ADAPTER_DIRECTORY_VARIABLE):
        model = base_model_name.strip("/")
        yield NamedPlace.directory(directory, folders=(model, model.rpartition("/")[2]))
    yield from map(NamedPlace.repository, env.read_list(env.ADAPTER_REPOSITORIES_VARIABLE))
    for module in modules:
        is_on_hub = HubPath.parse(module.path) is not None and not os.path.isdir(module.path)
        place = NamedPlace.repository if is_on_hub else NamedPlace.directory
        yield place(module.path, module.name)


def real_path(path: str) -> str:
    """Without links; a path that no system would take becomes one that holds no adapter.

    Raises:
        AdapterUnavailableError: a link was exchanged at this moment.
    """
    if len(path) > MAX_PATH_LENGTH:
        return os.devnull
    try:
        return links.real_path(os.path.expanduser(path))
    except ValueError:
        return os.devnull
