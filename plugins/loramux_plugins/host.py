"""The plugins of one owner; two hosts in a process share nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import pluggy

from loramux_plugins.discovery import Candidate, installed_candidates
from loramux_plugins.errors import PluginFaultError, PluginSelectionError
from loramux_plugins.hook_names import implemented_hooks, unknown_hooks
from loramux_plugins.hookspecs import host_hookspecs
from loramux_plugins.info import PluginInfo, PluginState
from loramux_plugins.record import PluginRecord, one_line
from loramux_plugins.selection import Selection, read_strict

log = logging.getLogger(__name__)


class PluginHost:
    """Finds, selects, loads and lists plugins, so that a broken one stops no other.

    Args:
        project: name of the owner; it is the pluggy project name of the hook markers and, in
            capitals, the prefix of the environment variables ``<PROJECT>_PLUGINS`` and
            ``<PROJECT>_STRICT_PLUGINS``.
        group: entry-point group in which installed distributions offer plugins.
        hookspecs: modules or classes that hold the owner's hook specifications. The host adds its
            own, :mod:`loramux_plugins.hookspecs`.
        fatal: exception types with which a plugin states that the operator must act first. They
            are raised as they are, whether the plugin was asked for by name or not.
    """

    def __init__(
        self,
        project: str,
        group: str,
        hookspecs: Sequence[ModuleType | type],
        *,
        fatal: tuple[type[Exception], ...] = (),
    ) -> None:
        self.project = project
        self.group = group
        self._fatal = fatal
        self._strict = False
        self._selection = Selection.read(project, {})
        self._records: list[PluginRecord] = []
        self._manager = pluggy.PluginManager(project)
        for namespace in (host_hookspecs(project), *hookspecs):
            self._manager.add_hookspecs(namespace)

    def load(self, environ: Mapping[str, str] | None = None) -> None:
        """Load what is installed and selected; to be called once.

        Every plugin is tried before anything is raised, so :meth:`describe` is complete even then.
        Without a selection, plugins come in the order of their names.

        Raises:
            PluginSelectionError: if a plugin asked for by name is not installed, broken or not
                configured.
            Exception: a broken plugin's own error, under ``<PROJECT>_STRICT_PLUGINS=1``.
        """
        environ = os.environ if environ is None else environ
        self._strict = read_strict(self.project, environ)
        self._selection = Selection.read(self.project, environ)
        installed = {found: PluginRecord(found) for found in installed_candidates(self.group)}
        self._records += installed.values()
        chosen = [installed[found] for found in self._selection.choose(list(installed))]
        refusals: list[Exception] = []  # the one to be raised comes last
        for record in reversed(chosen):  # pluggy asks first whom it met last
            record.explicit = self._selection.names is not None
            refusals += self._admit(record, partial(_load, record, chosen))
        refusals += reversed(self._selection.refusals(list(installed)))
        if refusals:
            raise refusals[-1]

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin from code; it is asked before those that were there already.

        Raises:
            PluginSelectionError: if it is no valid plugin or not configured.
        """
        value = getattr(plugin, "__name__", type(plugin).__name__)
        record = PluginRecord(Candidate(name, value), explicit=True)
        self._records.append(record)
        for refusal in self._admit(record, lambda: plugin):
            raise refusal

    def describe(self) -> list[PluginInfo]:
        """Every plugin the host knows of, by name, whatever became of it."""
        return sorted((record.info() for record in self._records), key=lambda info: info.name)

    def implementing(self, hook: str) -> list[str]:
        """Names of the active plugins that implement ``hook``, in the order of asking."""
        implementations = getattr(self._manager.hook, hook).get_hookimpls()
        return [implementation.plugin_name for implementation in reversed(implementations)]

    def call(self, plugin_name: str, hook: str, **arguments: Any) -> Any:
        """Call one hook of one plugin; whatever it raises comes through."""
        others = self._manager.get_plugins() - {self._manager.get_plugin(plugin_name)}
        answers = self._manager.subset_hook_caller(hook, others)(**arguments)
        return answers[0] if answers else None

    @contextmanager
    def isolated(self, plugin_name: str) -> Iterator[None]:
        """Work with one active plugin; an error inside breaks that plugin and nobody else.

        Raises:
            PluginSelectionError: if the plugin was asked for by name.
            Exception: the error itself, if it is a fatal one or under
                ``<PROJECT>_STRICT_PLUGINS=1``.
        """
        active = [record for record in self._records if record.state is PluginState.ACTIVE]
        record = next(record for record in active if record.name == plugin_name)
        try:
            yield
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # see _admit
            for refusal in self._break(record, error):
                raise refusal from refusal.__cause__

    def _admit(self, record: PluginRecord, load: Callable[[], object]) -> list[Exception]:
        """Import, register and question one plugin; returns what speaks against starting."""
        try:
            record.plugin = load()
            self._register(record)
            self._check_hooks(record)
            missing: str | None = self.call(record.name, "missing_configuration")
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # a stranger's code: sys.exit, or the panic of an extension
            return self._break(record, error)
        if missing:
            return self._set_aside(record, missing)
        record.state = PluginState.ACTIVE
        return []

    def _register(self, record: PluginRecord) -> None:
        if self._manager.has_plugin(record.name):
            raise PluginFaultError(f"the name {record.name!r} is taken by another plugin")
        if self._manager.is_registered(record.plugin):
            name = self._manager.get_name(record.plugin)
            same = [each for each in self._records if each.plugin is record.plugin]
            raise _registered_already(record, next(each for each in same if each.name == name))
        self._manager.register(record.plugin, record.name)

    def _check_hooks(self, record: PluginRecord) -> None:
        record.hooks = implemented_hooks(self._manager, record.plugin)
        record.error = unknown_hooks(self._manager, record.plugin)
        if record.error and (record.explicit or self._strict):
            raise PluginFaultError(record.error)
        if record.error:
            log.warning("%s is used, although %s", record.origin, record.error)
        if not record.hooks:
            self._warn_of_no_hooks(record)

    def _warn_of_no_hooks(self, record: PluginRecord) -> None:
        complaint = (
            "implements no hook (is a hookimpl marker missing, or does its entry point name a "
            "function instead of the module?)"
        )
        record.error = f"it {complaint}"
        if record.explicit or self._strict:
            raise PluginFaultError(record.error)
        log.warning("%s %s", record.origin, complaint)

    def _set_aside(self, record: PluginRecord, missing: str) -> list[Exception]:
        self._withdraw(record, PluginState.NOT_CONFIGURED, missing)
        if not record.explicit:
            return []
        return [self._refusal(record, "is not configured", missing, "configure it")]

    def _break(self, record: PluginRecord, error: BaseException) -> list[Exception]:
        self._withdraw(record, PluginState.BROKEN, one_line(error))
        if isinstance(error, Exception) and (self._strict or isinstance(error, self._fatal)):
            return [error]
        if record.explicit or self._strict:
            refusal = self._refusal(record, "is broken", one_line(error), "repair it")
            refusal.__cause__ = error
            return [refusal]
        log.warning("%s is left out: %s", record.origin, record.error)
        log.debug("the error of %s", record.origin, exc_info=error)
        return []

    def _withdraw(self, record: PluginRecord, state: PluginState, why: str) -> None:
        record.state, record.error = state, why
        # pluggy 1.6 leaves a plugin that fails validation half registered; and what has the name
        # may be the plugin that was there before
        holder = self._manager.get_plugin(record.name)
        if holder is not None and holder is record.plugin:
            self._manager.unregister(name=record.name)

    def _refusal(
        self, record: PluginRecord, complaint: str, why: str, remedy: str
    ) -> PluginSelectionError:
        if self._selection.names is not None and record.candidate.distribution is not None:
            remedy += f" or take it out of {self._selection.variable}"
        return PluginSelectionError(f"{record.origin} {complaint} ({why.rstrip('.')}); {remedy}.")


def _load(record: PluginRecord, chosen: Sequence[PluginRecord]) -> object:
    """Import a chosen plugin, unless another distribution offers one of the same name."""
    rivals = [rival.candidate.distribution for rival in chosen if rival.name == record.name]
    if len(rivals) > 1:
        raise PluginFaultError(
            f"the name {record.name!r} is offered by {' and '.join(map(str, rivals))}; "
            "uninstall one, or select one by its distribution's name"
        )
    return record.candidate.load()


def _registered_already(record: PluginRecord, holder: PluginRecord) -> PluginFaultError:
    """Why an object is there under another name: Python has one module of each name."""
    own, other = record.candidate, holder.candidate
    packages = {own.distribution, other.distribution} - {None}
    if own.value != other.value or len(packages) < 2:
        return PluginFaultError(f"the same object is already the plugin {holder.name!r}")
    return PluginFaultError(
        f"its entry point and that of {holder.origin} both name the module {own.value!r}, so one "
        "package hides the other; uninstall one, or rename the module of one"
    )
