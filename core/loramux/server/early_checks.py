"""What can be told to be wrong before a model is loaded, which may take minutes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from loramux import env
from loramux.engine.args import EngineArgs
from loramux.errors import InvalidRequestError
from loramux.lora.checkpoint.read_threads import read_threads
from loramux.lora.disk_cache.byte_size import read_byte_size
from loramux.lora.fetch.locate import locate
from loramux.lora.local_path import is_directory
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.catalog import AdapterModule, recheck_seconds_from_environment
from loramux.lora.resolve.deadline import resolve_timeout
from loramux.lora.resolver import LoRAResolverRegistry, NamedResolver
from loramux.server.access.rules import RUNTIME_UPDATES_VARIABLE
from loramux.server.adapters.allowed_paths import ROOTS_VARIABLE
from loramux.server.serve_options import ServeOptions

log = logging.getLogger(__name__)

SIZES = ("LORAMUX_MAX_ADAPTER_BYTES", "LORAMUX_ADAPTER_CACHE_SIZE", "LORAMUX_HOST_CACHE_BYTES")


def look_ahead(args: EngineArgs, options: ServeOptions, resolvers: Sequence[NamedResolver]) -> None:
    """Warn of what is probably not meant, and look at what the environment and the options name.

    Raises:
        LoramuxError: a server that is started so would fail later.
    """
    warn_of_unused_resolvers(resolvers, args.enable_lora)
    if args.enable_lora and not (options.adapters or env.read_bool(RUNTIME_UPDATES_VARIABLE)):
        warn_of_no_adapters(resolvers)
    warn_of_open_door(options)
    warn_of_missing_roots([*options.allowed_roots, *env.read_list(ROOTS_VARIABLE)])
    check_numbers(args.enable_lora)
    check_adapters(options.adapters, args.served_names)


def check_numbers(enable_lora: bool) -> None:
    """Read the numbers in the environment that are needed once there is an engine.

    Raises:
        EnvironmentVariableError: one of them cannot be read.
    """
    resolve_timeout()
    recheck_seconds_from_environment()
    env.read_seconds("LORAMUX_LORA_NEGATIVE_TTL", 0, zero_allowed=True)
    if enable_lora:
        read_threads()
        env.read_int("LORAMUX_MAX_CONCURRENT_FETCHES", 1, minimum=1)
        for variable in SIZES:
            read_byte_size(variable, 1)


def check_adapters(modules: Sequence[AdapterModule], base_names: Sequence[str]) -> None:
    """Look at the adapters that an operator names: their names are free, and they are there.

    Raises:
        InvalidRequestError: a name is given twice, or is the base model's.
        AdapterNotFoundError: there is nothing where an adapter should be.
        AdapterUnavailableError: the Hub or the storage does not answer.
    """
    names: set[str] = set()
    for module in modules:
        if module.name in base_names:
            raise InvalidRequestError(
                f"--lora-modules: the name {module.name!r} is that of the base model; give the "
                "adapter another, or the base model one with --served-model-name.",
                "lora_modules",
            )
        if module.name in names:
            raise InvalidRequestError(
                f"--lora-modules: the name {module.name!r} is given twice; give each adapter its "
                "own.",
                "lora_modules",
            )
        names.add(module.name)
        locate(LoRARequest(module.name, 1, module.path, module.base_model_name))


def warn_of_unused_resolvers(resolvers: Iterable[NamedResolver], enable_lora: bool) -> None:
    """Say so where resolvers are configured and no adapter is served."""
    names = ", ".join(resolver.name for resolver in resolvers)
    if names and not enable_lora:
        log.warning(
            "no adapter is served, although there are resolvers (%s), because --enable-lora is "
            "not given; add it to serve adapters",
            names,
        )


def warn_of_no_adapters(resolvers: Sequence[NamedResolver]) -> None:
    """Say so where adapters could come from resolvers alone, and there are none."""
    if not resolvers and not LoRAResolverRegistry.get_supported_resolvers():
        log.warning(
            "--enable-lora is given, but no adapter can be found, because no resolver is active; "
            "see `loramux plugins` for what is installed and LORAMUX_PLUGINS=NAME to choose, or "
            "give --lora-modules or %s=1",
            RUNTIME_UPDATES_VARIABLE,
        )


def warn_of_open_door(options: ServeOptions) -> None:
    """Say so where other machines may reach the server, and anybody is let in."""
    if not options.is_local and not (options.api_keys or options.api_keys_file):
        log.warning(
            "anybody who reaches %s may use this server, because it has no keys; give --api-key or "
            "--api-keys-file, or listen on --host 127.0.0.1",
            options.host,
        )


def warn_of_missing_roots(roots: Iterable[str]) -> None:
    """Say so where clients may load adapters from a directory that is not there, or not yet."""
    for root in roots:
        if "://" not in root and not is_directory(root):
            log.warning(
                "clients may load adapters from %r, and there is no such directory; unless it is "
                "mounted later, correct --allowed-local-adapter-path or %s",
                root,
                ROOTS_VARIABLE,
            )
