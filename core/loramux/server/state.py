"""What every route can reach."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from loramux.lora.resolve.catalog import AdapterCatalog
from loramux.server.engine_protocol import Engine
from loramux.server.generation.admission import SequenceQueue
from loramux.server.generation.prompts import TokenizerThreads


@dataclass(frozen=True)
class ServerState:
    """One engine and what stands around it.

    Args:
        engine: runs the requests.
        catalog: knows the adapters.
        base_names: names under which the base model is served; the first one is shown.
        api_keys: keys of which a request must carry one; none means that anybody may ask.
        chat_template: used instead of the model's own.
        allow_runtime_updates: whether clients may load and unload adapters.
        max_body_bytes: longest request body that is read.
        max_queued_requests: sequences of all requests that may wait or run at one time.
    """

    engine: Engine
    catalog: AdapterCatalog
    base_names: list[str]
    api_keys: tuple[str, ...] = ()
    chat_template: str | None = None
    allow_runtime_updates: bool = False
    max_body_bytes: int = 8 * 1024 * 1024
    max_queued_requests: int = 4096
    started: int = field(default_factory=lambda: int(time.time()))
    tokenizer: TokenizerThreads = field(init=False)
    queue: SequenceQueue = field(init=False)

    def __post_init__(self) -> None:
        threads = TokenizerThreads(self.engine.tokenizer, self.engine.max_model_len)
        object.__setattr__(self, "tokenizer", threads)
        object.__setattr__(self, "queue", SequenceQueue(self.max_queued_requests))

    async def close(self) -> None:
        """End the engine and the tokenizer's threads."""
        self.tokenizer.close()
        await self.engine.shutdown()


def state_of(request: Request) -> ServerState:
    return cast(ServerState, request.app.state.server)


Server = Annotated[ServerState, Depends(state_of)]
"""A route's parameter of this type is given the state."""
