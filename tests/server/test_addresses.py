"""Adapters that an operator loads by address: below the addresses of resolvers and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loramux.errors import AdapterNotFoundError
from loramux.lora.resolver import NamedResolver
from loramux.server.access.caller import Caller, Role
from loramux.server.access.name_patterns import NamePatterns
from loramux.server.adapters.addresses import AddressedAdapters
from loramux_resolvers.object_store import ObjectStoreLoRAResolver
from loramux_resolvers.open_store import open_store
from tests.server.conftest import FolderResolver, state_around
from tests.server.fake_engine import MODEL, FakeEngine
from tests.server.running_server import RunningServer, running


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stores")
    for name in ("store/team/sql", "store-too/sql", "outside"):
        (root / name).mkdir(parents=True)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (root / name / file).write_bytes(b"{}")
    return root / "store"


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[RunningServer]:
    uri = f"file://{store}"
    resolver = ObjectStoreLoRAResolver(uri, open_store(uri))
    addresses = AddressedAdapters(
        MODEL,
        [NamedResolver.of("folder", FolderResolver(store)), NamedResolver.of("uri", resolver)],
    )
    state = state_around(
        FakeEngine(), FolderResolver(store), allow_runtime_updates=True, addresses=addresses
    )
    with running(state) as server:
        yield server
    addresses.close()


def load(server: RunningServer, address: str) -> httpx.Response:
    with server.http() as client:
        body = {"lora_name": "mine", "lora_path": address}
        return client.post("/v1/load_lora_adapter", json=body)


def test_an_address_below_a_resolvers_own(server: RunningServer, store: Path) -> None:
    assert load(server, f"file://{store}/team/sql").status_code == 200
    (request,) = server.engine.loads
    assert (request.name, request.path) == ("mine", f"file://{store}/team/sql")
    assert request.source.uri == f"file://{store}/team/sql"
    with server.http() as client:
        (row,) = client.get("/v1/adapters").json()["data"]
        assert row["source"].startswith(f"file://{store}/team/sql@")
        client.post("/v1/unload_lora_adapter", json={"lora_name": "mine"})


@pytest.mark.parametrize(
    "address",
    [
        "file://{}/absent", "file://{}/../outside", "file://{}/%2e%2e/outside", "file://{}", "file://{}/",
        "file://{}-too/sql", "FILE://{}/team/sql", "file:/{}/team/sql", "local://{}/team/sql",
        "file://{}/team/../../outside", "file://{}//team/sql", "http://127.0.0.1:1/x", "s3://b/x",
        "simplecache::file://{}/team/sql", "file://{}/team/sql\0", "{}/team/sql",
    ],
)  # fmt: skip
def test_no_other_address(server: RunningServer, store: Path, address: str) -> None:
    before = len(server.engine.loads)
    assert load(server, address.format(store)).status_code == 404
    assert len(server.engine.loads) == before


def test_a_key_with_patterns_loads_what_it_may_use_there(store: Path) -> None:
    uri = f"file://{store}"
    resolver = ObjectStoreLoRAResolver(uri, open_store(uri))
    addresses = AddressedAdapters(MODEL, [NamedResolver.of("uri", resolver)])
    may, may_not = (
        Caller("ops", Role.ADMIN, NamePatterns.of([pattern])) for pattern in ("team/*", "other/*")
    )
    try:
        assert asyncio.run(addresses.find(f"{uri}/team/sql", may)) is not None
        for name in ("team/sql", "team/absent"):
            with pytest.raises(AdapterNotFoundError, match=f"no adapter at {uri}/{name}"):
                asyncio.run(addresses.find(f"{uri}/{name}", may_not))
    finally:
        addresses.close()
