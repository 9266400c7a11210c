"""Where adapters may lie that clients ask to load: nothing that nobody configured."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from loramux import env
from loramux.errors import AdapterNotFoundError, InvalidRequestError
from loramux.lora.fetch.locate import CHECKPOINT_FILES
from loramux.lora.hub.source import HubPath

HUB_SCHEME = "hf://"

ROOTS_VARIABLE = "LORAMUX_ALLOWED_ADAPTER_ROOTS"
HUB_VARIABLE = "LORAMUX_LORA_RESOLVER_HF_REPO_LIST"


class PathNotAllowedError(AdapterNotFoundError):
    """A path leads to where nobody has said that adapters are."""


@dataclass(frozen=True)
class AllowedPaths:
    """Directories of this machine and repositories of the Hugging Face Hub.

    Args:
        directories: real paths; what lies below them may be loaded.
        repositories: which may be loaded from, down from the directory they name, at the revision
            they name, or at any that is the repository's own.
        is_whole_hub_allowed: whether every repository may.
    """

    directories: tuple[str, ...] = ()
    repositories: tuple[HubPath, ...] = ()
    is_whole_hub_allowed: bool = False

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
        cls, roots: Iterable[str], module_paths: Iterable[str], *, is_private: bool = False
    ) -> AllowedPaths:
        """What the operator has named: roots, and where adapters come from without being asked.

        Args:
            roots: of the command line; those of ``LORAMUX_ALLOWED_ADAPTER_ROOTS`` are added.
            module_paths: of the adapters that the server begins with.
            is_private: whether only people of this machine can ask, who need no key. Where
                nothing at all is named, they may then load from wherever they can read.

        Raises:
            InvalidRequestError: a root is neither a directory nor a Hub repository.
        """
        repositories = [HUB_SCHEME + path for path in env.read_list(HUB_VARIABLE)]
        for path in module_paths:
            is_on_hub = HubPath.parse(path) is not None and not os.path.isdir(path)
            repositories.append(HUB_SCHEME + path if is_on_hub else path)
        directory = env.read_text(env.ADAPTER_DIRECTORY_VARIABLE)
        own = [directory] if directory else []
        named = [*roots, *env.read_list(ROOTS_VARIABLE), *own, *repositories]
        return cls.of(named or ([os.sep, HUB_SCHEME] if is_private else []))

    @property
    def is_everywhere(self) -> bool:
        """Whether nothing is out of bounds."""
        return os.sep in self.directories

    def check(self, path: str) -> str:
        """The path to load from, symbolic links followed. Asks the file system.

        What is not allowed is refused in the same words whether it exists or not.

        Raises:
            PathNotAllowedError: it is neither below one of the directories nor allowed on the Hub.
        """
        hub_path = HubPath.parse(path.removeprefix(HUB_SCHEME))
        # A directory of the same relative path would be loaded in the repository's place.
        if hub_path and not os.path.isdir(str(hub_path)) and self._allows_on_hub(hub_path):
            return str(hub_path)
        real = _real(path)
        files = [_real(os.path.join(real, name)) for name in CHECKPOINT_FILES]
        if "://" in path or not all(self._holds(part) for part in (real, *files)):
            raise PathNotAllowedError(
                "it is outside of the places this server loads from, which its operator names with "
                f"--allowed-local-adapter-path or {ROOTS_VARIABLE}."
            )
        return real

    def _with(self, root: str) -> AllowedPaths:
        if root == HUB_SCHEME:
            return replace(self, is_whole_hub_allowed=True)
        if "://" not in root:
            return replace(self, directories=(*self.directories, _real(root)))
        repository = HubPath.parse(root.removeprefix(HUB_SCHEME))
        if repository is None:
            raise InvalidRequestError(
                f"Adapters cannot be loaded from {root!r} by path; name a directory, "
                "hf://org/repo or hf://, and use a resolver for other addresses.",
                "allowed_local_adapter_path",
            )
        return replace(self, repositories=(*self.repositories, repository))

    def _holds(self, real: str) -> bool:
        return any(os.path.commonpath((root, real)) == root for root in self.directories)

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


def _real(path: str) -> str:
    """Without links; a path that no system would take becomes one that holds no adapter."""
    try:
        return os.path.realpath(os.path.expanduser(path))
    except ValueError:
        return os.devnull
