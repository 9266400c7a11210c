"""What the plugins' page says is so: every hook, every state, every fixture, and its code."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
import types
from pathlib import Path

import pluggy
import pytest

import loramux.testing
from loramux.plugins import collect_lora_resolvers, create_plugin_host
from loramux.testing import ResolverContract
from loramux_plugins import PluginState

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "plugins" / "README.md").read_text()
HEADINGS = re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE)
CODE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def hooks() -> dict[str, tuple[str, ...]]:
    """Every hook that a plugin of loramux may implement, with the names of its arguments."""
    callers = vars(create_plugin_host()._manager.hook).values()
    return {
        caller.name: caller.spec.argnames
        for caller in callers
        if isinstance(caller, pluggy.HookCaller) and caller.spec is not None
    }


def test_there_are_hooks():
    assert {"register_lora_resolvers", "missing_configuration"} <= hooks().keys()


def test_every_hook_is_documented_with_its_exact_arguments():
    assert set(HEADINGS) == {f"{name}({', '.join(names)})" for name, names in hooks().items()}


def test_every_hook_has_a_docstring():
    for caller in vars(create_plugin_host()._manager.hook).values():
        if isinstance(caller, pluggy.HookCaller):
            assert inspect.getdoc(caller.spec.function), caller.name


@pytest.mark.parametrize("hook", hooks())
def test_every_hook_has_a_test_that_is_named_after_it(hook):
    names = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert any(name.startswith(f"test_hook_{hook}") for name in names)


def test_every_state_is_documented():
    section = PAGE.partition("| state | meaning |")[2]
    assert re.findall(r"^\| `([a-z ]+)` \|", section, re.MULTILINE)[:4] == list(PluginState)


def test_every_fixture_is_documented():
    rows = re.findall(r"^\| (`.*?) \|", PAGE.partition("## Test it")[2], re.MULTILINE)
    documented = set(re.findall(r"`(\w+)", " ".join(rows)))
    given = {name for name in loramux.testing.__all__ if name.islower()} - {"write_adapter"}
    to_give = {
        "resolver", "known_name", "unknown_name", "base_model_name",
        "change_adapter", "slow_store", "lose_store",
    }  # fmt: skip
    assert documented == given | to_give
    assert all(hasattr(ResolverContract, name) for name in to_give)


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE):
        assert (ROOT / "plugins" / link).exists(), link


def test_the_code_runs(plugin_host, adapter_files, tmp_path, monkeypatch):
    """All blocks one after another make one module, which works as a plugin."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    exec("\n".join(CODE), module.__dict__)
    monkeypatch.setenv("TEAM_ADAPTERS", str(tmp_path))
    plugin_host.register(module, "page")
    (named,) = collect_lora_resolvers(plugin_host)
    path = adapter_files(tmp_path / "sql")
    assert named.name == "team"
    found = asyncio.run(named.resolver.resolve_lora("base", "team/sql"))
    assert found.lora_path == str(path)
    assert asyncio.run(named.resolver.resolve_lora("base", "team/../sql")) is None
    assert issubclass(module.TestTeamResolver, ResolverContract)
    context = module.ResolveContext(caller="ada")
    tenants = module.TenantResolver()
    assert asyncio.run(tenants.resolve_lora("base", "ada/x", context)).lora_path == "/srv/ada/x"
    assert asyncio.run(tenants.resolve_lora("base", "bob/x", context)) is None
    with pytest.raises(module.AdapterUnavailableError, match="does not answer"):
        module.StoredAdapter("s3://x", "1").fetch(tmp_path, print)


def test_the_test_of_the_page_passes(tmp_path):
    """The class that inherits the contract, on the resolver of the page."""
    (tmp_path / "test_page.py").write_text("\n".join(CODE))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert re.search(r"^1?\d\d passed, \d skipped", done.stdout, re.MULTILINE), done.stdout
