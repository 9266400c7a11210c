"""What is asked of attention libraries outside this package before they are used."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType

import torch
from torch import Tensor

from loramux_kernels.paged_attention import AttentionOptions, LayerCache

Attend = Callable[[Tensor, LayerCache, AttentionOptions], Tensor]
"""Attends queries ``[num_rows, num_heads, head_dim]`` of one step to a layer's cache."""

HALF_TYPES = (torch.float16, torch.bfloat16)


class AttentionLibraryError(Exception):
    """A library cannot be used; the text is a clause that says why."""


class NotInstalledError(AttentionLibraryError):
    """It is not there at all."""


@dataclass(frozen=True)
class CacheShape:
    """What of a layer's cache decides whether a library can attend to it."""

    dtype: torch.dtype
    block_size: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True)
class Requirement:
    """A library in the versions whose interface is known: ``at_least`` is, ``below`` is not."""

    module: str
    distribution: str
    at_least: tuple[int, int]
    below: tuple[int, int]

    def __str__(self) -> str:
        (first, second), (third, fourth) = self.at_least, self.below
        return f"{self.distribution}>={first}.{second},<{third}.{fourth}"

    def load(self) -> ModuleType:
        """Import the library.

        Raises:
            NotInstalledError: it is not there.
            AttentionLibraryError: it is of another version, or cannot be imported.
        """
        try:
            found = metadata.version(self.distribution)
        except metadata.PackageNotFoundError as error:
            raise NotInstalledError(f"{self} is not installed") from error
        release = re.match(r"(\d+)\.(\d+)", found)
        known = release is not None and tuple(map(int, release.groups()))
        if not known or not self.at_least <= known < self.below:
            raise AttentionLibraryError(f"{self} is needed and {found} is installed")
        try:
            return importlib.import_module(self.module)
        except Exception as error:  # built for another PyTorch or driver, it raises anything
            said = " ".join(str(error).split())
            raise AttentionLibraryError(
                f"{self.distribution} {found} is installed and cannot be imported ({said})"
            ) from error


def unserved_cache(cache: CacheShape) -> str | None:
    """Why no library attends to such a cache, None where one may."""
    if cache.dtype not in HALF_TYPES:
        return f"it computes in float16 and bfloat16 and the model's type is {cache.dtype}"
    if cache.key_dim != cache.value_dim:
        return (
            f"it takes keys and values of one width, and a layer's are {cache.key_dim} and "
            f"{cache.value_dim} wide"
        )
    return None


def unserved_layer(options: AttentionOptions) -> str | None:
    """Why no library attends as a layer asks, None where one may."""
    return None if options.sinks is None else "attention sinks"
