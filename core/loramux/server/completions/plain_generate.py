"""``POST /generate``: one prompt in, texts out, for clients of vLLM's simple server.

``curl -d`` sends JSON as a form; this route, alone, does not mind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from loramux.outputs import RequestOutput
from loramux.server.completions.described import GeneratedTexts
from loramux.server.completions.request import CompletionRequest, parse_completion
from loramux.server.completions.routes import prepare
from loramux.server.generation.outputs_stream import PromptOutput
from loramux.server.generation.route import GeneratingRoute
from loramux.server.generation.streaming import answer_whole
from loramux.server.generation.usage import Usage
from loramux.server.http.body import read_json
from loramux.server.http.disconnect import while_connected
from loramux.server.http.documented import MODEL_ERRORS, answers, documented
from loramux.server.http.errors import bad_request
from loramux.server.state import Server

router = APIRouter(route_class=GeneratingRoute)


@router.post(
    "/generate",
    openapi_extra=documented(CompletionRequest),
    **answers(GeneratedTexts, errors=MODEL_ERRORS),
)
async def generate(request: Request, server: Server) -> Response:
    """The fields of ``/v1/completions``, without those that shape an answer."""
    parsed = await read_json(request, parse_completion, any_content_type=True)
    for name in ("stream", "echo", "logprobs", "prompt_logprobs"):
        if getattr(parsed.body, name):
            raise bad_request(f"{name!r} is for /v1/completions; leave it out here.", name)
    generation = await while_connected(request.receive, prepare(request, server, parsed))
    return await answer_whole(request, server, generation, _PlainAnswer())


class _PlainAnswer:
    """The texts of all completions in one list."""

    def whole(self, outputs: Sequence[RequestOutput]) -> dict[str, Any]:
        """See ``WholeAnswer``."""
        usage = Usage()
        for index, output in enumerate(outputs):
            usage.add(PromptOutput(index, output))
        texts = [completion.text for output in outputs for completion in output.outputs]
        return {"text": texts, "usage": usage.as_json()}
