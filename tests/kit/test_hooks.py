"""Every hook does what its page says, in a plugin that is installed like anybody's."""

from __future__ import annotations

import types

import pytest

from loramux import LoRAResolver, hookimpl
from loramux.errors import PluginError
from loramux.plugins import collect_lora_resolvers, plugin_errors


class Never(LoRAResolver):
    async def resolve_lora(self, base_model_name, lora_name):
        return None


def plugin(**hooks) -> types.ModuleType:
    """A module with these functions as its hooks."""
    module = types.ModuleType("made_for_a_test")
    for name, function in hooks.items():
        setattr(module, name, hookimpl(specname=name)(function))
    return module


def test_hook_register_lora_resolvers(plugin_host):
    resolver = Never()

    def register_lora_resolvers(register):
        register("one", resolver)
        with pytest.raises(ValueError, match="'one' is taken"):
            register("one", Never())
        register(name="two", resolver=resolver)

    plugin_host.register(plugin(register_lora_resolvers=register_lora_resolvers), "mine")
    found = collect_lora_resolvers(plugin_host)
    assert [(named.name, named.resolver) for named in found] == [
        ("one", resolver),
        ("two", resolver),
    ]


def test_hook_register_lora_resolvers_may_take_no_argument(plugin_host):
    plugin_host.register(plugin(register_lora_resolvers=lambda: None), "mine")
    assert collect_lora_resolvers(plugin_host) == []


def test_hook_register_lora_resolvers_ends_the_start_with_a_plugin_error(plugin_host):
    def register_lora_resolvers(register):
        raise PluginError("TEAM_URL leads nowhere; correct it.")

    plugin_host.register(plugin(register_lora_resolvers=register_lora_resolvers), "mine")
    with pytest.raises(PluginError, match=r"^TEAM_URL leads nowhere; correct it\.$"):
        collect_lora_resolvers(plugin_host)


@pytest.mark.parametrize("missing", [None, ""])
def test_hook_missing_configuration_may_find_nothing_missing(plugin_host, missing):
    plugin_host.register(plugin(missing_configuration=lambda: missing), "mine")
    (info,) = plugin_host.describe()
    assert (info.state, info.error) == ("active", None)


def test_hook_missing_configuration_says_what_to_set(plugin_host):
    module = plugin(missing_configuration=lambda: "TEAM_URL is not set; set it.")
    with (
        pytest.raises(PluginError, match=r"is not configured \(TEAM_URL is not set; set it\); c"),
        plugin_errors(),
    ):
        plugin_host.register(module, "mine")
    (info,) = plugin_host.describe()
    assert (info.state, info.error) == ("not configured", "TEAM_URL is not set; set it.")
