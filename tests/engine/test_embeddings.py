"""Embeddings are those of transformers and PEFT, however the steps cut the prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM

from loramux import LLM, EngineArgs, LoRARequest, PoolingParams, SamplingParams
from loramux.engine.pooling.plan import PoolingPlan
from loramux.engine.pooling.sentence_transformers import read_pooler_config
from loramux.errors import InvalidRequestError
from loramux.models.loader import load_config
from loramux.pooling_params import PoolerConfig, PoolingType
from tests.engine.embedding_world import (
    MAX_MODEL_LEN,
    EmbeddingWorld,
    write_sentence_transformers,
)
from tests.models.families import FAMILIES

STEP = 32
"""Tokens of a step: many prompts are computed in several."""

PROMPTS = [[3 + i % 90 for i in range(length)] for length in (1, 2, 15, 16, 33, MAX_MODEL_LEN)]
PROMPTS += [[*PROMPTS[2], *[9] * 20]]
"""All begin alike."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingWorld:
    return EmbeddingWorld.make(tmp_path_factory.mktemp("embeddings"))


def make_llm(world: EmbeddingWorld, **changes: Any) -> LLM:
    settings = {
        "max_num_batched_tokens": STEP, "max_num_seqs": 6, "block_size": 4,
        "num_gpu_blocks_override": 17, "enable_lora": True, "max_loras": 2, "runner": "pooling",
    }  # fmt: skip
    return LLM(str(world.model), **{**settings, **changes})


def check(world: EmbeddingWorld, llm: LLM, kind: str, jobs: list[tuple[list[int], str | None]]):
    requests = {n: n and LoRARequest(n, 1, str(path)) for n, path in world.adapters.items()}
    outputs = llm.embed(
        [{"prompt_token_ids": prompt} for prompt, _ in jobs],
        lora_request=[requests[name] for _, name in jobs],
        use_tqdm=False,
    )
    for (prompt, name), output in zip(jobs, outputs, strict=True):
        expected = world.embedding(name, prompt, kind)
        np.testing.assert_allclose(output.outputs.embedding, expected, atol=2e-6)
    return outputs


@pytest.mark.parametrize(
    ("kind", "model_impl"),
    [("LAST", "loramux"), ("MEAN", "loramux"), ("MEAN", "transformers"), ("CLS", "transformers")],
)
def test_any_mix_equals_peft(world: EmbeddingWorld, kind: str, model_impl: str) -> None:
    llm = make_llm(
        world, pooler_config={"pooling_type": kind}, model_impl=model_impl, async_scheduling=True
    )
    jobs = [(prompt, name) for prompt in PROMPTS for name in world.adapters]
    for _ in range(2):  # what the first round left in the prefix cache changes nothing
        outputs = check(world, llm, kind, jobs)
    cached = sum(output.num_cached_tokens for output in outputs)
    assert (cached > 0) == (kind == "LAST")
    core = llm.llm_engine.core
    assert core.scheduler.num_preemptions > 0 or kind == "LAST"
    assert core.cache.pool.num_free == core.cache.pool.num_blocks
    llm.shutdown()


def test_dimensions_and_length(world: EmbeddingWorld) -> None:
    llm = make_llm(world, enable_lora=False)
    prompt = PROMPTS[2]
    short, raw = llm.embed(
        [prompt, prompt],
        pooling_params=[PoolingParams(dimensions=8), PoolingParams(normalize=False)],
        use_tqdm=False,
    )
    expected = world.embedding(None, prompt, "LAST", first=8)
    np.testing.assert_allclose(short.outputs.embedding, expected, atol=2e-6)
    assert short.outputs.hidden_size == 8
    assert np.linalg.norm(raw.outputs.embedding) > 1.5
    with pytest.raises(InvalidRequestError, match=r"than 9; ask for one of 8, 16\.$"):
        llm.embed(prompt, pooling_params=PoolingParams(dimensions=9))
    with pytest.raises(InvalidRequestError, match="it makes embeddings"):
        llm.generate(prompt, SamplingParams())
    with pytest.raises(InvalidRequestError, match="sampling_params must be SamplingParams, got P"):
        llm.generate(prompt, PoolingParams())
    with pytest.raises(InvalidRequestError, match="takes at most 64; shorten"):
        llm.embed([3] * (MAX_MODEL_LEN + 1))
    engine = llm.llm_engine
    for _ in range(2):  # an id is free again once its request has ended
        engine.add_request("gone", {"prompt_token_ids": prompt}, PoolingParams())
        (output,) = engine.abort_request("gone")
        assert (output.request_id, output.outputs[0].finish_reason) == ("gone", "abort")
    assert engine.abort_request("gone") == []
    prepared = engine.prepare("early", {"prompt_token_ids": prompt}, PoolingParams(), None)
    output = prepared.unstarted("abort")
    assert (output.embedding, output.outputs[0].finish_reason) == (None, "abort")
    assert not engine.has_unfinished_requests()


def test_a_whole_model_may_do_both(world: EmbeddingWorld) -> None:
    model = str(world.model.parent / "causal")
    options = {"skip_tokenizer_init": True, "num_gpu_blocks_override": 8}
    (output,) = LLM(model, runner="pooling", **options).embed(PROMPTS[2], use_tqdm=False)
    expected = world.embedding(None, PROMPTS[2], "LAST")
    np.testing.assert_allclose(output.outputs.embedding, expected, atol=2e-6)
    with pytest.raises(InvalidRequestError, match="does not support the Embeddings API"):
        LLM(model, **options).embed(PROMPTS[2])
    with pytest.raises(InvalidRequestError, match="pooling_params must be PoolingParams, got S"):
        LLM(model, **options).embed(PROMPTS[2], pooling_params=SamplingParams())


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "phi3"])
def test_other_families(family: str, tmp_path: Path) -> None:
    """Some have other names for their layers, or another last norm."""
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(FAMILIES[family]()).save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    llm = LLM(
        str(tmp_path), task="embed", pooler_config=PoolerConfig(PoolingType.MEAN, normalize=False),
        skip_tokenizer_init=True, kv_cache_memory_bytes=2**20,
    )  # fmt: skip
    (output,) = llm.embed(list(range(3, 40)), use_tqdm=False)
    with torch.no_grad():
        hidden = model(torch.arange(3, 40)[None]).last_hidden_state[0]
    np.testing.assert_allclose(output.outputs.embedding, hidden.mean(0), atol=2e-5)


def plan_of(world: EmbeddingWorld, **arguments: Any) -> PoolingPlan | None:
    args = EngineArgs(model=str(world.model), **arguments)
    return PoolingPlan.of(args, load_config(args))


def test_the_makers_files_say_how_unless_told(world: EmbeddingWorld) -> None:
    def kinds(**arguments: Any) -> tuple[str, bool]:
        plan = plan_of(world, **arguments)
        assert plan is not None
        return plan.pooling_type, plan.normalize

    assert kinds() == ("LAST", True)  # without lm_head it can do nothing else
    assert plan_of(world, task="generate") is None
    any_number = plan_of(world, hf_overrides={"matryoshka_dimensions": None})
    assert any_number is not None
    any_number.check(PoolingParams(dimensions=9))
    none = plan_of(world, hf_overrides={"is_matryoshka": False, "matryoshka_dimensions": None})
    assert none is not None
    with pytest.raises(InvalidRequestError, match="does not support matryoshka representation"):
        none.check(PoolingParams(dimensions=8))
    write_sentence_transformers(world.model, "mean_tokens")
    assert kinds() == ("MEAN", False)
    assert kinds(pooler_config={"normalize": True}) == ("MEAN", True)
    write_sentence_transformers(world.model, "max_tokens", ("Transformer", "Pooling", "Normalize"))
    assert kinds(pooler_config={"pooling_type": "cls"}) == ("CLS", True)
    with pytest.raises(InvalidRequestError, match=r"pools by max_tokens .* with --pooler-config"):
        plan_of(world)
    write_sentence_transformers(world.model, "cls_token", ("Transformer", "Pooling", "Dense"))
    with pytest.raises(InvalidRequestError, match="a module of kind Dense"):
        plan_of(world)
    write_sentence_transformers(world.model, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hf_overrides": "x"}, "hf_overrides must be a mapping"),
        ({"hf_overrides": {1: 2}}, "hf_overrides must be a mapping"),
        ({"hf_overrides": {"num_labels": "x"}}, "cannot make num_labels .* 'x' "),
        ({"hf_overrides": {"to_dict": 1}}, "'to_dict', which is a method"),
        ({"pooler_config": "x"}, "pooler_config must be a mapping"),
        ({"pooler_config": {"pooling": "MEAN"}}, "unknown field 'pooling'"),
    ],
)
def test_objects_of_another_form_are_told_in_one_sentence(
    world: EmbeddingWorld, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        plan_of(world, **arguments)


@pytest.mark.parametrize(
    "config",
    [
        {"_class": "BertConfig"},
        {"_class": "ModernBertConfig", "pad_token_id": 0},
        {"_class": "T5Config"},
        {"_class": "Gemma3TextConfig", "use_bidirectional_attention": True, "head_dim": 8},
        {"_class": "LlamaConfig", "is_causal": False},
    ],
)
def test_models_that_see_what_follows_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    sizes = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }  # fmt: skip
    make = getattr(transformers, config.pop("_class"))
    make(**sizes, **config).save_pretrained(tmp_path)
    with pytest.raises(InvalidRequestError, match="is no causal decoder"):
        LLM(str(tmp_path), runner="pooling", load_format="dummy", skip_tokenizer_init=True)


@pytest.mark.parametrize(
    ("name", "pools"), [("FunnelBaseModel", True), ("FunnelForMaskedLM", False)]
)
def test_a_family_may_have_two_bare_decoders(name: str, pools: bool, tmp_path: Path) -> None:
    config = transformers.FunnelConfig(architectures=[name])
    assert (PoolingPlan.of(EngineArgs(model=str(tmp_path)), config) is not None) == pools


@pytest.mark.parametrize(
    "modules", ["null", "{}", '{"a": 1}', '[{"type": "a.Pooling", "path": 5}]']
)
def test_files_of_another_form_are_told_in_one_sentence(modules: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(InvalidRequestError, match=r"modules\.json .*it holds no list|by nothing"):
        read_pooler_config(EngineArgs(model=str(tmp_path)))
    (tmp_path / "modules.json").write_text('["a.Pooling"]')
    assert read_pooler_config(EngineArgs(model=str(tmp_path))) is None
