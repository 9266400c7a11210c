"""A stand-in for the Hugging Face Hub on loopback, speaking the routes of its client.

Files of 100 bytes and more are LFS files: their address redirects to a store under another host
name, as the Hub's does. Everything that arrives is logged.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from urllib.parse import parse_qs, unquote, urlsplit

LFS_BYTES = 100

Behaviour = Callable[["Handler"], bool]
"""Answers a request in its own way, or returns False to let it be answered as usual."""


@dataclass
class Repository:
    """Commits of one repository, and where its branches are."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    token: str | None = None
    """The token that may read it, if it is private."""

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Make a commit of exactly these files the head of a branch; returns the commit."""
        commit = hashlib.sha1(f"{branch} {sorted(files.items())}".encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    host: str
    method: str
    path: str
    token: str | None


class HubServer:
    """The Hub at ``endpoint`` and its store at another host name."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Seen] = []
        self.connections: list[socket.socket] = []
        self.page_size = 1000
        self._behaviours: list[tuple[re.Pattern[str], Behaviour]] = []
        self._servers = [_serve(self), _serve(self)]
        api, store = (server.server_address[1] for server in self._servers)
        self.endpoint = f"http://127.0.0.1:{api}"
        self.store = f"http://localhost:{store}"

    def repository(self, repo_id: str) -> Repository:
        """The repository of that name, new if there is none."""
        return self.repositories.setdefault(repo_id, Repository())

    def when(self, pattern: str, behaviour: Behaviour) -> None:
        """Let a behaviour answer requests whose ``METHOD path`` matches; the latest comes first."""
        self._behaviours.insert(0, (re.compile(pattern), behaviour))

    def behave(self) -> None:
        """Forget all behaviours."""
        self._behaviours.clear()

    def taken_over(self, handler: Handler) -> bool:
        line = f"{handler.command} {handler.path}"
        return any(
            behaviour(handler) for pattern, behaviour in self._behaviours if pattern.search(line)
        )

    def log(self, pattern: str = "") -> list[str]:
        """``METHOD path`` of the requests that arrived and match."""
        lines = [f"{seen.method} {seen.path}" for seen in self.requests]
        return [line for line in lines if re.search(pattern, line)]

    def close(self) -> None:
        """Refuse connections from now on, and end those there are."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for connection in self.connections:
            with suppress(OSError):  # its client has closed it
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def hub_server() -> Iterator[HubServer]:
    hub = HubServer()
    try:
        yield hub
    finally:
        hub.close()


def answer(status: int, code: str | None = None, **headers: str) -> Behaviour:
    """Answer with an error."""

    def behaviour(handler: Handler) -> bool:
        extra = {"X-Error-Code": code} if code else {}
        handler.reply(status, b'{"error": "so it is"}', extra | headers)
        return True

    return behaviour


def drop(handler: Handler) -> bool:
    """Close the connection without a word."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
    return True


def cut(handler: Handler) -> bool:
    """Answer as usual, but close the connection in the midst of the body."""
    handler.is_cut = True
    return False


def once(behaviour: Behaviour) -> Behaviour:
    """Behave so the first time and as usual from then on."""
    left = [behaviour]
    return lambda handler: bool(left) and left.pop()(handler)


def send(body: bytes, content_type: str = "text/html") -> Behaviour:
    """Answer with other content than there is."""

    def behaviour(handler: Handler) -> bool:
        handler.reply(200, body, {"Content-Type": content_type})
        return True

    return behaviour


def wait(seconds: float) -> Behaviour:
    """Answer late."""

    def behaviour(handler: Handler) -> bool:
        time.sleep(seconds)
        return False

    return behaviour


def drip(stop: threading.Event, announced: int = 100_000) -> Behaviour:
    """Send a byte every now and then, until told to stop or left; then set ``stop``."""

    def behaviour(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(announced))
        handler.end_headers()
        try:
            while not stop.wait(0.05):
                handler.wfile.write(b" ")
        except OSError:
            stop.set()
        handler.close_connection = True
        return True

    return behaviour


def endless_error(left: threading.Event) -> Behaviour:
    """Describe an error without end; sets ``left`` when the client has heard enough."""

    def behaviour(handler: Handler) -> bool:
        handler.send_response(418)
        handler.end_headers()
        with suppress(OSError):
            while not left.wait(0.01):
                handler.wfile.write(b" " * 2**16)
        left.set()
        handler.close_connection = True
        return True

    return behaviour


def naming(**names: str) -> Behaviour:
    """Answer as usual, with other values in some of the headers."""

    def behaviour(handler: Handler) -> bool:
        handler.renamed = {name.replace("_", "-"): value for name, value in names.items()}
        return False

    return behaviour


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    hub: HubServer
    is_cut = False
    renamed: Mapping[str, str] = MappingProxyType({})

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, self.renamed.get(name, value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.is_cut else body)
            self.close_connection = self.close_connection or self.is_cut

    def _answer(self) -> None:
        authorization = self.headers.get("Authorization")
        token = authorization and authorization.removeprefix("Bearer ")
        host = self.headers.get("Host", "")
        self.hub.requests.append(Seen(host, self.command, self.path, token))
        if self.hub.taken_over(self):
            return
        url = urlsplit(self.path)
        if host.startswith("localhost"):
            return self._stored(url.path.removeprefix("/"))
        match = re.fullmatch(
            r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)(?:/(.*))?", url.path
        ) or re.fullmatch(r"/([^/]+/[^/]+)/(resolve)/([^/]+)/(.*)", url.path)
        if match is None:
            return self.reply(404, b"no such route")
        repo_id, route, revision, path = (unquote(part or "") for part in match.groups())
        repository = self.hub.repositories.get(repo_id)
        if repository is None or repository.token not in (None, token):
            return self._error(401 if repository else 404, "RepoNotFound")
        commit = repository.branches.get(revision, revision)
        files = repository.commits.get(commit)
        if files is None:
            return self._error(404, "RevisionNotFound")
        if route == "revision":
            return self._json({"id": repo_id, "sha": commit})
        if route == "tree":
            return self._tree(files, path, parse_qs(url.query))
        if repository.gated and token is None:
            return self._error(401, "GatedRepo")
        return self._resolve(commit, files, path)

    def _resolve(self, commit: str, files: dict[str, bytes], path: str) -> None:
        about = {"X-Repo-Commit": commit}
        content = files.get(path)
        if content is None:
            return self._error(404, "EntryNotFound", about)
        if len(content) < LFS_BYTES:
            header = f"blob {len(content)}\0".encode()
            about["ETag"] = f'"{hashlib.sha1(header + content).hexdigest()}"'
            return self.reply(200, content, about)
        digest = hashlib.sha256(content).hexdigest()
        about |= {
            "X-Linked-Size": str(len(content)),
            "X-Linked-ETag": f'"{digest}"',
            "ETag": f'"{digest}"',
            "Location": f"{self.hub.store}/{digest}?signature=secret-signature",
        }
        self.reply(302, b"", about)

    def _stored(self, digest: str) -> None:
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                for content in files.values():
                    if hashlib.sha256(content).hexdigest() == digest:
                        return self.reply(200, content, {"ETag": f'"{digest}"'})
        self.reply(404, b"nothing stored here")

    def _tree(self, files: dict[str, bytes], directory: str, query: dict[str, list[str]]) -> None:
        prefix = f"{directory}/" if directory else ""
        found = {path: content for path, content in files.items() if path.startswith(prefix)}
        if not found:
            return self._error(404, "EntryNotFound")
        if query["recursive"] == ["false"]:
            found = {p: content for p, content in found.items() if "/" not in p[len(prefix) :]}
        entries = [_entry(path, content) for path, content in sorted(found.items())]
        start = int(query.get("cursor", ["0"])[0])
        end = start + self.hub.page_size
        more = {}
        if end < len(entries):
            path = urlsplit(self.path).path
            # As behind a mirror: the next page's address is that of another host.
            more["Link"] = f'<http://upstream.invalid{path}?cursor={end}>; rel="next"'
        self._json(entries[start:end], more)

    def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
        content_type = {"Content-Type": "application/json"}
        self.reply(200, json.dumps(value).encode(), content_type | (headers or {}))

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.reply(status, b"{}", {"X-Error-Code": code} | (headers or {}))


def _entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
    if len(content) >= LFS_BYTES:
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    return entry


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # clients may leave as they like
            super().handle_error(request, client_address)


def _serve(hub: HubServer) -> ThreadingHTTPServer:
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def downloads_under_way() -> list[threading.Thread]:
    """The threads of downloads from the Hub, those included that nobody waits for any more."""
    return [thread for thread in threading.enumerate() if thread.name == "hub-download"]
