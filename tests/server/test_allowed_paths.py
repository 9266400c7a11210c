"""From where clients may load adapters: the directories and repositories that were named."""

from __future__ import annotations

from pathlib import Path

import pytest

from loramux.errors import AdapterNotFoundError, InvalidRequestError
from loramux.lora.resolve.catalog import AdapterModule
from loramux.server.access.caller import Caller, Role
from loramux.server.access.name_patterns import NamePatterns
from loramux.server.adapters.allowed_paths import AllowedPaths, PathNotAllowedError
from loramux.server.adapters.named_places import NamedPlace, named_places
from loramux.server.serve_options import ServeOptions


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("inside/sql", "outside/secret", "inside-too"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "inside/link").symlink_to(tmp_path / "outside/secret")
    (tmp_path / "inside/good-link").symlink_to(tmp_path / "inside/sql")
    (tmp_path / "inside/half").mkdir()
    (tmp_path / "inside/itself").mkdir()
    (tmp_path / "inside/itself/adapter_model.safetensors").symlink_to(".")
    (tmp_path / "inside/half/adapter_model.safetensors").symlink_to(tmp_path / "outside/secret")
    monkeypatch.chdir(tmp_path)
    for name in ("ALLOWED_ADAPTER_ROOTS", "LORA_RESOLVER_CACHE_DIR", "LORA_RESOLVER_HF_REPO_LIST"):
        monkeypatch.delenv(f"LORAMUX_{name}", raising=False)
    return tmp_path


@pytest.mark.parametrize("path", ["{}/inside/sql", "inside/sql", "{}/inside/x/../sql",
                                  "{}/inside/good-link", "{}/inside/sql/"])  # fmt: skip
def test_what_lies_inside(root: Path, path: str) -> None:
    assert AllowedPaths.of(["inside"]).check(path.format(root)).path == str(root / "inside/sql")


def test_where_its_files_have_to_lie(root: Path) -> None:
    (root / "inside/blobs").mkdir()
    (root / "inside/sql/adapter_model.safetensors").symlink_to("../blobs/1234")
    found = AllowedPaths.of(["inside"]).check("inside/good-link")
    assert found.directories == (str(root / "inside/sql"), str(root / "inside/blobs"))
    assert AllowedPaths.of(["hf://"]).check("org/repo").directories == ()


def test_what_is_not_there_is_looked_for_inside_only(root: Path) -> None:
    found = AllowedPaths.of(["inside"]).check("inside/absent")
    assert found.path == str(root / "inside/absent")


OUTSIDE = [
    "{}/outside/secret", "outside/secret", "{}/inside/../outside/secret", "inside/link",
    "inside/half", "{}/inside/itself", "{}/inside-too", "{}", "/", "/etc", "/etc/passwd", "~",
    "~root", "..", ".", "",
    "/proc/self/root", "/proc/self/cwd/outside/secret", "inside\0", "inside/sql\0/../../outside",
    "file:///etc", "file://{}/inside/sql", "http://localhost/x", "http://169.254.169.254/latest",
    "https://example.org/adapter", "s3://bucket/adapter", "gs://b/a", "ftp://h/a", "//host/share",
    "\\\\host\\share", "hf://org/repo", "org/repo", "org/repo/sub@main", "hf://", "hf:///etc",
    "hf://../x", "{}/inside/..%2foutside", "x" * 10_000,
    "{}/" + "inside/../" * 500_000,  # took minutes
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_what_does_not(root: Path, path: str) -> None:
    roots = ["inside"] if path.startswith("inside/") else ["inside/sql", "inside/itself"]
    with pytest.raises(PathNotAllowedError, match="outside of the places"):
        AllowedPaths.of(roots).check(path.format(root))


def test_nothing_is_allowed_unless_named(root: Path) -> None:
    nothing = AllowedPaths.configured([], [])
    for path in [*OUTSIDE, "inside/sql", "absent"]:
        with pytest.raises(AdapterNotFoundError):
            nothing.check(path.format(root))


def test_a_machine_of_one_s_own_has_no_bounds_until_some_are_named(root: Path) -> None:
    own = AllowedPaths.configured([], [], is_private=True)
    assert own.is_everywhere
    assert own.check(str(root / "inside/sql")).path == str(root / "inside/sql")
    assert own.check("org/repo").path == "org/repo"
    for kept in (
        AllowedPaths.configured(["inside"], [], is_private=True),
        AllowedPaths.configured([], [NamedPlace.directory("./elsewhere")], is_private=True),
    ):
        assert not kept.is_everywhere
        with pytest.raises(PathNotAllowedError):
            kept.check(str(root / "outside/secret"))


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_who_can_reach_a_server(host: str, is_local: bool) -> None:
    assert ServeOptions(host=host).is_local is is_local


def test_an_answer_does_not_tell_whether_a_path_exists(root: Path) -> None:
    def answer(path: str) -> str:
        with pytest.raises(PathNotAllowedError) as refusal:
            AllowedPaths.of(["inside"]).check(path)
        return str(refusal.value)

    assert answer("/etc") == answer("/no/such/path") == answer("inside/half") == answer("org/repo")


def test_what_the_operator_uses_is_allowed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAMUX_LORA_RESOLVER_CACHE_DIR", str(root / "inside"))
    monkeypatch.setenv("LORAMUX_LORA_RESOLVER_HF_REPO_LIST", "org/listed@v1,org/whole")
    monkeypatch.setenv("LORAMUX_ALLOWED_ADAPTER_ROOTS", str(root / "inside-too"))
    modules = [AdapterModule("x", "org/module/sub"), AdapterModule("y", "./elsewhere")]
    allowed = AllowedPaths.configured(["outside/secret"], named_places(modules, "org/base"))
    for path in ("inside/sql", "inside-too/x", "outside/secret", "elsewhere"):
        assert allowed.check(path).path == str(root / path)
    for path in ("org/listed@v1", "org/listed/x@v1", "org/whole@any", "org/module/sub/x"):
        assert allowed.check(path).path == path
    for path in ("org/listed", "org/listed@v2", "org/module", "org/module/subway", "org/other",
                 "org/whole@refs/pr/1"):  # fmt: skip
        with pytest.raises(PathNotAllowedError):
            allowed.check(path)


PLACES = {
    "inside/team-a/x": {"ops", "ops-a"},
    "inside/team-b/x": {"ops"},
    "inside/team-b/sql": {"ops", "ops-a"},  # which has another name, too
    "inside/base/team-a/x": {"ops", "ops-a"},
    "inside/org/base/team-a/x": {"ops", "ops-a"},
    "inside/base/team-b/x": {"ops"},
    "inside/good-link/../team-b/x": {"ops"},
    "inside/team-a/half": {"ops"},  # a file of it is team-b's
    "inside/team-a/hub/snapshots/1": {"ops", "ops-a"},
    "inside/org/team-a": {"ops"},  # a file of it is its own directory, beside which lie others
    "inside": {"ops"},
    "inside/team-a": {"ops"},
    "inside-too/team-b/x": {"ops", "ops-a"},  # a root for all operators
    "org/team-a": {"ops", "ops-a"},
    "org/team-a/x@v2": {"ops", "ops-a"},
    "org/team-b/x@v1": {"ops"},
    "org/team-b/x": set(),
    "other/module/x": {"ops", "ops-a"},
    "other/module-b": {"ops"},
    "any/repo": set(),
    "outside/secret": set(),
}  # fmt: skip


FILE_LINKS = {
    "inside/team-a/half/adapter_model.safetensors": "inside/team-b/x/adapter_model.safetensors",
    "inside/team-a/hub/snapshots/1/adapter_model.safetensors": "inside/team-a/hub/blobs/1234",
    "inside/org/team-a/adapter_model.safetensors": "inside/org/team-a",
}


@pytest.mark.parametrize("path", PLACES)
def test_who_may_load_what_has_a_name(
    root: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("LORAMUX_LORA_RESOLVER_CACHE_DIR", "inside")
    monkeypatch.setenv("LORAMUX_LORA_RESOLVER_HF_REPO_LIST", "org/team-a,org/team-b@v1")
    modules = [
        AdapterModule("team-a/sql", "inside/team-b/sql"),
        AdapterModule("team-a/module", "other/module"),
        AdapterModule("team-b/module", "other/module-b"),
    ]
    for link, target in FILE_LINKS.items():
        (root / link).parent.mkdir(parents=True)
        (root / link).symlink_to(root / target)
    allowed = AllowedPaths.configured(["inside-too"], named_places(modules, "org/base"))
    patterns = NamePatterns.of(["team-a/*", "org/team-a", "org/team-a/*"])
    callers = [Caller("ops", Role.ADMIN), Caller("ops-a", Role.ADMIN, patterns)]

    def may_load(caller: Caller) -> bool:
        try:
            allowed.check(path, caller)
        except PathNotAllowedError:
            return False
        return True

    assert {caller.name for caller in callers if may_load(caller)} == PLACES[path]


def test_the_whole_hub(root: Path) -> None:
    allowed = AllowedPaths.of(["hf://"])
    for path in ("any/repo@main", "hf://any/repo@main"):
        assert allowed.check(path).path == "any/repo@main"
    for path in ("outside/secret", "hf://outside/secret", "hf://x", "s3://any/repo"):
        with pytest.raises(PathNotAllowedError):
            allowed.check(path)


@pytest.mark.parametrize(
    "address", ["s3://bucket", "https://example.org", "hf://repo", "hf://../x"]
)
def test_roots_that_cannot_be(root: Path, address: str) -> None:
    with pytest.raises(InvalidRequestError, match="hf://org/repo"):
        AllowedPaths.of([address])
