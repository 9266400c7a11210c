"""Which hooks a plugin implements, and which of them nobody calls."""

from __future__ import annotations

from difflib import get_close_matches

import pluggy


def implemented_hooks(manager: pluggy.PluginManager, plugin: object) -> tuple[str, ...]:
    """Names of the hooks that a registered plugin implements, in alphabetical order."""
    return tuple(sorted(caller.name for caller in manager.get_hookcallers(plugin) or ()))


def unknown_hooks(manager: pluggy.PluginManager, plugin: object) -> str | None:
    """Say which hooks of a registered plugin have no specification; None if all have one.

    pluggy's ``check_pending`` stops at the first such hook of any plugin; this asks about one.
    """
    names = [
        caller.name
        for caller in manager.get_hookcallers(plugin) or ()
        if not caller.has_spec() and not _is_optional(caller, plugin)
    ]
    known = [name for name, caller in vars(manager.hook).items() if caller.has_spec()]
    return "; ".join(_describe(name, known) for name in names) or None


def _is_optional(caller: pluggy.HookCaller, plugin: object) -> bool:
    return any(
        implementation.optionalhook
        for implementation in caller.get_hookimpls()
        if implementation.plugin is plugin
    )


def _describe(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the hooks are {', '.join(sorted(known))}"
    return f"it implements the unknown hook {name!r} ({hint})"
