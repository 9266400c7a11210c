"""Who asks for which adapter."""

from __future__ import annotations

import os
from dataclasses import dataclass

from loramux.errors import InvalidRequestError
from loramux.lora.source import AdapterSource


@dataclass(frozen=True)
class LoRARequest:
    """A request for one LoRA adapter, as a user or a resolver states it.

    The fields are vLLM's. The engine identifies an adapter by the digest of its bytes, never by
    these fields: two requests with the same name and different paths are two adapters.

    Args:
        lora_name: name that people use for the adapter.
        lora_int_id: positive integer, kept for compatibility; the engine does not rely on it.
        lora_path: local directory of a PEFT checkpoint, or a Hugging Face repository id.
        base_model_name: served name of the base model this adapter belongs to, shown as its
            parent; where given, it takes the place of the checkpoint's own
            ``base_model_name_or_path`` in the check that adapter and base belong together.
        load_inplace: read the path again even if nothing about it seems to have changed.
        source: where to fetch the adapter from, for resolvers whose adapters are not in a
            directory of this machine; ``lora_path`` then only names it for people.
        allowed_directories: real paths of this machine, for resolvers whose directories others can
            write to; where given, a file that lies in none of them when it is opened is refused,
            whatever has been linked to it since the resolver looked.
        linked_names: names of other adapters to which links lead from where this one should be; it
            is only for callers who may use those, too.

    Raises:
        InvalidRequestError: if a field is empty, the id is not positive, or an allowed directory
            is no absolute path.
    """

    lora_name: str
    lora_int_id: int
    lora_path: str
    base_model_name: str | None = None
    load_inplace: bool = False
    source: AdapterSource | None = None
    allowed_directories: tuple[str, ...] = ()
    linked_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.lora_name:
            raise InvalidRequestError("lora_name must not be empty; give the adapter a name.")
        if self.lora_int_id < 1:
            raise InvalidRequestError(
                f"lora_int_id of adapter {self.lora_name!r} must be at least 1, "
                f"got {self.lora_int_id}."
            )
        if not self.lora_path:
            raise InvalidRequestError(
                f"lora_path of adapter {self.lora_name!r} must not be empty; "
                "give the directory of a PEFT checkpoint."
            )
        directories = self.allowed_directories
        # A text would be taken for its characters, the first of which is the root of all.
        if not isinstance(directories, tuple) or not all(map(os.path.isabs, directories)):
            raise InvalidRequestError(
                f"allowed_directories of adapter {self.lora_name!r} must be a tuple of absolute "
                f"paths, got {directories!r}; give the real path of each directory."
            )

    @property
    def name(self) -> str:
        return self.lora_name

    @property
    def path(self) -> str:
        return self.lora_path
