"""The errors a plugin host raises on purpose."""

from __future__ import annotations


class PluginSelectionError(Exception):
    """What the environment asks of the plugins cannot be honoured."""


class PluginFaultError(Exception):
    """A plugin is not made as a plugin has to be; the message says why it is broken."""
