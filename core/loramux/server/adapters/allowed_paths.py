"""Where adapters may lie that clients ask to load: nothing that nobody configured."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from loramux import env
from loramux.errors import AdapterNotFoundError, InvalidRequestError
from loramux.lora.fetch.locate import CHECKPOINT_FILES
from loramux.lora.hub.source import HubPath
from loramux.lora.links import FollowedPath, is_below
from loramux.server.access.caller import ANYBODY, Caller
from loramux.server.adapters.named_places import HUB_SCHEME, NamedPlace, real_path

ROOTS_VARIABLE = "LORAMUX_ALLOWED_ADAPTER_ROOTS"


class PathNotAllowedError(AdapterNotFoundError):
    """A path leads to where nobody has said that adapters are."""


@dataclass(frozen=True)
class AllowedPath:
    """What may be loaded.

    Args:
        path: real path of a directory, or one of the Hub.
        places: the same without a revision, and the directories to which links lead away from it.
        directories: of this machine, in which its files have to lie when they are opened.
    """

    path: str
    places: tuple[str, ...]
    directories: tuple[str, ...] = ()


@dataclass(frozen=True)
class AllowedPaths:
    """Directories of this machine and repositories of the Hugging Face Hub.

    Args:
        directories: real paths; what lies below them may be loaded.
        repositories: which may be loaded from, down from the directory they name, at the revision
            they name, or at any that is the repository's own.
        is_whole_hub_allowed: whether every repository may.
        named: those of these places where adapters have names already; what lies there is for
            callers who may use such a name.
    """

    directories: tuple[str, ...] = ()
    repositories: tuple[HubPath, ...] = ()
    is_whole_hub_allowed: bool = False
    named: tuple[NamedPlace, ...] = ()

    @classmethod
    def of(cls, roots: Iterable[str]) -> AllowedPaths:
        """From directories, ``hf://org/repo`` and ``hf://`` for the whole Hub.

        Raises:
            InvalidRequestError: one of them is neither.
        """
        allowed = cls()
        for root in roots:
            allowed = allowed._with(root)
        return allowed

    @classmethod
    def configured(
        cls, roots: Iterable[str], named: Iterable[NamedPlace], *, is_private: bool = False
    ) -> AllowedPaths:
        """What the operator has named.

        Args:
            roots: of the command line; those of ``LORAMUX_ALLOWED_ADAPTER_ROOTS`` are added.
            named: where adapters come from without being asked for by path.
            is_private: whether only people of this machine can ask, who need no key. Where
                nothing at all is named, they may then load from wherever they can read.

        Raises:
            InvalidRequestError: a root is neither a directory nor a Hub repository.
        """
        places = tuple(named)
        given = [*roots, *env.read_list(ROOTS_VARIABLE), *(place.root for place in places)]
        allowed = cls.of(given or ([os.sep, HUB_SCHEME] if is_private else []))
        return replace(allowed, named=places)

    @property
    def is_everywhere(self) -> bool:
        """Whether nothing is out of bounds."""
        return os.sep in self.directories

    def check(self, path: str, caller: Caller = ANYBODY) -> AllowedPath:
        """What to load, symbolic links followed. Asks the file system.

        What is not allowed is refused in the same words whether it exists or not.

        Raises:
            PathNotAllowedError: it is neither below one of the directories nor allowed on the Hub,
                or it, or what a file of it is linked to, has names there of which the caller may
                use none.
        """
        found = self._on_hub(path) or self._on_this_machine(path)
        if found is None or not all(self._is_for(caller, place) for place in found.places):
            raise PathNotAllowedError(
                "it is outside of the places this server loads from, which its operator names with "
                f"--allowed-local-adapter-path or {ROOTS_VARIABLE}."
            )
        return found

    def _on_hub(self, path: str) -> AllowedPath | None:
        hub_path = HubPath.parse(path.removeprefix(HUB_SCHEME))
        # A directory of the same relative path would be loaded in the repository's place.
        if hub_path is None or os.path.isdir(str(hub_path)) or not self._allows_on_hub(hub_path):
            return None
        return AllowedPath(str(hub_path), (str(replace(hub_path, revision=None)),))

    def _on_this_machine(self, path: str) -> AllowedPath | None:
        real = real_path(path)
        places = [FollowedPath(real).to(name).directory for name in CHECKPOINT_FILES]
        directories = tuple(dict.fromkeys((real, *(place.real for place in places))))
        if "://" in path or not all(map(self._holds, directories)):
            return None
        linked = [place.real for place in places if place.leads_away]
        return AllowedPath(real, (real, *linked), directories)

    def _is_for(self, caller: Caller, place: str) -> bool:
        names = [name for named in self.named if (name := named.name_of(place)) is not None]
        return not names or any(map(caller.may_use, names))

    def _with(self, root: str) -> AllowedPaths:
        if root == HUB_SCHEME:
            return replace(self, is_whole_hub_allowed=True)
        if "://" not in root:
            return replace(self, directories=(*self.directories, real_path(root)))
        repository = HubPath.parse(root.removeprefix(HUB_SCHEME))
        if repository is None:
            raise InvalidRequestError(
                f"Adapters cannot be loaded from {root!r} by path; name a directory, "
                "hf://org/repo or hf://, and use a resolver for other addresses.",
                "allowed_local_adapter_path",
            )
        return replace(self, repositories=(*self.repositories, repository))

    def _holds(self, real: str) -> bool:
        return any(is_below(root, real) for root in self.directories)

    def _allows_on_hub(self, path: HubPath) -> bool:
        return self.is_whole_hub_allowed or any(
            path.repo_id == allowed.repo_id
            and f"{path.subpath}/".startswith(f"{allowed.subpath}/" if allowed.subpath else "")
            and _is_revision(path.revision, allowed.revision)
            for allowed in self.repositories
        )


def _is_revision(revision: str | None, allowed: str | None) -> bool:
    """Below refs/ are pull requests, which are not the owner's: each has to be named."""
    is_free = allowed is None and not (revision or "").startswith("refs/")
    return is_free or revision == allowed
