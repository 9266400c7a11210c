"""The hooks that every host has, whatever its owner adds."""

from __future__ import annotations

import pluggy


def host_hookspecs(project: str) -> type:
    """The host's own hook specifications, marked for ``project``."""
    hookspec = pluggy.HookspecMarker(project)

    class HostHooks:
        """Hooks that the host itself calls while it loads a plugin."""

        @hookspec
        def missing_configuration(self) -> str | None:
            """Say what has to be set before this plugin can work, in one sentence.

            ``None`` means that nothing is missing. A plugin with something missing is left aside,
            and listed as ``not configured``; where it was asked for by name, the sentence is the
            error. Called once, right after the plugin was registered.
            """

    return HostHooks
