"""The server that ``cold`` and ``storm`` measure: one of our own, or any that runs already."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loramux.bench import BenchmarkError
from loramux.bench.own_server import serving
from loramux.bench.random_adapter import write_adapter
from loramux.bench.random_model import SHAPES, ModelShape, write_model
from loramux.bench.scratch import adapter_bytes, model_bytes, scratch_directory
from loramux.bench.settings import Settings
from loramux.bench.shelf import AdapterShelf
from loramux.bench.streaming_client import StreamingClient, completion_body


@dataclass(frozen=True)
class Target:
    """A server, the base model's name, and where it finds adapters.

    ``ready_seconds`` is None for a server that somebody else started.
    """

    client: StreamingClient
    base: str
    shelf: AdapterShelf
    shape: ModelShape
    ready_seconds: float | None = None
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def body(self, model: str, input_len: int, max_tokens: int) -> bytes:
        """A request with a random prompt that nobody has sent before, so that none is cached."""
        prompt = self._random.choices(range(3, self.shape.vocab_size), k=input_len)
        return completion_body(model, prompt, max_tokens)

    def longest_answer(self, input_len: int) -> int:
        """Tokens a stream can go on for."""
        return self.shape.max_position_embeddings - input_len


@contextmanager
def open_target(settings: Settings, num_adapters: int) -> Iterator[Target]:
    """Start a server, or go to the one that the settings name.

    Args:
        settings: of the benchmark.
        num_adapters: most adapters that are on the shelf at one time.

    Raises:
        BenchmarkError: the server does not start, or too little is known about it.
    """
    shape = SHAPES[settings.shape]
    num_bytes = (num_adapters + 1) * adapter_bytes(shape, settings.rank)
    num_bytes += model_bytes(settings, shape)
    with scratch_directory(settings.scratch, num_bytes) as scratch:
        template = write_adapter(scratch / "template", shape, settings.rank, seed=0)
        opened = _foreign if settings.base_url else _own
        with opened(settings, shape, scratch, template) as target:
            yield target


@contextmanager
def _own(settings: Settings, shape: ModelShape, scratch: Path, template: Path) -> Iterator[Target]:
    weights = settings.load_format == "auto"
    model = write_model(scratch / "model", shape, weights=weights)
    shelf = AdapterShelf(scratch / "adapters", template)
    shelf.directory.mkdir()
    arguments = server_arguments(settings)
    with serving(model, shelf.directory, scratch / "server.log", arguments) as server:
        yield Target(StreamingClient(server.url), "base", shelf, shape, server.ready_seconds)


@contextmanager
def _foreign(
    settings: Settings, shape: ModelShape, scratch: Path, template: Path
) -> Iterator[Target]:
    if not settings.base_url or not settings.model or settings.adapters_dir is None:
        raise BenchmarkError(
            "--base-url needs --model, the base model's name on that server, and --adapters-dir, "
            "the directory in which it looks for adapters; give both."
        )
    shelf = AdapterShelf(settings.adapters_dir, template)
    client = StreamingClient(settings.base_url, settings.api_key)
    try:
        yield Target(client, settings.model, shelf, shape)
    finally:
        shelf.clear()


def server_arguments(settings: Settings) -> dict[str, Any]:
    """Arguments of a server with LoRA."""
    return {
        "load_format": settings.load_format,
        "enable_lora": True,
        "max_loras": settings.max_loras,
        "max_lora_rank": settings.rank,
        **settings.engine_args,
    }
