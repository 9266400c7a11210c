"""``loramux plugins new``: what it writes, and what it refuses to."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from loramux.cli import main
from loramux.plugin_template import PluginNames


def new(*words: str) -> int:
    return main(["plugins", "new", *words])


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_writes_a_package_into_a_directory_of_its_name(somewhere, capsys):
    assert new("my-resolver") == 0
    expected = {
        "my-resolver/README.md",
        "my-resolver/my_resolver/__init__.py",
        "my-resolver/my_resolver/py.typed",
        "my-resolver/pyproject.toml",
        "my-resolver/tests/test_my_resolver.py",
    }
    files = (path for path in somewhere.rglob("*") if path.is_file())
    assert {str(path.relative_to(somewhere)) for path in files} == expected
    *written, hint = capsys.readouterr().out.splitlines()
    assert set(written) == expected
    assert "pip install -e 'my-resolver[test]'" in hint


def test_it_writes_where_it_is_told_to(somewhere, capsys):
    assert new("acme", "--directory", "deep/down/here") == 0
    assert (somewhere / "deep/down/here/acme/__init__.py").is_file()
    assert "pytest deep/down/here" in capsys.readouterr().out


def test_names_are_derived_from_one(somewhere):
    assert PluginNames.of("my-s3-resolver") == PluginNames(
        distribution="my-s3-resolver",
        module="my_s3_resolver",
        variable="MY_S3_RESOLVER_DIRECTORY",
        resolver="MyS3Resolver",
    )
    assert PluginNames.of("acme").resolver == "AcmeResolver"
    assert PluginNames.of("a" * 64).module == "a" * 64


def test_nothing_of_the_template_is_left_in_it(somewhere):
    assert new("acme-models") == 0
    for path in somewhere.rglob("*.*"):
        if path.is_file():
            assert "$" not in path.read_text(), path
    project = tomllib.loads((somewhere / "acme-models" / "pyproject.toml").read_text())
    assert project["project"]["name"] == "acme-models"
    assert project["project"]["entry-points"] == {"loramux.plugins": {"acme_models": "acme_models"}}
    variables = {
        line.split('"')[1]
        for line in (somewhere / "acme-models/acme_models/__init__.py").read_text().splitlines()
        if line.startswith("VARIABLE")
    }
    assert variables == {"ACME_MODELS_DIRECTORY"}


@pytest.mark.parametrize("action", ["check --select=E,F,I,UP,B,ANN,SIM,RUF", "format --check"])
def test_it_is_well_formatted(somewhere, action):
    assert new("acme-models") == 0
    options = ["--isolated", "--no-cache", "--line-length=100", "--target-version=py311"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *action.split(), *options],
        cwd=somewhere / "acme-models",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "name",
    [
        "My-Resolver",
        "my_resolver",
        "my resolver",
        "my.resolver",
        "-resolver",
        "resolver-",
        "my--resolver",
        "3-resolver",
        "",
        "../resolver",
        "my/resolver",
        "resolver\n",
        "r\u00e9solver",
        "a" * 65,
        "$module",
    ],
)
def test_a_bad_name_is_refused(somewhere, capsys, name):
    assert new("--", name) == 2
    message = capsys.readouterr().err
    assert message.startswith("loramux plugins new: a package cannot be called ")
    assert "lower-case letters" in message
    assert message.count("\n") == 1
    assert list(somewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("class", "that is a keyword of Python"),
        ("json", "Python or the package's own tests use that name"),
        ("tests", "Python or the package's own tests use that name"),
        ("loramux", "a module of that name is installed"),
        ("loramux-resolvers", "a module of that name is installed"),
        ("torch", "a module of that name is installed"),
        ("lora-filesystem-resolver", "a plugin of that name is installed"),
    ],
)
def test_a_name_that_would_hide_another_is_refused(somewhere, capsys, name, why):
    assert new(name) == 2
    message = capsys.readouterr().err
    module = name.replace("-", "_")
    assert message == (
        f"loramux plugins new: a module cannot be called {module!r}, because {why}; "
        "choose another name.\n"
    )
    assert list(somewhere.iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "empty directory", "file"])
def test_what_is_there_is_left_alone(somewhere, capsys, kind):
    if kind == "file":
        (somewhere / "acme").write_text("mine")
    else:
        (somewhere / "acme").mkdir()
    if kind == "directory":
        (somewhere / "acme" / "README.md").write_text("mine")
    before = sorted(somewhere.rglob("*"))
    assert new("acme") == 2
    assert capsys.readouterr().err == (
        "loramux plugins new: acme exists already; remove it, or choose another with --directory.\n"
    )
    assert sorted(somewhere.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_named(somewhere, capsys):
    (somewhere / "file").write_text("")
    assert new("acme", "--directory", "file/acme") == 1
    assert capsys.readouterr().err == (
        "loramux plugins: file/acme cannot be written (Not a directory); "
        "choose another with --directory.\n"
    )


def test_a_disk_that_fills_up_leaves_nothing(somewhere, monkeypatch, capsys):
    genuine = Path.write_text

    def fail(path: Path, text: str) -> int:
        if path.name == "README.md":
            raise OSError(28, "No space left on device")
        return genuine(path, text)

    monkeypatch.setattr(Path, "write_text", fail)
    assert new("acme") == 1
    assert "acme cannot be written (No space left on device)" in capsys.readouterr().err
    assert list(somewhere.iterdir()) == []


def test_the_list_is_as_it_was(capsys):
    assert main(["plugins", "--json"]) == 0
    assert '"lora_filesystem_resolver"' in capsys.readouterr().out
