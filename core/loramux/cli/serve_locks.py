"""Flags of ``loramux serve`` that say who may do what, and what is asked of connections."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from loramux import env

API_KEY_VARIABLE = "LORAMUX_API_KEY"
API_KEYS_FILE_VARIABLE = "LORAMUX_API_KEYS_FILE"


def add_access_arguments(group: Any) -> None:
    """Add keys, and what they open."""
    add = group.add_argument
    add("--api-key", nargs="+", metavar="KEY", help="keys that may do everything, of which "
        f"clients must send one; also read from {API_KEY_VARIABLE}")  # fmt: skip
    add("--api-keys-file", type=Path, metavar="FILE",
        help="TOML file of keys with a name each, a role (infer, admin), patterns of adapter names "
        f"and a quota; read again on SIGHUP; also read from {API_KEYS_FILE_VARIABLE}")  # fmt: skip
    add("--allowed-local-adapter-path", nargs="+", default=[], metavar="DIR",
        help="directories, and hf://org/repo, from which /v1/load_lora_adapter may load, beside "
        "those of the resolvers and of --lora-modules; LORAMUX_ALLOWED_ADAPTER_ROOTS adds to them "
        "(a list with commas)")  # fmt: skip
    add("--allowed-origins", nargs="+", metavar="ORIGIN",
        help="pages that may use this server from a browser, such as https://app.example.com, or * "
        "for all, which is so where a key is needed; without keys it is none")  # fmt: skip
    add("--share-prefix-cache", action="store_true",
        help="let requests of all keys share computed prompts; a key can then find out by the time "
        "an answer takes what others have asked")  # fmt: skip


def add_connection_arguments(group: Any) -> None:
    """Add limits of size and time, and TLS."""
    add = group.add_argument
    add("--max-header-bytes", type=int, default=16 * 1024, metavar="INT",
        help="longest address and headers accepted (default: 16384)")  # fmt: skip
    add("--keep-alive-seconds", type=int, default=5, metavar="INT",
        help="how long a connection stays open without a request (default: 5)")  # fmt: skip
    add("--slow-client-seconds", type=float, default=30.0, metavar="SECONDS",
        help="how long a client may take to send headers, or a body, or to read what fills its "
        "buffers (default: 30)")  # fmt: skip
    add("--ssl-certfile", type=Path, metavar="FILE", help="certificates, PEM; turns TLS on")
    add("--ssl-keyfile", type=Path, metavar="FILE", help="its key, where that is another file")
    add("--ssl-ca-certs", type=Path, metavar="FILE", help="who signs the certificates of clients")
    add("--ssl-cert-reqs", type=int, default=0, choices=(0, 1, 2),
        help="clients show no certificate (0), may show one (1), must (2; default: 0)")  # fmt: skip


def access_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Who may do what, as keyword arguments of ``ServeOptions``."""
    from_environment = env.read_text(API_KEY_VARIABLE)
    keys_file = env.read_text(API_KEYS_FILE_VARIABLE)
    return {
        "api_keys": tuple(arguments.api_key or ([from_environment] if from_environment else [])),
        "api_keys_file": arguments.api_keys_file or (Path(keys_file) if keys_file else None),
        "allowed_roots": tuple(arguments.allowed_local_adapter_path),
        "allowed_origins": _origins(arguments.allowed_origins),
        "share_prefix_cache": arguments.share_prefix_cache,
    }


def _origins(given: list[str] | None) -> tuple[str, ...] | None:
    """As they are, or in one argument as a list in JSON, which vLLM takes."""
    if given and given[0].startswith("["):
        with suppress(ValueError):
            given = [str(origin) for text in given for origin in json.loads(text)]
    return None if given is None else tuple(given)


def connection_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Limits and TLS, as keyword arguments of ``ConnectionOptions``."""
    names = (
        "max_header_bytes",
        "keep_alive_seconds",
        "slow_client_seconds",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_ca_certs",
        "ssl_cert_reqs",
    )
    return {name: getattr(arguments, name) for name in names}
