"""What the server asks of an engine; ``AsyncLLMEngine`` is one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from loramux.engine.args import EngineArgs
from loramux.engine.stats import EngineStats
from loramux.lora.request import LoRARequest
from loramux.outputs import RequestOutput
from loramux.sampling_params import SamplingParams


class AdapterInfo(Protocol):
    """An adapter the engine holds, as it is shown to people."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def tier(self) -> str: ...
    @property
    def load_seconds(self) -> Mapping[str, float]: ...


class Engine(Protocol):
    """The asynchronous face of an engine.

    ``generate`` raises what is wrong with a request at its first step, and frees the request when
    it is closed or cancelled. ``load_lora`` returns once the adapter is read and checked.
    ``adapter_stages`` tells when ``fetch``, ``read`` and ``place`` began and ended.
    """

    @property
    def args(self) -> EngineArgs: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def tokenizer(self) -> Any | None: ...

    def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams,
        request_id: str,
        lora_request: LoRARequest | None = None,
    ) -> AsyncGenerator[RequestOutput, None]: ...

    async def load_lora(self, lora_request: LoRARequest) -> AdapterInfo: ...
    async def unload_lora(self, lora_name: str) -> None: ...
    def adapter_infos(self) -> Sequence[AdapterInfo]: ...
    def stats(self) -> EngineStats: ...
    def adapter_stages(self, digest: str) -> Mapping[str, tuple[float, float]]: ...
    def default_sampling_params(self) -> dict[str, Any]: ...
    async def check_health(self) -> None: ...
    async def shutdown(self) -> None: ...
