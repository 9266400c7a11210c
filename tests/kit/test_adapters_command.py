"""``loramux adapters``: list, inspect, verify and pull."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from loramux import LoRARequest, LoRAResolver, LoRAResolverRegistry
from loramux.cli import main
from tests.kit.copying_source import CopyingSource
from tests.lora.peft_adapters import change_config, make_adapter
from tests.lora.reading import MODELS, read

DEMO = Path(__file__).parents[2] / "examples" / "demo"
DIRECTORY = "LORAMUX_LORA_RESOLVER_CACHE_DIR"


def adapters(*words: object) -> int:
    return main(["adapters", *map(str, words)])


def told(capsys: pytest.CaptureFixture[str], *words: object) -> object:
    """What ``--json`` prints."""
    adapters(*words, "--json")
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one sentence with which an action ends in 1."""
    assert adapters(*words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("loramux adapters: ")
    assert line.endswith(".")
    return line.removeprefix("loramux adapters: ")


@pytest.fixture
def folder(tmp_path, adapter_files) -> Path:
    """Two adapters, a broken one, and what is none."""
    root = tmp_path / "adapters"
    adapter_files(root / "sql", rank=2, base_model_name="org/base")
    adapter_files(root / "team" / "french", rank=12)
    (adapter_files(root / "torn") / "adapter_model.safetensors").write_bytes(b"torn")
    adapter_files(root / ".hidden")
    (root / "empty").mkdir()
    return root


# --- list -------------------------------------------------------------------------------------


def test_list_shows_each_adapter_and_what_is_wrong_with_it(folder, capsys):
    assert adapters("list", folder) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["NAME", "RANK", "SIZE", "BASE", "MODEL", "DIGEST", "PROBLEM"]
    assert [line.split()[0] for line in lines] == ["sql", "team/french", "torn"]
    digest = read(folder / "sql").digest
    assert lines[0].split() == ["sql", "2", "0.0", "MB", "org/base", digest[:12]]
    assert lines[2].endswith("is truncated at 4 bytes, inside its header; save or fetch it again.")
    assert len({line.index(word) for line, word in zip(lines, ("2", "12", "-"), strict=True)}) == 1


def test_list_as_json(folder, capsys):
    sql, french, torn = told(capsys, "list", folder)
    assert (sql["name"], sql["ranks"], sql["base_model"]) == ("sql", [2], "org/base")
    assert sql["path"] == str(folder / "sql")
    assert sql["bytes"] == read(folder / "sql").num_bytes  # as the log and /v1/adapters have it
    assert (french["name"], french["base_model"], french["error"]) == ("team/french", None, None)
    assert set(torn) == {"name", "path", "error"}
    assert "truncated" in torn["error"]


def test_list_looks_where_the_filesystem_resolver_looks(folder, capsys, monkeypatch):
    monkeypatch.setenv(DIRECTORY, f" {folder} ")
    assert [adapter["name"] for adapter in told(capsys, "list")] == ["sql", "team/french", "torn"]
    monkeypatch.delenv(DIRECTORY)
    message = refused(capsys, "list")
    assert message == f"no directory is given; name one, or set {DIRECTORY}."


def test_list_follows_links_that_stay_inside(folder, capsys, adapter_files):
    adapter_files(folder.parent / "outside")
    (folder / "latest").symlink_to("sql")
    (folder / "team" / "again").symlink_to("..")
    (folder / "exit").symlink_to("../outside")
    names = [adapter["name"] for adapter in told(capsys, "list", folder)]
    assert sorted(names) == ["latest", "sql", "team/french", "torn"]


def test_list_of_nothing(tmp_path, capsys):
    assert adapters("list", tmp_path) == 0
    assert capsys.readouterr().out == f"no adapters in {tmp_path}\n"
    assert told(capsys, "list", tmp_path) == []


def test_list_of_no_directory_is_refused(tmp_path, capsys):
    message = refused(capsys, "list", tmp_path / "missing")
    assert (
        message == f"{tmp_path / 'missing'} is no directory; name the one that holds the adapters."
    )


# --- inspect ----------------------------------------------------------------------------------


def test_inspect_tells_what_safetensors_tells(capsys):
    path = DEMO / "adapters" / "sql"
    summary = told(capsys, "inspect", path)
    with safe_open(path / "adapter_model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert summary["tensors"] == len(tensors)
    assert summary["dtypes"] == sorted({str(t.dtype)[6:] for t in tensors.values()})
    layers = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in tensors}
    assert set(summary["layers"]) == layers
    assert summary["ranks"] == sorted({t.shape[0] for n, t in tensors.items() if "lora_A" in n})
    config = json.loads((path / "adapter_config.json").read_text())
    for field, value in summary["config"].items():
        assert (value or None) == (config[field] or None), field


def test_inspect_for_people(tmp_path, capsys):
    model = MODELS["llama"]
    path = make_adapter(
        model,
        tmp_path / "mixed",
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"q_proj": 2},
    )
    assert adapters("inspect", path) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    rows = {name: value.strip() for name, value in lines.items()}
    assert rows["digest"] == read(path).digest
    assert rows["ranks"] == "2, 4"
    assert rows["targets"] == "2 down_proj, 2 q_proj"
    assert rows["rank_pattern"] == "q_proj: 2"
    assert rows["base model"] == "not named"
    assert rows["types"] == "float32"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, "there is no such directory"),
        (lambda path: (path / "adapter_config.json").unlink(), "adapter_config.json is missing"),
        (lambda path: (path / "adapter_model.safetensors").unlink(), "safetensors is missing"),
        (lambda path: change_config(path, use_dora=True), "DoRA rescales the base weights"),
        (lambda path: (path / "adapter_config.json").write_text("{"), "is not valid JSON"),
    ],
)
def test_inspect_refuses_what_is_no_adapter(tmp_path, adapter_files, capsys, damage, says):
    path = adapter_files(tmp_path / "adapter")
    damage(path)
    message = refused(capsys, "inspect", path)
    assert message.startswith(f"{path}: ")
    assert says in message


@pytest.mark.parametrize("shape", [[], [4], [2, 2, 2]])
def test_inspect_refuses_halves_that_are_no_matrices(tmp_path, adapter_files, capsys, shape):
    import torch
    from safetensors.torch import save_file

    path = adapter_files(tmp_path / "adapter")
    name = "base_model.model.layer.lora_A.weight"
    save_file({name: torch.ones(shape)}, path / "adapter_model.safetensors")
    assert f"'{name}' has the shape {shape}" in refused(capsys, "inspect", path)


def test_inspect_refuses_tensors_of_another_kind(tmp_path, adapter_files, capsys):
    import torch
    from safetensors.torch import save_file

    path = adapter_files(tmp_path / "adapter")
    save_file({"model.weight": torch.ones(2, 2)}, path / "adapter_model.safetensors")
    message = refused(capsys, "inspect", path)
    assert "no tensor that PEFT names lora_A or lora_B, only 'model.weight'" in message


# --- verify -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def skeleton(tmp_path_factory) -> Path:
    """The configuration of the tiny Llama, without any weights."""
    directory = tmp_path_factory.mktemp("models") / "tiny-llama"
    MODELS["llama"].config.save_pretrained(directory)
    assert [path.name for path in directory.iterdir()] == ["config.json"]
    return directory


def test_verify_needs_no_weights(skeleton, tmp_path, capsys):
    path = make_adapter(MODELS["llama"], tmp_path / "good", target_modules="all-linear")
    assert adapters("verify", path, "--model", skeleton) == 0
    assert capsys.readouterr().out == f"{path} fits {skeleton}: 14 layers, largest rank 4\n"
    weights = read(path)
    assert told(capsys, "verify", path, "--model", skeleton) == {
        "path": str(path),
        "model": str(skeleton),
        "fits": True,
        "error": None,
        "digest": weights.digest,
        "layers": len(weights.pairs),
        "max_rank": weights.max_rank,
    }


def test_verify_takes_the_adapters_of_the_demo(capsys):
    for path in sorted((DEMO / "adapters").iterdir()):
        assert adapters("verify", path, "--model", DEMO / "loramux-demo") == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"r": 8}, "has the shape [4, 16] instead of [8, 16]"),
        ({"target_modules": ["q_proj"]}, "a layer that target_modules and the fields"),
        ({"target_modules": ["q_proj", "c_attn"]}, "belongs to a layer that target_modules"),
        ({"base_model_name_or_path": "org/other"}, "'base_model_name_or_path' is 'org/other'"),
        ({"bias": "all"}, "must be 'none'"),
    ],
)
def test_verify_refuses_what_an_engine_refuses(skeleton, tmp_path, capsys, changes, says):
    path = make_adapter(MODELS["llama"], tmp_path / "bad", target_modules=["q_proj", "down_proj"])
    change_config(path, **changes)
    message = refused(capsys, "verify", path, "--model", skeleton)
    assert message.startswith(f"{path}: ")
    assert says in message
    answer = told(capsys, "verify", path, "--model", skeleton)
    assert (answer["fits"], answer["error"]) == (False, message)
    assert adapters("verify", path, "--model", skeleton, "--json") == 1


def test_verify_refuses_another_models_adapter(skeleton, tmp_path, capsys):
    path = make_adapter(MODELS["gpt2"], tmp_path / "gpt2", target_modules=["c_attn"])
    message = refused(capsys, "verify", path, "--model", skeleton)
    assert "matches no layer of the base model" in message


def test_verify_goes_by_the_limits_that_are_given(skeleton, tmp_path, capsys):
    path = make_adapter(MODELS["llama"], tmp_path / "wide", target_modules=["q_proj"], r=32)
    verify = ("verify", path, "--model", skeleton)
    assert "rank 32 exceeds max_lora_rank 16" in refused(capsys, *verify)
    assert adapters(*verify, "--max-lora-rank", 32) == 0
    assert capsys.readouterr().out.endswith("largest rank 32\n")
    change_config(path, base_model_name_or_path="org/other")
    wide = (*verify, "--max-lora-rank", "32")
    assert "org/other" in refused(capsys, *wide)
    assert adapters(*wide, "--no-verify-lora-base") == 0
    assert adapters(*wide, "--served-model-name", "org/other") == 0


def test_verify_cannot_compare_copies_of_base_weights(skeleton, tmp_path, capsys):
    path = make_adapter(
        MODELS["llama"],
        tmp_path / "copies",
        target_modules=["q_proj", "embed_tokens"],
        save_embedding_layers=True,
    )
    assert read(path, base_parameter=MODELS["llama"].get_parameter)
    message = refused(capsys, "verify", path, "--model", skeleton)
    assert "a copy of the base model's 'model.embed_tokens.weight'" in message
    assert "cannot be compared without the weights" in message


def test_verify_without_a_model_is_refused(tmp_path, adapter_files, capsys):
    path = adapter_files(tmp_path / "adapter")
    message = refused(capsys, "verify", path)
    assert "adapter is well formed, but only its base model tells whether it fits; " in message
    assert message.endswith("; name that with --model (the adapter names none).")
    change_config(path, base_model_name_or_path="org/base")
    assert "with --model (the adapter names 'org/base')." in refused(capsys, "verify", path)
    assert "there is no such directory" in refused(capsys, "verify", tmp_path / "missing")
    message = refused(capsys, "verify", path, "--model", tmp_path / "missing")
    assert "missing' cannot be loaded (there is no such directory); check its path" in message
    (tmp_path / "empty").mkdir()
    assert "no such" not in refused(capsys, "verify", path, "--model", tmp_path / "empty")


# --- pull -------------------------------------------------------------------------------------


class CopyingResolver(LoRAResolver):
    """Has the one adapter ``good``, to be fetched."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.bases: list[str] = []

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        self.bases.append(base_model_name)
        if lora_name != "good":
            return None
        return LoRARequest(lora_name, 1, "store", source=CopyingSource(self.store, "v1"))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LORAMUX_ADAPTER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LORAMUX_PLUGINS", "")
    return tmp_path / "cache"


@pytest.fixture
def resolver(cache, tmp_path, adapter_files) -> Iterator[CopyingResolver]:
    resolver = CopyingResolver(adapter_files(tmp_path / "store", rank=3))
    LoRAResolverRegistry.register_resolver("copying", resolver)
    yield resolver
    LoRAResolverRegistry.unregister_resolver("copying")


def test_pull_fetches_into_the_cache_and_says_where(resolver, cache, capsys):
    assert adapters("pull", "good", "--model", "org/base") == 0
    out, err = capsys.readouterr()
    path = Path(out.removesuffix("\n"))
    assert path.is_relative_to(cache)
    assert read(path).digest == read(resolver.store).digest
    assert "rank 3" in err
    assert f"found by copying at {resolver.store.as_uri()} at v1" in err
    assert resolver.bases == ["org/base"]


def test_pull_fetches_once(resolver, cache, capsys):
    first = told(capsys, "pull", "good")
    shutil.rmtree(resolver.store)
    second = told(capsys, "pull", "good")
    assert first == second
    assert (first["name"], first["found_by"], first["ranks"]) == ("good", "copying", [3])
    assert first["origin"] == f"{resolver.store.as_uri()} at v1"


def test_pull_of_a_directory_is_where_it_is(cache, folder, capsys, monkeypatch):
    monkeypatch.setenv("LORAMUX_PLUGINS", "lora_filesystem_resolver")
    monkeypatch.setenv(DIRECTORY, str(folder))
    assert adapters("pull", "team/french") == 0
    assert capsys.readouterr().out == f"{folder / 'team' / 'french'}\n"
    assert not cache.exists()


def test_pull_of_an_unknown_name_is_refused(resolver, capsys):
    message = refused(capsys, "pull", "nobody")
    assert message == "no resolver knows an adapter 'nobody'; check the name."


def test_pull_of_a_broken_adapter_is_refused(resolver, capsys):
    (resolver.store / "adapter_model.safetensors").write_bytes(b"torn")
    assert "is truncated at 4 bytes" in refused(capsys, "pull", "good")


def test_pull_from_a_store_that_fails_is_refused(resolver, capsys):
    (resolver.store / "etag").write_text("v2")
    assert "has changed; ask again" in refused(capsys, "pull", "good")


def test_pull_with_plugins_that_cannot_be_had_is_refused(cache, capsys, monkeypatch):
    monkeypatch.setenv("LORAMUX_PLUGINS", "unicorn")
    assert "asks for the plugin 'unicorn'" in refused(capsys, "pull", "good")


# --- the command itself -----------------------------------------------------------------------


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom loramux.cli import main\n"
        "try: main(['adapters', 'verify', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'transformers', 'fastapi', 'tqdm'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("words", [[], ["sing"], ["inspect"], ["verify"], ["pull"]])
def test_a_command_line_that_makes_no_sense(words, capsys):
    with pytest.raises(SystemExit) as end:
        adapters(*words)
    assert end.value.code == 2
    assert "usage: loramux adapters" in capsys.readouterr().err
