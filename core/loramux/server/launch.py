"""Starts an engine, stands a server in front of it, and ends both in order."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import uvicorn

from loramux import env
from loramux.engine.args import EngineArgs
from loramux.logger import get_logger, line_for_stdout
from loramux.lora.resolve.catalog import AdapterCatalog
from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolve.search import ResolverChain as AskedResolvers
from loramux.lora.resolver import LoRAResolverRegistry, NamedResolver
from loramux.observability.tracing import tracer_for
from loramux.plugins import collect_lora_resolvers, load_plugins
from loramux.server import descriptors, interpreter
from loramux.server.access.keyring import Keyring
from loramux.server.access.rules import RUNTIME_UPDATES_VARIABLE
from loramux.server.adapters.addresses import AddressedAdapters
from loramux.server.adapters.allowed_paths import AllowedPaths
from loramux.server.adapters.named_places import named_places
from loramux.server.app import build_app
from loramux.server.dashboard.activity import Activity
from loramux.server.dashboard.watching import watched
from loramux.server.early_checks import look_ahead
from loramux.server.engine_protocol import Engine
from loramux.server.listener import BACKLOG, address_of, listen, open_listener
from loramux.server.serve_options import ServeOptions
from loramux.server.state import ServerState

log = get_logger(__name__)


def serve(args: EngineArgs, options: ServeOptions) -> None:
    """Serve until SIGTERM or SIGINT; requests that run then may finish.

    Raises:
        LoramuxError: the server cannot be started as asked.
    """
    listener = listen(options.host, options.port)
    limits = replace(options.connections, max_connections=descriptors.most_connections())
    options = replace(options, connections=limits)
    plugin_resolvers = find_resolvers()
    settings = {**_settings(options), **_locks(options, args, plugin_resolvers)}
    look_ahead(args, options, plugin_resolvers)
    # What is wrong so far is told at once; from here on it takes seconds.
    interpreter.keep()
    from loramux import AsyncLLMEngine

    resolvers = ResolverChain(plugin_resolvers)
    activity = Activity() if options.dashboard else None
    engine, asked = watched(AsyncLLMEngine.from_engine_args(args), resolvers, activity)
    state = ServerState(
        engine=engine,
        catalog=build_catalog(engine, asked),
        base_names=args.served_names,
        activity=activity,
        **settings,
    )
    scheme = options.connections.scheme
    server = _Server(state, options, ready_line(listener, args, plugin_resolvers, scheme))
    server.end_on_signals()
    try:
        with asyncio.Runner(loop_factory=interpreter.loop_factory()) as runner:
            runner.run(_run(server, state, options, listener))
    finally:
        resolvers.close()


def _settings(options: ServeOptions) -> dict[str, Any]:
    """What the server's state holds of the options as it is."""
    return {
        "chat_template": options.read_chat_template(),
        "tools": options.tools,
        "max_body_bytes": options.max_body_bytes,
        "max_queued_requests": options.max_queued_requests,
        "metrics_without_key": options.metrics_without_key,
        "access_log": options.access_log,
        "tracer": tracer_for(options.otlp_traces_endpoint),
    }


def _locks(
    options: ServeOptions, args: EngineArgs, resolvers: Sequence[NamedResolver]
) -> dict[str, Any]:
    """Who may do what, and what is asked of connections, as the server's state holds it."""
    named = named_places(options.adapters, args.model)
    is_private = options.is_local and not (options.api_keys or options.api_keys_file)
    allowed = AllowedPaths.configured(options.allowed_roots, named, is_private=is_private)
    allows_updates = env.read_bool(RUNTIME_UPDATES_VARIABLE)
    if allows_updates and allowed.is_everywhere:
        log.warning(
            "whoever is on this machine may load adapters from any path and Hub repository; "
            "name directories with --allowed-local-adapter-path to keep to them"
        )
    return {
        "keyring": Keyring(options.api_keys, options.api_keys_file),
        "allow_runtime_updates": allows_updates,
        "allowed_paths": allowed,
        "addresses": AddressedAdapters(args.model, resolvers),
        "share_prefix_cache": options.share_prefix_cache,
        "connections": options.connections,
        "is_local": options.is_local,
        "allowed_origins": options.origins,
    }


def find_resolvers() -> list[NamedResolver]:
    """The resolvers of the plugins that are installed, selected and configured, in order.

    Raises:
        PluginError: a plugin that was asked for by name cannot be provided.
    """
    return collect_lora_resolvers(load_plugins())


def build_catalog(engine: Engine, resolvers: AskedResolvers) -> AdapterCatalog:
    """The catalog of an engine; without ``enable_lora`` no resolver is ever asked."""
    return AdapterCatalog(
        base_model_name=engine.args.model,
        base_names=engine.args.served_names,
        load=engine.load_lora,
        resolvers=resolvers if engine.args.enable_lora else None,
    )


def ready_line(
    listener: socket.socket,
    args: EngineArgs,
    plugin_resolvers: Sequence[NamedResolver],
    scheme: str = "http",
) -> str:
    """What is printed once requests are taken."""
    names = [resolver.name for resolver in plugin_resolvers]
    names += LoRAResolverRegistry.get_supported_resolvers()
    resolvers = ", ".join(names) if names and args.enable_lora else "none"
    url = f"{scheme}://{address_of(listener)}"
    model = " or ".join(args.served_names)  # what clients have to send
    return f"loramux is ready: {url} (model {model}, resolvers: {resolvers})"


async def _run(
    server: _Server, state: ServerState, options: ServeOptions, listener: socket.socket
) -> None:
    try:
        await state.catalog.register_all(options.adapters)
        interpreter.settle()
        open_listener(listener)
        if options.api_keys_file is not None:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, state.keyring.reload)
        await server.serve(sockets=[listener])
    finally:
        await state.close()


class _Server(uvicorn.Server):
    """uvicorn that says when it is ready and lets the process end by returning."""

    def __init__(self, state: ServerState, options: ServeOptions, ready: str) -> None:
        config = uvicorn.Config(
            build_app(state),
            log_level=options.uvicorn_log_level,
            log_config=None,  # what it logs looks like all the rest
            timeout_graceful_shutdown=options.shutdown_seconds,
            lifespan="off",
            backlog=BACKLOG,
            **options.connections.uvicorn_settings(),
        )
        super().__init__(config)
        self._ready = ready
        self._activity = state.activity

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            print(line_for_stdout(self._ready, __name__), flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._activity is not None:
            self._activity.close()  # a page somebody left open is nothing to wait for
        await super().shutdown(sockets)

    def end_on_signals(self) -> None:
        """Take SIGINT and SIGTERM, which uvicorn hands back to whoever had them before it.

        Their defaults would then kill the process before the engine has ended; a second signal
        may do so.
        """

        def end(number: int, _: object) -> None:
            signal.signal(number, signal.SIG_DFL)
            self.should_exit = True

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
