"""``/v1/completions`` as the OpenAI client sees it."""

from __future__ import annotations

import asyncio

import pytest

from loramux.sampling_params import RequestOutputKind
from loramux.server.completions.answer import CompletionAnswer
from tests.server.running_server import RunningServer


def test_text_usage_and_finish_reason(server: RunningServer) -> None:
    answer = server.openai().completions.create(model="base", prompt="abc", max_tokens=5)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.model == "base"
    assert [(c.index, c.text, c.finish_reason) for c in answer.choices] == [(0, "abcab", "length")]
    assert answer.usage.prompt_tokens == 3
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == 8
    assert answer.usage.prompt_tokens_details.cached_tokens == 1
    assert server.engine.params[0].output_kind is RequestOutputKind.FINAL_ONLY


def test_max_tokens_is_sixteen_unless_the_model_has_less_room(server: RunningServer) -> None:
    client = server.openai().completions
    assert client.create(model="base", prompt="abc").usage.completion_tokens == 16
    assert client.create(model="base", prompt="a" * 250).usage.completion_tokens == 6


def test_every_form_of_prompt(server: RunningServer) -> None:
    client = server.openai().completions
    ids = server.engine.tokenizer("hey")["input_ids"]
    for prompt, texts in (
        ("hey", ["heyh"]),
        (["hey", "you"], ["heyh", "youy"]),
        (ids, ["heyh"]),
        ([ids, ids], ["heyh", "heyh"]),
    ):
        answer = client.create(model="base", prompt=prompt, max_tokens=4)
        assert [choice.text for choice in answer.choices] == texts
        assert [choice.index for choice in answer.choices] == list(range(len(texts)))


def test_n_completions_of_each_prompt_keep_their_index(server: RunningServer) -> None:
    answer = server.openai().completions.create(
        model="base", prompt=["ab", "cd"], n=2, max_tokens=2
    )
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "ab"), (1, "ab"), (2, "cd"), (3, "cd"),
    ]  # fmt: skip
    assert answer.usage.prompt_tokens == 4
    assert answer.usage.completion_tokens == 8


def test_prompts_that_generate_as_many_tokens_share_their_parameters(server: RunningServer) -> None:
    """Checking them takes milliseconds where they hold a schema, on the loop."""
    server.openai().completions.create(model="base", prompt=["ab", "c" * 250, "cd"])
    few, many = sorted(server.engine.params, key=lambda params: params.max_tokens)[::2]
    assert (few.max_tokens, many.max_tokens) == (6, 16)
    assert len({id(params) for params in server.engine.params}) == 2


def test_stream_is_the_same_text_in_pieces(server: RunningServer) -> None:
    stream = server.openai().completions.create(
        model="base", prompt=["ab", "cd"], n=2, max_tokens=3, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    texts = ["", "", "", ""]
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == ["aba", "aba", "cdc", "cdc"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12
    assert chunks[-1].usage.prompt_tokens == 4


def test_a_stream_says_in_json_what_the_whole_answer_says(server: RunningServer) -> None:
    prompt = 'a"\\\n\t\\x00<'
    text = server.openai().completions.create(model="base", prompt=prompt, max_tokens=40)
    client = server.openai()
    stream = client.completions.create(model="base", prompt=prompt, max_tokens=40, stream=True)
    chat = client.chat.completions.create(
        model="base", messages=[{"role": "user", "content": prompt}], max_tokens=40, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == text.choices[0].text
    assert prompt in "".join(chunk.choices[0].delta.content or "" for chunk in chat)


def test_stream_with_usage_in_every_chunk(server: RunningServer) -> None:
    stream = server.openai().completions.create(
        model="base", prompt="ab", max_tokens=3, stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )  # fmt: skip
    assert [chunk.usage.completion_tokens for chunk in stream] == [1, 2, 3, 3]


def test_async_client_streams(server: RunningServer) -> None:
    async def texts() -> list[str]:
        async with server.async_openai() as client:
            stream = await client.completions.create(
                model="base", prompt="hello", max_tokens=5, stream=True
            )
            return [choice.text async for chunk in stream for choice in chunk.choices]

    assert asyncio.run(texts()) == list("hello")


def test_echo_puts_the_prompt_before_the_answer(server: RunningServer) -> None:
    client = server.openai().completions
    ids = server.engine.tokenizer("abc")["input_ids"]
    for prompt in ("abc", ids):
        answer = client.create(model="base", prompt=prompt, echo=True, max_tokens=2)
        assert answer.choices[0].text == "abcab"
    stream = client.create(model="base", prompt="abc", echo=True, max_tokens=2, stream=True)
    assert [chunk.choices[0].text for chunk in stream] == ["abca", "b"]


def test_echo_without_tokens_scores_the_prompt(server: RunningServer) -> None:
    answer = server.openai().completions.create(
        model="base", prompt="abc", echo=True, max_tokens=0, logprobs=1
    )
    choice = answer.choices[0]
    assert choice.text == "abc"
    assert choice.logprobs.token_logprobs == [None, -0.75, -0.75]
    assert choice.logprobs.text_offset == [0, 1, 2]
    assert answer.usage.completion_tokens == 0


def test_logprobs(server: RunningServer) -> None:
    client = server.openai().completions
    choice = client.create(model="base", prompt="ab", max_tokens=2, logprobs=2).choices[0]
    assert choice.logprobs.tokens == ["a", "b"]
    assert choice.logprobs.token_logprobs == [-0.75, -0.75]
    assert choice.logprobs.text_offset == [0, 1]
    assert choice.logprobs.top_logprobs[0] == {"a": -0.75, "b": -0.5, "c": -1.0}
    none = client.create(model="base", prompt="ab", max_tokens=2, logprobs=0).choices[0]
    assert none.logprobs.token_logprobs == [-0.75, -0.75]
    assert none.logprobs.top_logprobs is None


def test_logprob_offsets_go_on_through_a_stream(server: RunningServer) -> None:
    stream = server.openai().completions.create(
        model="base", prompt="xyz", max_tokens=3, n=2, logprobs=0, echo=True, stream=True
    )
    offsets: list[list[int]] = [[], []]
    for chunk in stream:
        for choice in chunk.choices:
            offsets[choice.index] += choice.logprobs.text_offset
    assert offsets == [list(range(6))] * 2


@pytest.mark.parametrize("prompt", ["a\N{SNOWMAN}é.", "é"])
def test_logprob_offsets_count_characters(server: RunningServer, prompt: str) -> None:
    """A character may be several tokens, all of which are where it is."""
    fields = {"prompt": prompt, "echo": True, "logprobs": 0, "max_tokens": 0}
    for extra in ({}, {"prompt": list(server.tokenizer(prompt)["input_ids"])}):
        answer = server.openai().completions.create(model="base", **{**fields, **extra})
        lengths = [len(character.encode()) for character in prompt]
        expected = [place for place, length in enumerate(lengths) for _ in range(length)]
        assert answer.choices[0].logprobs.text_offset == expected


def test_minus_infinity_has_a_number_in_json(server: RunningServer) -> None:
    answer = server.openai().completions.create(model="base", prompt="ab", max_tokens=1, logprobs=3)
    assert min(answer.choices[0].logprobs.top_logprobs[0].values()) == -9999.0


@pytest.mark.parametrize(
    ("fields", "beside"),
    [({}, False), ({"prompt_logprobs": 1}, True), ({"echo": True, "logprobs": 1}, True)],
)
def test_scores_of_prompts_are_put_into_words_beside_the_event_loop(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, fields: dict, beside: bool
) -> None:
    """Those of a long prompt take seconds, in a stream's first chunk as in a whole answer."""
    beside_it = []
    original = CompletionAnswer._usage_of_chunk

    def usage_of_chunk(self: CompletionAnswer) -> str:
        try:
            beside_it.append(not asyncio.get_running_loop())
        except RuntimeError:
            beside_it.append(True)
        return original(self)

    monkeypatch.setattr(CompletionAnswer, "_usage_of_chunk", usage_of_chunk)
    body = {"prompt": "ab", "max_tokens": 2, "stream": True, **fields}
    with server.http() as client:
        assert client.post("/v1/completions", json=body).text.endswith("data: [DONE]\n\n")
    assert set(beside_it) == {beside}


def test_prompt_logprobs_in_vllm_form(server: RunningServer) -> None:
    answer = server.openai().completions.create(
        model="base", prompt="ab", max_tokens=1, extra_body={"prompt_logprobs": 0}
    )
    first, second = answer.choices[0].prompt_logprobs
    (token_id,) = server.engine.tokenizer("b")["input_ids"]
    assert first is None
    assert second == {str(token_id): {"logprob": -0.75, "rank": 2, "decoded_token": "b"}}


def test_all_sampling_fields_reach_the_engine(server: RunningServer) -> None:
    server.openai().completions.create(
        model="base", prompt="ab", max_tokens=3, n=2, temperature=0.5, top_p=0.9, seed=7,
        presence_penalty=0.25, frequency_penalty=0.5, stop=["x"], logit_bias={"5": 2},
        extra_body={
            "top_k": 4, "min_p": 0.1, "repetition_penalty": 1.5, "stop_token_ids": [9],
            "ignore_eos": True, "min_tokens": 1, "skip_special_tokens": False,
            "include_stop_str_in_output": True,
        },
    )  # fmt: skip
    (params,) = server.engine.params
    assert (params.n, params.temperature, params.top_p, params.seed) == (2, 0.5, 0.9, 7)
    assert (params.presence_penalty, params.frequency_penalty) == (0.25, 0.5)
    assert (params.top_k, params.min_p, params.repetition_penalty) == (4, 0.1, 1.5)
    assert (params.stop, params.stop_token_ids, params.logit_bias) == (["x"], [9], {5: 2.0})
    assert (params.ignore_eos, params.min_tokens, params.max_tokens) == (True, 1, 3)
    assert params.skip_special_tokens is False
    assert params.include_stop_str_in_output is True


def test_the_models_own_defaults_give_way_to_what_is_asked(server: RunningServer) -> None:
    server.engine.defaults = {"temperature": 0.6, "top_p": 0.8}
    client = server.openai().completions
    client.create(model="base", prompt="ab", max_tokens=1)
    client.create(model="base", prompt="ab", max_tokens=1, temperature=0.2)
    assert [params.temperature for params in server.engine.params] == [0.6, 0.2]
    assert [params.top_p for params in server.engine.params] == [0.8, 0.8]


def test_null_means_not_given(server: RunningServer) -> None:
    body = {"model": None, "prompt": "ab", "max_tokens": 2, "stream": None, "suffix": None}
    with server.http() as client:
        answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200
    assert answer.json()["model"] == "base"


def test_the_simple_route_takes_what_curl_sends(server: RunningServer) -> None:
    with server.http() as client:
        answer = client.post(
            "/generate",
            content='{"prompt": "ab", "model": "base", "max_tokens": 3}',
            headers={"content-type": "application/x-www-form-urlencoded"},
        )
        streamed = client.post("/generate", json={"prompt": "ab", "stream": True})
    assert answer.json()["text"] == ["aba"]
    assert answer.json()["usage"]["completion_tokens"] == 3
    assert streamed.status_code == 400
