"""Finds adapters in an object store: S3, and whatever else fsspec can read.

An adapter called ``name`` is the PEFT checkpoint at ``<address>/<name>/``; the address may hold
``{base_model_name}``. Names may hold slashes. Nothing outside of the address is ever looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from fsspec.asyn import get_loop

from loramux import LoRARequest, LoRAResolver
from loramux.lora.resolver import stable_lora_int_id
from loramux.lora.size_limit import DEFAULT_MAX_BYTES
from loramux_resolvers.object_source import CONFIG_FILE, TENSOR_FILE, ObjectSource
from loramux_resolvers.safe_names import why_unsafe
from loramux_resolvers.store import ObjectStore, StoredObject
from loramux_resolvers.store_failure import StoreFailure, with_retries

log = logging.getLogger(__name__)

BASE_MODEL_NAME = "{base_model_name}"


class ObjectStoreLoRAResolver(LoRAResolver):
    """Finds PEFT checkpoints below one address of a store.

    Args:
        uri: the address, such as ``s3://bucket/prefix``; free of secrets, for it is shown.
        store: the store at that address, whose root stands for it.
        max_bytes: size limit of one adapter.
    """

    def __init__(self, uri: str, store: ObjectStore, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.uri = uri.rstrip("/")
        self._store = store
        self._max_bytes = max_bytes

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Find the checkpoint called ``lora_name``, pinned to what is there now.

        Where the address holds ``{base_model_name}``, the full name of the base model is tried
        and then its last part, and the adapter is taken to belong to that base model; elsewhere
        its ``adapter_config.json`` has to say so.

        Raises:
            AdapterUnavailableError: if the store does not tell.
        """
        if reason := why_unsafe(lora_name):
            log.debug("adapter name %r is refused: %s", lora_name, reason)
            return None
        for folder in self._base_folders(base_model_name):
            if source := await self._find(folder, lora_name):
                base = base_model_name if folder else None
                return _request(lora_name, source, base)
        return None

    def _base_folders(self, base_model_name: str) -> Iterator[str]:
        """What may stand for the base model in the address; nothing, where it has no place."""
        if BASE_MODEL_NAME not in self.uri:
            yield ""
            return
        name = base_model_name.rstrip("/")
        for folder in dict.fromkeys((name, name.rpartition("/")[2])):
            if why_unsafe(folder) is None:
                yield folder

    async def _find(self, folder: str, lora_name: str) -> ObjectSource | None:
        address = f"{self.uri.replace(BASE_MODEL_NAME, folder)}/{lora_name}"
        root = self._store.root.replace(BASE_MODEL_NAME, self._store.quote(folder))
        path = f"{root}/{self._store.quote(lora_name)}" if root else self._store.quote(lora_name)
        try:
            config, tensors = await asyncio.gather(
                self._stat(f"{path}/{CONFIG_FILE}"), self._stat(f"{path}/{TENSOR_FILE}")
            )
        except StoreFailure as failure:
            raise failure.at(address) from failure
        if config is None:
            return None
        return ObjectSource(address, config, tensors, self._store, self._max_bytes)

    async def _stat(self, path: str) -> StoredObject | None:
        """Look at an object in fsspec's loop; cancelling this cancels it there."""
        look = with_retries(lambda: self._store.stat(path))
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(look, get_loop()))


def _request(lora_name: str, source: ObjectSource, base_model_name: str | None) -> LoRARequest:
    return LoRARequest(
        lora_name=lora_name,
        lora_int_id=stable_lora_int_id(lora_name),
        lora_path=source.uri,
        base_model_name=base_model_name,
        source=source,
    )
