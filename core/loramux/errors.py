"""Every error loramux raises on purpose, as one tree.

LoramuxError
├── InvalidRequestError        the request itself is wrong (HTTP 400)
├── ModelNotFoundError         no model or adapter of that name (HTTP 404)
├── AdapterError
│   ├── AdapterRefusedError    the adapter cannot be served exactly (HTTP 400)
│   │   ├── AdapterNotFoundError  there is no adapter at the path given (HTTP 404)
│   │   └── AdapterFilesMissingError  its directory or a file in it is gone (HTTP 400)
│   └── AdapterUnavailableError  its source could not answer; try again (HTTP 503)
├── EngineBusyError            a queue is full; try again (HTTP 429)
├── EngineDeadError            the engine loop has ended (HTTP 500)
└── PluginError                a plugin selection that cannot be honoured (at start)

Each message is one sentence that says what was wrong, where, and what to do.
"""

from __future__ import annotations

from typing import Self


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

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        """The message without where the adapter lies; None where it does not say that anyway."""

    @classmethod
    def at(cls, place: object, reason: str) -> Self:
        """The error of an adapter that lies at a path or an address."""
        return cls(f"{place}: {reason}", reason)

    def without_place(self, name: str | None) -> str:
        """The sentence for somebody who knows the adapter by name and not where it lies."""
        if self.reason is None:
            return str(self)
        return f"Adapter {name!r}: {self.reason}" if name else f"The adapter: {self.reason}"


class AdapterRefusedError(AdapterError, ValueError):
    """The adapter was read, and serving it exactly is not possible."""


class AdapterNotFoundError(AdapterRefusedError):
    """There is no adapter where the request says."""


class AdapterFilesMissingError(AdapterRefusedError):
    """The directory it should lie in, or a file in it, is not there."""


class AdapterUnavailableError(AdapterError):
    """The adapter's source could not answer (time, network, storage)."""


class EngineBusyError(LoramuxError):
    """A bounded queue is full."""


class EngineDeadError(LoramuxError, RuntimeError):
    """The engine loop has ended and takes no more requests."""


class PluginError(LoramuxError):
    """A plugin was asked for by name and cannot be provided."""
