"""A random model behind the server answers in the form that was asked for, and calls tools."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from loramux import AsyncLLMEngine, EngineArgs
from loramux.server.chat.tools.options import ToolOptions
from tests.server.checkpoints import save_adapter, save_model
from tests.server.conftest import FolderResolver, state_around
from tests.server.fake_engine import FakeEngine
from tests.server.running_server import RunningServer, running

ASK = [{"role": "user", "content": "hi"}]


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=4)
    age: int = Field(ge=0, le=99)
    is_here: bool


SCHEMA = Person.model_json_schema()
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/City"}, "days": {"enum": [1, 2, 3]}},
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"City": {"enum": ["Oslo", "Rome"]}},
        },
    },
}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("structured")
    model = save_model(root / "model")
    save_adapter(root / "adapters" / "red", model, seed=1)
    engine = AsyncLLMEngine.from_engine_args(
        EngineArgs(
            model=str(model), served_model_name=["base"], enable_lora=True, max_model_len=128,
            num_gpu_blocks_override=64, max_num_seqs=8, max_num_batched_tokens=128,
        )
    )  # fmt: skip
    state = state_around(engine, FolderResolver(root / "adapters"))
    with running(state) as server:
        yield server
    asyncio.run(engine.shutdown())


@pytest.fixture(scope="module")
def client(served: RunningServer) -> openai.OpenAI:
    return served.openai()


def without_spaces(schema: dict[str, Any]) -> dict[str, Any]:
    """Extra fields; a random model is fond of whitespace."""
    return {"structured_outputs": {"json": schema, "disable_any_whitespace": True}}


@pytest.mark.parametrize("model", ["base", "red"])
def test_a_schema_of_pydantic(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=ASK, n=2, seed=1, max_tokens=90, extra_body=without_spaces(SCHEMA)
    )
    for choice in answer.choices:
        assert choice.finish_reason == "stop", choice.message.content
        Person.model_validate_json(choice.message.content)


def test_the_clients_own_parse(client: openai.OpenAI) -> None:
    """``parse`` sends ``response_format`` with ``strict`` and reads the answer back."""
    space = 94  # of the letters' vocabulary: the only whitespace it has
    answer = client.chat.completions.parse(
        model="base", messages=ASK, response_format=Person, temperature=0, max_tokens=90,
        logit_bias={space: -100},
    )  # fmt: skip
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_completions_in_every_form(client: openai.OpenAI) -> None:
    def text(**fields: Any) -> str:
        answer = client.completions.create(
            model="red", prompt="hi", max_tokens=90, seed=3, extra_body=fields
        )
        assert answer.choices[0].finish_reason == "stop", answer.choices[0].text
        return answer.choices[0].text

    jsonschema.validate(json.loads(text(**without_spaces(SCHEMA))), SCHEMA)
    assert re.fullmatch(r"\d{3}-[a-f]+x", text(guided_regex=r"\d{3}-[a-f]+x"))
    assert text(guided_choice=["left", "right"]) in ("left", "right")
    assert re.fullmatch("[ab]{3}", text(response_format={"type": "regex", "regex": "[ab]{3}"}))
    assert text(response_format={"type": "choice", "choice": ["up", "down"]}) in ("up", "down")
    assert text(structured_outputs={"choice": ["left", "right"]}) in ("left", "right")
    assert re.fullmatch("(ab){2,3}", text(guided_grammar='root ::= ("ab"){2,3}'))
    small = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
             "additionalProperties": False}  # fmt: skip
    assert text(guided_json=json.dumps(small), guided_whitespace_pattern="") in (
        '{"a":true}', '{"a":false}',
    )  # fmt: skip


def test_a_json_object_and_a_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="base", messages=ASK, max_tokens=40, stream=True, seed=2,
        response_format={"type": "json_object"}, logit_bias={94: -100},
    )  # fmt: skip
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text.startswith("{")


def test_refusals_name_the_reason(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=r"refused: .* unclosed group"):
            client.chat.completions.create(
                model="base", messages=ASK, stream=stream, extra_body={"guided_regex": "("}
            )


@pytest.mark.parametrize("stream", [False, True])
def test_a_named_tool(client: openai.OpenAI, stream: bool) -> None:
    answer = client.chat.completions.create(
        model="red", messages=ASK, tools=[WEATHER, TIME], max_tokens=90, stream=stream,
        tool_choice={"type": "function", "function": {"name": "weather"}}, seed=5,
        logit_bias={94: -100},
    )  # fmt: skip
    calls, reason = joined(answer) if stream else whole(answer)
    assert reason == "stop"
    ((name, arguments),) = calls
    assert name == "weather"
    jsonschema.validate(json.loads(arguments), WEATHER["function"]["parameters"])


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_required(client: openai.OpenAI, stream: bool) -> None:
    answer = client.chat.completions.create(
        model="base", messages=ASK, tools=[WEATHER], tool_choice="required", max_tokens=100,
        parallel_tool_calls=False, stream=stream, seed=6, logit_bias={94: -100},
    )  # fmt: skip
    calls, reason = joined(answer) if stream else whole(answer)
    assert reason == "tool_calls"
    ((name, arguments),) = calls
    assert name == "weather"
    jsonschema.validate(json.loads(arguments), WEATHER["function"]["parameters"])


def test_tools_of_the_clients_own_parse(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="red", messages=ASK, tools=[openai.pydantic_function_tool(Person, name="note")],
        tool_choice="required", parallel_tool_calls=False, temperature=0, max_tokens=100,
        logit_bias={94: -100},
    )  # fmt: skip
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "note"
    assert isinstance(call.function.parsed_arguments, Person)


def whole(answer: Any) -> tuple[list[tuple[str, str]], str]:
    (choice,) = answer.choices
    assert choice.message.content is None
    calls = choice.message.tool_calls
    assert all(call.id.startswith("call_") and call.type == "function" for call in calls)
    return [(call.function.name, call.function.arguments) for call in calls], choice.finish_reason


def joined(stream: Any) -> tuple[list[tuple[str, str]], str]:
    calls: dict[int, list[str]] = {}
    reason = ""
    for chunk in stream:
        (choice,) = chunk.choices
        assert not choice.delta.content
        for call in choice.delta.tool_calls or []:
            name = calls.setdefault(call.index, [call.function.name, ""])
            name[1] += call.function.arguments
        reason = choice.finish_reason or reason
    return [(name, arguments) for name, arguments in calls.values()], reason


TEMPLATE = (
    "{% for message in messages %}{% if message.tool_calls %}"
    "{% for call in message.tool_calls %}[{{ call.function.name }}"
    "({{ call.function.arguments.city }})]{% endfor %}{% endif %}"
    "{% if message.role == 'tool' %}[{{ message.tool_call_id }}={{ message.content }}]"
    "{% elif message.role == 'user' %}{{ message.content }}{% endif %}{% endfor %}"
    "{% if tools %}[{% for tool in tools %}{{ tool.function.name }} {% endfor %}]{% endif %}"
)
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'


@pytest.fixture(params=["hermes", "llama3_json"])
def echoing(request: pytest.FixtureRequest, resolver: FolderResolver) -> Iterator[RunningServer]:
    """Its model answers with the rendered chat."""
    options = ToolOptions(enable_auto_tool_choice=True, tool_call_parser=request.param)
    state = state_around(FakeEngine(), resolver, chat_template=TEMPLATE, tools=options)
    with running(state) as server:
        yield server


def test_a_model_that_chooses_to_call(echoing: RunningServer) -> None:
    is_hermes = echoing.state.tools.tool_call_parser == "hermes"
    said = CALL if is_hermes else CALL[len("<tool_call>") : -len("</tool_call>")]
    settings: dict[str, Any] = {
        "model": "base", "messages": [{"role": "user", "content": said}], "tools": [WEATHER],
        "max_tokens": len(said),
    }  # fmt: skip
    client = echoing.openai().chat.completions
    calls, _ = whole(client.create(**settings))
    assert calls == [("weather", '{"city": "Oslo"}')]
    assert joined(client.create(**settings, stream=True))[0] == calls
    silent = client.create(**settings, tool_choice="none")
    assert silent.choices[0].message.content == said
    assert silent.choices[0].message.tool_calls is None
    assert echoing.engine.params[0].skip_special_tokens is not is_hermes
    assert echoing.engine.params[-1].skip_special_tokens


def test_results_go_back_into_the_template(echoing: RunningServer) -> None:
    call = {"id": "call_1", "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}  # fmt: skip
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    rendered = "hi[weather(Oslo)][call_1=rain][weather time ]"
    answer = echoing.openai().chat.completions.create(
        model="base", messages=messages, tools=[WEATHER, TIME], max_tokens=len(rendered)
    )
    assert answer.choices[0].message.content == rendered
    with echoing.http() as http:
        body = {"messages": messages, "tools": [WEATHER, TIME]}
        assert http.post("/tokenize", json=body).json()["count"] == len(rendered)


def test_options_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="needs --tool-call-parser"):
        ToolOptions(enable_auto_tool_choice=True)
    with pytest.raises(ValueError, match="hermes, llama3_json"):
        replace(ToolOptions(), tool_call_parser="other")
