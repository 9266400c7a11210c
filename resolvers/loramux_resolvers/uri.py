"""Finds adapters at any address that fsspec can read.

Set ``LORAMUX_LORA_RESOLVER_URI`` to ``gs://bucket/prefix``, ``az://container/prefix``,
``https://host/path``, ``file:///directory`` or another; an adapter called ``name`` is the PEFT
checkpoint at ``<address>/name/``. ``{base_model_name}`` in the address stands for the served base
model. Credentials come from where the protocol's own tools look, or from fsspec's configuration
(``FSSPEC_GS_TOKEN``, ...).

Each protocol takes its package (gcsfs, adlfs, aiohttp, ...); the start says which one is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from loramux import LoRAResolver, hookimpl

VARIABLE = "LORAMUX_LORA_RESOLVER_URI"


@hookimpl
def missing_configuration() -> str | None:
    """The address has to be given."""
    if os.environ.get(VARIABLE, "").strip():
        return None
    return f"{VARIABLE} is not set; set it to the address of the adapters, such as gs://bucket/dir."


@hookimpl
def register_lora_resolvers(register: Callable[[str, LoRAResolver], None]) -> None:
    """Offer one resolver for the address that the environment names.

    Raises:
        PluginError: if nothing can be read there.
    """
    from loramux_resolvers.open_store import register_from_environment

    register_from_environment(register, "lora_uri_resolver", VARIABLE)
