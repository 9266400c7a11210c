"""Runs the prompts of one request in the engine."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loramux.outputs import RequestOutput
from loramux.pooling_params import Params
from loramux.server.adapters.model_choice import ModelChoice
from loramux.server.engine_protocol import Engine
from loramux.server.generation.outputs_stream import OutputStream, merge, single
from loramux.server.generation.prompts import Prompt


@dataclass(frozen=True)
class Generation:
    """A request ready for the engine: a model, and prompts with their parameters."""

    request_id: str
    model: ModelChoice
    prompts: Sequence[Prompt]
    params: Sequence[Params]

    def head(self) -> dict[str, Any]:
        """What its answer begins with, and each chunk of a stream."""
        return {"id": self.request_id, "created": int(time.time()), "model": self.model.name}

    def outputs(self, engine: Engine) -> OutputStream:
        """Start all prompts; closing the stream frees them."""
        # A client may send one x-request-id twice, and the engine tells requests apart by theirs.
        unique = f"{self.request_id}-{uuid.uuid4().hex[:8]}"
        sources = [
            engine.generate(
                {"prompt_token_ids": prompt.token_ids, "cache_salt": self.model.cache_salt},
                params,
                f"{unique}-{index}",
                self.model.lora_request,
            )
            for index, (prompt, params) in enumerate(zip(self.prompts, self.params, strict=True))
        ]
        return single(sources[0]) if len(sources) == 1 else merge(sources)

    async def collect(self, engine: Engine) -> list[RequestOutput]:
        """The final output of each prompt, in their order."""
        outputs = self.outputs(engine)
        try:
            finals = {index: output async for index, output in outputs}
        finally:
            await outputs.aclose()
        return [finals[index] for index in range(len(self.prompts))]
