"""``loramux serve`` with three resolvers at once, between real clients and stores that fail."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.resolvers.fault_proxy import FaultProxy, fault_proxy
from tests.resolvers.hub_server import HubServer, hub_server
from tests.resolvers.s3_servers import BUCKET, S3Server
from tests.server.server_process import ServerProcess, serving
from tests.soak.population import PROMPTS, TOKENS, Population

PROMPT = PROMPTS[0]
PREFIX = "tenant/adapters"
REPOSITORIES = [f"org/r{number}" for number in range(40)]
SECONDS = 4.0
"""How long a name may take from a request to a loaded adapter."""

FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass
class World:
    """A server, its stores, and what PEFT says of the adapters in them."""

    root: Path
    population: Population
    moto: S3Server
    s3: FaultProxy
    hub: HubServer
    server: ServerProcess
    client: httpx.Client

    def ask(self, name: object, client: httpx.Client | None = None) -> httpx.Response:
        body = {"model": name, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
        return (client or self.client).post("/v1/completions", json=body)

    def ask_until_told(self, name: object, client: httpx.Client | None = None) -> httpx.Response:
        return until_told(lambda: self.ask(name, client))

    def on_disk(self, name: str) -> str:
        """Put an adapter where the filesystem resolver looks; returns what it answers."""
        return self._made(f"shelf/{name}")

    def in_bucket(self, name: str, prefix: str = PREFIX) -> str:
        answer = self._made(f"elsewhere/{name}")
        for file in FILES:
            self.moto.put(f"{prefix}/{name}/{file}", self._content(name, file))
        return answer

    def on_hub(self, repo_id: str) -> str:
        answer = self._made(f"elsewhere/{repo_id}")
        files = {file: self._content(repo_id, file) for file in FILES}
        self.hub.repository(repo_id).push(files)
        return answer

    def unfinished(self) -> list[Path]:
        """Whatever a download that has ended must not leave behind."""
        found = [*self.cache.glob("incoming/*"), *(self.root / "tmp").iterdir()]
        for repository in self.hub_cache.glob("models--*"):
            links = [path for path in repository.rglob("snapshots/*/*") if path.is_symlink()]
            found += repository.glob("blobs/*.incomplete")
            found += links if len(links) % len(FILES) else []
        return found

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def hub_cache(self) -> Path:
        return self.root / "hf" / "hub"

    @contextmanager
    def another_server(
        self, module: Sequence[str] = ("loramux", "serve"), port: int = 0, **environment: str
    ) -> Iterator[ServerProcess]:
        """A second process with the same caches and stores."""
        words, environment = _words(self.population), {**self.environment, **environment}
        with serving(*words, module=module, port=port, **environment) as server:
            yield server

    @property
    def environment(self) -> dict[str, str]:
        return _environment(self.root, self.population, self.moto, self.s3, self.hub)

    def _made(self, path: str) -> str:
        self.population.publish(path)
        texts = self.population.eras[path][-1].texts
        assert texts is not None
        return texts[PROMPT]

    def _content(self, name: str, file: str) -> bytes:
        return (self.population.directory / "elsewhere" / name / file).read_bytes()


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so, and not for ever."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def until_told(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask again while the server says that it may help: a busy machine takes its time."""
    told: list[httpx.Response] = []

    def is_told() -> bool:
        told.append(ask())
        return told[-1].status_code != 503

    wait_for(is_told)
    return told[-1]


@contextmanager
def world(root: Path, moto: S3Server) -> Iterator[World]:
    population = Population(root)
    for name in ("adapters/shelf", "tmp"):
        (root / name).mkdir(parents=True)
    with ExitStack() as stack:
        s3 = stack.enter_context(fault_proxy(moto.url))
        hub = stack.enter_context(hub_server())
        environment = _environment(root, population, moto, s3, hub)
        server = stack.enter_context(serving(*_words(population), **environment))
        client = stack.enter_context(server.http())
        yield World(root, population, moto, s3, hub, server, client)
        assert server.end() == 0


def _words(population: Population) -> list[str]:
    model = str(population.model)
    return [model, "--served-model-name", "base", "--enable-lora", "--max-loras", "4"]


def _environment(
    root: Path, population: Population, moto: S3Server, s3: FaultProxy, hub: HubServer
) -> dict[str, str]:
    return {
        **moto.environment(s3.url),
        "LORAMUX_PLUGINS": "lora_filesystem_resolver,lora_hf_hub_resolver,lora_s3_resolver",
        "LORAMUX_LORA_RESOLVER_CACHE_DIR": str(population.directory / "shelf"),
        "LORAMUX_LORA_RESOLVER_S3_URI": f"s3://{BUCKET}/{PREFIX}",
        "LORAMUX_LORA_RESOLVER_HF_REPO_LIST": ",".join(REPOSITORIES),
        "LORAMUX_LORA_RESOLVER_HF_REVISION_TTL": "0",
        "LORAMUX_LORA_RESOLVE_TIMEOUT": str(SECONDS),
        "LORAMUX_LORA_NEGATIVE_TTL": "0",
        "LORAMUX_ADAPTER_CACHE_DIR": str(root / "cache"),
        "HF_HOME": str(root / "hf"),
        "HF_HUB_CACHE": str(root / "hf" / "hub"),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "",
        "TMPDIR": str(root / "tmp"),
        "PYTHONDONTWRITEBYTECODE": os.environ.get("PYTHONDONTWRITEBYTECODE", ""),
    }
