"""``/v1/chat/completions`` as the OpenAI client sees it."""

from __future__ import annotations

import json

import pytest
from openai import BadRequestError

from tests.server.running_server import RunningServer

HELLO = [{"role": "user", "content": "hello"}]
RENDERED = "<user>hello<assistant>"


def prompt_tokens(server: RunningServer, messages: list, **settings: object) -> int:
    answer = server.openai().chat.completions.create(
        model="base", messages=messages, max_tokens=1, **settings
    )
    return answer.usage.prompt_tokens


def test_message_usage_and_finish_reason(server: RunningServer) -> None:
    answer = server.openai().chat.completions.create(
        model="base", messages=HELLO, max_completion_tokens=6
    )
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == RENDERED[:6]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == len(RENDERED)
    assert answer.usage.completion_tokens == 6


def test_without_a_bound_the_answer_may_fill_the_model(server: RunningServer) -> None:
    answer = server.openai().chat.completions.create(model="base", messages=HELLO)
    assert answer.usage.total_tokens == server.engine.max_model_len


def test_the_newer_name_of_max_tokens_wins(server: RunningServer) -> None:
    answer = server.openai().chat.completions.create(
        model="base", messages=HELLO, max_tokens=5, max_completion_tokens=3
    )
    assert answer.usage.completion_tokens == 3


def test_stream_announces_the_role_first(server: RunningServer) -> None:
    stream = server.openai().chat.completions.create(
        model="base", messages=HELLO, n=2, max_tokens=3, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    assert [chunk.object for chunk in chunks] == ["chat.completion.chunk"] * len(chunks)
    roles = [(c.choices[0].index, c.choices[0].delta.role) for c in chunks[:2]]
    assert roles == [(0, "assistant"), (1, "assistant")]
    texts, reasons = ["", ""], [[], []]
    for chunk in chunks[2:-1]:
        (choice,) = chunk.choices
        assert choice.delta.role is None
        texts[choice.index] += choice.delta.content
        reasons[choice.index].append(choice.finish_reason)
    assert texts == [RENDERED[:3]] * 2
    assert reasons == [[None, None, "length"]] * 2
    assert chunks[-1].usage.completion_tokens == 6


def test_logprobs(server: RunningServer) -> None:
    client = server.openai().chat.completions
    answer = client.create(
        model="base", messages=HELLO, max_tokens=2, logprobs=True, top_logprobs=2
    )
    first, second = answer.choices[0].logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("<", -0.75, [60])
    assert [(top.token, top.logprob) for top in first.top_logprobs] == [("=", -0.5), ("<", -0.75)]
    assert second.token == "u"
    plain = client.create(model="base", messages=HELLO, max_tokens=1, logprobs=True)
    assert plain.choices[0].logprobs.content[0].top_logprobs == []
    stream = client.create(model="base", messages=HELLO, max_tokens=2, logprobs=True, stream=True)
    tokens = [
        entry.token
        for chunk in stream
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert tokens == ["<", "u"]


@pytest.mark.parametrize("stream", [False, True])
def test_bytes_of_tokens_make_the_characters_that_they_are_part_of(
    server: RunningServer, stream: bool
) -> None:
    messages = [{"role": "user", "content": "\N{SNOWMAN}é"}]
    body = {"messages": messages, "max_tokens": 12, "logprobs": True, "stream": stream}
    with server.http() as http:
        said = http.post("/v1/chat/completions", json=body).text
    answers = [
        json.loads(line.removeprefix("data: ")) for line in said.split("\n\n") if line[-1:] == "}"
    ]
    choices = [choice["logprobs"] for answer in answers for choice in answer["choices"]]
    entries = [entry for logprobs in choices if logprobs for entry in logprobs["content"]]
    told = bytes(byte for entry in entries for byte in entry["bytes"])
    assert told.decode() == "<user>\N{SNOWMAN}é<"


def test_parts_of_text_become_one_text(server: RunningServer) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert prompt_tokens(server, [{"role": "user", "content": parts}]) == len(RENDERED) + 1


def test_developers_speak_as_the_system_where_templates_know_none(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [{"role": "developer", "content": "hello"}]
    assert prompt_tokens(server, messages) == len("<system>hello<assistant>")
    template = f"{server.tokenizer.chat_template}{{# developer #}}"
    monkeypatch.setattr(server.tokenizer, "chat_template", template)
    assert prompt_tokens(server, messages) == len("<developer>hello<assistant>")


def test_a_number_with_a_point_may_be_whole(server: RunningServer) -> None:
    whole = {"extra_body": {"max_tokens": 2.0, "n": 1.0, "seed": None}}
    answer = server.openai().chat.completions.create(model="base", messages=HELLO, **whole)
    assert answer.usage.completion_tokens == 2


def test_how_the_prompt_ends(server: RunningServer) -> None:
    final = [*HELLO, {"role": "assistant", "content": "Well,"}]
    closed = {"extra_body": {"add_generation_prompt": False}}
    continued = {"extra_body": {"continue_final_message": True}}
    assert prompt_tokens(server, HELLO, **closed) == len("<user>hello")
    assert prompt_tokens(server, final, **continued) == len("<user>hello<assistant>Well,")


def test_variables_reach_the_template(server: RunningServer) -> None:
    mood = {"extra_body": {"chat_template_kwargs": {"mood": "sad"}}}
    assert prompt_tokens(server, HELLO, **mood) == len(RENDERED) + 3


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"chat_template_kwargs": {"tokenize": True}}, "must not hold 'tokenize'"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "must not hold 'chat_template'"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "cannot both be true"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"content": "x"}]}, "messages[0] has no role"),
        ({"messages": [{"role": "", "content": "x"}]}, "messages[0] has no role"),
        ({"response_format": {"type": "regex"}}, "regex, choice, grammar"),
        ({"messages": [{"role": "forbidden", "content": "x"}]}, "no such role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "'image_url'"),
        ({"messages": [{"role": "user", "content": 3}]}, "'int'"),
        ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "'dict'"),
        ({"messages": [{"role": "user"}]}, "messages[0] has no content"),
        ({"messages": [{"role": "user", "content": "x", "name": 1}]}, "no string"),
        ({"n": "1"}, "valid integer"),
        ({"logprobs": 1}, "valid boolean"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_refusals(server: RunningServer, body: dict, says: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        server.openai().chat.completions.create(model="base", messages=HELLO, extra_body=body)
    assert says in caught.value.body["message"]


def test_a_model_without_a_template_says_so(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.tokenizer, "chat_template", None)
    with pytest.raises(BadRequestError, match="no chat template"):
        server.openai().chat.completions.create(model="base", messages=HELLO)


def test_tokenize_and_detokenize(server: RunningServer) -> None:
    with server.http() as client:
        body = {"prompt": "héllo", "messages": None, "return_token_strs": True}
        text = client.post("/tokenize", json=body).json()
        chat = client.post("/tokenize", json={"messages": HELLO}).json()
        back = client.post("/detokenize", json={"tokens": text["tokens"]}).json()
        wrong = client.post("/detokenize", json={"tokens": [-1]})
        unknown = client.post("/detokenize", json={"tokens": [1, 10**6, 2]})
        long = client.post("/detokenize", json={"tokens": [1] * 257})
    assert text["count"] == len(text["tokens"]) == len(text["token_strs"]) == 6
    assert text["max_model_len"] == server.engine.max_model_len
    assert chat["count"] == len(RENDERED)
    assert back == {"prompt": "héllo"}
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "tokens"
    assert unknown.status_code == 400
    assert unknown.json()["error"]["message"].startswith("Token id 1000000 is outside the vocab")
    assert "takes at most 256; send them in parts" in long.json()["error"]["message"]
