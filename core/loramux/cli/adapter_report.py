"""An adapter as it is shown to people and to programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loramux.cli.table import megabytes
from loramux.errors import AdapterError
from loramux.lora.checkpoint.summary import CheckpointSummary, summarise_checkpoint

HEADINGS = ("NAME", "RANK", "SIZE", "BASE MODEL", "DIGEST", "PROBLEM")
DIGEST_LENGTH = 12


@dataclass(frozen=True)
class AdapterReport:
    """One checkpoint: what is in it, or why that cannot be told."""

    name: str
    path: Path
    summary: CheckpointSummary | None
    problem: str | None = None

    @classmethod
    def of(cls, name: str, path: Path) -> AdapterReport:
        """Read the checkpoint; whatever is wrong with it becomes its ``problem``."""
        try:
            return cls(name, path, summarise_checkpoint(path))
        except AdapterError as error:
            return cls(name, path, None, str(error).removeprefix(f"{path}: "))

    def cells(self) -> tuple[str, ...]:
        """A row under ``HEADINGS``."""
        if self.summary is None:
            return (self.name, "-", "-", "-", "-", self.problem or "")
        return (
            self.name,
            ",".join(map(str, self.summary.ranks)),
            megabytes(self.summary.num_bytes),
            self.summary.config.base_model_name_or_path or "-",
            self.summary.digest[:DIGEST_LENGTH],
            "",
        )

    def as_json(self) -> dict[str, Any]:
        """The same, for :func:`json.dumps`; ``error`` is None for a sound adapter."""
        known = None if self.summary is None else summary_as_json(self.summary)
        return {"name": self.name, "path": str(self.path), **(known or {}), "error": self.problem}


def summary_as_json(summary: CheckpointSummary) -> dict[str, Any]:
    """Everything that is known of a checkpoint without its base model."""
    return {
        "digest": summary.digest,
        "base_model": summary.config.base_model_name_or_path,
        "bytes": summary.num_bytes,
        "tensors": summary.num_tensors,
        "dtypes": list(summary.dtypes),
        "ranks": list(summary.ranks),
        "layers": list(summary.layers),
        "config": asdict(summary.config),
    }


def summary_rows(path: Path, summary: CheckpointSummary) -> Iterator[tuple[str, str]]:
    """The same in a table of two columns."""
    targets = Counter(layer.rpartition(".")[2] for layer in summary.layers)
    yield "path", str(path)
    yield "digest", summary.digest
    yield "base model", summary.config.base_model_name_or_path or "not named"
    yield "size", f"{megabytes(summary.num_bytes)} in {summary.num_tensors} tensors"
    yield "types", ", ".join(summary.dtypes)
    yield "ranks", ", ".join(map(str, summary.ranks))
    yield "targets", ", ".join(f"{count} {target}" for target, count in sorted(targets.items()))
    for field, value in asdict(summary.config).items():
        if value and field != "base_model_name_or_path":
            yield field, _readable(value)


def _readable(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
