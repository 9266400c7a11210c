"""Adapters at addresses that are not S3's: web servers, directories, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from loramux.env import EnvironmentVariableError
from loramux.errors import AdapterUnavailableError, PluginError
from loramux_resolvers import store_failure, transfer, uri
from loramux_resolvers.open_store import open_store
from loramux_resolvers.store import LocalStore, StoredObject
from tests.resolvers.fault_proxy import Fault, Request, fault_proxy
from tests.resolvers.object_stores import BASE, fetch, found, noise, resolve, resolver_at
from tests.resolvers.s3_servers import rclone_command, running
from tests.resolvers.test_filesystem import UNSAFE, checkpoint

TENSORS = noise(50_000)


@pytest.fixture(scope="module")
def web_directory(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def plain(web_directory):
    """A web server without range requests."""
    command = [sys.executable, "-u", "-m", "http.server", "--bind=127.0.0.1", "0"]
    with running([*command, f"--directory={web_directory}"]) as url:
        yield url


@pytest.fixture(scope="module")
def ranged(web_directory):
    """A web server with range requests."""
    with running(rclone_command("http", str(web_directory), "--dir-cache-time=0s")) as url:
        yield url


@pytest.fixture(params=["plain", "ranged"])
def server(request, monkeypatch) -> str:
    monkeypatch.setattr(transfer, "PART_BYTES", 10_000)
    monkeypatch.setattr(store_failure, "FIRST_PAUSE_SECONDS", 0.005)
    return request.getfixturevalue(request.param)


@pytest.fixture
def proxy(ranged, monkeypatch):
    monkeypatch.setattr(transfer, "PART_BYTES", 10_000)
    monkeypatch.setattr(store_failure, "FIRST_PAUSE_SECONDS", 0.005)
    with fault_proxy(ranged) as proxy:
        yield proxy


def put_adapter(directory: Path, tensors: bytes = TENSORS) -> Path:
    checkpoint(directory)
    (directory / "adapter_model.safetensors").write_bytes(tensors)
    return directory


# --- the web ------------------------------------------------------------------------------------


def test_an_adapter_on_the_web_is_found_and_fetched(server, web_directory, tmp_path):
    put_adapter(web_directory / "loras" / "good")
    request = resolve(resolver_at(f"{server}/loras/"), "good")
    assert request.lora_path == f"{server}/loras/good"
    assert fetch(request.source, tmp_path) == TENSORS


@pytest.mark.parametrize("host", ["169.254.169.254", "localhost:1", "0x7f000001", "[::1]:1"])
def test_no_web_server_leads_to_another(proxy, web_directory, host):
    put_adapter(web_directory / "moved")
    away = Fault(status=302, headers={"Location": f"http://{host}/latest"})
    proxy.fault = lambda request: away
    with pytest.raises(AdapterUnavailableError, match="redirects to another one") as refusal:
        resolve(resolver_at(proxy.url), "moved")
    assert host not in str(refusal.value)


def test_a_web_server_may_lead_to_itself(proxy, web_directory, tmp_path):
    put_adapter(web_directory / "moved")

    def lead(request: Request) -> Fault | None:
        _, folder, file = request.path.split("/")
        return Fault(302, headers={"Location": f"/moved/{file}"}) if folder == "old" else None

    proxy.fault = lead
    assert fetch(found(resolver_at(proxy.url), "old"), tmp_path) == TENSORS
    proxy.fault = lambda request: Fault(302, headers={"Location": request.path})
    with pytest.raises(AdapterUnavailableError, match="again and again"):
        resolve(resolver_at(proxy.url), "old")


def test_what_is_not_on_the_web_is_not_found(server, web_directory):
    put_adapter(web_directory / "good")
    for name in ("missing", "good/missing", "x" * 256):
        assert resolve(resolver_at(server), name) is None


@pytest.mark.parametrize("name", ["a b", "100%", "a?b=c", "a#b", "a&b+c;d", "näme/名", "ft:b@c"])
def test_a_name_on_the_web_means_itself(server, web_directory, name, tmp_path):
    put_adapter(web_directory / "a", b"not this one")
    put_adapter(web_directory / name, name.encode())
    assert fetch(found(resolver_at(server), name), tmp_path) == name.encode()


@pytest.mark.parametrize("name", ["good?", "good#", "good?x=/../secret", "good#/secret"])
def test_a_name_on_the_web_is_a_path_alone(server, web_directory, name):
    put_adapter(web_directory / "good")
    assert resolve(resolver_at(server), name) is None


def test_no_unsafe_name_is_asked_for_on_the_web(proxy, web_directory):
    put_adapter(web_directory / "secret")
    resolver = resolver_at(f"{proxy.url}/loras")
    assert [resolve(resolver, name) for name in UNSAFE] == [None] * len(UNSAFE)
    assert proxy.requests == []


def test_the_base_model_may_be_part_of_a_web_address(proxy, web_directory, tmp_path):
    put_adapter(web_directory / "a#b" / "good")
    request = resolve(resolver_at(f"{proxy.url}/{{base_model_name}}"), "good", "a#b")
    assert request.base_model_name == "a#b"
    assert fetch(request.source, tmp_path) == TENSORS


def test_a_file_of_the_web_is_read_in_parts_where_that_is_possible(proxy, web_directory, tmp_path):
    put_adapter(web_directory / "good")
    assert fetch(found(resolver_at(proxy.url), "good"), tmp_path) == TENSORS
    assert len({request.range for request in proxy.requests if request.is_part}) == 5


def test_a_file_of_the_web_that_changes_is_another(server, web_directory, tmp_path):
    directory = put_adapter(web_directory / "changing")
    os.utime(directory / "adapter_model.safetensors", (1, 1))
    source = found(resolver_at(server), "changing")
    put_adapter(directory, noise(50_000, seed=1))
    assert found(resolver_at(server), "changing") != source
    with pytest.raises(AdapterUnavailableError, match="changed while being read"):
        fetch(source, tmp_path)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=401), "access is denied .HTTP 401."),
        (Fault(status=403), "access is denied .HTTP 403."),
        (Fault(status=418), "refuses the request .HTTP 418."),
        (Fault(status=500), "in trouble .HTTP 500."),
        (Fault(status=429), "in trouble .HTTP 429."),
        (Fault(cut=0, reset=True), "cannot be read"),
        (Fault(headers={"Last-Modified": "", "ETag": ""}), "neither ETag nor modification time"),
        (Fault(headers={"Content-Range": "bytes 0-0/*"}), "does not say how long"),
    ],
)
def test_trouble_on_the_web_is_not_a_missing_adapter(proxy, web_directory, fault, words):
    put_adapter(web_directory / "good")
    proxy.fault = lambda request: fault
    with pytest.raises(AdapterUnavailableError, match=words):
        resolve(resolver_at(proxy.url), "good")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(keep=100), "sent 100 bytes where 10000 were asked for; try again"),
        (Fault(cut=100), "cannot be read"),
        (Fault(status=503), "HTTP 503"),
        (Fault(status=404), "went away while being read"),
        (Fault(status=412), "changed while being read"),
        (Fault(status=200, body=b"x" * 10_000), "a part of a file with HTTP 200"),
        (Fault(headers={"ETag": '"new"'}), "changed while being read"),
    ],
)
def test_trouble_on_the_web_midway_ends_the_fetch(proxy, web_directory, fault, words, tmp_path):
    put_adapter(web_directory / "good")
    proxy.fault = lambda request: fault if request.range == "bytes=20000-29999" else None
    with pytest.raises(AdapterUnavailableError, match=words):
        fetch(found(resolver_at(proxy.url), "good"), tmp_path)


def test_a_web_file_with_an_etag_is_read_under_its_condition(proxy, web_directory, tmp_path):
    put_adapter(web_directory / "good")
    conditions = []

    def note(request):
        return Fault(headers={"ETag": '"one"'}, before=lambda: conditions.append(request.if_match))

    proxy.fault = note
    source = found(resolver_at(proxy.url), "good")
    assert source.tensors.revision == "etag:one"
    fetch(source, tmp_path)
    assert conditions.count('"one"') == 6
    assert set(conditions) == {'"one"', ""}


# --- directories and memory ---------------------------------------------------------------------


def test_a_directory_is_a_store(tmp_path):
    put_adapter(tmp_path / "root" / "org" / "good")
    (tmp_path / "copy").mkdir()
    resolver = resolver_at(f"file://{tmp_path}/root")
    request = resolve(resolver, "org/good")
    assert request.lora_path == f"file://{tmp_path}/root/org/good"
    assert fetch(request.source, tmp_path / "copy") == TENSORS
    assert resolve(resolver, "org") is None
    assert resolve(resolver, "missing") is None
    assert resolve(resolver, "x" * 500) is None


def test_a_link_in_a_directory_leads_nowhere_else(tmp_path):
    put_adapter(tmp_path / "secret")
    good = put_adapter(tmp_path / "root" / "good")
    (tmp_path / "root" / "exit").symlink_to(tmp_path / "secret")
    (tmp_path / "root" / "alias").symlink_to("good")
    resolver = resolver_at(f"file://{tmp_path}/root")
    assert resolve(resolver, "exit") is None
    assert resolve(resolver, "alias") is not None
    (good / "adapter_config.json").unlink()
    (good / "adapter_config.json").symlink_to(tmp_path / "secret" / "adapter_config.json")
    assert resolve(resolver, "good") is None


def test_a_link_that_leads_out_while_it_is_read_is_not_followed(tmp_path, monkeypatch):
    put_adapter(tmp_path / "secret")
    put_adapter(tmp_path / "root" / "good")
    source = found(resolver_at(f"file://{tmp_path}/root"), "good")
    (tmp_path / "root" / "good").rename(tmp_path / "former")
    (tmp_path / "root" / "good").symlink_to(tmp_path / "secret")
    monkeypatch.setattr(LocalStore, "is_unchanged", unchanged)  # as if it were put back by then
    (tmp_path / "copy").mkdir()
    with pytest.raises(AdapterUnavailableError, match="changed while being read"):
        fetch(source, tmp_path / "copy")


async def unchanged(store: LocalStore, item: StoredObject) -> bool:
    return True


def test_the_base_model_may_be_part_of_a_directory(tmp_path):
    put_adapter(tmp_path / "for-tiny" / "good")
    put_adapter(tmp_path / "secret")
    (tmp_path / "for-tiny" / "exit").symlink_to("/etc")
    resolver = resolver_at(f"file://{tmp_path}/for-{{base_model_name}}")
    assert resolve(resolver, "good", "tiny").base_model_name == "tiny"
    assert resolve(resolver, "good", BASE) is None
    assert resolve(resolver, "exit/secret", "tiny") is None


def test_a_file_replaced_before_it_is_read_is_not_mixed(tmp_path):
    put_adapter(tmp_path / "good")
    source = found(resolver_at(f"file://{tmp_path}"), "good")
    put_adapter(tmp_path / "good", noise(50_000, seed=1))
    (tmp_path / "copy").mkdir()
    with pytest.raises(AdapterUnavailableError, match="changed while being read"):
        fetch(source, tmp_path / "copy")


def test_a_directory_that_cannot_be_looked_at_is_not_a_missing_adapter(tmp_path, monkeypatch):
    def deny(path, **kwargs):
        raise PermissionError(13, "Permission denied", path)

    resolver = resolver_at(f"file://{tmp_path}")
    monkeypatch.setattr(resolver._store._filesystem, "info", deny)
    with pytest.raises(AdapterUnavailableError, match="access is denied"):
        resolve(resolver, "good")


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/loras/good/adapter_config.json", b"{}")
    filesystem.pipe_file("/loras/good/adapter_model.safetensors", TENSORS)
    yield filesystem
    filesystem.rm("/loras", recursive=True)


def test_any_file_system_of_fsspec_is_a_store(memory, tmp_path):
    resolver = resolver_at("memory://loras")
    source = found(resolver, "good")
    assert fetch(source, tmp_path) == TENSORS
    assert resolve(resolver, "missing") is None
    memory.pipe_file("/loras/good/adapter_model.safetensors", TENSORS)
    assert found(resolver, "good") != source


def test_a_file_system_without_conditions_is_looked_at_again(memory, tmp_path, monkeypatch):
    """The file is replaced after its only part was read: the bytes are right, the pair may not."""
    resolver = resolver_at("memory://loras")
    source = found(resolver, "good")
    genuine = source.store._filesystem.cat_file

    def replaced_afterwards(path, **kwargs):
        data = genuine(path, **kwargs)
        memory.pipe_file("/loras/good/adapter_config.json", b"{ }")
        return data

    monkeypatch.setattr(source.store._filesystem, "cat_file", replaced_afterwards)
    with pytest.raises(AdapterUnavailableError, match="changed while being read"):
        fetch(source, tmp_path)


def test_a_file_system_that_gives_too_little_is_noticed(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(store_failure, "FIRST_PAUSE_SECONDS", 0.005)
    source = found(resolver_at("memory://loras"), "good")
    monkeypatch.setattr(source.store._filesystem, "cat_file", lambda path, **kwargs: b"x")
    with pytest.raises(AdapterUnavailableError, match="sent 1 bytes where"):
        fetch(source, tmp_path)


@pytest.mark.parametrize(
    ("told", "revision"),
    [
        ({"ETag": '"abc"', "mtime": 5}, "etag:abc"),
        ({"generation": 7, "etag": "x", "updated": "today"}, "generation:7 etag:x"),
        ({"mtime": 1.5, "ino": 3}, "mtime:1.5 ino:3"),
        ({"last_modified": "today"}, "last_modified:today"),
    ],
)
def test_the_best_that_a_file_system_tells_is_the_revision(memory, monkeypatch, told, revision):
    resolver = resolver_at("memory://loras")
    info = {"type": "file", "size": 2, **told}
    monkeypatch.setattr(resolver._store._filesystem, "info", lambda path: info)
    assert found(resolver, "good").config.revision == revision


def test_a_file_system_that_tells_nothing_cannot_be_pinned(memory, monkeypatch):
    resolver = resolver_at("memory://loras")
    filesystem = resolver._store._filesystem
    monkeypatch.setattr(filesystem, "info", lambda path: {"type": "file", "size": 2})
    with pytest.raises(AdapterUnavailableError, match="neither ETag nor modification time"):
        resolve(resolver, "good")
    monkeypatch.setattr(type(filesystem), "checksum", lambda self, path: 77, raising=False)
    assert found(resolver, "good").config.revision == "checksum:77"


# --- the plugin ---------------------------------------------------------------------------------


def register(monkeypatch, address: str) -> dict[str, object]:
    monkeypatch.setenv(uri.VARIABLE, address)
    offered: dict[str, object] = {}
    uri.register_lora_resolvers(offered.__setitem__)
    return offered


@pytest.mark.parametrize(
    "address", ["memory://loras", "file:///loras", "https://host/loras", "s3://bucket/loras"]
)
def test_the_environment_names_the_address(monkeypatch, address):
    assert register(monkeypatch, address)["lora_uri_resolver"].uri == address


def test_without_an_address_it_says_what_is_missing(monkeypatch):
    monkeypatch.delenv(uri.VARIABLE, raising=False)
    assert "LORAMUX_LORA_RESOLVER_URI is not set" in uri.missing_configuration()


@pytest.mark.parametrize(
    ("protocol", "package", "words"),
    [
        ("s3", "s3fs", "; install it with: pip install 's3fs'."),
        ("gs", "gcsfs", "; install it with: pip install 'gcsfs'."),
        ("az", "adlfs", "; install it with: pip install 'adlfs'."),
        ("sftp", "paramiko", ' (SFTPFileSystem requires "paramiko" to be installed); install it.'),
    ],
)
def test_a_missing_package_is_named_at_the_start(monkeypatch, protocol, package, words):
    monkeypatch.delitem(sys.modules, "loramux_resolvers.s3_store", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PluginError) as refused:
        register(monkeypatch, f"{protocol}://bucket/prefix")
    assert str(refused.value) == (
        f"LORAMUX_LORA_RESOLVER_URI is '{protocol}://bucket/prefix', for which a package is "
        f"missing{words}"
    )


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/a/directory", "protocol fsspec does not know"),
        ("nonsense://x", "protocol fsspec does not know"),
        ("https:///x", "without a bucket or host"),
        ("https://[host", "is no address"),
        ("https://me:hidden@host/x", "user name, password or query"),
        ("https://hidden@host/x", "user name, password or query"),
        ("https://host/x?token=hidden", "user name, password or query"),
        ("sftp://me:hidden@host/x", "user name, password or query"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(monkeypatch, address, words):
    with pytest.raises(PluginError, match=words) as caught:
        register(monkeypatch, address)
    assert "hidden" not in str(caught.value)


def test_a_limit_that_is_no_size_is_refused(monkeypatch):
    monkeypatch.setenv("LORAMUX_MAX_ADAPTER_BYTES", "lots")
    with pytest.raises(EnvironmentVariableError, match="LORAMUX_MAX_ADAPTER_BYTES"):
        register(monkeypatch, "memory://loras")


def test_looking_at_the_plugins_imports_none_of_the_clients():
    code = (
        "import sys, loramux_resolvers.s3, loramux_resolvers.uri;"
        "print([name for name in ('s3fs', 'fsspec', 'aiohttp', 'torch') if name in sys.modules])"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_opening_a_store_asks_it_nothing():
    assert open_store("http://127.0.0.1:9/x").root == "http://127.0.0.1:9/x"
