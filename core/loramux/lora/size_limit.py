"""How large an adapter may be, wherever it comes from."""

from __future__ import annotations

from loramux.lora.disk_cache.byte_size import read_byte_size

DEFAULT_MAX_BYTES = 4 * 2**30
"""Room for rank 512 on an eight-billion-parameter model in bfloat16 (2.7 GB)."""


def max_adapter_bytes() -> int:
    """``LORAMUX_MAX_ADAPTER_BYTES``, such as ``4GiB``, which is also the default.

    Raises:
        EnvironmentVariableError: the variable holds no size.
    """
    return read_byte_size("LORAMUX_MAX_ADAPTER_BYTES", DEFAULT_MAX_BYTES)
