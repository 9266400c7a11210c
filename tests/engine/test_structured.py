"""A random model whose text takes the form that was asked for, in every way an engine runs."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import jsonschema
import pytest

from loramux import LLM, LLMEngine, RequestOutput, SamplingParams, StructuredOutputsParams
from loramux.engine.sampling.sampler import ComingTokens, Sampler
from loramux.engine.structured import library, settling
from loramux.engine.structured.matcher import GrammarState
from loramux.errors import InvalidRequestError
from tests.engine.world import PROMPTS, Job, World, greedy_params, make_engine, run, tokens

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "age", "ok"],
    "additionalProperties": False,
}
JSON = StructuredOutputsParams(json=SCHEMA, disable_any_whitespace=True)
ROOM = {"max_model_len": 96}


def params(form: StructuredOutputsParams | dict, **changes: object) -> SamplingParams:
    settings = {"temperature": 1.0, "seed": 1, "max_tokens": 60, **changes}
    return SamplingParams(structured_outputs=form, **settings)


def texts(output: RequestOutput) -> list[str]:
    assert output.error is None, output.error
    assert {each.finish_reason for each in output.outputs} == {"stop"}
    return [each.text for each in output.outputs]


def check_json(text: str) -> None:
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.fixture(params=[{}, {"async_scheduling": True}, {"model_impl": "loramux"}])
def engine(request: pytest.FixtureRequest, engines: Callable[..., LLMEngine]) -> LLMEngine:
    return engines(**ROOM, **request.param)


def test_every_form_beside_free_requests(world: World, engine: LLMEngine) -> None:
    lora = world.lora("attention")
    forms = {
        "json": params(JSON, n=3),
        "greedy": params(JSON, temperature=0, seed=None),
        "adapter": params(JSON, temperature=0.7, top_k=5, top_p=0.9),
        "choice": params({"choice": ["red", "green", 'a "quoted" one']}),
        "regex": params({"regex": r"[a-c]{3}-\d+\."}, repetition_penalty=1.3),
        "lark": params({"grammar": 'start: "(" WORD ")"\nWORD: /[a-z]{2,4}/'}),
        "gbnf": params({"grammar": 'root ::= "x" num ("+" num){2}\nnum ::= [0-9] [0-9]'}),
    }
    jobs = [
        Job(PROMPTS[4], lora if name == "adapter" else None, each, at=place % 3)
        for place, (name, each) in enumerate(forms.items())
    ]
    free = [Job(prompt, lora, greedy_params()) for prompt in PROMPTS[:4]]
    *outputs, _, _, _, _ = all_outputs = run(engine, jobs + free)
    answers = {name: texts(output) for name, output in zip(forms, outputs, strict=True)}
    for text in answers["json"] + answers["greedy"] + answers["adapter"]:
        check_json(text)
    assert answers["choice"][0] in ("red", "green", 'a "quoted" one')
    assert re.fullmatch(r"[a-c]{3}-\d+\.", answers["regex"][0])
    assert re.fullmatch(r"\([a-z]{2,4}\)", answers["lark"][0])
    assert re.fullmatch(r"x\d\d\+\d\d\+\d\d", answers["gbnf"][0])
    for job, output in zip(free, all_outputs[-4:], strict=True):
        assert tokens(output) == world.greedy("attention", job.prompt, len(tokens(output)))


def test_a_form_that_allows_everything_changes_nothing(world: World, engine: LLMEngine) -> None:
    anything = params({"regex": "(?s:.)*"}, temperature=0, seed=None, max_tokens=12)
    (output,) = run(engine, [Job(PROMPTS[5], world.lora("mlp"), anything)])
    assert tokens(output) == world.greedy("mlp", PROMPTS[5], 12)


def test_preemption_keeps_the_place(world: World, engines: Callable[..., LLMEngine]) -> None:
    long = params({"regex": "(ab|cd){20}"}, temperature=0.9)
    jobs = [Job(prompt, None, replace(long, seed=i)) for i, prompt in enumerate(PROMPTS[:6])]
    roomy = [texts(output) for output in run(engines(**ROOM), jobs)]
    short = make_engine(world.model, **ROOM, num_gpu_blocks_override=26)
    assert [texts(output) for output in run(short, jobs)] == roomy
    assert all(re.fullmatch("(ab|cd){20}", text) for (text,) in roomy)
    assert short.core.scheduler.num_preemptions > 0
    short.shutdown()


def test_a_complete_form_ends_whatever_else_was_asked(engines: Callable[..., LLMEngine]) -> None:
    asked = params({"choice": ["no"]}, min_tokens=9, ignore_eos=True)
    stopped = params({"regex": "a*b"}, stop_token_ids=[ord("b") - 33], min_tokens=5)
    outputs = run(engines(**ROOM), [Job([5], None, asked), Job([5], None, stopped)])
    assert texts(outputs[0]) == ["no"]
    (text,) = texts(outputs[1])
    assert re.fullmatch("a{4,}", text), "the stop token is no part of the text"


def test_stop_strings_and_logprobs_of_the_model_itself(
    world: World,
    engines: Callable[..., LLMEngine],
) -> None:
    asked = params({"regex": "[01]{30}"}, stop=["11"], logprobs=1, seed=4)
    (output,) = run(engines(**ROOM), [Job(PROMPTS[4], None, asked)])
    (completion,) = output.outputs
    assert completion.stop_reason == "11"
    assert re.fullmatch("[01]*", completion.text)
    raw = world.logits(None, PROMPTS[4]).log_softmax(-1)[-1]
    first = completion.logprobs[0]
    assert first[completion.token_ids[0]].logprob == pytest.approx(
        float(raw[completion.token_ids[0]]), abs=1e-4
    )
    assert max(first.values(), key=lambda each: each.logprob).logprob == pytest.approx(
        float(raw.max()), abs=1e-4
    ), "the likeliest token is the model's, though the form refuses it"


def test_the_model_never_waits_for_the_tokens_that_a_form_needs(
    engines: Callable[..., LLMEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are waited for while the device computes the next forward pass, of the whole batch."""
    monkeypatch.setattr(settling, "SETTLE_SECONDS", 60.0)
    engine = engines(**ROOM, async_scheduling=True)
    events: list[str] = []
    record(monkeypatch, events, "forward", type(engine.core.runner._forward), "__call__")
    record(monkeypatch, events, "sampling", Sampler, "__call__")
    record(monkeypatch, events, "wait", ComingTokens, "wait")
    free = Job(PROMPTS[0], None, greedy_params(12))
    run(engine, [Job(PROMPTS[1], None, params({"regex": "a{5}"}, max_tokens=5)), free])
    assert events[:14] == ["forward", "sampling"] + 4 * ["forward", "wait", "sampling"]


def record(
    monkeypatch: pytest.MonkeyPatch, events: list[str], event: str, owner: type, name: str
) -> None:
    """Note each call of a method in ``events``, before it is made."""
    plain = getattr(owner, name)

    def recording(*args: object) -> object:
        events.append(event)
        return plain(*args)

    monkeypatch.setattr(owner, name, recording)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"json": '{"type": '}, "is no JSON"),
        ({"json": {"type": "no such type"}}, "refused"),
        ({"regex": "("}, "refused"),
        ({"grammar": "start: missing"}, "refused"),
        ({"regex": "a" * 5000}, "at most 4096"),
        ({"json": {"type": "string", "pattern": "a?" * 3000}}, "at most 4096"),
        ({"json": {"enum": ["x" * 70_000]}}, "at most 65536"),
        ({"json": {"enum": []}}, "structured output"),
        ({"choice": []}, "choice must be"),
        ({"regex": "a", "choice": ["b"]}, "exactly one of"),
        ({}, "exactly one of"),
        ({"xml": "a"}, "no field 'xml'"),
        ("a", "a mapping"),
    ],
)
def test_refusals(engines: Callable[..., LLMEngine], form: object, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says) as caught:
        engines(**ROOM).add_request("r", [5], params(form))
    assert caught.value.param == "structured_outputs"
    assert "\n" not in str(caught.value)


def chain(length: int) -> dict:
    links = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}]} for i in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": {**links, f"a{length}": {"type": "null"}}}


@pytest.mark.parametrize(
    "form",
    [
        {"json": chain(1200)},
        {"json": {"$ref": "#"}},
        {"json": '{"allOf":[' * 3000 + "{}" + "]}" * 3000},
        {"regex": "(" * 2000 + "a" + ")" * 2000},
        {"regex": "((a{1,1000}){1,1000}){1,1000}"},
        {"regex": "a?" * 2000},
        {"grammar": "start: " + "(" * 8000 + '"a"' + ")" * 8000},
        {
            "grammar": "start: r0\n"
            + "".join(f"r{i}: r{i + 1}*\n" for i in range(900))
            + 'r900: "b"'
        },
        {"grammar": "root ::= " + "(" * 8000 + '"a"' + ")" * 8000},
    ],
    ids=range(9),
)
def test_hostile_forms_end_in_an_answer(engines: Callable[..., LLMEngine], form: dict) -> None:
    """Some nest so deep that an ordinary thread's stack overflows, which would end the process."""
    engine = engines(**ROOM)
    began = time.monotonic()
    with suppress(InvalidRequestError):
        (output,) = run(engine, [Job([5], None, params(form, max_tokens=20))])
        assert output.error is None or isinstance(output.error, InvalidRequestError)
    assert time.monotonic() - began < 60


def test_a_slow_grammar_holds_up_nobody_else(
    engines: Callable[..., LLMEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engines(**ROOM, async_scheduling=True)
    form = params({"regex": "a{40}"})
    plain = GrammarState._step
    slow = []
    others_have_ended = threading.Event()

    def step(self: GrammarState, token_id: int):
        if not slow or self is slow[0]:
            slow[:] = [self]
            others_have_ended.wait(20)
        return plain(self, token_id)

    monkeypatch.setattr(GrammarState, "_step", step)
    monkeypatch.setattr(settling, "SETTLE_SECONDS", 0.002)
    engine.add_request("slow", [5], replace(form, max_tokens=5))
    while not slow:
        engine.step()
    engine.add_request("quick", [6], replace(form, max_tokens=16))
    engine.add_request("free", [7], greedy_params(16))
    order = []
    while engine.has_unfinished_requests():
        order += [output.request_id for output in engine.step() if output.finished]
        if len(order) == 2:
            others_have_ended.set()
    assert order[-1] == "slow"
    assert set(order) == {"slow", "quick", "free"}


def test_a_grammar_that_breaks_ends_its_own_request(
    engines: Callable[..., LLMEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def breaks(self: GrammarState, token_id: int):
        raise InvalidRequestError("The structured output could not be followed.")

    monkeypatch.setattr(GrammarState, "_step", breaks)
    jobs = [Job([5], None, params({"regex": "ab"})), Job([7], None, greedy_params(8))]
    broken, free = run(engines(**ROOM), jobs)
    assert "could not be followed" in str(broken.error)
    assert len(tokens(free)) == 8


def test_without_the_package(
    engines: Callable[..., LLMEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "PACKAGE", "no_such_package")
    with pytest.raises(InvalidRequestError, match=r"not installed here; install 'loramux\[st"):
        engines(**ROOM).add_request("r", [5], params(JSON))


@pytest.fixture
def llm(world: World) -> Iterator[LLM]:
    one = LLM(str(world.model), max_model_len=96, max_num_seqs=4)
    yield one
    one.shutdown()


def test_offline_use(llm: LLM) -> None:
    outputs = llm.generate(["a", "b"], params({"json_object": True, "whitespace_pattern": ""}))
    for output in outputs:
        if output.outputs[0].finish_reason == "stop":
            assert isinstance(json.loads(output.outputs[0].text), dict)
        else:
            assert output.outputs[0].text.startswith("{")
