"""How long a request may wait for an adapter that is not here yet."""

from __future__ import annotations

from loramux import env

DEFAULT_SECONDS = 60.0


def resolve_timeout() -> float:
    """Seconds from a name to a loaded adapter: ``LORAMUX_LORA_RESOLVE_TIMEOUT``, or 60.

    Raises:
        EnvironmentVariableError: the variable holds no positive number.
    """
    return env.read_seconds("LORAMUX_LORA_RESOLVE_TIMEOUT", DEFAULT_SECONDS)
