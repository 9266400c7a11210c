"""How loramux uses the host: its hooks, its environment variables, its errors, its command."""

from __future__ import annotations

import argparse
import json
import re

import pytest

from loramux.cli.plugins import add_parser
from loramux.errors import PluginError
from loramux.plugins import collect_lora_resolvers, create_plugin_host, load_plugins
from loramux_plugins import PluginHost
from tests.plugins.conftest import Site, python

GROUP = "loramux.plugins"
FILESYSTEM = "lora_filesystem_resolver"
DIRECTORY = "LORAMUX_LORA_RESOLVER_CACHE_DIR"

OFFERS_TWO = """
from loramux import LoRAResolver, hookimpl

class Never(LoRAResolver):
    async def resolve_lora(self, base_model_name, lora_name):
        return None

@hookimpl
def register_lora_resolvers(register):
    register("one", Never())
    register(name="two", resolver=Never())
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LORAMUX_PLUGINS", "PLUGINS", "LORAMUX_STRICT_PLUGINS", DIRECTORY):
        monkeypatch.delenv(variable, raising=False)


def install(site: Site, name: str, source: str) -> None:
    site.install(f"{name}-package", {name: f"{name}_mod"}, {f"{name}_mod": source}, group=GROUP)


def names(host: PluginHost) -> list[str]:
    return [named.name for named in collect_lora_resolvers(host)]


def state(host: PluginHost, plugin: str) -> tuple[str, str | None]:
    info = next((info for info in host.describe() if info.name == plugin), None)
    assert info is not None, f"{plugin} is not installed; `pip install -e .` makes it so"
    return str(info.state), info.error


def test_a_plugin_offers_resolvers_through_the_hook(site, monkeypatch):
    install(site, "pair", OFFERS_TWO)
    monkeypatch.setenv("LORAMUX_PLUGINS", "pair")
    assert names(load_plugins()) == ["one", "two"]


def test_the_hook_takes_a_plugin_that_offers_nothing(site, monkeypatch):
    install(site, "none", OFFERS_TWO.split("    register(", maxsplit=1)[0] + "    pass\n")
    monkeypatch.setenv("LORAMUX_PLUGINS", "none")
    assert names(load_plugins()) == []


def test_plugins_are_asked_in_the_order_of_the_selection(site, monkeypatch):
    install(site, "ant", OFFERS_TWO.replace('"one"', '"ant-one"').replace('"two"', '"ant-two"'))
    install(site, "bee", OFFERS_TWO)
    monkeypatch.setenv("PLUGINS", "bee,ant")
    assert names(load_plugins()) == ["one", "two", "ant-one", "ant-two"]


def test_a_selection_that_cannot_be_honoured_is_a_loramux_error(monkeypatch):
    monkeypatch.setenv("LORAMUX_PLUGINS", "unicorn")
    with pytest.raises(PluginError, match=r"LORAMUX_PLUGINS asks for the plugin 'unicorn'"):
        load_plugins()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('register("one", Never())', "ValueError: the LoRA resolver name 'one' is taken"),
        ('register("class", Never)', "register an instance of a class that inherits from"),
        ('raise OSError("disk")', "OSError: disk"),
        ("import sys; sys.exit(1)", "SystemExit: 1"),
    ],
)
def test_a_plugin_whose_hook_fails_offers_nothing(site, monkeypatch, tmp_path, line, complaint):
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    install(site, "faulty", OFFERS_TWO + f"    {line}\n")
    host = load_plugins()
    assert names(host) == [FILESYSTEM]
    assert state(host, "faulty")[0] == "broken"
    assert complaint in str(state(host, "faulty")[1])


def test_a_failing_hook_of_a_selected_plugin_is_refused(site, monkeypatch):
    install(site, "faulty", OFFERS_TWO + "    1 / 0\n")
    monkeypatch.setenv("LORAMUX_PLUGINS", "faulty")
    host = load_plugins()
    with pytest.raises(PluginError, match=r"'faulty' of faulty-package 1.0 is broken \(ZeroDivis"):
        collect_lora_resolvers(host)


def test_of_two_plugins_with_one_resolver_name_the_second_is_left_out(site, monkeypatch):
    install(site, "ant", OFFERS_TWO)
    install(site, "bee", OFFERS_TWO)
    host = load_plugins()
    assert names(host)[:2] == ["one", "two"]
    assert state(host, "ant") == ("active", None)
    assert state(host, "bee")[0] == "broken"


def test_the_filesystem_resolver_is_installed_and_waits_for_its_directory():
    host = load_plugins()
    found, why = state(host, FILESYSTEM)
    assert found == "not configured"
    assert str(why).startswith(f"{DIRECTORY} is not set")
    assert FILESYSTEM not in names(host)


def test_asking_for_the_filesystem_resolver_without_its_directory_is_refused(monkeypatch):
    monkeypatch.setenv("PLUGINS", FILESYSTEM)
    with pytest.raises(PluginError, match=f"{DIRECTORY} is not set; set it to the directory"):
        load_plugins()


@pytest.mark.parametrize("selection", [None, FILESYSTEM])
def test_a_directory_that_is_none_ends_the_start(monkeypatch, tmp_path, selection):
    monkeypatch.setenv(DIRECTORY, str(tmp_path / "missing"))
    if selection:
        monkeypatch.setenv("LORAMUX_PLUGINS", selection)
    host = load_plugins()
    with pytest.raises(PluginError, match="missing', which is not a directory"):
        collect_lora_resolvers(host)
    assert state(host, FILESYSTEM)[0] == "broken"


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["plugins", *arguments])
    return int(args.run(args))


def test_the_command_prints_a_table_that_a_terminal_has_room_for(site, monkeypatch, capsys):
    install(site, "pair", OFFERS_TWO)
    install(site, "faulty", "1 / 0")
    assert run([]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert re.split("  +", heading) == ["NAME", "WHAT IT IS", "FROM", "STATE"]
    assert max(map(len, [heading, *lines])) <= 100
    rows = {line.split()[0]: line for line in lines if not line.startswith(" ")}
    pair = re.split("  +", rows["pair"])
    assert pair == ["pair", "LoRA resolver", "pair-package 1.0", "active"]
    assert rows["faulty"].index("broken") == heading.index("STATE") == rows["pair"].index("active")
    assert lines[lines.index(rows["faulty"]) + 1] == "    ZeroDivisionError: division by zero"
    why = lines[lines.index(rows[FILESYSTEM]) + 1]
    assert why.startswith(f"    {DIRECTORY} is not set; set it to the directory")


def test_the_command_prints_json(site, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    install(site, "pair", OFFERS_TWO)
    assert run(["--json"]) == 0
    by_name = {info["name"]: info for info in json.loads(capsys.readouterr().out)}
    assert by_name["pair"] == {
        "name": "pair",
        "state": "active",
        "version": "1.0",
        "distribution": "pair-package",
        "value": "pair_mod",
        "hooks": ["register_lora_resolvers"],
        "error": None,
    }
    assert by_name[FILESYSTEM]["state"] == "active"
    assert by_name[FILESYSTEM]["distribution"] == "loramux"


def test_the_command_lists_everything_even_when_an_engine_would_not_start(
    site, monkeypatch, capsys
):
    install(site, "faulty", OFFERS_TWO + "    1 / 0\n")
    monkeypatch.setenv("LORAMUX_PLUGINS", "faulty,unicorn")
    assert run(["--json"]) == 1
    output = capsys.readouterr()
    assert {"faulty", FILESYSTEM} <= {info["name"] for info in json.loads(output.out)}
    assert output.err.startswith("loramux: LORAMUX_PLUGINS asks for the plugin 'unicorn'")


def test_the_command_says_when_nothing_is_installed(monkeypatch, capsys):
    monkeypatch.setattr("loramux.plugins.ENTRY_POINT_GROUP", "of.nobody")
    assert run([]) == 0
    assert capsys.readouterr().out == "no plugins are installed\n"


def test_every_hook_is_documented_and_implemented_by_a_test():
    manager = create_plugin_host()._manager
    specs = {name: caller.spec for name, caller in vars(manager.hook).items() if caller.spec}
    assert set(specs) == {"missing_configuration", "register_lora_resolvers"}
    assert all(spec.function.__doc__ for spec in specs.values())


def test_plugins_cost_no_torch():
    imports = "import sys, loramux.cli.plugins, loramux_resolvers.filesystem"
    code = f"{imports}; print('torch' in sys.modules)"
    assert python(code) == "False\n"
