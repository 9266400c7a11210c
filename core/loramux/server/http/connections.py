"""How long and how large connections may be, and whether they are encrypted."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loramux.errors import InvalidRequestError
from loramux.server.http.slow_clients import protocol_with_limits
from loramux.server.http.tls import protocol_behind_tls


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """What is asked of every connection.

    Args:
        keep_alive_seconds: how long one without a request is kept.
        slow_client_seconds: how long a client may take to send a request's headers, then its
            body, and to read what fills its buffers.
        max_header_bytes: longest request line and headers.
        max_connections: most at one time; None is no bound.
        ssl_certfile: chain of certificates, PEM; turns TLS on.
        ssl_keyfile: its key, where that is not in the same file.
        ssl_ca_certs: authorities of the certificates that clients show.
        ssl_cert_reqs: 0 asks clients for none, 1 for one they may have, 2 for one they must have.

    Raises:
        InvalidRequestError: a number is out of range, or the files are no certificate and key.
    """

    keep_alive_seconds: int = 5
    slow_client_seconds: float = 30.0
    max_header_bytes: int = 16 * 1024
    max_connections: int | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_ca_certs: Path | None = None
    ssl_cert_reqs: int = 0

    def __post_init__(self) -> None:
        for name, least in (("keep_alive_seconds", 0), ("max_header_bytes", 1024)):
            _check_least(name, getattr(self, name), least)
        _check_least("slow_client_seconds", self.slow_client_seconds, 0.1)
        if self.ssl_certfile is not None:
            self._context(self.ssl_certfile)
        elif self.ssl_keyfile or self.ssl_ca_certs or self.ssl_cert_reqs:
            raise _refusal("TLS needs a certificate; give it with --ssl-certfile.")
        if self.ssl_cert_reqs and self.ssl_ca_certs is None:
            raise _refusal("--ssl-cert-reqs asks for certificates of clients; name who signed "
                           "them with --ssl-ca-certs.")  # fmt: skip

    @property
    def scheme(self) -> str:
        """What a URL of this server begins with."""
        return "http" if self.ssl_certfile is None else "https"

    def uvicorn_settings(self) -> dict[str, Any]:
        """The same for ``uvicorn.Config``, which learns nothing of TLS."""
        return {
            "http": self._protocol(),
            "ws": "none",
            "timeout_keep_alive": self.keep_alive_seconds,
            "h11_max_incomplete_event_size": self.max_header_bytes,
        }

    def _protocol(self) -> type[asyncio.Protocol]:
        seconds, most = self.slow_client_seconds, self.max_connections
        protocol = protocol_with_limits(seconds, most, self.max_header_bytes)
        if self.ssl_certfile is None:
            return protocol
        return protocol_behind_tls(protocol, self._context(self.ssl_certfile), seconds, most)

    def _context(self, certificate: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # The empty password is for nobody's key; without one OpenSSL would ask on the terminal.
            context.load_cert_chain(certificate, self.ssl_keyfile, password="")
            if self.ssl_ca_certs is not None:
                context.load_verify_locations(self.ssl_ca_certs)
        except OSError as error:  # as ssl's own errors are
            raise _refusal(
                f"The certificate {str(certificate)!r} cannot be used ({error}); check "
                "--ssl-certfile, --ssl-keyfile (a key without a password) and --ssl-ca-certs."
            ) from error
        context.verify_mode = ssl.VerifyMode(self.ssl_cert_reqs)
        return context


def _check_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        flag = name.replace("_", "-")
        raise InvalidRequestError(f"--{flag} must be at least {least}, got {value}.", name)


def _refusal(sentence: str) -> InvalidRequestError:
    return InvalidRequestError(sentence, "ssl_certfile")
