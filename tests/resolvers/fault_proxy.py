"""A proxy in front of an HTTP server that makes the faults networks and servers make."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """A request on its way through."""

    method: str
    path: str
    range: str
    if_match: str
    number: int
    """How many requests for this path and range came before it."""

    @property
    def is_part(self) -> bool:
        """Whether it reads the tensors, and is not the look at their first byte."""
        return self.path.endswith(".safetensors") and self.range not in ("", "bytes=0-0")


@dataclass(frozen=True)
class Fault:
    """What is done to an answer.

    Args:
        status: answer with this status instead of asking the server.
        body: with this body.
        headers: with these headers, which take the place of the server's, too.
        keep: pass on only so many bytes of the body, and say that it had no more.
        cut: pass on only so many bytes of the body, and close the connection.
        reset: do so by a reset.
        pause: seconds to wait before each byte of the body.
        before: what to do before the server is asked.
    """

    status: int | None = None
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    keep: int | None = None
    cut: int | None = None
    reset: bool = False
    pause: float = 0
    before: Callable[[], object] = lambda: None


class FaultProxy:
    """Passes requests on, each after asking ``fault`` what is to go wrong with it."""

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target).netloc
        self.closing = threading.Event()
        self.url = ""
        self.reset()

    def reset(self) -> None:
        """Pass everything on, and forget what was asked."""
        self.requests: list[Request] = []
        self.fault: Callable[[Request], Fault | None] = lambda request: None

    def note(self, handler: BaseHTTPRequestHandler) -> Request:
        path, asked = handler.path, handler.headers.get("Range", "")
        number = sum((path, asked) == (seen.path, seen.range) for seen in self.requests)
        request = Request(handler.command, path, asked, handler.headers.get("If-Match", ""), number)
        self.requests.append(request)
        return request


@contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    """Run a proxy before a server's URL."""
    proxy = FaultProxy(target)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def do_GET(self) -> None:
        request = self.proxy.note(self)
        fault = self.proxy.fault(request) or Fault()
        fault.before()
        status, headers, body = self._answer(fault)
        if fault.keep is not None:
            body = body[: fault.keep]
        self.send_response(status)
        for name, value in {**headers, **fault.headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self._send(body, fault)

    do_HEAD = do_GET

    def _answer(self, fault: Fault) -> tuple[int, dict[str, str], bytes]:
        if fault.status is not None:
            return fault.status, {}, fault.body
        connection = http.client.HTTPConnection(self.proxy.target, timeout=60)
        try:
            asked = dict(self.headers.items())
            if "ETag" in fault.headers:
                asked.pop("If-Match", None)  # it is about that ETag, of which the server knows not
            connection.request(self.command, self.path, headers=asked)
            answer = connection.getresponse()
            skipped = ("transfer-encoding", "connection")
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in skipped}
            return answer.status, headers, answer.read()
        finally:
            connection.close()

    def _send(self, body: bytes, fault: Fault) -> None:
        sent = body if fault.cut is None else body[: fault.cut]
        try:
            if fault.pause:
                for byte in sent:
                    if self.proxy.closing.wait(fault.pause):
                        break
                    self.wfile.write(bytes([byte]))
            else:
                self.wfile.write(sent)
        except OSError:
            self.close_connection = True  # the client has left
        if fault.cut is not None or fault.reset:
            self._hang_up(fault.reset)

    def _hang_up(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            time.sleep(0.02)  # a reset overtakes what was sent before it
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        os.close(self.connection.detach())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
