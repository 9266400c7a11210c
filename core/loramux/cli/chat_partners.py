"""Who answers in ``loramux chat``: an engine in this process, or a server."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Generator
from http.client import HTTPException, HTTPResponse
from itertools import count
from typing import Any, Protocol, cast

from loramux.cli.serve_locks import API_KEY_VARIABLE
from loramux.engine.args import EngineArgs
from loramux.errors import InvalidRequestError, LoramuxError

Message = dict[str, Any]

NO_SUCH_FORM = (ValueError, LookupError, TypeError, AttributeError)
"""What comes of reading JSON that is of another form, or none."""

SILENCE_SECONDS = 600
"""An answer may wait for its adapter, or in a queue; after this long, nobody is there."""


class Partner(Protocol):
    """Answers a conversation."""

    def answer(self, messages: list[Message]) -> Generator[str, None, None]:
        """The answer in pieces; closing it ends it.

        Raises:
            LoramuxError: there is none, for the reason that is told.
        """

    def close(self) -> None:
        """Free what it holds."""


class LocalPartner:
    """A model loaded for this conversation.

    Args:
        args: of the engine.
        adapter: directory or Hugging Face id, or None for the base model.
        choices: sampling parameters that are not the model's own.

    Raises:
        InvalidRequestError: the model or the arguments do not fit.
    """

    def __init__(self, args: EngineArgs, adapter: str | None, choices: dict[str, Any]) -> None:
        from loramux import LLMEngine, LoRARequest, SamplingParams
        from loramux.sampling_params import RequestOutputKind

        settings = {"max_tokens": None, **choices, "output_kind": RequestOutputKind.DELTA}
        SamplingParams(**settings)  # what is wrong with them is told before a model is loaded
        self._engine = LLMEngine.from_engine_args(args)
        self._params = SamplingParams(**{**self._engine.default_sampling_params(), **settings})
        self._adapter = LoRARequest(adapter, 1, adapter) if adapter else None
        self._ids = count()

    def answer(self, messages: list[Message]) -> Generator[str, None, None]:
        """See ``Partner``."""
        request_id = str(next(self._ids))
        self._engine.add_request(request_id, {"messages": messages}, self._params, self._adapter)
        try:
            while self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    if output.error is not None:
                        raise output.error
                    yield "".join(completion.text for completion in output.outputs)
        finally:
            self._engine.abort_request(request_id)

    def close(self) -> None:
        """See ``Partner``."""
        self._engine.shutdown()


class RemotePartner:
    """A server that speaks OpenAI's API.

    Args:
        url: with ``/v1`` or without.
        api_key: sent as bearer token, if there is one.
        model: one of its models; None takes the first it shows.
        choices: fields of every request.

    Raises:
        LoramuxError: the server cannot be reached, or shows no model.
    """

    def __init__(
        self, url: str, api_key: str | None, model: str | None, choices: dict[str, Any]
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidRequestError(
                f"--url must be like http://127.0.0.1:8000, got {url!r}.", "url"
            )
        self._base = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._choices = choices
        self._model = model or self._first_model()

    def answer(self, messages: list[Message]) -> Generator[str, None, None]:
        """See ``Partner``."""
        body = {**self._choices, "model": self._model, "messages": messages, "stream": True}
        try:
            with self._open("/chat/completions", body) as response:
                for line in response:
                    if line.startswith(b"data:") and b"[DONE]" not in line:
                        yield _text_of(json.loads(line[5:]))
        except (OSError, HTTPException) as error:
            raise LoramuxError(f"{self._base} stopped answering: {error}.") from error
        except NO_SUCH_FORM as error:
            raise self._stranger() from error

    def close(self) -> None:
        """Nothing is held between answers."""

    def _first_model(self) -> str:
        with self._open("/models") as response:
            try:
                names = [str(model["id"]) for model in json.load(response)["data"]]
            except (OSError, HTTPException, *NO_SUCH_FORM) as error:
                raise self._stranger() from error
        if not names:
            raise LoramuxError(f"{self._base} shows no models; name one.")
        return names[0]

    def _stranger(self) -> LoramuxError:
        return LoramuxError(f"{self._base} does not speak OpenAI's API; give another --url.")

    def _open(self, path: str, body: dict[str, Any] | None = None) -> HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, self._headers)
        try:
            response = urllib.request.urlopen(request, timeout=SILENCE_SECONDS)
        except urllib.error.HTTPError as error:
            raise LoramuxError(_reason(error)) from error
        except (OSError, HTTPException) as error:
            raise LoramuxError(
                f"{self._base} cannot be reached ({_cause(error)}); start a server there, or give "
                "another --url."
            ) from error
        return cast(HTTPResponse, response)


def _cause(error: Exception) -> str:
    """In words, without what urllib and the system put around them."""
    cause = getattr(error, "reason", error)
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _text_of(chunk: Any) -> str:
    if "error" in chunk:
        raise LoramuxError(str(chunk["error"].get("message", chunk["error"])))
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def _reason(error: urllib.error.HTTPError) -> str:
    """What the server says, or its status; of a key in this command's words, not in HTTP's."""
    if error.code == 401:
        return (
            "The server takes no requests without one of its API keys; give it with --api-key or "
            f"{API_KEY_VARIABLE}."
        )
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"The server answered {error.code} {error.reason}."
