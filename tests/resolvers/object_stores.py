"""What tests of object stores have in common."""

from __future__ import annotations

import asyncio
import functools
import os
import random
from pathlib import Path

from loramux import LoRARequest
from loramux.lora.source import FetchProgress
from loramux_resolvers.object_source import ObjectSource
from loramux_resolvers.object_store import ObjectStoreLoRAResolver
from loramux_resolvers.open_store import open_store
from loramux_resolvers.store import ObjectStore

BASE = "meta-llama/Llama-3.2-3B"


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes of which every part is different."""
    return random.Random(seed).randbytes(size)


def resolver_at(uri: str, **options: int) -> ObjectStoreLoRAResolver:
    """A resolver for an address, as the environment is now."""
    settings = frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))
    return ObjectStoreLoRAResolver(uri, _store(uri, settings), **options)


@functools.cache
def _store(uri: str, settings: frozenset[tuple[str, str]]) -> ObjectStore:
    return open_store(uri)  # once, because botocore takes its time to start


def resolve(resolver: ObjectStoreLoRAResolver, name: str, base: str = BASE) -> LoRARequest | None:
    return asyncio.run(resolver.resolve_lora(base, name))


def found(resolver: ObjectStoreLoRAResolver, name: str, base: str = BASE) -> ObjectSource:
    """The source of an adapter that has to be there."""
    request = resolve(resolver, name, base)
    assert request is not None
    assert isinstance(request.source, ObjectSource)
    return request.source


def fetch(source: ObjectSource, directory: Path, progress: FetchProgress | None = None) -> bytes:
    """The tensors that a source brings."""
    where = source.fetch(directory, progress or (lambda done, total: None))
    return (where / "adapter_model.safetensors").read_bytes()
