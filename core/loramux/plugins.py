"""The bridge from loramux to the plugin host: which hooks, which entry points, which errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from loramux.errors import PluginError
from loramux.lora.resolver import LoRAResolver, LoRAResolverSpec, NamedResolver
from loramux_plugins import PluginHost, PluginSelectionError

ENTRY_POINT_GROUP = "loramux.plugins"


def create_plugin_host() -> PluginHost:
    """A host that knows loramux's hooks and holds no plugin yet."""
    return PluginHost("loramux", ENTRY_POINT_GROUP, [LoRAResolverSpec], fatal=(PluginError,))


def load_plugins() -> PluginHost:
    """A new host with the plugins that are installed, selected and configured.

    Raises:
        PluginError: if a plugin that was asked for by name cannot be provided, or states that
            its configuration cannot work.
    """
    host = create_plugin_host()
    with plugin_errors():
        host.load()
    return host


def collect_lora_resolvers(host: PluginHost) -> list[NamedResolver]:
    """The resolvers that the plugins of ``host`` offer, in the order in which they are asked.

    A plugin whose hook raises contributes none, not even those it had registered before.

    Raises:
        PluginError: as :func:`load_plugins` does.
    """
    collected: dict[str, NamedResolver] = {}
    for plugin_name in host.implementing("register_lora_resolvers"):
        with plugin_errors(), host.isolated(plugin_name):
            offered: dict[str, NamedResolver] = {}
            register = partial(_register, offered, collected)
            host.call(plugin_name, "register_lora_resolvers", register=register)
            collected |= offered
    return list(collected.values())


@contextmanager
def plugin_errors() -> Iterator[None]:
    """Turn the host's error into loramux's."""
    try:
        yield
    except PluginSelectionError as error:
        raise PluginError(str(error)) from error


def _register(
    offered: dict[str, NamedResolver],
    collected: dict[str, NamedResolver],
    name: str,
    resolver: LoRAResolver,
) -> None:
    if name in offered or name in collected:
        raise ValueError(f"the LoRA resolver name {name!r} is taken by another resolver")
    offered[name] = NamedResolver.of(name, resolver)
