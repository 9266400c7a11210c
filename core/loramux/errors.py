"""Every error loramux raises on purpose, as one tree.

LoramuxError
├── InvalidRequestError        the request itself is wrong (HTTP 400)
├── ModelNotFoundError         no model or adapter of that name (HTTP 404)
├── AdapterError
│   ├── AdapterRefusedError    the adapter cannot be served exactly (HTTP 400)
│   │   └── AdapterNotFoundError  there is no adapter at the path given (HTTP 404)
│   └── AdapterUnavailableError  its source could not answer; try again (HTTP 503)
├── EngineBusyError            a queue is full; try again (HTTP 429)
├── EngineDeadError            the engine loop has ended (HTTP 500)
└── PluginError                a plugin selection that cannot be honoured (at start)

Each message is one sentence that says what was wrong, where, and what to do.
"""

from __future__ import annotations


class LoramuxError(Exception):
    """Base of all errors raised by loramux."""


class InvalidRequestError(LoramuxError, ValueError):
    """A request that can never succeed as written."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        """Name of the request field at fault, where there is one."""


class ModelNotFoundError(LoramuxError, LookupError):
    """No base model and no adapter answers to the name asked for."""


class AdapterError(LoramuxError):
    """Base of everything that can be wrong with one adapter."""


class AdapterRefusedError(AdapterError, ValueError):
    """The adapter was read, and serving it exactly is not possible."""


class AdapterNotFoundError(AdapterRefusedError):
    """There is no adapter where the request says."""


class AdapterUnavailableError(AdapterError):
    """The adapter's source could not answer (time, network, storage)."""


class EngineBusyError(LoramuxError):
    """A bounded queue is full."""


class EngineDeadError(LoramuxError, RuntimeError):
    """The engine loop has ended and takes no more requests."""


class PluginError(LoramuxError):
    """A plugin was asked for by name and cannot be provided."""
