"""Adapters in S3: which are found, that no name leads elsewhere, and that bytes are pinned."""

from __future__ import annotations

import asyncio
import re
import threading

import pytest

from loramux.errors import AdapterRefusedError, AdapterUnavailableError, PluginError
from loramux_resolvers import s3, transfer
from tests.resolvers.fault_proxy import Fault, fault_proxy
from tests.resolvers.object_stores import BASE, fetch, found, noise, resolve, resolver_at
from tests.resolvers.s3_servers import BUCKET, KEY, SECRET, S3Server, moto, rclone
from tests.resolvers.test_filesystem import UNSAFE

__all__ = ["moto", "rclone"]

URI = f"s3://{BUCKET}/team"
LARGE = 20_000_000


@pytest.fixture(params=["moto", "rclone"])
def server(request, monkeypatch) -> S3Server:
    server = request.getfixturevalue(request.param)
    use(server, monkeypatch)
    return server


@pytest.fixture
def only_moto(moto, monkeypatch) -> S3Server:
    use(moto, monkeypatch)
    return moto


@pytest.fixture(scope="module")
def moto_proxy(moto):
    with fault_proxy(moto.url) as proxy:
        yield proxy


@pytest.fixture
def proxy(only_moto, moto_proxy, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_proxy.url)
    moto_proxy.reset()
    return moto_proxy


def use(server, monkeypatch):
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)


# --- what is found ------------------------------------------------------------------------------


def test_an_adapter_is_found_and_fetched(server, tmp_path):
    tensors = noise(1000)
    server.put_adapter("team/good", tensors, b'{"r": 8}')
    request = resolve(resolver_at(URI), "good")
    assert request.lora_name == "good"
    assert request.lora_path == request.source.uri == f"{URI}/good"
    assert request.base_model_name is None
    assert fetch(request.source, tmp_path) == tensors
    assert (tmp_path / "adapter_config.json").read_bytes() == b'{"r": 8}'
    assert len(list(tmp_path.iterdir())) == 2


def test_a_large_adapter_comes_in_parts(server, tmp_path):
    tensors = noise(LARGE)
    server.put_adapter("team/large", tensors)
    assert fetch(found(resolver_at(URI), "large"), tmp_path) == tensors


def test_an_adapter_uploaded_in_parts_has_a_revision(only_moto, tmp_path):
    tensors = noise(6 * 2**20)
    client, key = only_moto.client(), "team/parts/adapter_model.safetensors"
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    parts = []
    for number, part in enumerate((tensors[: 5 * 2**20], tensors[5 * 2**20 :]), 1):
        answer = client.upload_part(
            Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=part
        )
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
    client.complete_multipart_upload(
        Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
    )
    only_moto.put("team/parts/adapter_config.json", b"{}")
    source = found(resolver_at(URI), "parts")
    assert source.tensors.etag.endswith("-2")
    assert fetch(source, tmp_path) == tensors


def test_what_is_not_there_is_not_found(server):
    server.put("team/only-tensors/adapter_model.safetensors", b"x")
    server.put_adapter("elsewhere/good", b"x")
    for name in ("missing", "only-tensors", "elsewhere/good", "x" * 512, "\U00010000" * 300):
        assert resolve(resolver_at(URI), name) is None


def test_a_name_too_long_for_a_key_is_not_asked_for(proxy):
    assert resolve(resolver_at(URI), "\U00010000" * 300) is None
    assert proxy.requests == []


def test_adapters_may_come_and_go(server):
    resolver = resolver_at(URI)
    assert resolve(resolver, "late") is None
    server.put_adapter("team/late", b"x")
    assert resolve(resolver, "late") is not None
    server.client().delete_object(Bucket=BUCKET, Key="team/late/adapter_config.json")
    assert resolve(resolver, "late") is None


@pytest.mark.parametrize("uri", [f"s3://{BUCKET}", f"s3://{BUCKET}/", f"s3a://{BUCKET}/"])
def test_a_bucket_may_be_the_whole_address(only_moto, uri):
    only_moto.put_adapter("at-the-top", b"x")
    assert resolve(resolver_at(uri), "at-the-top").lora_path == f"{uri.rstrip('/')}/at-the-top"


@pytest.mark.parametrize(
    ("base", "folder"),
    [(BASE, BASE), (BASE, "Llama-3.2-3B"), ("/models/tiny/", "tiny"), ("tiny", "tiny")],
)
def test_the_base_model_may_be_part_of_the_address(only_moto, base, folder):
    only_moto.put_adapter(f"by-base/{folder}/loras/good", folder.encode())
    request = resolve(resolver_at(f"s3://{BUCKET}/by-base/{{base_model_name}}/loras"), "good", base)
    assert request.base_model_name == base
    assert request.lora_path == f"s3://{BUCKET}/by-base/{folder}/loras/good"
    only_moto.client().delete_object(
        Bucket=BUCKET, Key=f"by-base/{folder}/loras/good/adapter_config.json"
    )


@pytest.mark.parametrize("base", ["..", "../secret", "", "/", "a/../b", "%2e%2e", "..\\x"])
def test_a_base_model_name_leads_nowhere_else(only_moto, base):
    only_moto.put_adapter(f"by-base/{base}/good", b"x")
    assert resolve(resolver_at(f"s3://{BUCKET}/by-base/{{base_model_name}}"), "good", base) is None


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNSAFE, ids=range(len(UNSAFE)))
def test_no_unsafe_name_is_asked_for(proxy, name):
    assert resolve(resolver_at(URI), name) is None
    assert proxy.requests == []


def test_a_key_with_dots_is_legal_and_is_not_looked_at(only_moto):
    only_moto.put_adapter("team/../secret", b"x")
    only_moto.put_adapter("team//secret", b"x")
    for name in ("../secret", "/secret"):
        assert resolve(resolver_at(URI), name) is None


def test_a_prefix_that_begins_alike_is_another(only_moto):
    only_moto.put_adapter("team-other/good", b"x")
    for name in ("-other/good", "../team-other/good", "team-other/good"):
        assert resolve(resolver_at(URI), name) is None


@pytest.mark.parametrize(
    "name", ["a b", "100%", "a?versionId=1", "a#b", "a&b=c", "a+b", "org/näme/名", "ft:base::x"]
)
def test_a_name_means_itself(server, name, tmp_path):
    server.put_adapter("team/a", b"not this one")
    server.put_adapter(f"team/{name}", name.encode())
    assert fetch(found(resolver_at(URI), name), tmp_path) == name.encode()


# --- revisions ----------------------------------------------------------------------------------


def test_equal_bytes_are_equal_sources_and_others_are_not(server):
    server.put_adapter("team/same", b"one")
    resolver = resolver_at(URI)
    first, again = found(resolver, "same"), found(resolver_at(URI), "same")
    assert first == again
    assert hash(first) == hash(again)
    assert '"' not in first.revision
    server.put_adapter("team/same", b"two")
    changed = found(resolver, "same")
    assert changed != first
    assert changed.revision != first.revision


def test_an_adapter_replaced_before_it_is_read_is_not_mixed(server, tmp_path):
    server.put_adapter("team/replaced", b"one")
    source = found(resolver_at(URI), "replaced")
    server.put_adapter("team/replaced", b"two")
    with pytest.raises(AdapterUnavailableError, match="changed while being read; ask again"):
        fetch(source, tmp_path)


def test_an_adapter_removed_before_it_is_read_is_gone(server, tmp_path):
    server.put_adapter("team/removed", b"one")
    source = found(resolver_at(URI), "removed")
    server.client().delete_object(Bucket=BUCKET, Key="team/removed/adapter_model.safetensors")
    with pytest.raises(AdapterUnavailableError, match="went away while being read"):
        fetch(source, tmp_path)


@pytest.fixture
def versions(only_moto) -> str:
    client = only_moto.client()
    client.create_bucket(Bucket="versions")
    client.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    for key, content in (("config.json", b"{}"), ("model.safetensors", b"one")):
        only_moto.put(f"a/adapter_{key}", content, "versions")
    yield "s3://versions"
    for version in client.list_object_versions(Bucket="versions")["Versions"]:
        client.delete_object(Bucket="versions", Key=version["Key"], VersionId=version["VersionId"])
    client.delete_bucket(Bucket="versions")


def test_a_version_is_read_although_there_is_a_newer_one(only_moto, versions, tmp_path):
    source = found(resolver_at(versions), "a")
    assert "version:" in source.revision
    only_moto.put("a/adapter_model.safetensors", b"two", "versions")
    assert fetch(source, tmp_path) == b"one"
    assert found(resolver_at(versions), "a") != source


def test_without_the_right_to_read_versions_the_etag_has_to_do(proxy, versions, tmp_path):
    proxy.fault = lambda request: Fault(status=403) if "versionId" in request.path else None
    resolver = resolver_at(versions)
    assert fetch(found(resolver, "a"), tmp_path) == b"one"


# --- fetching -----------------------------------------------------------------------------------


def test_parts_are_asked_for_once_each(proxy, only_moto, tmp_path):
    only_moto.put_adapter("team/parts-once", noise(LARGE))
    fetch(found(resolver_at(URI), "parts-once"), tmp_path)
    parts = [request for request in proxy.requests if request.is_part]
    assert all(re.fullmatch(r'"[0-9a-f-]+"', part.if_match) for part in parts)
    assert sorted(part.range for part in parts) == sorted(
        f"bytes={start}-{min(start + transfer.PART_BYTES, LARGE) - 1}"
        for start in range(0, LARGE, transfer.PART_BYTES)
    )


def test_progress_is_told_in_the_callers_thread_and_ends_at_the_total(only_moto, tmp_path):
    only_moto.put_adapter("team/told", noise(LARGE))
    told, threads = [], set()

    def progress(done, total):
        told.append((done, total))
        threads.add(threading.current_thread())

    fetch(found(resolver_at(URI), "told"), tmp_path, progress)
    assert told[0] == (0, LARGE + 2)
    assert told[-1] == (LARGE + 2, LARGE + 2)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({done for done, _ in told}) == 5
    assert threads == {threading.current_thread()}


class Left(BaseException):
    """Nobody waits any more."""


def test_when_progress_raises_nothing_more_is_read(proxy, only_moto, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "PART_BYTES", 1000)
    only_moto.put_adapter("team/left", noise(100_000))

    def leave(done, total):
        if done > 3000:
            raise Left

    with pytest.raises(Left):
        fetch(found(resolver_at(URI), "left"), tmp_path, leave)
    count = len(proxy.requests)
    assert count < 20
    asyncio.run(asyncio.sleep(0.2))
    assert len(proxy.requests) <= count + transfer.PARALLEL_PARTS


def test_an_empty_file_is_fetched_as_such(server, tmp_path):
    server.put_adapter("team/empty", b"", b"")
    assert fetch(found(resolver_at(URI), "empty"), tmp_path) == b""


def test_too_large_an_adapter_is_refused_before_a_byte_is_read(proxy, only_moto, tmp_path):
    only_moto.put_adapter("team/huge", b"x" * 1000)
    source = found(resolver_at(URI, max_bytes=1001), "huge")
    looks = len(proxy.requests)
    with pytest.raises(AdapterRefusedError, match="1002 bytes, more than the 1001 allowed; raise"):
        fetch(source, tmp_path)
    assert len(proxy.requests) == looks
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_without_tensors_is_refused(only_moto, tmp_path):
    only_moto.put("team/half/adapter_config.json", b"{}")
    source = found(resolver_at(URI), "half")
    with pytest.raises(AdapterRefusedError, match=r"no adapter_model\.safetensors; upload"):
        fetch(source, tmp_path)


# --- access -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_SECRET_ACCESS_KEY", "a-wrong-secret"), ("AWS_ACCESS_KEY_ID", "a-wrong-key")],
)
def test_wrong_credentials_are_not_a_missing_adapter(rclone, monkeypatch, variable, value):
    use(rclone, monkeypatch)
    rclone.put_adapter("team/good", b"x")
    assert resolve(resolver_at(URI), "good") is not None
    monkeypatch.setenv(variable, value)
    for name in ("good", "missing"):
        with pytest.raises(AdapterUnavailableError, match="access is denied") as caught:
            resolve(resolver_at(URI), name)
        assert not any(secret in str(caught.value) for secret in (KEY, SECRET, value))


def test_no_credentials_are_not_a_missing_adapter(only_moto, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AdapterUnavailableError, match="NoCredentialsError"):
        resolve(resolver_at(URI), "good")


def test_a_profile_is_read(rclone, monkeypatch, tmp_path):
    use(rclone, monkeypatch)
    rclone.put_adapter("team/good", b"x")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert resolve(resolver_at(URI), "good") is not None


def test_a_missing_bucket_is_not_a_missing_adapter(server):
    with pytest.raises(AdapterUnavailableError, match="no such bucket"):
        resolve(resolver_at("s3://no-such-bucket/team"), "good")


def test_a_forbidden_key_is_not_a_missing_adapter(proxy):
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    proxy.fault = lambda request: Fault(status=403, body=body)
    with pytest.raises(AdapterUnavailableError, match=r"HTTP 403 AccessDenied.*s3:ListBucket"):
        resolve(resolver_at(URI), "good")
    assert len(proxy.requests) <= 2  # one for each file: trying again would not help


# --- the plugin ---------------------------------------------------------------------------------


def test_the_environment_names_the_address(monkeypatch):
    monkeypatch.setenv(s3.VARIABLE, f" {URI}/ ")
    monkeypatch.setenv("LORAMUX_MAX_ADAPTER_BYTES", "1GiB")
    offered = {}
    assert s3.missing_configuration() is None
    s3.register_lora_resolvers(offered.__setitem__)
    ((name, resolver),) = offered.items()
    assert (name, resolver.uri) == ("lora_s3_resolver", URI)
    assert resolver._max_bytes == 2**30


def test_without_an_address_it_says_what_is_missing(monkeypatch):
    monkeypatch.delenv(s3.VARIABLE, raising=False)
    assert "LORAMUX_LORA_RESOLVER_S3_URI is not set" in s3.missing_configuration()


@pytest.mark.parametrize("uri", ["gs://bucket", "/a/directory", "bucket/prefix", "s3://", "s3:/x"])
def test_an_address_of_no_bucket_is_refused(monkeypatch, uri):
    monkeypatch.setenv(s3.VARIABLE, uri)
    with pytest.raises(PluginError, match=f"{s3.VARIABLE} (is|does not begin)"):
        s3.register_lora_resolvers({}.__setitem__)
