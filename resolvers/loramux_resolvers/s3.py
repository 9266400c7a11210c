"""Finds adapters in S3, or in a store that speaks its protocol.

Set ``LORAMUX_LORA_RESOLVER_S3_URI`` to ``s3://bucket/prefix``; an adapter called ``name`` is the
PEFT checkpoint at ``s3://bucket/prefix/name/``. ``{base_model_name}`` in the address stands for the
served base model. Credentials, profile, region and endpoint come from where AWS's own tools look
(``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, ...), or from fsspec's configuration (``FSSPEC_S3_ANON``,
...).

It takes ``pip install 'loramux[s3]'``.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from loramux import LoRAResolver, hookimpl
from loramux.errors import PluginError

VARIABLE = "LORAMUX_LORA_RESOLVER_S3_URI"


@hookimpl
def missing_configuration() -> str | None:
    """The bucket has to be named."""
    if os.environ.get(VARIABLE, "").strip():
        return None
    return f"{VARIABLE} is not set; set it to the address of the adapters, s3://bucket/prefix."


@hookimpl
def register_lora_resolvers(register: Callable[[str, LoRAResolver], None]) -> None:
    """Offer one resolver for the address that the environment names.

    Raises:
        PluginError: if it is no address of S3, or s3fs is not installed.
    """
    from loramux_resolvers.open_store import register_from_environment

    if not os.environ[VARIABLE].strip().startswith(("s3://", "s3a://")):
        raise PluginError(
            f"{VARIABLE} does not begin with s3://; set it to s3://bucket/prefix, or set "
            "LORAMUX_LORA_RESOLVER_URI for a store of another kind."
        )
    register_from_environment(register, "lora_s3_resolver", VARIABLE)
