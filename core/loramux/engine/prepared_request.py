"""A request between its caller and the core."""

from __future__ import annotations

from dataclasses import dataclass

from loramux.engine.front.prompts import TokenizedPrompt
from loramux.engine.structured.matcher import Grammar
from loramux.errors import InvalidRequestError
from loramux.lora.request import LoRARequest
from loramux.outputs import CompletionOutput, PooledOutput, RequestOutput
from loramux.pooling_params import Params, PoolingParams


@dataclass(frozen=True, eq=False)
class PreparedRequest:
    """A request that has been checked and tokenized."""

    request_id: str
    prompt: TokenizedPrompt
    params: Params
    lora_request: LoRARequest | None
    grammar: Grammar | None = None

    def unstarted(self, finish_reason: str, error: Exception | None = None) -> RequestOutput:
        """What it ends with if it never reaches the core."""
        lora = self.lora_request
        kind = PooledOutput if isinstance(self.params, PoolingParams) else RequestOutput
        return kind(
            request_id=self.request_id,
            prompt=self.prompt.text,
            prompt_token_ids=self.prompt.token_ids,
            outputs=[
                CompletionOutput(index, "", [], finish_reason=finish_reason, lora_request=lora)
                for index in range(self.params.n)
            ],
            finished=True,
            lora_request=lora,
            error=error,
        )


def id_in_use(request_id: str) -> InvalidRequestError:
    """The refusal of a request whose id is another's."""
    return InvalidRequestError(
        f"Request id {request_id!r} is already in use; give each request its own.", "request_id"
    )
