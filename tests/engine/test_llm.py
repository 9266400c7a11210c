"""LLM.generate and LLM.chat in every form the documentation shows."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterator

import pytest

from loramux import LLM, LoRARequest, RequestOutput, SamplingParams
from loramux.errors import AdapterNotFoundError, InvalidRequestError
from loramux.garbage import NEVER
from tests.engine.world import BLOCK, MAX_MODEL_LEN, World, check_idle, greedy_params

TEXTS = ["ab", "Name the ICAO", "x", "what is it"]
PARAMS = greedy_params(6)


@pytest.fixture(scope="module")
def llm(world) -> Iterator[LLM]:
    llm = LLM(
        str(world.model),
        enable_lora=True,
        max_loras=2,
        max_lora_rank=128,
        block_size=BLOCK,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=8,
        num_gpu_blocks_override=64,
    )
    yield llm
    check_idle(llm.llm_engine)
    llm.shutdown()


@pytest.fixture
def loras(world) -> list[LoRARequest | None]:
    return [None, world.lora("attention"), world.lora("mlp"), world.lora("attention")]


def answers(outputs: list[RequestOutput]) -> list[list[int]]:
    assert all(output.finished for output in outputs)
    return [output.outputs[0].token_ids for output in outputs]


def expected(world: World, llm: LLM, name: str | None, text: str) -> list[int]:
    return world.greedy(name, llm.get_tokenizer().encode(text), 6)


def test_one_text_brings_a_list_of_one(world, llm):
    outputs = llm.generate("ab", PARAMS, use_tqdm=False)
    assert answers(outputs) == [expected(world, llm, None, "ab")]
    output = outputs[0]
    assert (output.prompt, output.lora_request, output.adapter_digest) == ("ab", None, None)
    assert output.prompt_token_ids == llm.get_tokenizer().encode("ab")
    assert output.outputs[0].text == llm.get_tokenizer().decode(output.outputs[0].token_ids)


@pytest.mark.parametrize("form", ["text", "dict", "tokens", "token dict", "tuple"])
def test_every_form_of_prompts_is_the_same(world, llm, form):
    encode = llm.get_tokenizer().encode
    prompts = {
        "text": TEXTS,
        "dict": [{"prompt": text} for text in TEXTS],
        "tokens": [encode(text) for text in TEXTS],
        "token dict": [{"prompt_token_ids": encode(text)} for text in TEXTS],
        "tuple": tuple(TEXTS),
    }[form]
    outputs = llm.generate(prompts, PARAMS, use_tqdm=False)
    assert answers(outputs) == [expected(world, llm, None, text) for text in TEXTS]
    first = llm.generate(prompts[0], PARAMS, use_tqdm=False)
    assert answers(first) == answers(outputs)[:1]


def test_one_adapter_for_all(world, llm):
    outputs = llm.generate(TEXTS, PARAMS, lora_request=world.lora("mlp"), use_tqdm=False)
    assert answers(outputs) == [expected(world, llm, "mlp", text) for text in TEXTS]
    assert all(output.lora_request == world.lora("mlp") for output in outputs)


def test_one_adapter_or_none_each_in_order(world, llm, loras):
    outputs = llm.generate(TEXTS, PARAMS, lora_request=loras, use_tqdm=False)
    names = [None if lora is None else lora.lora_name for lora in loras]
    assert answers(outputs) == [
        expected(world, llm, name, text) for name, text in zip(names, TEXTS, strict=True)
    ]
    assert [output.lora_request for output in outputs] == loras
    assert outputs[1].adapter_digest == outputs[3].adapter_digest is not None


def test_parameters_one_each(llm):
    params = [greedy_params(count) for count in (1, 5, 2, 4)]
    outputs = llm.generate(TEXTS, params, use_tqdm=False)
    assert [len(one) for one in answers(outputs)] == [1, 5, 2, 4]
    assert [output.prompt for output in outputs] == TEXTS


def test_more_prompts_than_may_run_keep_their_order(world, llm):
    texts = [chr(33 + n) for n in range(30)]
    params = [greedy_params(1 + n % 6) for n in range(30)]
    outputs = llm.generate(texts, params, use_tqdm=False)
    assert [output.prompt for output in outputs] == texts
    assert answers(outputs) == [
        expected(world, llm, None, text)[: 1 + n % 6] for n, text in enumerate(texts)
    ]


def test_garbage_is_looked_for_only_among_what_is_young(llm, monkeypatch):
    seen, step = [], llm.llm_engine.step
    monkeypatch.setattr(llm.llm_engine, "step", lambda: seen.append(gc.get_threshold()) or step())
    usual = gc.get_threshold()
    llm.generate(TEXTS, PARAMS, use_tqdm=False)
    assert {threshold[2] for threshold in seen} == {NEVER}
    assert gc.get_threshold() == usual


def test_no_prompts_bring_nothing(llm):
    assert llm.generate([], PARAMS, use_tqdm=False) == []
    assert llm.chat([], PARAMS, use_tqdm=False) == []


def test_without_parameters_the_model_s_defaults_hold(llm):
    output = llm.generate("ab", use_tqdm=False)[0]
    assert 1 <= len(output.outputs[0].token_ids) <= 16
    assert llm.get_default_sampling_params() == SamplingParams()


CHAT = [{"role": "user", "content": "hi"}]


def test_a_chat_is_the_text_its_template_makes(llm):
    outputs = llm.chat(CHAT, PARAMS, use_tqdm=False)
    assert [output.prompt for output in outputs] == ["<user>hi<assistant>"]
    written = llm.generate("<user>hi<assistant>", PARAMS, use_tqdm=False)
    assert answers(outputs) == answers(written)
    as_prompt = llm.generate({"messages": CHAT}, PARAMS, use_tqdm=False)
    assert answers(as_prompt) == answers(written)


def test_many_chats_with_one_adapter_each(world, llm):
    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    loras = [world.lora("mlp"), None, None, world.lora("attention")]
    outputs = llm.chat(chats, PARAMS, lora_request=loras, use_tqdm=False)
    prompts = [f"<user>{text}<assistant>" for text in TEXTS]
    assert [output.prompt for output in outputs] == prompts
    again = llm.generate(prompts, PARAMS, lora_request=loras, use_tqdm=False)
    assert answers(outputs) == answers(again)


def test_options_reach_the_template(llm):
    outputs = llm.chat(CHAT, PARAMS, use_tqdm=False, mood="gay", add_generation_prompt=True)
    assert outputs[0].prompt == "<user>hi<assistant>gay"
    bare = llm.chat(CHAT, PARAMS, use_tqdm=False, add_generation_prompt=False)
    assert bare[0].prompt == "<user>hi"


@pytest.mark.parametrize("use_tqdm", [True, False])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_bar_counts_prompts_and_tokens(llm, capsys, monkeypatch, use_tqdm, is_terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    llm.generate(TEXTS, PARAMS, use_tqdm=use_tqdm)
    shown = capsys.readouterr().err
    is_watched = use_tqdm and is_terminal
    assert bool(re.search(r"4/4.*24 tokens", shown)) is is_watched
    assert is_watched or shown == ""


REFUSED = {
    "too few parameters": {"sampling_params": [PARAMS] * 3},
    "no parameters at all": {"sampling_params": []},
    "too many adapters": {"lora_request": [None] * 5},
    "no adapters at all": {"lora_request": []},
    "an adapter that is none": {"lora_request": "sql"},
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED.keys())
def test_arguments_that_do_not_fit(llm, arguments):
    with pytest.raises(InvalidRequestError, match=next(iter(arguments))) as refused:
        llm.generate(TEXTS, **{"sampling_params": PARAMS, "use_tqdm": False, **arguments})
    assert str(refused.value).endswith(".")
    check_idle(llm.llm_engine)


def test_parameters_that_are_none(llm):
    with pytest.raises(InvalidRequestError, match="must be SamplingParams, got dict"):
        llm.generate("ab", {"temperature": 0}, use_tqdm=False)
    check_idle(llm.llm_engine)


@pytest.mark.parametrize("messages", [[[]], "hello", ["hello"], [3]])
def test_chats_that_are_none(llm, messages):
    with pytest.raises(InvalidRequestError, match="messages") as refused:
        llm.chat(messages, PARAMS, use_tqdm=False)
    assert str(refused.value).endswith(".")


def test_one_bad_prompt_stops_none_of_the_next(world, llm):
    with pytest.raises(InvalidRequestError, match="empty"):
        llm.generate(["ab", ""], PARAMS, use_tqdm=False)
    check_idle(llm.llm_engine)
    assert answers(llm.generate("ab", PARAMS, use_tqdm=False)) == [expected(world, llm, None, "ab")]


def test_a_refused_adapter_is_raised_and_nothing_goes_on(world, llm, tmp_path):
    lost = LoRARequest("lost", 1, str(tmp_path / "nowhere"))
    with pytest.raises(AdapterNotFoundError, match="'lost'"):
        llm.generate(TEXTS, PARAMS, lora_request=[None, lost, None, None], use_tqdm=False)
    check_idle(llm.llm_engine)


def test_an_interrupt_leaves_nothing_running(llm, monkeypatch):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(llm.llm_engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(TEXTS, PARAMS, use_tqdm=False)
    check_idle(llm.llm_engine)
