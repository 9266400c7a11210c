"""LangChain's and LiteLLM's adapters for OpenAI against a running server with a random model.

LangChain is among the packages for tests. LiteLLM holds the openai client below version 3, so it is
in the extra ``clients``, for an environment of its own: ``make clients``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict

from loramux import AsyncLLMEngine, EngineArgs
from loramux.server.chat.tools.options import ToolOptions
from tests.server.checkpoints import save_adapter, save_model
from tests.server.conftest import FolderResolver, state_around
from tests.server.running_server import RunningServer, running

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it would ask the network
os.environ.setdefault("LANGSMITH_TRACING", "false")

ASK = [{"role": "user", "content": "hi"}]


class Weather(BaseModel):
    """The weather of a city."""

    model_config = ConfigDict(extra="forbid")

    city: Literal["Oslo", "Rome"]
    days: Literal[1, 2, 3]


TOOL = {
    "type": "function",
    "function": {"name": "Weather", "parameters": Weather.model_json_schema()},
}
NAMED = {"type": "function", "function": {"name": "Weather"}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("clients")
    model = save_model(root / "model")
    save_adapter(root / "adapters" / "red", model, seed=1)
    args = EngineArgs(
        model=str(model), served_model_name=["base"], enable_lora=True, max_model_len=128,
        num_gpu_blocks_override=64, max_num_seqs=8, max_num_batched_tokens=128,
    )  # fmt: skip
    engine = AsyncLLMEngine.from_engine_args(args)
    tools = ToolOptions(enable_auto_tool_choice=True, tool_call_parser="hermes")
    with running(state_around(engine, FolderResolver(root / "adapters"), tools=tools)) as server:
        yield server
    asyncio.run(engine.shutdown())


@pytest.fixture(scope="module")
def expected(served: RunningServer) -> dict[str, str]:
    """What the official client is answered."""
    return {
        name: served.openai()
        .chat.completions.create(model=name, messages=ASK, max_tokens=8, temperature=0)
        .choices[0]
        .message.content
        for name in ("base", "red")
    }


@pytest.fixture(scope="module")
def langchain() -> Any:
    return pytest.importorskip("langchain_openai", reason="LangChain is in the extra test")


@pytest.fixture
def langchain_settings(served: RunningServer) -> dict[str, Any]:
    url = f"{served.url}/v1"
    return {"base_url": url, "api_key": "none", "max_retries": 0, "temperature": 0}


@pytest.mark.parametrize("model", ["base", "red"])
def test_langchain_a_chat(
    langchain: Any, langchain_settings: dict[str, Any], model: str, expected: dict[str, str]
) -> None:
    chat = langchain.ChatOpenAI(**langchain_settings, model=model, max_tokens=8, stream_usage=True)
    answer = chat.invoke("hi")
    assert answer.content == expected[model]
    assert answer.usage_metadata["output_tokens"] == 8
    assert answer.response_metadata["finish_reason"] == "length"
    chunks = list(chat.stream("hi"))
    assert "".join(chunk.content for chunk in chunks) == expected[model]
    counts = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert [count["output_tokens"] for count in counts] == [8]
    assert [each.content for each in chat.batch(["hi", "hi"])] == [expected[model]] * 2


def test_langchain_without_waiting(
    langchain: Any, langchain_settings: dict[str, Any], expected: dict[str, str]
) -> None:
    async def read() -> list[str]:
        chat = langchain.ChatOpenAI(**langchain_settings, model="red", max_tokens=8)
        pieces = [chunk.content async for chunk in chat.astream("hi")]
        return ["".join(pieces), (await chat.ainvoke("hi")).content]

    assert asyncio.run(read()) == [expected["red"]] * 2


def test_langchain_tools(langchain: Any, langchain_settings: dict[str, Any]) -> None:
    chat = langchain.ChatOpenAI(**langchain_settings, model="red", max_tokens=80)
    assert chat.bind_tools([Weather], tool_choice="none").invoke("hi").tool_calls == []
    assert chat.bind_tools([Weather]).invoke("hi").content
    for strict in (None, True):
        bound = chat.bind_tools([Weather], tool_choice="Weather", strict=strict)
        (call,) = bound.invoke("hi").tool_calls
        Weather.model_validate(call["args"])
        first, *rest = bound.stream("hi")
        (streamed,) = sum(rest, first).tool_calls
        assert streamed["args"] == call["args"]
    required = chat.bind_tools([Weather], tool_choice="any", parallel_tool_calls=False)
    calling = required.invoke("hi")
    (call,) = calling.tool_calls
    result = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
    answered = [("user", "hi"), calling, result]
    assert chat.bind(max_tokens=2).invoke(answered).content


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_structured_output(
    langchain: Any, langchain_settings: dict[str, Any], method: str
) -> None:
    chat = langchain.ChatOpenAI(**langchain_settings, model="red", max_tokens=80)
    structured = chat.with_structured_output(Weather, method=method)
    answer = structured.invoke("hi")
    assert isinstance(answer, Weather)
    assert list(structured.stream("hi"))[-1] == answer


def test_langchain_completions(langchain: Any, langchain_settings: dict[str, Any]) -> None:
    complete = langchain.OpenAI(**langchain_settings, model="red", max_tokens=8)
    text = complete.invoke("hi")
    assert text
    assert "".join(complete.stream("hi")) == text
    assert complete.batch(["hi", "hi"]) == [text, text]


def test_langchain_refusals(langchain: Any, langchain_settings: dict[str, Any]) -> None:
    with pytest.raises(openai.NotFoundError, match="`nobody` does not exist"):
        langchain.ChatOpenAI(**langchain_settings, model="nobody").invoke("hi")
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        langchain.ChatOpenAI(**langchain_settings, model="base").invoke("a" * 5000)


@pytest.fixture(scope="module")
def litellm() -> Any:
    return pytest.importorskip("litellm", reason="make clients has LiteLLM")


@pytest.fixture
def litellm_settings(served: RunningServer) -> dict[str, Any]:
    return {
        "model": "openai/red", "api_base": f"{served.url}/v1", "api_key": "none",
        "num_retries": 0, "temperature": 0,
    }  # fmt: skip


def test_litellm_a_chat(
    litellm: Any, litellm_settings: dict[str, Any], expected: dict[str, str]
) -> None:
    answer = litellm.completion(messages=ASK, max_tokens=8, **litellm_settings)
    assert answer.choices[0].message.content == expected["red"]
    assert answer.usage.completion_tokens == 8
    chunks = list(litellm.completion(messages=ASK, max_tokens=8, stream=True, **litellm_settings))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == expected["red"]
    text = litellm.text_completion(prompt="hi", max_tokens=8, **litellm_settings)
    assert text.choices[0].text


@pytest.mark.parametrize("choice", [NAMED, "required", "none", "auto"], ids=str)
def test_litellm_tools(litellm: Any, litellm_settings: dict[str, Any], choice: Any) -> None:
    asked = {
        "messages": ASK, "tools": [TOOL], "tool_choice": choice, "max_tokens": 80,
        "parallel_tool_calls": False, **litellm_settings,
    }  # fmt: skip
    whole = litellm.completion(**asked)
    streamed = litellm.stream_chunk_builder(list(litellm.completion(**asked, stream=True)))
    for answer in (whole, streamed):
        message = answer.choices[0].message
        if choice in ("none", "auto"):
            assert message.content
            continue
        (call,) = message.tool_calls
        assert call.function.name == "Weather"
        Weather.model_validate_json(call.function.arguments)


def test_litellm_a_form(litellm: Any, litellm_settings: dict[str, Any]) -> None:
    answer = litellm.completion(
        messages=ASK, max_tokens=80, response_format=Weather, **litellm_settings
    )
    Weather.model_validate_json(answer.choices[0].message.content)


def test_litellm_refusals(litellm: Any, litellm_settings: dict[str, Any]) -> None:
    with pytest.raises(litellm.NotFoundError, match="`nobody` does not exist"):
        litellm.completion(messages=ASK, **{**litellm_settings, "model": "openai/nobody"})
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(messages=[{"role": "user", "content": "a" * 5000}], **litellm_settings)
    where = {name: litellm_settings[name] for name in ("model", "api_base", "api_key")}
    with pytest.raises(litellm.BadRequestError, match="does not support the Embeddings API"):
        litellm.embedding(input=["hi"], **where)
