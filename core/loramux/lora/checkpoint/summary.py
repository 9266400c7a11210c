"""What a checkpoint holds, told without a base model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint.peft_config import PeftLoraConfig, parse_config
from loramux.lora.checkpoint.reader import errors_naming, open_tensors, read_config
from loramux.lora.checkpoint.tensor_file import SAFETENSORS_NAME, TensorFile
from loramux.lora.checkpoint.tensor_names import TensorName, parse_tensor_name
from loramux.lora.checkpoint.untrusted import first_of, shown
from loramux.lora.size_limit import DEFAULT_MAX_BYTES


@dataclass(frozen=True)
class CheckpointSummary:
    """A checkpoint that is well formed; whether it fits a base model is another question.

    Args:
        digest: the adapter's identity, as an engine computes it.
        num_bytes: size of its tensors, as a server counts it; the file's header is left out.
        num_tensors: tensors in it.
        layers: the layers of the base model that its tensors update, in the file's order.
        ranks: the ranks that occur, ascending.
        dtypes: the types of its tensors, such as ``bfloat16``, in alphabetical order.
    """

    config: PeftLoraConfig
    digest: str
    num_bytes: int
    num_tensors: int
    layers: tuple[str, ...]
    ranks: tuple[int, ...]
    dtypes: tuple[str, ...]


def summarise_checkpoint(
    directory: Path, *, max_bytes: int = DEFAULT_MAX_BYTES
) -> CheckpointSummary:
    """Read a PEFT checkpoint and check what can be checked without its base model. Blocks.

    Raises:
        AdapterRefusedError: if it is missing, broken, or asks for what loramux does not compute.
        AdapterUnavailableError: if the storage fails.
    """
    with errors_naming(directory):
        config = parse_config(read_config(directory))
        with open_tensors(directory, max_bytes) as opened, opened.reading() as tensors:
            file = tensors()
        names = _lora_names(file)
        return CheckpointSummary(
            config=config,
            digest=file.digest(config.identity()),
            num_bytes=sum(tensor.nbytes for tensor in file.tensors.values()),
            num_tensors=len(file.tensors),
            layers=tuple(dict.fromkeys(name.site for name in names.values())),
            ranks=tuple(sorted(set(_ranks(file, names)))),
            dtypes=tuple(sorted({str(t.dtype).split(".")[1] for t in file.tensors.values()})),
        )


def _lora_names(file: TensorFile) -> dict[str, TensorName]:
    """The tensors that are half of a low-rank pair, taken apart.

    Raises:
        AdapterRefusedError: if there is none.
    """
    names = {key: parse_tensor_name(key) for key in file.tensors}
    found = {key: name for key, name in names.items() if name is not None}
    if not found:
        seen = f", only {first_of(names)}" if names else ""
        raise AdapterRefusedError(
            f"{SAFETENSORS_NAME} holds no tensor that PEFT names lora_A or lora_B{seen}; "
            "save the adapter with PEFT's save_pretrained."
        )
    return found


def _ranks(file: TensorFile, names: dict[str, TensorName]) -> Iterator[int]:
    """The rank of each pair, which is the number of rows of its ``A``."""
    for key, name in names.items():
        tensor = file.tensors[key]
        if tensor.ndim != 2:
            raise AdapterRefusedError(
                f"tensor {shown(key)} has the shape {list(tensor.shape)}, which is no matrix; "
                "save the adapter again."
            )
        if name.half == "A":
            yield tensor.shape[0]
