"""Reading a PEFT checkpoint: exactly what PEFT computes, or a refusal that says why not."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from loramux.errors import AdapterFilesMissingError, AdapterRefusedError, AdapterUnavailableError
from loramux.lora.checkpoint.host_buffer import Allocate, host_buffer
from loramux.lora.checkpoint.layer_names import as_written, parameters_as_written
from loramux.lora.checkpoint.pairing import BaseParameter, PairPlan, plan_pairs
from loramux.lora.checkpoint.peft_config import CONFIG_NAME, PeftLoraConfig, parse_config
from loramux.lora.checkpoint.real_file import real_file
from loramux.lora.checkpoint.regular_file import open_regular
from loramux.lora.checkpoint.safetensors_header import TensorEntry
from loramux.lora.checkpoint.targets import Target, resolve_targets
from loramux.lora.checkpoint.tensor_file import (
    PICKLE_NAME,
    SAFETENSORS_NAME,
    OpenTensorFile,
    open_safetensors,
)
from loramux.lora.checkpoint.untrusted import shown
from loramux.lora.site import LoRASite
from loramux.lora.size_limit import DEFAULT_MAX_BYTES
from loramux.lora.weights import AdapterWeights

MAX_CONFIG_BYTES = 2**20


def read_adapter(
    path: str | Path,
    sites: Mapping[str, LoRASite],
    *,
    max_rank: int,
    base_names: Collection[str] | None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    allowed_directories: Sequence[str] = (),
    base_parameter: BaseParameter | None = None,
    allocate: Allocate = host_buffer,
) -> AdapterWeights:
    """Read and check one adapter; blocking, so call it off the event loop.

    Whatever its configuration and the names and shapes of its tensors can tell is checked while
    the tensors are read, or before that if they are large, so that an adapter which cannot be
    served takes little memory for them.

    Args:
        path: directory with ``adapter_config.json`` and ``adapter_model.safetensors``.
        sites: the layers of the base model that an adapter may target.
        max_rank: the highest rank that can be served.
        base_names: names of the base model; where the configuration names another, the adapter is
            refused. None switches this check off.
        max_bytes: size limit of the tensor file.
        allowed_directories: real paths; where given, files that lie in none of them are refused.
        base_parameter: returns a parameter of the base model by name, as ``model.get_parameter``
            does. Adapters of the embeddings carry copies of base weights; they are accepted only
            where this shows that they are equal.
        allocate: gives the memory that a safetensors file is read into.

    Raises:
        AdapterRefusedError: if the checkpoint is missing, broken, or not exactly servable.
        AdapterUnavailableError: if the storage fails.
    """
    directory = Path(path)
    with errors_naming(directory):
        config = parse_config(read_config(directory, allowed_directories))
        _check_base(config, base_names)
        with open_tensors(directory, max_bytes, allowed_directories) as file:
            return _weights(config, file, sites, max_rank, base_parameter, allocate)


def _weights(
    config: PeftLoraConfig,
    file: OpenTensorFile,
    sites: Mapping[str, LoRASite],
    max_rank: int,
    base_parameter: BaseParameter | None,
    allocate: Allocate,
) -> AdapterWeights:
    """What an open file holds, checked against the configuration and the base model's layers."""
    # What Python works out about names and shapes takes as long as other threads read.
    with file.reading(allocate) as tensors:
        written = as_written(sites, file.entries)
        plan = _plan(config, file.entries, written, max_rank, base_parameter)
        content = tensors()
    pairs = plan.fill(content.tensors, non_finite=content.non_finite)
    named = {written[layer].name: pair for layer, pair in pairs.items()}
    return AdapterWeights(content.digest(config.identity()), named)


def _plan(
    config: PeftLoraConfig,
    entries: Mapping[str, TensorEntry],
    sites: Mapping[str, LoRASite],
    max_rank: int,
    base_parameter: BaseParameter | None,
) -> PairPlan:
    """Which tensors are whose, with ``sites`` under the names that the checkpoint has for them."""
    if base_parameter is not None:
        base_parameter = parameters_as_written(base_parameter, sites)
    targets = resolve_targets(config, sites)
    _check_rank(targets, max_rank)
    shapes = {key: entry.shape for key, entry in entries.items()}
    return plan_pairs(shapes, targets, sites, base_parameter)


@contextmanager
def errors_naming(directory: Path) -> Iterator[None]:
    """Let every error begin with the adapter's path, and storage errors be of the adapter tree."""
    try:
        yield
    except AdapterRefusedError as error:
        raise type(error).at(directory, str(error)) from error.__cause__
    except OSError as error:
        raise AdapterUnavailableError.at(
            directory,
            f"reading the adapter failed ({error.strerror or type(error).__name__}); "
            "check its storage and try again.",
        ) from error


def read_config(directory: Path, allowed_directories: Sequence[str] = ()) -> bytes:
    """The bytes of a checkpoint's configuration, at most ``MAX_CONFIG_BYTES``."""
    file = real_file(directory / CONFIG_NAME, allowed_directories)
    if not directory.is_dir():
        raise AdapterFilesMissingError("there is no such directory; check the path of the adapter.")
    if not file.is_file():
        raise AdapterFilesMissingError(
            f"{CONFIG_NAME} is missing; give the directory that PEFT's save_pretrained wrote."
        )
    with open_regular(file, follow_links=not allowed_directories) as stream:
        text = stream.read(MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        raise AdapterRefusedError(
            f"{CONFIG_NAME} is larger than {MAX_CONFIG_BYTES} bytes; save the adapter again."
        )
    return text


@contextmanager
def open_tensors(
    directory: Path, max_bytes: int, allowed_directories: Sequence[str] = ()
) -> Iterator[OpenTensorFile]:
    """The tensor file of a checkpoint's directory."""
    path = real_file(directory / SAFETENSORS_NAME, allowed_directories)
    if path.is_file():
        with open_safetensors(path, max_bytes, follow_links=not allowed_directories) as file:
            yield file
        return
    if (directory / PICKLE_NAME).is_file():
        raise AdapterRefusedError(
            f"there is only {PICKLE_NAME}, a pickle; convert it to {SAFETENSORS_NAME} by loading "
            "it with PEFT and calling save_pretrained."
        )
    raise AdapterFilesMissingError(
        f"{SAFETENSORS_NAME} is missing; give the directory that PEFT's save_pretrained wrote."
    )


def _check_base(config: PeftLoraConfig, base_names: Collection[str] | None) -> None:
    name = config.base_model_name_or_path
    if not name or base_names is None:
        return
    if not _is_among(name, base_names):
        raise AdapterRefusedError(
            f"{CONFIG_NAME}: field 'base_model_name_or_path' is {shown(name)}, but the base model "
            f"here is {' or '.join(map(shown, base_names))}; use an adapter of this model, or, if "
            "both have the same weights, start with --no-verify-lora-base or with the other's name "
            "among those of --served-model-name (in Python: LoRARequest's base_model_name)."
        )


def check_base_name(directory: Path, name: str, base_names: Collection[str]) -> None:
    """Refuse the adapter of a directory that its requester declares for another base model.

    Raises:
        AdapterRefusedError: ``name`` is none of ``base_names``, nor ends like one.
    """
    if not _is_among(name, base_names):
        raise AdapterRefusedError.at(
            directory,
            f"base_model_name declares it for the base model {shown(name)}, but the one here is "
            f"{' or '.join(map(shown, base_names))}; ask a server of that model, or leave "
            "base_model_name out.",
        )


def _is_among(name: str, base_names: Collection[str]) -> bool:
    return name in base_names or _last_part(name) in map(_last_part, base_names)


def _last_part(name: str) -> str:
    """Return what follows the last separator of a repository id or path, of any system."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _check_rank(targets: Mapping[str, Target], max_rank: int) -> None:
    rank = max(target.rank for target in targets.values())
    if rank > max_rank:
        raise AdapterRefusedError(
            f"rank {rank} exceeds max_lora_rank {max_rank}; start with --max-lora-rank {rank}."
        )
