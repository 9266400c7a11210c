"""Files that a model may have beside its configuration, its tokenizer and its weights."""

from __future__ import annotations

from transformers.utils import CONFIG_NAME
from transformers.utils.hub import cached_file

from loramux.engine.args import EngineArgs
from loramux.errors import InvalidRequestError
from loramux.lora.checkpoint.peft_config import CONFIG_NAME as ADAPTER_CONFIG


def find_file(args: EngineArgs, name: str) -> str | None:
    """Where a file of the model is on this machine, fetched from the Hub if need be.

    None if the model has none of this name, or the Hub does not answer and it is not in the cache.
    """
    path: str | None = cached_file(
        args.model,
        name,
        revision=args.revision,
        local_files_only=args.local_files_only,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return path


def is_adapter(args: EngineArgs) -> bool:
    """Whether what should be a model has an adapter's configuration and none of its own."""
    try:
        return find_file(args, CONFIG_NAME) is None and find_file(args, ADAPTER_CONFIG) is not None
    except OSError:  # there is nothing at all of that name
        return False


def unreadable(args: EngineArgs, name: str, reason: object) -> InvalidRequestError:
    """The refusal of a model one of whose files holds something else than it should."""
    return InvalidRequestError(
        f"The file {name} of the model {args.model!r} cannot be read ({reason}); "
        "check that its files are whole.",
        "model",
    )
