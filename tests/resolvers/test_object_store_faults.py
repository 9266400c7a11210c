"""Faults on the way to a store: no wrong bytes, no leftovers, no endless wait, and a clear word."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from fsspec.asyn import get_loop

from loramux.errors import AdapterUnavailableError
from loramux.lora.disk_cache.cache import DiskCache
from loramux_resolvers import s3_session, store_failure, transfer
from loramux_resolvers.store_failure import ATTEMPTS
from tests.resolvers.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.resolvers.object_stores import fetch, found, noise, resolve, resolver_at
from tests.resolvers.s3_servers import BUCKET, KEY, SECRET, moto

__all__ = ["moto"]

URI = f"s3://{BUCKET}/team"
TENSORS = noise(50_000)
PART_BYTES = 10_000
THIRD_PART = "bytes=20000-29999"


@pytest.fixture(scope="module")
def moto_proxy(moto):
    moto.put_adapter("team/good", TENSORS)
    with fault_proxy(moto.url) as proxy:
        yield proxy


@pytest.fixture
def proxy(moto, moto_proxy, monkeypatch) -> FaultProxy:
    monkeypatch.setattr(transfer, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(store_failure, "FIRST_PAUSE_SECONDS", 0.005)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in moto.environment(moto_proxy.url).items():
        monkeypatch.setenv(name, value)
    moto_proxy.reset()
    return moto_proxy


@pytest.fixture
def cache(tmp_path) -> DiskCache:
    return DiskCache(tmp_path / "cache", 10**9)


def good_source():
    return found(resolver_at(URI), "good")


def fetched(cache: DiskCache) -> bytes:
    with cache.get_or_fetch(good_source(), lambda done, total: None) as checkpoint:
        return (checkpoint.directory / "adapter_model.safetensors").read_bytes()


def assert_nothing_is_left(cache: DiskCache) -> None:
    files = [path for path in cache.directory.rglob("*") if not path.is_dir()]
    assert files == [cache.directory / "lock"]


def assert_tells_no_secret(error: BaseException) -> None:
    assert str(error).startswith(f"{URI}/good: ")
    assert not any(secret in str(error) for secret in (KEY, SECRET, "127.0.0.1", "secret of"))


def code(text: str) -> bytes:
    return f"<Error><Code>{text}</Code><Message>secret of the server</Message></Error>".encode()


TRANSPORT_FAULTS = {
    "shorter than asked for": Fault(keep=100),
    "empty": Fault(keep=0),
    "cut off": Fault(cut=100),
    "cut off at once": Fault(cut=0),
    "reset midway": Fault(cut=5000, reset=True),
    "reset at once": Fault(cut=0, reset=True),
    "500": Fault(status=500, body=code("InternalError")),
    "502 of a gateway": Fault(status=502, body=b"<html>Bad Gateway</html>"),
    "503": Fault(status=503, body=code("SlowDown")),
    "503 without a word": Fault(status=503),
    "429": Fault(status=429, body=code("TooManyRequests")),
    "408": Fault(status=400, body=code("RequestTimeout")),
}
LOOK_UP_FAULTS = {
    name: fault for name, fault in TRANSPORT_FAULTS.items() if not (fault.keep or fault.cut)
}
faults = pytest.mark.parametrize("fault", TRANSPORT_FAULTS.values(), ids=TRANSPORT_FAULTS)


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_not_followed(proxy, moto, status):
    """Nor to what an endpoint of S3's must not reach, such as a cloud's metadata."""
    with fault_proxy(moto.url) as elsewhere:
        away = Fault(status=status, headers={"Location": f"{elsewhere.url}/latest/meta-data"})
        proxy.fault = lambda request: away
        with pytest.raises(AdapterUnavailableError) as caught:
            resolve(resolver_at(URI), "good")
        assert_tells_no_secret(caught.value)
        assert elsewhere.requests == []


def test_an_error_without_end_is_not_read_to_its_end(proxy, monkeypatch):
    monkeypatch.setattr(s3_session, "MAX_ERROR_BYTES", 1000)
    proxy.fault = lambda request: Fault(status=404, body=b" " * 2000)
    with pytest.raises(AdapterUnavailableError, match="try again later"):
        resolve(resolver_at(URI), "good")


# --- faults of the transport --------------------------------------------------------------------


@faults
def test_a_fault_that_passes_is_not_noticed(proxy, cache, fault):
    proxy.fault = lambda request: fault if request.is_part and request.number == 0 else None
    assert fetched(cache) == TENSORS
    assert len([request for request in proxy.requests if request.is_part]) == 2 * 5


@faults
def test_a_fault_that_stays_ends_the_fetch(proxy, cache, fault):
    proxy.fault = lambda request: fault if request.range == THIRD_PART else None
    with pytest.raises(AdapterUnavailableError, match="try again later") as caught:
        fetched(cache)
    assert_tells_no_secret(caught.value)
    assert_nothing_is_left(cache)
    assert len([r for r in proxy.requests if r.range == THIRD_PART]) == ATTEMPTS
    proxy.reset()
    assert fetched(cache) == TENSORS


@pytest.mark.parametrize("fault", LOOK_UP_FAULTS.values(), ids=LOOK_UP_FAULTS)
def test_a_fault_while_resolving_passes_or_is_told(proxy, fault):
    proxy.fault = lambda request: fault if request.number == 0 else None
    assert resolve(resolver_at(URI), "good") is not None
    proxy.fault = lambda request: fault
    with pytest.raises(AdapterUnavailableError, match="try again later") as caught:
        resolve(resolver_at(URI), "good")
    assert_tells_no_secret(caught.value)


def test_a_server_that_is_not_there_is_not_a_missing_adapter(proxy, monkeypatch):
    with fault_proxy(proxy.url) as stopped:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stopped.url)
    started = time.monotonic()
    with pytest.raises(AdapterUnavailableError, match="cannot be read") as caught:
        resolve(resolver_at(URI), "good")
    assert time.monotonic() - started < 30
    assert_tells_no_secret(caught.value)


def test_a_server_that_dies_midway_ends_the_fetch(proxy, cache, monkeypatch):
    with fault_proxy(proxy.url) as dying:
        monkeypatch.setenv("AWS_ENDPOINT_URL", dying.url)
        killed = threading.Event()

        def die(request):
            if request.range == THIRD_PART:
                killed.set()
            return Fault(cut=0, reset=True) if killed.is_set() else None

        dying.fault = die
        with pytest.raises(AdapterUnavailableError, match="try again later"):
            fetched(cache)
    assert_nothing_is_left(cache)


# --- answers that trying again cannot mend ------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=403, body=code("AccessDenied")), "access is denied .*s3:ListBucket"),
        (Fault(status=403, body=code("SignatureDoesNotMatch")), "access is denied .*credentials"),
        (Fault(status=403), "access is denied"),
        (Fault(status=404, body=code("NoSuchKey")), "went away while being read"),
        (Fault(status=412, body=code("PreconditionFailed")), "changed while being read"),
        (Fault(status=400, body=code("InvalidRequest")), "refuses the request .*InvalidRequest"),
        (Fault(headers={"ETag": '"another"'}), "changed while being read"),
    ],
)
def test_an_answer_of_the_server_is_told_at_once(proxy, cache, fault, words):
    proxy.fault = lambda request: fault if request.range == THIRD_PART else None
    with pytest.raises(AdapterUnavailableError, match=words) as caught:
        fetched(cache)
    assert_tells_no_secret(caught.value)
    assert_nothing_is_left(cache)
    assert len([r for r in proxy.requests if r.range == THIRD_PART]) == 1


def test_a_404_of_whatever_kind_is_a_missing_adapter(proxy):
    for body in (b"", code("NoSuchKey"), b"<html>not found</html>"):
        proxy.fault = lambda request, body=body: Fault(status=404, body=body)
        assert resolve(resolver_at(URI), "good") is None


# --- changes midway -----------------------------------------------------------------------------


@pytest.fixture
def replaced_midway(moto, proxy):
    def replace_once(request):
        if request.range == THIRD_PART and request.number == 0:
            return Fault(before=lambda: moto.put_adapter("team/good", noise(50_000, seed=1)))
        return None

    proxy.fault = replace_once
    yield
    moto.put_adapter("team/good", TENSORS)


def test_an_adapter_replaced_midway_is_not_mixed(replaced_midway, cache):
    with pytest.raises(AdapterUnavailableError, match="changed while being read; ask again to get"):
        fetched(cache)
    assert_nothing_is_left(cache)
    assert fetched(cache) == noise(50_000, seed=1)


def test_the_answers_etag_tells_where_conditions_are_ignored(
    replaced_midway, proxy, cache, monkeypatch
):
    source = good_source()
    genuine = source.store._get

    async def without_condition(path, start, end, **pin):
        return await genuine(path, start, end)

    monkeypatch.setattr(source.store, "_get", without_condition)
    with pytest.raises(AdapterUnavailableError, match="changed while being read"):
        cache.get_or_fetch(source, lambda done, total: None)
    assert_nothing_is_left(cache)


def test_a_last_look_tells_where_parts_have_no_etag(replaced_midway, proxy, cache, monkeypatch):
    source = good_source()
    genuine = source.store._get

    async def without_etag(path, start, end, **pin):
        answer = await genuine(path, start, end)
        return answer if end == 1 else {**answer, "ETag": ""}

    monkeypatch.setattr(source.store, "_get", without_etag)
    with pytest.raises(AdapterUnavailableError, match="changed while being read"):
        cache.get_or_fetch(source, lambda done, total: None)
    assert_nothing_is_left(cache)


# --- time ---------------------------------------------------------------------------------------


class TimeIsOver(Exception):
    """The deadline of whoever waits has passed."""


@pytest.mark.parametrize("pause", [0.01, 60], ids=["slow drip", "silence"])
def test_a_slow_server_holds_nobody_beyond_the_deadline(proxy, cache, pause):
    proxy.fault = lambda request: Fault(pause=pause) if request.is_part else None
    source = good_source()
    started = time.monotonic()

    def progress(done, total):
        if time.monotonic() - started > 0.3:
            raise TimeIsOver

    with pytest.raises(TimeIsOver):
        cache.get_or_fetch(source, progress)
    assert time.monotonic() - started < 30  # and a part takes more than a minute
    assert_nothing_is_left(cache)
    assert_no_part_is_awaited()


def assert_no_part_is_awaited() -> None:
    """Cancelling takes a moment, for it happens in fsspec's thread."""
    until = time.monotonic() + 50
    while any("_read_part" in str(task) for task in asyncio.all_tasks(get_loop())):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_look_up_that_is_cancelled_ends(proxy):
    asked = threading.Event()
    proxy.fault = lambda request: Fault(before=lambda: (asked.set(), proxy.closing.wait(60)))

    async def give_up() -> None:
        look_up = asyncio.create_task(resolver_at(URI).resolve_lora("base", "good"))
        assert await asyncio.to_thread(asked.wait, 60)
        look_up.cancel()
        await look_up

    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(give_up())
    assert time.monotonic() - started < 30


def test_a_slow_look_up_holds_up_no_other(proxy, moto):
    moto.put_adapter("team/quick", b"x")
    slow = threading.Event()
    proxy.fault = lambda request: (
        Fault(before=lambda: slow.wait(60)) if "/good/" in request.path else None
    )

    async def both() -> list[str]:
        resolver, finished = resolver_at(URI), []

        async def one(name: str) -> None:
            assert await resolver.resolve_lora("base", name) is not None
            finished.append(name)
            slow.set()

        await asyncio.gather(one("good"), one("quick"))
        return finished

    assert asyncio.run(both()) == ["quick", "good"]


def test_many_at_once_are_fetched_whole(proxy, moto, cache):
    """Eight adapters, each with faults of its own on the way."""
    contents = {f"many-{seed}": noise(30_000, seed) for seed in range(8)}
    for name, content in contents.items():
        moto.put_adapter(f"team/{name}", content)
    faults = list(TRANSPORT_FAULTS.values())
    proxy.fault = lambda request: (
        faults[len(proxy.requests) % len(faults)]
        if request.is_part and not request.number
        else None
    )
    failures = []

    def work(name: str) -> None:
        source = found(resolver_at(URI), name)
        with cache.get_or_fetch(source, lambda done, total: None) as checkpoint:
            content = (checkpoint.directory / "adapter_model.safetensors").read_bytes()
            if content != contents[name]:
                failures.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list((cache.directory / "adapters").iterdir())) == 8


def test_a_direct_fetch_without_faults(proxy, tmp_path):
    """What the other tests damage, undamaged and without a cache."""
    assert fetch(good_source(), tmp_path) == TENSORS
