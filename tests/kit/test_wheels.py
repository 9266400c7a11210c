"""A third party's package and a new one from the template, installed next to loramux's wheel."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import httpx
import pytest

from loramux.cli import main
from tests.kit.fresh_venv import FreshVenv, build_wheels

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "resolver-plugin"
DEMO = ROOT / "examples" / "demo"
SOURCES = [
    ROOT / "core" / "loramux",
    ROOT / "kernels" / "loramux_kernels",
    ROOT / "plugins" / "loramux_plugins",
    ROOT / "resolvers" / "loramux_resolvers",
]
MARKDOWN_LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("generated") / "acme-models"
    assert main(["plugins", "new", "acme-models", "--directory", str(directory)]) == 0
    return directory


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory, generated: Path) -> dict[str, Path]:
    """The wheels of loramux, the example and the generated package, by distribution."""
    built = build_wheels(tmp_path_factory.mktemp("wheels"), ROOT, EXAMPLE, generated)
    return {wheel.name.split("-")[0]: wheel for wheel in built}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> FreshVenv:
    return FreshVenv(tmp_path_factory.mktemp("venv"), list(wheels.values()))


# --- what is in them --------------------------------------------------------------------------


def files_in(wheel: Path) -> set[str]:
    names = zipfile.ZipFile(wheel).namelist()
    return {name for name in names if ".dist-info/" not in name}


def test_the_wheel_of_loramux_holds_every_file_of_its_packages_and_nothing_else(wheels):
    expected = {
        str(path.relative_to(source.parent))
        for source in SOURCES
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files_in(wheels["loramux"]) == expected
    assert {f"{source.name}/py.typed" for source in SOURCES} <= expected
    assert "loramux/plugin_template/files/module.py.template" in expected
    assert "loramux/testing/resolver_contract.py" in expected


def test_the_wheels_of_the_others_hold_their_module_alone(wheels):
    for wheel, module in (("team_adapters", "team_adapters"), ("acme_models", "acme_models")):
        assert files_in(wheels[wheel]) == {f"{module}/__init__.py", f"{module}/py.typed"}


# --- a third party's package ------------------------------------------------------------------


def test_everything_comes_from_the_wheels(installed, tmp_path):
    code = (
        "import loramux, loramux_kernels, loramux_plugins, loramux_resolvers, team_adapters\n"
        "for module in (loramux, loramux_kernels, loramux_plugins, loramux_resolvers, "
        "team_adapters): print(module.__file__)"
    )
    done = installed.run("python", "-c", code, cwd=tmp_path)
    places = done.stdout.split()
    assert len(places) == 5, done.stderr
    assert all(place.startswith(str(installed.bin.parent)) for place in places), places


def test_the_example_is_a_plugin_by_its_entry_point_only(installed, tmp_path):
    plugin = installed.plugins(tmp_path)["team_index_resolver"]
    assert plugin["state"] == "not configured"
    assert plugin["error"] == "TEAM_ADAPTERS_INDEX is not set; set it to the index file."
    plugin = installed.plugins(tmp_path, TEAM_ADAPTERS_INDEX="index.json")["team_index_resolver"]
    assert plugin == {
        "name": "team_index_resolver",
        "state": "active",
        "version": "0.1.0",
        "distribution": "team-adapters",
        "value": "team_adapters",
        "hooks": ["missing_configuration", "register_lora_resolvers"],
        "error": None,
    }


def test_the_example_serves_an_adapter(installed, tmp_path):
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"sql": str(DEMO / "adapters" / "sql")}))
    question = [{"role": "user", "content": "List the name of every customer older than 34."}]
    model = str(DEMO / "loramux-demo")
    with (
        installed.serving(
            *(model, "--served-model-name", "loramux-demo", "--enable-lora"),
            cwd=tmp_path,
            LORAMUX_PLUGINS="team_index_resolver",
            TEAM_ADAPTERS_INDEX=str(index),
        ) as url,
        httpx.Client(base_url=url, timeout=60, verify=False) as client,
    ):
        body = {"model": "team/sql", "messages": question, "temperature": 0, "max_tokens": 64}
        answer = client.post("/v1/chat/completions", json=body)
        unknown = client.post("/v1/chat/completions", json={**body, "model": "team/../sql"})
    assert answer.headers["x-loramux-adapter-found-by"] == "team"
    text = answer.json()["choices"][0]["message"]["content"]
    assert text == "SELECT name FROM customers WHERE age > 34;"
    assert unknown.status_code == 404


def run_tests(installed: FreshVenv, project: Path) -> str:
    """The last line of pytest in a project whose package is installed."""
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header")
    done = installed.run("python", *words, cwd=project, PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def test_the_example_passes_its_own_tests(installed):
    assert re.match(r"\d{2,} passed, 6 skipped", run_tests(installed, EXAMPLE))


# --- a package from the template --------------------------------------------------------------


def test_a_new_package_is_a_plugin(installed, tmp_path):
    plugin = installed.plugins(tmp_path, ACME_MODELS_DIRECTORY=str(tmp_path))["acme_models"]
    assert (plugin["state"], plugin["distribution"]) == ("active", "acme-models")


def test_a_new_package_passes_its_own_tests(installed, generated):
    assert re.match(r"\d{2,} passed, 1 skipped", run_tests(installed, generated))


def test_the_readmes_link_to_what_is_there(generated):
    for readme in (EXAMPLE / "README.md", generated / "README.md"):
        links = MARKDOWN_LINK.findall(readme.read_text())
        assert links
        for link in links:
            assert (readme.parent / link).exists(), link
