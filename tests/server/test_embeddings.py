"""``/v1/embeddings`` of a real model, as the OpenAI client sees it."""

from __future__ import annotations

import asyncio
import copy
import shutil
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from loramux import AsyncLLMEngine, EngineArgs
from loramux.engine.front.text_limit import TextLimit
from loramux.server.embeddings.token_ids import _encode
from tests.engine.embedding_world import MAX_MODEL_LEN, EmbeddingWorld
from tests.server.conftest import FolderResolver, state_around
from tests.server.running_server import RunningServer, running
from tests.server.test_openapi import Document

INPUTS = ["hello", "a longer text of many letters"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingWorld:
    return EmbeddingWorld.make(tmp_path_factory.mktemp("embeddings"))


@pytest.fixture(scope="module")
def pooling_server(world: EmbeddingWorld) -> Iterator[RunningServer]:
    """Its resolver knows the adapters; nobody has registered them."""
    folder = world.model.parent / "folder"
    for name in ("bare", "whole"):
        shutil.copytree(world.adapters[name], folder / name)
    args = EngineArgs(
        model=str(world.model), served_model_name=["base"], runner="pooling", enable_lora=True,
        max_loras=2, num_gpu_blocks_override=64, max_num_batched_tokens=256,
    )  # fmt: skip
    engine = AsyncLLMEngine.from_engine_args(args)
    with running(state_around(engine, FolderResolver(folder))) as server:
        yield server
    asyncio.run(engine.shutdown())


def expected(server: RunningServer, world: EmbeddingWorld, name: str | None, text: str) -> object:
    return world.embedding(name, server.tokenizer(text)["input_ids"], "LAST")


@pytest.mark.parametrize("encoding_format", [openai.omit, "float"])
@pytest.mark.parametrize("name", [None, "bare", "whole"])
def test_embeddings_are_pefts(
    pooling_server: RunningServer, world: EmbeddingWorld, name: str | None, encoding_format: str
) -> None:
    answer = pooling_server.openai().embeddings.create(
        model=name or "base", input=INPUTS, encoding_format=encoding_format, user="somebody"
    )
    assert answer.object == "list"
    assert answer.model == (name or "base")
    assert [(one.object, one.index) for one in answer.data] == [("embedding", 0), ("embedding", 1)]
    for text, one in zip(INPUTS, answer.data, strict=True):
        reference = expected(pooling_server, world, name, text)
        np.testing.assert_allclose(one.embedding, reference, atol=2e-6)
    tokens = sum(len(pooling_server.tokenizer(text)["input_ids"]) for text in INPUTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)


def test_every_form_of_input_and_dimensions(
    pooling_server: RunningServer, world: EmbeddingWorld
) -> None:
    client = pooling_server.openai().embeddings
    ids = pooling_server.tokenizer(INPUTS[0])["input_ids"]
    reference = world.embedding(None, ids, "LAST", first=8)
    for given, count in ((INPUTS[0], 1), (ids, 1), ([ids, ids], 2)):
        answer = client.create(model="base", input=given, dimensions=8)
        assert len(answer.data) == count
        np.testing.assert_allclose(answer.data[-1].embedding, reference, atol=2e-6)


def test_long_inputs_are_cut_where_that_is_asked_for(
    pooling_server: RunningServer, world: EmbeddingWorld
) -> None:
    client = pooling_server.openai().embeddings
    ids = [3 + i % 80 for i in range(MAX_MODEL_LEN + 5)]

    def embed(given: object, most: int) -> list[float]:
        more = {"truncate_prompt_tokens": most}
        answer = client.create(model="base", input=given, extra_body=more)
        assert answer.usage.prompt_tokens == (MAX_MODEL_LEN if most == -1 else most)
        return answer.data[0].embedding

    for most, kept in ((-1, ids[-MAX_MODEL_LEN:]), (5, ids[-5:])):
        reference = world.embedding(None, kept, "LAST")
        np.testing.assert_allclose(embed(ids, most), reference, atol=2e-6)
    tokens = pooling_server.tokenizer(INPUTS[1])["input_ids"]
    reference = world.embedding(None, tokens[:7], "LAST")
    np.testing.assert_allclose(embed(INPUTS[1], 7), reference, atol=2e-6)
    beyond_the_limit = (
        INPUTS[1] + "a" * TextLimit.of(pooling_server.tokenizer, MAX_MODEL_LEN).max_chars
    )
    np.testing.assert_allclose(embed(beyond_the_limit, 7), reference, atol=2e-6)
    with pytest.raises(openai.BadRequestError, match="far more than they hold") as refused:
        client.create(model="base", input=beyond_the_limit)
    assert refused.value.param == "input"


def test_a_text_keeps_its_end_where_its_tokenizer_cuts_the_beginning(
    pooling_server: RunningServer,
) -> None:
    tokenizer = copy.deepcopy(pooling_server.tokenizer)
    tokenizer.truncation_side = "left"
    limit = TextLimit(20, MAX_MODEL_LEN)

    def cut(text: str) -> list[int]:
        return _encode(tokenizer, text=text, with_special=True, most=7, limit=limit)

    assert cut("x" * 100 + "the very end") == cut("the very end")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": [3] * (MAX_MODEL_LEN + 1)}, "has 65; shorten it"),
        ({"input": []}, "input must be a string"),
        ({"input": [[3], []]}, "input must be a string"),
        ({"input": ["a"] * 2049}, "input holds 2049 prompts"),
        ({"input": [96]}, "outside the vocabulary"),
        ({"dimensions": 9}, "ask for one of 8, 16"),
        ({"dimensions": 0}, "dimensions: "),
        ({"encoding_format": "hex"}, "encoding_format: "),
        ({"truncate_prompt_tokens": 65}, "takes at most 64"),
        ({"messages": [{"role": "user", "content": "x"}]}, "'messages' is not supported"),
    ],
)
def test_what_is_refused(pooling_server: RunningServer, fields: dict, message: str) -> None:
    with pooling_server.http() as http:
        answer = http.post("/v1/embeddings", json={"model": "base", "input": "x", **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert message in error["message"]
    assert error["param"] in fields


def test_answers_are_as_documented(pooling_server: RunningServer) -> None:
    with pooling_server.http() as http:
        document = Document(http.get("/openapi.json").json())
        for body in ({"input": "x"}, {"input": "x", "encoding_format": "base64"}, {}):
            document.check("/v1/embeddings", http.post("/v1/embeddings", json=body))


def test_unknown_models_and_other_doors(pooling_server: RunningServer) -> None:
    client = pooling_server.openai()
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nobody", input="x")
    chat = {"messages": [{"role": "user", "content": "x"}]}
    with pooling_server.http() as http:
        for path, body in (
            ("/v1/completions", {"prompt": "x"}), ("/v1/chat/completions", chat),
            ("/generate", {"prompt": "x"}),
        ):  # fmt: skip
            answer = http.post(path, json=body)
            assert answer.status_code == 400
            assert "it makes embeddings; ask /v1/embeddings" in answer.json()["error"]["message"]
        metrics = http.get("/metrics").text
    assert 'loramux:request_success_total{finished_reason="stop"' in metrics


def test_many_at_once(pooling_server: RunningServer, world: EmbeddingWorld) -> None:
    async def ask() -> list[openai.types.CreateEmbeddingResponse]:
        async with pooling_server.async_openai() as client:
            requests = (
                client.embeddings.create(model=name or "base", input=["x" * (1 + i), INPUTS[1]])
                for i, name in enumerate([None, "bare", "whole"] * 5)
            )
            return await asyncio.gather(*requests)

    for index, answer in enumerate(asyncio.run(ask())):
        name = [None, "bare", "whole"][index % 3]
        reference = expected(pooling_server, world, name, "x" * (1 + index))
        np.testing.assert_allclose(answer.data[0].embedding, reference, atol=2e-6)
