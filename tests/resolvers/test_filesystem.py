"""Adapters in a directory: which are found, and that no name leads out of it."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loramux import LoRARequest
from loramux.errors import AdapterRefusedError, AdapterUnavailableError, PluginError
from loramux.lora.checkpoint.reader import read_config
from loramux.lora.fetch.locate import locate
from loramux.lora.fetch.origin import LocalCheckpoint
from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolver import NamedResolver, ResolverRegistry
from loramux.server.adapters.allowed_paths import AllowedPaths
from loramux.testing import ESCAPING_NAMES as UNSAFE
from loramux.testing import HOSTILE_NAMES as ATTACKS
from loramux_resolvers import filesystem
from loramux_resolvers.filesystem import FilesystemLoRAResolver
from loramux_resolvers.safe_names import why_unsafe

BASE = "meta-llama/Llama-3.2-3B"


def checkpoint(directory: Path) -> Path:
    """Something that looks like a PEFT checkpoint to a resolver."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text("{}")
    (directory / "adapter_model.safetensors").write_bytes(b"")
    return directory


def resolve(root: Path, name: str, base: str = BASE) -> LoRARequest | None:
    return asyncio.run(FilesystemLoRAResolver(root).resolve_lora(base, name))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory of adapters with a checkpoint on each way out of it."""
    for outside in (tmp_path, tmp_path / "secret", tmp_path / "root-of-others" / "x"):
        checkpoint(outside)
    root = tmp_path / "root"
    checkpoint(root / "good")
    return root


# --- what is found ----------------------------------------------------------------------------


def test_an_adapter_is_a_directory_with_a_configuration(root):
    request = resolve(root, "good")
    assert request is not None
    assert request.lora_name == "good"
    assert request.lora_path == str(root / "good")
    assert request.base_model_name is None
    assert request.load_inplace is False


def test_a_name_may_have_parts(root):
    checkpoint(root / "org" / "team" / "v1.2")
    assert resolve(root, "org/team/v1.2").lora_path == str(root / "org/team/v1.2")


@pytest.mark.parametrize(
    "name", ["missing", "good/missing", "empty", "file", "good/adapter_config.json"]
)
def test_anything_else_is_not_found(root, name):
    (root / "empty").mkdir()
    (root / "file").write_text("{}")
    assert resolve(root, name) is None


def test_a_directory_for_a_configuration_is_none(root):
    (root / "odd" / "adapter_config.json").mkdir(parents=True)
    assert resolve(root, "odd") is None


@pytest.mark.parametrize(
    ("base", "folder"),
    [
        (BASE, "meta-llama/Llama-3.2-3B"),
        (BASE, "Llama-3.2-3B"),
        ("/models/Llama-3.2-3B/", "Llama-3.2-3B"),
        ("tiny", "tiny"),
    ],
)
def test_the_base_models_own_directory_comes_first(root, base, folder):
    expected = checkpoint(root / folder / "good")
    request = resolve(root, "good", base)
    assert request.lora_path == str(expected)
    assert request.base_model_name == base
    assert resolve(root, "good", "another-base").lora_path == str(root / "good")


def test_the_full_name_of_the_base_model_comes_before_its_last_part(root):
    checkpoint(root / "Llama-3.2-3B" / "good")
    full = checkpoint(root / BASE / "good")
    assert resolve(root, "good").lora_path == str(full)


@pytest.mark.parametrize(
    "base", ["..", "../secret", "", "/", ".", "..\\secret", "%2e%2e", "a/../.."]
)
def test_a_base_model_name_leads_nowhere_else_either(root, base):
    checkpoint(root.parent / "good")
    assert resolve(root, "good", base).lora_path == str(root / "good")
    assert resolve(root, "x", base) is None


def test_adapters_may_come_and_go(root):
    resolver = FilesystemLoRAResolver(root)
    assert asyncio.run(resolver.resolve_lora(BASE, "late")) is None
    checkpoint(root / "late")
    assert asyncio.run(resolver.resolve_lora(BASE, "late")) is not None


def test_the_directory_may_be_a_link_and_change(root, tmp_path):
    other = tmp_path / "other"
    checkpoint(other / "new")
    link = tmp_path / "current"
    link.symlink_to(root)
    resolver = FilesystemLoRAResolver(link)
    assert asyncio.run(resolver.resolve_lora(BASE, "good")).lora_path == str(root / "good")
    link.unlink()
    link.symlink_to(other)
    assert asyncio.run(resolver.resolve_lora(BASE, "new")).lora_path == str(other / "new")
    assert asyncio.run(resolver.resolve_lora(BASE, "good")) is None


def test_a_relative_directory_stays_what_it_was(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    resolver = FilesystemLoRAResolver("root")
    monkeypatch.chdir("/")
    assert asyncio.run(resolver.resolve_lora(BASE, "good")).lora_path == str(root / "good")


def test_ids_are_positive_and_the_same_in_every_process(root):
    code = (
        "import asyncio; from loramux_resolvers.filesystem import FilesystemLoRAResolver as R; "
        f"print(asyncio.run(R({str(root)!r}).resolve_lora('b', 'good')).lora_int_id)"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == resolve(root, "good").lora_int_id > 0


# --- no way out -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS, ids=range(len(ATTACKS)))
def test_no_name_leads_out(root, name):
    assert resolve(root, name) is None


@pytest.mark.parametrize("name", ATTACKS, ids=range(len(ATTACKS)))
def test_no_name_leads_out_through_the_absolute_path_either(root, name):
    assert resolve(root, f"{root.parent}/{name}") is None
    assert resolve(root, f"{'../' * 20}{str(root.parent)[1:]}/{name}") is None


@pytest.mark.parametrize(
    "name",
    ["good", "org/good", "v1.2", "a-b_c", "ft:base:org::x", "näme", "名", "100%", "a b", "ﬁne"],
)
def test_ordinary_names_are_safe(name):
    assert why_unsafe(name) is None


@pytest.mark.parametrize("name", UNSAFE, ids=range(len(UNSAFE)))
def test_a_disguise_is_seen_through_before_any_file_is_looked_at(name):
    assert why_unsafe(name) is not None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("good/\uff05\uff12\uff45", "percent-encoded"),
        ("good/x%2Fy", "percent-encoded"),
        ("good/x%5cy", "percent-encoded"),
        ("good/x%00", "percent-encoded"),
        ("good/x%2525", "percent-encoded"),
        ("good/x\u2215y", "looks like a dot or a slash"),
        ("good\u2024x", "looks like a dot or a slash"),
        ("good\uff0fx", "looks like a dot or a slash"),
        ("\uff23:x", "drive letter"),
        ("a\u2100", "slash"),
        ("o\u0308", "normal form C"),
        ("good/x\u200b", "not printable"),
        ("good\\x", "backslash"),
        ("good//x", "empty component"),
        ("good/.x", "begins with a dot"),
    ],
)
def test_every_disguise_has_its_reason(name, reason):
    assert reason in str(why_unsafe(name))


@settings(max_examples=300, deadline=None)
@given(
    st.text()
    | st.lists(
        st.sampled_from(
            ["..", ".", "/", "\\", "%2e", "%2f", "good", "secret", "link", "\uff0e", "\u2215", "~"]
        )
    ).map("".join)
)
@example("../secret")
def test_no_text_at_all_leads_out(shared_root, name):
    request = resolve(shared_root, name)
    if request is not None:
        real = Path(request.lora_path).resolve()
        assert real.is_relative_to(shared_root.resolve())
        assert (real / "adapter_config.json").is_file()
        assert why_unsafe(name) is None


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shared")
    checkpoint(place)
    checkpoint(place / "secret")
    checkpoint(place / "root" / "good")
    (place / "root" / "link").symlink_to(place / "secret")
    return place / "root"


# --- symbolic links ---------------------------------------------------------------------------


def test_a_link_that_stays_inside_is_followed(root):
    (root / "latest").symlink_to("good")
    assert resolve(root, "latest").lora_path == str(root / "good")


def test_files_may_be_links_that_stay_inside(root):
    blobs = root / "blobs"
    checkpoint(blobs)
    snapshot = root / "snapshot"
    snapshot.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (snapshot / name).symlink_to(blobs / name)
    request = resolve(root, "snapshot")
    assert request.lora_path == str(snapshot)
    assert set(request.allowed_directories) == {str(snapshot), str(blobs)}
    assert configuration(request) == b"{}"


@pytest.mark.parametrize("whole", [False, True], ids=["file", "directory"])
def test_a_link_that_leads_out_by_the_time_it_is_read_is_refused(root, whole):
    request = resolve(root, "good")
    assert configuration(request) == b"{}"
    exchanged = root / "good" if whole else root / "good" / "adapter_config.json"
    exchanged.rename(root / "former")
    exchanged.symlink_to(root.parent / "secret" / ("." if whole else "adapter_config.json"))
    with pytest.raises(AdapterRefusedError, match="lies outside"):
        configuration(request)


def configuration(request: LoRARequest) -> bytes:
    """As whoever loads the adapter would read it."""
    origin = locate(request)
    assert isinstance(origin, LocalCheckpoint)
    return read_config(origin.directory, origin.allowed_directories)


@pytest.mark.parametrize("target", ["..", "../secret", "{outside}/secret", "../root-of-others/x"])
def test_a_link_that_leads_out_is_not_found(root, target):
    (root / "exit").symlink_to(target.format(outside=root.parent))
    assert resolve(root, "exit") is None
    assert resolve(root, "exit/secret") is None


def test_a_link_on_the_way_that_leads_out_is_not_found(root):
    (root / "org").symlink_to(root.parent)
    assert resolve(root, "org/secret") is None


def test_a_base_models_directory_that_leads_out_is_not_used(root):
    (root / "tiny").symlink_to(root.parent)
    assert resolve(root, "secret", "tiny") is None


@pytest.mark.parametrize(
    "file", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
)
def test_a_file_that_leads_out_spoils_its_checkpoint(root, file):
    (root / "good" / file).unlink(missing_ok=True)
    (root / "good" / file).symlink_to(root.parent / "secret" / "adapter_config.json")
    assert resolve(root, "good") is None


def test_links_in_a_circle_lead_nowhere(root):
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    (root / "c").mkdir()
    (root / "c" / "adapter_config.json").symlink_to("adapter_config.json")
    assert [resolve(root, name) for name in "abc"] == [None, None, None]


def test_a_broken_link_leads_nowhere(root):
    (root / "gone").symlink_to("was-here")
    assert resolve(root, "gone") is None


def test_a_link_that_changes_while_it_is_looked_at_is_told(root, monkeypatch):
    (root / "other").symlink_to("good")
    really = os.path.realpath

    def exchanged(path, **options):
        if path == str(root / "other"):
            raise OSError(errno.EINVAL, "Invalid argument", path)
        return really(path, **options)

    monkeypatch.setattr(os.path, "realpath", exchanged)
    with pytest.raises(AdapterUnavailableError) as failure:
        resolve(root, "other")
    assert str(failure.value) == (
        f"{root / 'other'}: the link changed while it was looked at; try again."
    )
    with pytest.raises(AdapterUnavailableError, match="changed while it was looked at"):
        AllowedPaths.of([str(root)]).check(str(root / "other"))


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_model.bin"])
def test_a_link_to_its_own_directory_opens_none_beside_it(root, file):
    (root / "good" / file).unlink(missing_ok=True)
    (root / "good" / file).symlink_to(".")
    assert linked_names(root, "good") == (".",)  # which is no tenant's
    (root / "all").symlink_to(".")
    checkpoint(root)
    (root / "adapter_model.bin").symlink_to(".")
    assert resolve(root, "all") is None


def linked_names(root: Path, name: str) -> tuple[str, ...]:
    request = resolve(root, name)
    assert request is not None
    return request.linked_names


def hub_snapshot(repository: Path) -> Path:
    """As the Hugging Face cache has it."""
    checkpoint(repository / "blobs")
    snapshot = repository / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    for file in (repository / "blobs").iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    return snapshot


@pytest.mark.parametrize(
    ("link", "target", "name"),
    [
        ("team-a/mine", "../team-b/secret", "team-a/mine"),
        ("team-a/door", "../team-b", "team-a/door/secret"),
        ("team-a/mine/adapter_config.json", "../../team-b/secret/adapter_config.json",
         "team-a/mine"),
        ("team-a/mine/adapter_model.safetensors", "{root}/team-b/secret/adapter_config.json",
         "team-a/mine"),
        ("Llama-3.2-3B/team-a/mine", "../../Llama-3.2-3B/team-b/secret", "team-a/mine"),
    ],
)  # fmt: skip
def test_a_link_to_another_adapter_tells_its_name(root, link, target, name):
    for folder in ("", "Llama-3.2-3B"):
        checkpoint(root / folder / "team-b" / "secret")
    link = root / link
    if link.name.startswith("adapter_"):
        checkpoint(link.parent)
        link.unlink()
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target.format(root=root))
    assert linked_names(root, name) == ("team-b/secret",)


def test_ordinary_links_lead_to_no_other_adapter(root, tmp_path):
    checkpoint(root / "team-a" / "sql" / "v3")
    (root / "team-a" / "sql" / "current").symlink_to("v3")
    (root / "shared").symlink_to("team-a/sql/current")
    (root / "hub").symlink_to(hub_snapshot(root / "cache" / "models--org--repo"))
    (tmp_path / "linked-root").symlink_to(root)
    for name in ("team-a/sql/v3", "team-a/sql/current", "shared", "hub"):
        assert linked_names(root, name) == linked_names(tmp_path / "linked-root", name) == ()


# --- storage that does not answer -------------------------------------------------------------


def ask_through_a_chain(root: Path, name: str) -> None:
    resolver = NamedResolver.of("files", FilesystemLoRAResolver(root))
    chain = ResolverChain([resolver], ResolverRegistry(), timeout=60)
    try:
        asyncio.run(chain.resolve(BASE, name))
    finally:
        chain.close()


def test_a_directory_that_vanished_is_not_an_unknown_name(root):
    root.rename(root.parent / "elsewhere")
    with pytest.raises(AdapterUnavailableError):
        ask_through_a_chain(root, "good")


def test_a_disk_that_fails_is_not_an_unknown_name(root, monkeypatch):
    genuine = os.stat

    def fail(path, *args, **kwargs):
        if str(path).endswith("good/adapter_config.json"):
            raise OSError(errno.EIO, "Input/output error")
        return genuine(path, *args, **kwargs)

    monkeypatch.setattr(filesystem.os, "stat", fail)
    with pytest.raises(AdapterUnavailableError):
        ask_through_a_chain(root, "good")


def test_the_event_loop_does_not_wait_for_the_disk(root, monkeypatch):
    threads = []
    genuine = filesystem._checkpoint

    def note(*args):
        try:
            asyncio.get_running_loop()
            threads.append("event loop")
        except RuntimeError:
            threads.append("another")
        return genuine(*args)

    monkeypatch.setattr(filesystem, "_checkpoint", note)
    assert resolve(root, "good") is not None
    assert set(threads) == {"another"}


# --- the plugin -------------------------------------------------------------------------------


def test_the_environment_names_the_directory(root, monkeypatch):
    monkeypatch.setenv(filesystem.VARIABLE, f" {root} ")
    offered = {}
    assert filesystem.missing_configuration() is None
    filesystem.register_lora_resolvers(offered.__setitem__)
    (resolver,) = offered.values()
    assert list(offered) == ["lora_filesystem_resolver"]
    assert resolver.directory == root


@pytest.mark.parametrize("value", [None, "", "  "])
def test_without_a_directory_it_says_what_is_missing(monkeypatch, value):
    monkeypatch.delenv(filesystem.VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(filesystem.VARIABLE, value)
    assert filesystem.missing_configuration() == (
        "LORAMUX_LORA_RESOLVER_CACHE_DIR is not set; "
        "set it to the directory that holds the adapters."
    )


def test_a_file_for_a_directory_is_refused(root, monkeypatch):
    file = root / "good" / "adapter_config.json"
    monkeypatch.setenv(filesystem.VARIABLE, str(file))
    with pytest.raises(PluginError, match=r"LORAMUX_LORA_RESOLVER_CACHE_DIR is '.*', which is not"):
        filesystem.register_lora_resolvers({}.__setitem__)
