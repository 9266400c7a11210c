"""Adapters on the Hub: which names are looked up, what is asked for them, and what is found."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from loramux import LoRARequest
from loramux.errors import AdapterRefusedError, PluginError
from loramux.lora.hub.source import HubSource
from loramux_resolvers import hf_hub
from loramux_resolvers.hf_hub import HubLoRAResolver
from tests.resolvers.hub_server import HubServer, answer
from tests.resolvers.test_filesystem import ATTACKS

BASE = "base"
REPO = "org/adapters"


def adapter(fill: str = "w", directory: str = "") -> dict[str, bytes]:
    """The files of something that looks like a PEFT checkpoint to a resolver."""
    prefix = f"{directory}/" if directory else ""
    return {
        f"{prefix}adapter_config.json": b'{"peft_type": "LORA"}',
        f"{prefix}adapter_model.safetensors": fill.encode() * 500,
    }


def resolver(pinned: str | None = None, **options: float) -> HubLoRAResolver:
    return HubLoRAResolver({REPO: pinned}, **{"timeout": 60.0, **options})


def ask(resolver: HubLoRAResolver, *names: str) -> list[LoRARequest | None]:
    """All names at the same time, in one event loop."""

    async def all_of_them() -> list[LoRARequest | None]:
        return await asyncio.gather(*(resolver.resolve_lora(BASE, name) for name in names))

    return asyncio.run(all_of_them())


def find(resolver: HubLoRAResolver, name: str) -> HubSource | None:
    (request,) = ask(resolver, name)
    return None if request is None else request.source


def fetch(source: HubSource, tmp_path: Path) -> Path:
    return source.fetch(tmp_path / "unused", lambda done, total: None)


@pytest.fixture
def commit(hub: HubServer) -> str:
    """The commit of a repository with an adapter in its root, one below, and other things."""
    files = adapter() | adapter("v", "team/v1.2") | {"README.md": b"#", "optimizer.pt": b"o" * 900}
    files["half/adapter_config.json"] = b"{}"
    return hub.repository(REPO).push(files)


# --- what is found ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subpath", "fill"), [(REPO, "", b"w"), (f"{REPO}/team/v1.2", "team/v1.2", b"v")]
)
def test_an_adapter_is_found_at_a_commit_and_fetched(hub, commit, tmp_path, name, subpath, fill):
    (request,) = ask(resolver(), name)
    assert request.lora_name == name
    assert request.source == HubSource(REPO, commit, subpath)
    assert request.source.num_bytes == 521
    assert request.source.uri == f"hf://{name}"
    assert request.source.revision == commit
    assert request.lora_path == f"{name}@{commit}"
    directory = fetch(request.source, tmp_path)
    assert (directory / "adapter_model.safetensors").read_bytes() == fill * 500
    assert (directory / "adapter_config.json").read_bytes() == b'{"peft_type": "LORA"}'


def test_the_branch_is_resolved_first_and_only_the_adapters_files_are_downloaded(
    hub, commit, tmp_path
):
    fetch(find(resolver(), f"{REPO}/team/v1.2"), tmp_path)
    asked, downloaded = hub.log("/api/"), hub.log("resolve")
    assert asked == [
        f"GET /api/models/{REPO}/revision/main",
        f"GET /api/models/{REPO}/tree/{commit}?recursive=true&expand=false",
    ]
    base = f"/{REPO}/resolve/{commit}/team/v1.2/"
    assert {line.partition(" ")[2] for line in downloaded} == {
        f"{base}adapter_config.json",
        f"{base}adapter_model.safetensors",
    }
    assert len(hub.log("signature")) == 1


def test_a_second_time_nothing_is_downloaded(hub, commit, tmp_path):
    first = resolver()
    fetch(find(first, REPO), tmp_path)
    hub.requests.clear()
    assert fetch(find(first, REPO), tmp_path).name == commit
    assert hub.log() == []
    # Another process asks where the branch is, and that is all.
    assert fetch(find(resolver(), REPO), tmp_path).name == commit
    assert hub.log() == [f"GET /api/models/{REPO}/revision/main"]


def test_a_commit_that_is_in_the_cache_needs_no_request_at_all(hub, commit, tmp_path):
    fetch(find(resolver(), f"{REPO}@{commit}"), tmp_path)
    assert hub.log("revision") == []
    hub.requests.clear()
    fetch(find(resolver(commit), REPO), tmp_path)
    fetch(find(resolver(), f"{REPO}@{commit}"), tmp_path)
    assert hub.log() == []


@pytest.mark.parametrize(
    "name",
    [
        f"{REPO}/missing",
        f"{REPO}/team",
        f"{REPO}/half",
        f"{REPO}/README.md",
        f"{REPO}/adapter_config.json",
        f"{REPO}@missing",
        f"{REPO}@{'0' * 40}",
        f"{REPO}@{'0' * 39}",
    ],
)
def test_anything_else_is_not_found(hub, commit, name):
    assert find(resolver(), name) is None
    assert hub.log("resolve") == []


def test_a_repository_that_does_not_exist_is_not_found(hub):
    assert find(resolver(), REPO) is None


def test_a_name_may_choose_a_branch_a_tag_or_a_commit(hub, commit):
    newer = hub.repository(REPO).push(adapter("n"), "feature/x")
    hub.repository(REPO).branches["v1"] = commit
    found = [find(resolver(), f"{REPO}@{at}") for at in ("feature/x", "v1", commit, "main")]
    assert [source.commit for source in found] == [newer, commit, commit, commit]
    assert find(resolver(), f"{REPO}/team/v1.2@v1").commit == commit
    assert find(resolver(), f"{REPO}/team/v1.2@feature/x") is None


def test_a_list_that_names_a_revision_leaves_no_choice(hub, commit):
    newer = hub.repository(REPO).push(adapter("n"))
    assert find(resolver(commit), REPO).commit == commit
    assert find(resolver("main"), REPO).commit == newer
    hub.requests.clear()
    assert find(resolver(commit), f"{REPO}@main") is None
    assert find(resolver("main"), f"{REPO}@{newer}") is None
    assert hub.log() == []


def test_a_pull_request_can_be_listed_but_not_chosen_by_a_name(hub, commit):
    foreign = hub.repository(REPO).push(adapter("f"), "refs/pr/1")
    assert find(resolver(), f"{REPO}@refs/pr/1") is None
    assert hub.log() == []
    assert find(resolver("refs/pr/1"), REPO).commit == foreign


def test_a_branch_that_moves_is_another_source_once_the_old_place_has_expired(hub, commit):
    settled, lively = resolver(revision_ttl=60), resolver(revision_ttl=0)
    old = find(settled, REPO)
    assert find(lively, REPO) == old
    newer = hub.repository(REPO).push(adapter("n"))
    assert find(settled, REPO) == old
    assert find(lively, REPO).commit == newer
    assert find(lively, REPO) != old


def test_new_bytes_come_from_the_new_commit(hub, commit, tmp_path):
    lively = resolver(revision_ttl=0)
    before = fetch(find(lively, REPO), tmp_path)
    hub.repository(REPO).push(adapter("n"))
    after = fetch(find(lively, REPO), tmp_path)
    assert (before / "adapter_model.safetensors").read_bytes() == b"w" * 500
    assert (after / "adapter_model.safetensors").read_bytes() == b"n" * 500


def test_a_storm_of_names_is_two_requests(hub, commit):
    names = [f"{REPO}/{i}" for i in range(300)] + [REPO] * 100 + [f"{REPO}/team/v1.2"] * 100
    stormed = resolver()
    answers = ask(stormed, *names)
    assert [answer is not None for answer in answers] == [False] * 300 + [True] * 200
    ask(stormed, *(f"{REPO}/late-{i}" for i in range(300)))
    assert len(hub.requests) == 2


def test_a_storm_for_a_repository_that_is_not_there_is_one_request(hub):
    assert set(ask(resolver(), *(f"{REPO}/{i}" for i in range(300)))) == {None}
    assert len(hub.requests) == 1


def test_a_listing_of_several_pages_is_read_from_the_endpoint_alone(hub, commit):
    hub.page_size = 2
    assert find(resolver(), f"{REPO}/team/v1.2").num_bytes == 521
    assert [line.partition("cursor=")[2] for line in hub.log("tree")] == ["", "2", "4", "6"]


def test_in_a_huge_repository_a_directory_is_looked_at_by_itself(hub, monkeypatch):
    files = {f"a{i}/x": b"x" for i in range(30)} | adapter(directory="z/last")
    hub.repository(REPO).push(files)
    hub.page_size = 2
    huge = resolver()
    assert find(huge, f"{REPO}/z/last").num_bytes == 521
    assert find(huge, f"{REPO}/z/missing") is None
    assert len(hub.log("recursive=true")) == 10
    assert len(hub.log("recursive=false")) == 2


# --- what is never looked up ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("org/other", "org/adapters2", "org/adapter", "other/adapters", "Org/adapters", "org"),
        *("gpt2", "org/other/adapters", "datasets/org/adapters", f"hf://{REPO}"),
        *(f"org/other@{REPO}", f"{REPO}adapters"),
    ],
)
def test_a_name_outside_the_list_causes_no_request(hub, commit, name):
    hub.repository(name if name.count("/") == 1 else "org/other").push(adapter())
    assert find(resolver(), name) is None
    assert hub.requests == []


@pytest.mark.parametrize("directory", ["a\uff0eb", "a%2fb", "a\u2215b", "e\u0301", "a\u200bb"])
def test_a_directory_whose_name_is_a_disguise_is_not_found(hub, directory):
    hub.repository(REPO).push(adapter(directory=directory))
    assert find(resolver(), f"{REPO}/{directory}") is None
    assert hub.requests == []


@pytest.mark.parametrize("directory", ["näme/名", "100%", "a b", "v1.2+x=y", "q?x=1#y"])
def test_an_unusual_directory_is_found_and_fetched(hub, tmp_path, directory):
    hub.repository(REPO).push(adapter(directory=directory))
    assert fetch(find(resolver(), f"{REPO}/{directory}"), tmp_path).is_dir()


ENDS = ["@", "@/x", "@..", "@../../other/tree/main", "@main@main", "@.x", "@a//b", "@a\\b"]


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_no_name_leads_out_of_the_list(hub, commit, attack):
    hostile = [attack, f"{REPO}@{attack}", f"org/{attack}", f"{attack}/adapters"]
    hostile += [f"{REPO}/{attack}", f"{REPO}/{attack}/../../other", f"{REPO}/team/{attack}"]
    assert set(ask(resolver(), *hostile)) == {None}
    assert set(hub.log()) <= set(hub.log(rf"^GET /api/models/{REPO}/(revision|tree)/[^/]+$"))


@pytest.mark.parametrize("end", ENDS)
def test_no_revision_leads_anywhere_else(hub, commit, end):
    assert find(resolver(), REPO + end) is None
    assert hub.requests == []


# --- tokens -----------------------------------------------------------------------------------


def test_the_token_goes_to_the_endpoint_and_nowhere_else(hub, commit, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.repository(REPO).token = "hf_secret"
    fetch(find(resolver(), REPO), tmp_path)
    to_endpoint = [seen.token for seen in hub.requests if seen.host.startswith("127.0.0.1")]
    to_store = [seen.token for seen in hub.requests if seen.host.startswith("localhost")]
    assert set(to_endpoint) == {"hf_secret"}
    assert to_store == [None]


def test_without_its_token_a_private_repository_is_not_found(hub, commit):
    hub.repository(REPO).token = "hf_secret"
    assert find(resolver(), REPO) is None


def test_a_gated_repository_is_refused_with_what_to_do(hub, commit, tmp_path, monkeypatch):
    hub.repository(REPO).gated = True
    with pytest.raises(AdapterRefusedError, match=r"accept its terms .* token .*HF_TOKEN"):
        fetch(find(resolver(), REPO), tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch(find(resolver(), REPO), tmp_path).is_dir()


@pytest.mark.parametrize(
    ("status", "code"), [(403, "GatedRepo"), (401, None), (403, None), (403, "Unheard")]
)
def test_a_refusal_holds_no_secret(hub, commit, monkeypatch, status, code):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    invalid = {"X-Error-Message": "Invalid credentials in Authorization header"}
    hub.when("/api/", answer(status, code, **invalid))
    with pytest.raises(AdapterRefusedError, match="HF_TOKEN") as refused:
        find(resolver(), REPO)
    assert "secret" not in str(refused.value)


# --- the plugin -------------------------------------------------------------------------------


def test_the_environment_lists_the_repositories(monkeypatch):
    monkeypatch.setenv(hf_hub.VARIABLE, " org/one , org/two@v1,,org/three@feature/x ")
    offered = {}
    assert hf_hub.missing_configuration() is None
    hf_hub.register_lora_resolvers(offered.__setitem__)
    (found,) = offered.values()
    assert list(offered) == ["lora_hf_hub_resolver"]
    assert found.repositories == {"org/one": None, "org/two": "v1", "org/three": "feature/x"}


@pytest.mark.parametrize("value", [None, "", "  "])
def test_without_a_list_it_says_what_is_missing(monkeypatch, value):
    monkeypatch.delenv(hf_hub.VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(hf_hub.VARIABLE, value)
    assert hf_hub.missing_configuration() == (
        "LORAMUX_LORA_RESOLVER_HF_REPO_LIST is not set; "
        "set it to the Hub repositories that hold the adapters."
    )


@pytest.mark.parametrize(
    "entry",
    [
        *("gpt2", "org/a/b", "org/", "/org/a", "https://hf.co/org/a", "org/a@", "org/a@b@c"),
        *("../a", "org/--a", "org/a..b", "org/a.git", "org/a\tb", "no slash", "örg/a"),
    ],
)
def test_a_list_that_cannot_be_read_ends_the_start(monkeypatch, entry):
    monkeypatch.setenv(hf_hub.VARIABLE, f"org/good@v1,{entry}")
    with pytest.raises(PluginError) as refusal:
        hf_hub.register_lora_resolvers({}.__setitem__)
    assert str(refusal.value) == (
        f"LORAMUX_LORA_RESOLVER_HF_REPO_LIST holds {entry!r}, which is no repository; list "
        "repositories as org/repo or org/repo@revision, with commas between them."
    )


@pytest.mark.parametrize("entry", ["org/good", "org/good@v2"])
def test_a_repository_that_is_listed_twice_ends_the_start(monkeypatch, entry):
    monkeypatch.setenv(hf_hub.VARIABLE, f"org/good@v1,{entry}")
    with pytest.raises(PluginError, match="holds the repository 'org/good' twice; list each one"):
        hf_hub.register_lora_resolvers({}.__setitem__)


def test_a_number_of_seconds_that_cannot_be_read_ends_the_start(monkeypatch):
    monkeypatch.setenv(hf_hub.VARIABLE, REPO)
    monkeypatch.setenv(hf_hub.TTL_VARIABLE, "soon")
    with pytest.raises(PluginError, match=r"LORAMUX_LORA_RESOLVER_HF_REVISION_TTL is 'soon'"):
        hf_hub.register_lora_resolvers({}.__setitem__)


SCRIPT = f"""
import asyncio, pathlib
from loramux_resolvers.hf_hub import HubLoRAResolver
request = asyncio.run(HubLoRAResolver({{"{REPO}": None}}).resolve_lora("base", "{REPO}"))
print(request and request.source.fetch(pathlib.Path("unused"), lambda done, total: None))
"""


def in_another_process(**environ: str) -> str:
    python_path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": python_path, "HF_HUB_DISABLE_XET": "1", **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_huggingface_hubs_own_environment_is_honoured(hub, commit, tmp_path):
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    offline = settings | {"HF_HUB_OFFLINE": "1"}
    assert in_another_process(**offline) == "None"
    assert hub.requests == []
    directory = in_another_process(**settings, HF_TOKEN="hf_secret")
    assert Path(directory).parts[-3:] == ("models--org--adapters", "snapshots", commit)
    assert {seen.token for seen in hub.requests} == {"hf_secret", None}
    hub.requests.clear()
    assert in_another_process(**offline) == directory
    assert hub.requests == []


def test_offline_the_cache_is_all_there_is(hub, commit, tmp_path, monkeypatch, caplog):
    directory = fetch(find(resolver(), REPO), tmp_path)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(find(resolver(), REPO), tmp_path) == directory
    assert find(resolver(), f"{REPO}@{commit}").commit == commit
    assert find(resolver(), f"{REPO}/team/v1.2") is None
    assert find(resolver(), f"{REPO}@missing") is None
    assert hub.requests == []
    assert caplog.messages == []
