"""A plugin host on pluggy: discovery, selection by environment, isolation, listing.

The host knows nothing of what its plugins do. Whoever owns it brings the hook specifications::

    host = PluginHost("loramux", "loramux.plugins", [LoRAResolverSpec])
    host.load()
    for info in host.describe():
        print(info.name, info.state, info.error)
"""

from __future__ import annotations

from loramux_plugins.errors import PluginSelectionError
from loramux_plugins.host import PluginHost
from loramux_plugins.info import PluginInfo, PluginState

__all__ = ["PluginHost", "PluginInfo", "PluginSelectionError", "PluginState"]
