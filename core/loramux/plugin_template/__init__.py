"""A resolver package to begin with, as ``loramux plugins new`` writes it."""

from __future__ import annotations

import keyword
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template

from loramux.errors import InvalidRequestError, LoramuxError
from loramux.plugins import ENTRY_POINT_GROUP
from loramux_plugins.discovery import installed_candidates

MAX_NAME_LENGTH = 64

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "$module/__init__.py": "module.py",
    "tests/test_$module.py": "test_module.py",
}
"""Path in the new package to the file it is made from."""


@dataclass(frozen=True)
class PluginNames:
    """What a new package calls its parts, all derived from its distribution's name."""

    distribution: str
    module: str
    variable: str
    resolver: str

    @classmethod
    def of(cls, distribution: str) -> PluginNames:
        """Derive ``my_resolver``, ``MY_RESOLVER_DIRECTORY`` and ``MyResolver``.

        Raises:
            InvalidRequestError: if it is no good name, or one that would hide another module.
        """
        if not _NAME.fullmatch(distribution) or len(distribution) > MAX_NAME_LENGTH:
            raise InvalidRequestError(
                f"a package cannot be called {distribution[: MAX_NAME_LENGTH + 1]!r}; use up to "
                f"{MAX_NAME_LENGTH} lower-case letters, digits and single hyphens, a letter first."
            )
        module = distribution.replace("-", "_")
        if taken := _why_taken(module):
            raise InvalidRequestError(
                f"a module cannot be called {module!r}, because {taken}; choose another name."
            )
        stem = "".join(map(str.capitalize, distribution.removesuffix("-resolver").split("-")))
        return cls(distribution, module, f"{module.upper()}_DIRECTORY", f"{stem}Resolver")


def write_plugin(names: PluginNames, directory: Path) -> list[Path]:
    """Write the package into a new directory; returns its files.

    Raises:
        InvalidRequestError: if the directory is there already.
        LoramuxError: if it cannot be written.
    """
    contents = {directory / path: text for path, text in _contents(names).items()}
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        raise InvalidRequestError(
            f"{directory} exists already; remove it, or choose another with --directory."
        ) from None
    except OSError as error:
        raise _unwritable(directory, error) from error
    try:
        for path, text in contents.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    except OSError as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise _unwritable(directory, error) from error
    return list(contents)


def _contents(names: PluginNames) -> dict[str, str]:
    """Every file of the package, by its path in it."""
    templates = files(__name__) / "files"
    words = asdict(names)
    contents = {
        Template(path).substitute(words): Template(
            (templates / f"{template}.template").read_text()
        ).substitute(words)
        for path, template in _FILES.items()
    }
    return {**contents, f"{names.module}/py.typed": ""}


def _why_taken(module: str) -> str | None:
    if keyword.iskeyword(module):
        return "that is a keyword of Python"
    if module in sys.stdlib_module_names or module == "tests":
        return "Python or the package's own tests use that name"
    if find_spec(module) is not None:
        return "a module of that name is installed"
    if module in {candidate.name for candidate in installed_candidates(ENTRY_POINT_GROUP)}:
        return "a plugin of that name is installed"
    return None


def _unwritable(directory: Path, error: OSError) -> LoramuxError:
    return LoramuxError(
        f"{directory} cannot be written ({error.strerror or error}); choose another with "
        "--directory."
    )
