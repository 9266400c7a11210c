"""The resolver of object stores keeps what every resolver promises, in S3 and in a directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loramux.testing import ResolverContract
from tests.resolvers.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.resolvers.object_stores import resolver_at
from tests.resolvers.s3_servers import BUCKET, S3Server, moto

__all__ = ["moto"]


@pytest.fixture(scope="module")
def moto_proxy(moto: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(moto.url) as proxy:
        yield proxy


class TestS3(ResolverContract):
    @pytest.fixture
    def proxy(self, moto: S3Server, moto_proxy: FaultProxy, monkeypatch) -> FaultProxy:
        for name, value in moto.environment(moto_proxy.url).items():
            monkeypatch.setenv(name, value)
        moto_proxy.reset()
        return moto_proxy

    @pytest.fixture
    def change_adapter(self, moto: S3Server, tmp_path, adapter_files) -> Callable[[int], None]:
        def put(seed: int = 2) -> None:
            files = adapter_files(tmp_path / "to-put", seed=seed)
            for path in files.iterdir():
                moto.put(f"team/org/good/{path.name}", path.read_bytes())

        return put

    @pytest.fixture
    def resolver(self, proxy, change_adapter):
        change_adapter(1)
        return resolver_at(f"s3://{BUCKET}/team")

    @pytest.fixture
    def known_name(self) -> str:
        return "org/good"

    @pytest.fixture
    def lose_store(self, proxy) -> Callable[[], None]:
        def lose() -> None:
            proxy.fault = lambda request: Fault(cut=0, reset=True)

        return lose

    @pytest.fixture
    def slow_store(self, proxy) -> Callable[[float], None]:
        def slow_down(seconds: float) -> None:
            proxy.fault = lambda request: Fault(before=lambda: time.sleep(seconds))

        return slow_down


class TestDirectory(ResolverContract):
    @pytest.fixture
    def root(self, tmp_path, adapter_files) -> Path:
        adapter_files(tmp_path / "secret", seed=1)
        adapter_files(tmp_path / "root" / "base" / "good", seed=2)
        return tmp_path / "root"

    @pytest.fixture
    def resolver(self, root):
        return resolver_at(f"{root.as_uri()}/{{base_model_name}}")

    @pytest.fixture
    def known_name(self) -> str:
        return "good"

    @pytest.fixture
    def change_adapter(self, root, adapter_files) -> Callable[[], object]:
        return lambda: adapter_files(root / "base" / "good", seed=3)
