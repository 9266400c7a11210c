"""What ``loramux adapters ACTION`` does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loramux import env
from loramux.cli.adapter_report import HEADINGS, AdapterReport, summary_as_json, summary_rows
from loramux.cli.table import aligned
from loramux.errors import AdapterError, LoramuxError
from loramux.lora.checkpoint.folder import find_checkpoints
from loramux.lora.checkpoint.summary import summarise_checkpoint
from loramux.lora.checkpoint.untrusted import shown


def list_adapters(args: argparse.Namespace) -> int:
    """Print a line for each adapter in a directory, the broken ones among them."""
    root = _directory(args.directory)
    try:
        paths = list(find_checkpoints(root))
    except OSError as error:
        raise LoramuxError(
            f"{error.filename} cannot be listed ({error.strerror}); check the directory."
        ) from error
    reports = [AdapterReport.of(path.relative_to(root).as_posix(), path) for path in paths]
    if args.json:
        _print_json([report.as_json() for report in reports])
    elif reports:
        print(aligned([HEADINGS, *(report.cells() for report in reports)]))
    else:
        print(f"no adapters in {root}")
    return 0


def inspect_adapter(args: argparse.Namespace) -> int:
    """Print what is in one adapter.

    Raises:
        AdapterError: it cannot be read.
    """
    summary = summarise_checkpoint(args.path)
    if args.json:
        _print_json({"path": str(args.path), **summary_as_json(summary)})
    else:
        print(aligned(list(summary_rows(args.path, summary))))
    return 0


def verify_adapter(args: argparse.Namespace) -> int:
    """Print whether an engine would take an adapter; 1 if it would not.

    Raises:
        AdapterError: it would not, where the answer is not wanted as JSON.
        LoramuxError: no base model is given, or there is no such one.
    """
    if args.model is None:
        raise _undecided(args.path)
    from loramux.engine.args import EngineArgs
    from loramux.models.blueprint import Blueprint

    blueprint = Blueprint.read(
        EngineArgs(
            model=args.model,
            served_model_name=args.served_model_name,
            max_lora_rank=args.max_lora_rank,
            verify_lora_base=args.verify_lora_base,
        )
    )
    about = {"path": str(args.path), "model": args.model}
    try:
        weights = blueprint.verify(args.path)
    except AdapterError as error:
        if not args.json:
            raise
        _print_json({**about, "fits": False, "error": str(error)})
        return 1
    layers, rank = len(weights.pairs), weights.max_rank
    if args.json:
        known = {"digest": weights.digest, "layers": layers, "max_rank": rank}
        _print_json({**about, "fits": True, "error": None, **known})
    else:
        print(f"{args.path} fits {args.model}: {layers} layers, largest rank {rank}")
    return 0


def _undecided(path: Path) -> LoramuxError:
    """The refusal to verify without a base model, unless reading the adapter already ends it."""
    named = summarise_checkpoint(path).config.base_model_name_or_path
    return LoramuxError(
        f"{path} is well formed, but only its base model tells whether it fits; name that with "
        f"--model (the adapter names {shown(named) if named else 'none'})."
    )


def pull_adapter(args: argparse.Namespace) -> int:
    """Print where the adapter is once it is here.

    Raises:
        ModelNotFoundError: no resolver has it.
        AdapterError: it cannot be fetched or read.
        PluginError: the plugins are not configured as they have to be.
    """
    from loramux.cli.adapter_pull import pull

    pulled = pull(args.name, args.model)
    if args.json:
        _print_json(pulled.as_json())
    else:
        print(pulled.path)
    return 0


ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "list": list_adapters,
    "inspect": inspect_adapter,
    "verify": verify_adapter,
    "pull": pull_adapter,
}


def _directory(given: Path | None) -> Path:
    text = str(given) if given is not None else env.read_text(env.ADAPTER_DIRECTORY_VARIABLE)
    if text is None:
        raise LoramuxError(
            f"no directory is given; name one, or set {env.ADAPTER_DIRECTORY_VARIABLE}."
        )
    directory = Path(text).expanduser()
    if not directory.is_dir():
        raise LoramuxError(f"{directory} is no directory; name the one that holds the adapters.")
    return directory


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))
