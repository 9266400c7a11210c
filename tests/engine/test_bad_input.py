"""Every request that cannot succeed is refused in one sentence, and the engine goes on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from loramux import EngineArgs, LLMEngine, LoRARequest, SamplingParams
from loramux.errors import InvalidRequestError
from tests.engine.world import (
    MAX_MODEL_LEN,
    PROMPTS,
    Job,
    check_idle,
    greedy_params,
    make_engine,
    run,
    tokens,
)

PARAMS = greedy_params(2)


def check_sentence(error: Exception) -> None:
    """One sentence: a capital or a name first, one full stop, no line break, no traceback."""
    text = str(error)
    assert text.endswith("."), text
    assert "\n" not in text, text
    assert 20 < len(text) < 500, text
    assert not re.search(r"\. [A-Z]", text), text


PROMPTS_REFUSED: dict[str, tuple[Any, str]] = {
    "empty": ({"prompt_token_ids": []}, "prompt is empty"),
    "empty list": ([], "prompt is empty"),
    "empty text": ("", "prompt is empty"),
    "too long by one": ([1] * MAX_MODEL_LEN, f"at most {MAX_MODEL_LEN}"),
    "far too long": ({"prompt_token_ids": [1] * 100_000}, "has 100000 tokens"),
    "long text": ("x" * 1000, "has 1000 tokens"),
    "id beyond the vocabulary": ([5, 96], "Token id 96 is outside"),
    "negative id": ([5, -1], "Token id -1 is outside"),
    "id that is huge": ([2**70], "is outside"),
    "ids that are no integers": ({"prompt_token_ids": [1.0]}, "integers"),
    "ids that are truths": ({"prompt_token_ids": [True]}, "integers"),
    "ids that are text": ({"prompt_token_ids": "12"}, "list of integers"),
    "bytes": (b"abc", "text, token ids or a dict"),
    "ids that are bytes": ({"prompt_token_ids": b"abc"}, "list of integers"),
    "a number": (5, "text, token ids or a dict"),
    "nothing": (None, "text, token ids or a dict"),
    "unknown keys": ({"prompt": "a", "multi_modal_data": {}}, "multi_modal_data"),
    "a key that is no text": ({"prompt": "a", 3: 4}, "3"),
    "an empty dict": ({}, "'prompt'"),
    "text that is none": ({"prompt": 5}, "'prompt'"),
    "half a character": ("\ud800", "text"),
    "a chat that is none": ({"messages": "hello"}, "messages"),
    "a chat the template refuses": (
        {"messages": [{"role": "forbidden", "content": "x"}]},
        "no such role",
    ),
}


@pytest.mark.parametrize(("prompt", "words"), PROMPTS_REFUSED.values(), ids=PROMPTS_REFUSED.keys())
def test_a_prompt_that_cannot_be_served(engines, world, prompt, words):
    with pytest.raises(InvalidRequestError, match=re.escape(words)) as refused:
        engines().add_request("x", prompt, PARAMS)
    check_sentence(refused.value)
    check_idle(engines())
    assert tokens(run(engines(), [Job(PROMPTS[3], None, PARAMS)])[0]) == world.greedy(
        None, PROMPTS[3], 2
    )


def test_what_is_none_in_a_dict_is_not_there(engines):
    engine = engines()
    prompt = {"prompt": "ab", "prompt_token_ids": None, "messages": None, "multi_modal_data": None}
    assert engine.prepare("x", prompt, PARAMS, None).prompt.token_ids == engine.tokenizer.encode(
        "ab"
    )


def test_a_request_id_in_use(engines, world):
    engine = engines()
    engine.add_request("x", PROMPTS[3], PARAMS)
    engine.add_request("y", PROMPTS[3], PARAMS, world.lora("mlp"))
    for taken in ("x", "y"):
        with pytest.raises(InvalidRequestError, match="already in use") as refused:
            engine.add_request(taken, PROMPTS[3], PARAMS)
        check_sentence(refused.value)
    while engine.has_unfinished_requests():
        engine.step()
    engine.add_request("x", PROMPTS[3], PARAMS)
    engine.abort_request(["x", "unknown"])
    check_idle(engine)


def test_an_adapter_without_lora(engines, world):
    engine = engines(enable_lora=False)
    with pytest.raises(InvalidRequestError, match="enable_lora") as refused:
        engine.add_request("x", PROMPTS[3], PARAMS, world.lora("mlp"))
    check_sentence(refused.value)
    check_idle(engine)


def test_a_bias_on_a_token_that_is_none(engines):
    params = SamplingParams(logit_bias={96: 1.0})
    with pytest.raises(InvalidRequestError, match="logit_bias") as refused:
        engines().add_request("x", PROMPTS[3], params)
    check_sentence(refused.value)
    assert refused.value.param == "logit_bias"


def test_text_without_a_tokenizer(engines):
    engine = engines(skip_tokenizer_init=True)
    for prompt, params in [("text", PARAMS), ([5], SamplingParams(stop="x"))]:
        with pytest.raises(InvalidRequestError, match="tokenizer") as refused:
            engine.add_request("x", prompt, params)
        check_sentence(refused.value)
    check_idle(engine)
    assert run(engine, [Job(PROMPTS[3], None, PARAMS)])[0].outputs[0].text == ""


@pytest.mark.parametrize("lora", ["mlp", {"name": "mlp"}])
def test_an_adapter_that_is_no_lora_request(engines, lora):
    with pytest.raises(InvalidRequestError, match="LoRARequest") as refused:
        engines().add_request("x", PROMPTS[3], PARAMS, lora)
    check_sentence(refused.value)


def test_parameters_that_are_none(engines):
    with pytest.raises(InvalidRequestError, match="SamplingParams") as refused:
        engines().add_request("x", PROMPTS[3], {"temperature": 0})
    check_sentence(refused.value)


# Engines that cannot be made


ARGUMENTS_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown model": ({"model": "/no/such/model"}, "/no/such/model"),
    "cache too small": ({"num_gpu_blocks_override": 2}, "max_model_len"),
    "cache of few bytes": (
        {"num_gpu_blocks_override": None, "kv_cache_memory_bytes": 100},
        "max_model_len",
    ),
    "too long for the model": ({"max_model_len": 1000}, "max_model_len"),
    "bad dtype": ({"dtype": "float8"}, "dtype"),
    "bad device": ({"device": "abacus"}, "device"),
    "no GPU": ({"device": "cuda:9"}, "device"),
    "no places": ({"max_loras": 0}, "max_loras"),
    "host smaller than device": ({"max_loras": 4, "max_cpu_loras": 2}, "max_cpu_loras"),
    "budget below sequences": ({"max_num_batched_tokens": 4}, "max_num_batched_tokens"),
    "multi-modal adapters": ({"default_mm_loras": {"audio": "x"}}, "default_mm_loras"),
    "a length that is text": ({"max_model_len": "64"}, "max_model_len"),
    "a length that is a fraction": ({"max_num_seqs": 2.5}, "max_num_seqs"),
    "unknown tokenizer": ({"tokenizer": "/no/such/tokenizer"}, "/no/such/tokenizer"),
}


@pytest.mark.parametrize(
    ("changes", "words"), ARGUMENTS_REFUSED.values(), ids=ARGUMENTS_REFUSED.keys()
)
def test_an_engine_that_cannot_be_made(world, changes, words):
    changes = dict(changes)
    model = changes.pop("model", world.model)
    with pytest.raises(InvalidRequestError, match=re.escape(words)) as refused:
        make_engine(model, **changes)
    check_sentence(refused.value)


def damaged(model: Path, directory: Path, file: str, content: bytes | None) -> Path:
    shutil.copytree(model, directory)
    if content is None:
        (directory / file).unlink()
    else:
        (directory / file).write_bytes(content)
    return directory


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", None),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "no_such_family"}'),
        ("model.safetensors", None),
        ("model.safetensors", b"not a tensor file"),
        ("tokenizer.json", b"{"),
        ("generation_config.json", b"{"),
        ("generation_config.json", b"[1]"),
        ("modules.json", b"{"),
        ("modules.json", b'[{"type": "Pooling", "path": 1}]'),
    ],
)
def test_a_damaged_model_is_told_in_one_sentence(world, tmp_path, file, content):
    model = damaged(world.model, tmp_path / "model", file, content)
    with pytest.raises(InvalidRequestError, match=re.escape(str(model))) as refused:
        make_engine(model)
    check_sentence(refused.value)


def test_an_adapter_given_as_the_model(world):
    adapter = world.adapters["mlp"]
    with pytest.raises(InvalidRequestError) as refused:
        make_engine(adapter)
    assert str(refused.value) == (
        f"The model {str(adapter)!r} is an adapter, as its adapter_config.json tells; give the "
        "base model that this file names, and the adapter with --lora-modules or --lora-path "
        "(generate and chat: --lora)."
    )


def test_weights_that_are_missing_are_not_made_up(world, tmp_path):
    """A layer more in the configuration than in the file."""
    model = tmp_path / "model"
    shutil.copytree(world.model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InvalidRequestError, match=r"model\.layers\.2") as refused:
        make_engine(model)
    check_sentence(refused.value)


def test_a_name_that_no_argument_has():
    with pytest.raises(TypeError, match="max_lora"):
        EngineArgs(model="m", max_lora=4)


def test_the_first_refusal_leaves_nothing_behind(engines):
    engine: LLMEngine = engines()
    with pytest.raises(InvalidRequestError):
        LoRARequest("", 1, "path")
    check_idle(engine)
