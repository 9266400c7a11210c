"""An engine without a model, which reads adapters and says which one answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedTokenizerFast

from loramux.engine.args import EngineArgs
from loramux.engine.stats import EngineStats
from loramux.lora.adapter import AdapterInfo, Tier
from loramux.lora.checkpoint.summary import summarise_checkpoint
from loramux.lora.request import LoRARequest
from loramux.outputs import CompletionOutput, RequestOutput
from loramux.pooling_params import Params
from loramux.sampling_params import RequestOutputKind, SamplingParams
from loramux.testing.asking import bring
from loramux.testing.byte_tokenizer import byte_tokenizer

BASE_TEXT = "base "


class FakeEngine:
    """Stands in for :class:`loramux.AsyncLLMEngine` where a resolver is tested, not a model.

    It answers any prompt with ``base base base ...``, or with an adapter's digest, again and
    again; one byte is one token. Adapters are fetched and checked like real ones, as far as that
    is possible without a base model, and nothing of them is kept.

    Args:
        model: name of the base model that it pretends to run.
    """

    def __init__(self, model: str = "base") -> None:
        self.args = EngineArgs(model=model, enable_lora=True)
        self.max_model_len = 256
        self.tokenizer: PreTrainedTokenizerFast = byte_tokenizer()
        self.pooling = None
        self.loads: list[LoRARequest] = []
        """Every adapter it was asked to load, in order."""
        self._infos: dict[LoRARequest, AdapterInfo] = {}
        self._pinned: set[str] = set()

    async def generate(
        self,
        prompt: Any,
        sampling_params: Params,
        request_id: str,
        lora_request: LoRARequest | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """See ``AsyncLLMEngine.generate``; ``prompt`` holds ``prompt_token_ids``."""
        assert isinstance(sampling_params, SamplingParams), "it makes no embeddings"
        if lora_request is not None and lora_request not in self._infos:
            await self.load_lora(lora_request)
        prompt_ids: list[int] = prompt["prompt_token_ids"]
        room = self.max_model_len - len(prompt_ids)
        answer = self._answer(lora_request, min(sampling_params.max_tokens or room, room))
        is_delta = sampling_params.output_kind is RequestOutputKind.DELTA
        pieces = list(answer) if is_delta else [answer]
        for position, piece in enumerate(pieces, start=1):
            await asyncio.sleep(0)
            output = RequestOutput(request_id, None, prompt_ids, [], position == len(pieces))
            output.lora_request = lora_request
            output.adapter_digest = self._infos[lora_request].digest if lora_request else None
            output.outputs = [
                self._completion(index, piece, output) for index in range(sampling_params.n)
            ]
            yield output

    async def load_lora(self, lora_request: LoRARequest) -> AdapterInfo:
        """Fetch an adapter and check it.

        Raises:
            AdapterRefusedError: it is no PEFT checkpoint that loramux computes.
            AdapterUnavailableError: its source does not answer.
        """
        self.loads.append(lora_request)
        info = await asyncio.to_thread(_info, lora_request)
        self._infos[lora_request] = info
        return info

    async def prefetch_lora(self, lora_request: LoRARequest) -> None:
        """Fetch and check it; there is no device."""
        await self.load_lora(lora_request)

    async def pin_lora(self, lora_request: LoRARequest) -> None:
        """The same; nothing is ever evicted here."""
        await self.load_lora(lora_request)
        self._pinned.add(lora_request.name)

    def unpin_lora(self, lora_name: str) -> bool:
        """See ``AsyncLLMEngine.unpin_lora``."""
        was_pinned = lora_name in self._pinned
        self._pinned.discard(lora_name)
        return was_pinned

    async def unload_lora(self, lora_name: str) -> None:
        """Forget the adapter of a name."""
        self._infos = {
            request: info for request, info in self._infos.items() if info.name != lora_name
        }

    def adapter_infos(self) -> list[AdapterInfo]:
        """The adapters that were loaded."""
        return list(self._infos.values())

    def stats(self) -> EngineStats:
        """It counts nothing."""
        return EngineStats()

    def adapter_stages(self, digest: str) -> dict[str, tuple[float, float]]:
        """It takes no notice of time."""
        return {}

    def default_sampling_params(self) -> dict[str, Any]:
        """None of its own."""
        return {}

    async def check_health(self) -> None:
        """It is always well."""

    async def shutdown(self) -> None:
        """It has nothing to end."""

    def _answer(self, lora_request: LoRARequest | None, length: int) -> str:
        text = self._infos[lora_request].digest if lora_request is not None else BASE_TEXT
        return "".join(islice(cycle(text), length))

    def _completion(self, index: int, text: str, output: RequestOutput) -> CompletionOutput:
        return CompletionOutput(
            index=index,
            text=text,
            token_ids=self.tokenizer(text)["input_ids"],
            finish_reason="length" if output.finished else None,
            lora_request=output.lora_request,
        )


def _info(request: LoRARequest) -> AdapterInfo:
    with TemporaryDirectory(prefix="loramux-fake-engine-") as scratch:
        summary = summarise_checkpoint(bring(request, Path(scratch)))
    return AdapterInfo(
        name=request.lora_name,
        digest=summary.digest,
        path=request.lora_path,
        rank=max(summary.ranks),
        num_bytes=summary.num_bytes,
        tier=Tier.HOST,
        load_seconds={},
    )
