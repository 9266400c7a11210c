"""An adapter whose files are objects of a store, each pinned to one revision."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from loramux.errors import AdapterRefusedError
from loramux.lora.source import AdapterSource, FetchProgress
from loramux_resolvers.store import ObjectStore, StoredObject
from loramux_resolvers.store_failure import StoreFailure
from loramux_resolvers.transfer import fetch_objects

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class ObjectSource(AdapterSource):
    """The two files of a PEFT checkpoint, as they were when a resolver looked.

    Two sources are equal where address and revisions are; which store object they were found
    through does not count.

    Args:
        address: address of the adapter, free of secrets.
        config: ``adapter_config.json``.
        tensors: ``adapter_model.safetensors``; None where there is none.
        store: where to read them.
        max_bytes: refuse an adapter whose files are larger together.
    """

    address: str
    config: StoredObject
    tensors: StoredObject | None
    store: ObjectStore = field(compare=False, repr=False)
    max_bytes: int = field(compare=False, repr=False)

    @property
    def uri(self) -> str:
        """Address of the adapter."""
        return self.address

    @property
    def revision(self) -> str:
        """Revisions of the files, each with its length."""
        files = [item for item in (self.config, self.tensors) if item]
        return ", ".join(f"{item.revision} ({item.size} bytes)" for item in files)

    def fetch(self, directory: Path, progress: FetchProgress) -> Path:
        """See ``AdapterSource.fetch``.

        Raises:
            AdapterUnavailableError: the store does not answer, or holds other bytes by now.
            AdapterRefusedError: the adapter is incomplete or too large; nothing was read.
            OSError: ``directory`` cannot be written to.
        """
        if self.tensors is None:
            raise AdapterRefusedError.at(
                self.uri,
                f"there is {CONFIG_FILE} and no {TENSOR_FILE}; upload the directory that PEFT's "
                "save_pretrained wrote.",
            )
        size = self.config.size + self.tensors.size
        if size > self.max_bytes:
            raise AdapterRefusedError.at(
                self.uri,
                f"the adapter has {size} bytes, more than the {self.max_bytes} allowed; raise "
                "LORAMUX_MAX_ADAPTER_BYTES or use a lower rank.",
            )
        files = {directory / CONFIG_FILE: self.config, directory / TENSOR_FILE: self.tensors}
        try:
            fetch_objects(self.store, files, progress)
        except StoreFailure as failure:
            raise failure.at(self.uri) from failure
        return directory
