"""From what the core sends to what callers get."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import pytest

from loramux.engine.front.output_processor import OutputProcessor
from loramux.engine.front.request_state import FrontRequest
from loramux.engine.messages import CoreOutput, PositionLogprobs
from loramux.errors import LoramuxError
from loramux.lora.request import LoRARequest
from loramux.outputs import Logprob, RequestOutput
from loramux.sampling_params import SamplingParams
from tests.detokenizer import tokenizers_made as made

TOKENIZER = made.byte_level()
EOS = TOKENIZER.token_to_id("</s>")
LORA = LoRARequest("poet", 1, "/adapters/poet")
KINDS = ["cumulative", "delta", "final_only"]


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text).ids


def letters(text: str) -> list[int]:
    """One token per character."""
    return [ids_of(letter)[0] for letter in text]


def start(
    n: int = 1,
    name: str = "r",
    processor: OutputProcessor | None = None,
    lora: LoRARequest | None = None,
    **params: Any,
) -> OutputProcessor:
    processor = processor or OutputProcessor(TOKENIZER)
    processor.add_request(
        FrontRequest(
            request_id=name,
            prompt="prompt",
            prompt_token_ids=ids_of("prompt"),
            params=SamplingParams(n=n, max_tokens=None, **params),
            sequence_ids=[f"{name}/{index}" for index in range(n)],
            lora_request=lora,
        )
    )
    return processor


def steps(
    processor: OutputProcessor, tokens: list[int], finish: str | None = "length", name: str = "r/0"
) -> list[RequestOutput]:
    """One token a step; the last one ends the sequence for ``finish``."""
    told = []
    for place, token in enumerate(tokens):
        reason = finish if place == len(tokens) - 1 else None
        told += processor.process([CoreOutput(name, [token], reason)]).request_outputs
    return told


def test_cumulative_outputs_hold_everything_so_far():
    told = steps(start(), letters("abc"))
    assert [output.outputs[0].text for output in told] == ["a", "ab", "abc"]
    assert [output.outputs[0].token_ids for output in told] == [
        letters("abc")[:size] for size in (1, 2, 3)
    ]
    assert [output.finished for output in told] == [False, False, True]
    assert [output.outputs[0].finish_reason for output in told] == [None, None, "length"]


def test_delta_outputs_hold_what_is_new():
    told = steps(start(output_kind="delta"), letters("abc"))
    assert [output.outputs[0].text for output in told] == ["a", "b", "c"]
    assert [output.outputs[0].token_ids for output in told] == [[i] for i in letters("abc")]


def test_final_only_says_nothing_before_the_end():
    (last,) = steps(start(output_kind="final_only"), letters("abc"))
    assert (last.outputs[0].text, last.outputs[0].token_ids) == ("abc", letters("abc"))


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("stop", [[], ["测试"], ["\n\n", "界。x"]])
@pytest.mark.parametrize("text", ["你好世界。这是一个测试。", "plain 😀 text\n and more"])
def test_all_kinds_tell_the_same(text: str, stop: list[str], include: bool):
    finals = []
    for kind in KINDS:
        processor = start(
            output_kind=kind, stop=stop, include_stop_str_in_output=include, logprobs=1
        )
        told = []
        for token in ids_of(text):
            position = PositionLogprobs([token, 7], [-1.0, -0.5], 2)
            output = CoreOutput("r/0", [token], logprobs=[position])
            told += processor.process([output]).request_outputs
        if processor.num_unfinished_requests:
            ending = CoreOutput("r/0", [EOS], "stop", logprobs=[PositionLogprobs([EOS], [0.0], 1)])
            told += processor.process([ending]).request_outputs
        parts = [output.outputs[0] for output in told]
        last = parts[-1]
        if kind == "delta":
            last.text = "".join(part.text for part in parts)
            last.token_ids = [token for part in parts for token in part.token_ids]
            last.logprobs = [position for part in parts for position in part.logprobs or []]
        if kind == "cumulative":
            for earlier, later in pairwise(parts):
                assert later.text.startswith(earlier.text)
        finals.append(last)
    assert finals[0] == finals[1] == finals[2]
    assert len(finals[0].logprobs or []) == len(finals[0].token_ids)
    found = [s for s in stop if s in text]
    end = text.index(found[0]) + len(found[0]) * include if found else len(text)
    assert finals[0].text == text[:end]
    assert finals[0].finish_reason == "stop"
    assert finals[0].stop_reason == (found[0] if found else None)


def test_earlier_outputs_do_not_change_later():
    told = steps(start(logprobs=0), letters("a"), None)
    processor = start(name="q", logprobs=0)
    first = processor.process(
        [CoreOutput("q/0", letters("a"), logprobs=[PositionLogprobs([1], [-1.0], 1)])]
    ).request_outputs[0]
    before = pickle.dumps(first)
    processor.process(
        [CoreOutput("q/0", letters("b"), logprobs=[PositionLogprobs([1], [-1.0], 1)])]
    )
    assert pickle.dumps(first) == before
    assert told[0].outputs[0].text == "a"


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(("end", "reason"), [(EOS, None), (letters("!")[0], letters("!")[0])])
def test_the_ending_token_is_counted_but_not_read(skip: bool, end: int, reason: int | None):
    processor = start(skip_special_tokens=skip)
    told = processor.process([CoreOutput("r/0", [*letters("ab"), end], "stop", reason)])
    completion = told.request_outputs[0].outputs[0]
    assert (completion.text, completion.token_ids) == ("ab", [*letters("ab"), end])
    assert (completion.finish_reason, completion.stop_reason) == ("stop", reason)


def test_the_ending_token_is_read_when_stops_are_to_be_included():
    processor = start(include_stop_str_in_output=True)
    told = processor.process([CoreOutput("r/0", letters("ab!"), "stop", letters("!")[0])])
    assert told.request_outputs[0].outputs[0].text == "ab!"


def test_special_tokens_amid_the_text():
    for skip, text in ((True, "ab"), (False, "a</s>b")):
        told = steps(start(skip_special_tokens=skip), [*letters("a"), EOS, *letters("b")])
        assert told[-1].outputs[0].text == text


def test_a_stop_string_cuts_the_text_keeps_its_tokens_and_aborts_the_core():
    processor = start(stop=["cd", "zz"])
    tokens = letters("abcdef")
    told = [processor.process([CoreOutput("r/0", [token])]) for token in tokens]
    assert [len(step.request_outputs) for step in told] == [1, 1, 1, 1, 0, 0]
    assert [step.to_abort for step in told] == [[], [], [], ["r/0"], [], []]
    texts = [step.request_outputs[0].outputs[0].text for step in told[:4]]
    assert texts == ["a", "ab", "ab", "ab"]
    last = told[3].request_outputs[0]
    assert last.finished
    assert last.outputs[0].token_ids == tokens[:4]
    assert (last.outputs[0].finish_reason, last.outputs[0].stop_reason) == ("stop", "cd")
    assert processor.num_unfinished_requests == 0


def test_several_tokens_of_one_step_are_as_several_steps():
    processor = start(stop=["cd"], logprobs=0)
    position = PositionLogprobs([1], [-1.0], 1)
    told = processor.process([CoreOutput("r/0", letters("abcdef"), logprobs=[position] * 6)])
    completion = told.request_outputs[0].outputs[0]
    assert (completion.text, completion.token_ids) == ("ab", letters("abcd"))
    assert len(completion.logprobs or []) == 4
    assert completion.cumulative_logprob == -4.0


def test_a_stop_string_in_the_last_step_needs_no_abort():
    told = start(stop=["b"]).process([CoreOutput("r/0", letters("ab"), "length")])
    completion = told.request_outputs[0].outputs[0]
    assert (completion.text, completion.finish_reason, completion.stop_reason) == ("a", "stop", "b")
    assert told.to_abort == []


def test_held_back_text_comes_at_the_end():
    told = steps(start(stop=["cd!"], output_kind="delta"), letters("abcd"), "length")
    assert [output.outputs[0].text for output in told] == ["a", "b", "", "cd"]


def test_stop_strings_are_not_looked_for_before_min_tokens():
    told = steps(start(stop=["b"], min_tokens=3), letters("abbab"), None)
    assert (told[-1].outputs[0].text, told[-1].finished) == ("abba", True)
    assert len(told[-1].outputs[0].token_ids) == 5


def test_text_that_comes_out_at_the_very_end_may_hold_a_stop_string():
    processor = start(processor=OutputProcessor(made.slow()), stop=[" "])
    space_and_half_a_character = made.slow().convert_tokens_to_ids("20e4")
    told = processor.process([CoreOutput("r/0", [0x61, space_and_half_a_character], "length")])
    completion = told.request_outputs[0].outputs[0]
    assert (completion.text, completion.finish_reason, completion.stop_reason) == ("a", "stop", " ")


def test_broken_characters_at_the_end_are_marked():
    smile = ids_of("\U0001f9ff")
    assert len(smile) > 2
    told = steps(start(), [*letters("a"), *smile[:-1]])
    assert told[-2].outputs[0].text == "a"
    assert told[-1].outputs[0].text == "a\N{REPLACEMENT CHARACTER}"


def test_nothing_is_told_while_the_prompt_is_computed():
    processor = start()
    assert processor.process([CoreOutput("r/0", [])]).request_outputs == []
    assert processor.num_unfinished_requests == 1


def test_an_empty_last_step_still_ends_the_request():
    processor = start(output_kind="delta")
    steps(processor, letters("a"), None)
    (last,) = processor.process([CoreOutput("r/0", [], "abort")]).request_outputs
    assert (last.finished, last.outputs[0].text, last.outputs[0].token_ids) == (True, "", [])
    assert last.outputs[0].finish_reason == "abort"


def n_steps(processor: OutputProcessor) -> list[RequestOutput]:
    told = []
    for row in [
        [("r/1", "x", None), ("r/0", "a", None), ("r/2", "p", "length")],
        [("r/0", "b", None), ("r/1", "y", None)],
        [("r/1", "z", "length")],
        [("r/0", "c", "length")],
    ]:
        core = [CoreOutput(name, letters(text), reason) for name, text, reason in row]
        told += processor.process(core).request_outputs
    return told


def test_several_completions_are_joined_in_order():
    told = n_steps(start(n=3, seed=1))
    assert [[c.text for c in output.outputs] for output in told] == [
        ["a", "x", "p"],
        ["ab", "xy", "p"],
        ["ab", "xyz", "p"],
        ["abc", "xyz", "p"],
    ]
    assert [[c.index for c in output.outputs] for output in told] == [[0, 1, 2]] * 4
    assert [output.finished for output in told] == [False, False, False, True]


def test_deltas_of_several_completions_name_those_with_news():
    told = n_steps(start(n=3, seed=1, output_kind="delta"))
    assert [[(c.index, c.text) for c in output.outputs] for output in told[:2]] == [
        [(0, "a"), (1, "x"), (2, "p")],
        [(0, "b"), (1, "y")],
    ]
    reasons = [(c.index, c.finish_reason) for output in told for c in output.outputs]
    assert sorted(entry for entry in reasons if entry[1]) == [(i, "length") for i in range(3)]
    assert [output.finished for output in told] == [False, False, False, True]


def test_final_only_waits_for_all_completions():
    (last,) = n_steps(start(n=3, seed=1, output_kind="final_only"))
    assert [c.text for c in last.outputs] == ["abc", "xyz", "p"]


def test_one_completion_may_stop_while_others_go_on():
    processor = start(n=2, stop=["b"])
    told = processor.process([CoreOutput("r/0", letters("ab")), CoreOutput("r/1", letters("x"))])
    assert told.to_abort == ["r/0"]
    assert [c.finish_reason for c in told.request_outputs[0].outputs] == ["stop", None]
    later = processor.process([CoreOutput("r/0", letters("c")), CoreOutput("r/1", letters("yb"))])
    assert later.to_abort == ["r/1"]
    assert [c.text for c in later.request_outputs[0].outputs] == ["a", "xy"]


def test_log_probabilities_carry_texts_and_ranks():
    a, b, c = letters("abc")
    processor = start(logprobs=2)
    told = [
        processor.process([CoreOutput("r/0", [token], logprobs=[position])]).request_outputs[0]
        for token, position in [
            (a, PositionLogprobs([a, b, a], [-1.5, -0.5, -1.5], 2)),
            (c, PositionLogprobs([c, b, a], [-4.0, -0.5, -1.5], 9)),
        ]
    ]
    first = {a: Logprob(-1.5, 2, "a"), b: Logprob(-0.5, 1, "b")}
    second = {c: Logprob(-4.0, 9, "c"), b: Logprob(-0.5, 1, "b"), a: Logprob(-1.5, 2, "a")}
    assert told[0].outputs[0].logprobs == [first]
    assert told[1].outputs[0].logprobs == [first, second]
    assert list((told[1].outputs[0].logprobs or [])[1]) == [c, b, a]
    assert told[1].outputs[0].cumulative_logprob == -5.5


def test_the_chosen_tokens_rank_stands_where_it_shares_it():
    a, b = letters("ab")
    tied = PositionLogprobs([a, b, a], [-0.5, -0.5, -0.5], 1)
    told = start(logprobs=2).process([CoreOutput("r/0", [a], logprobs=[tied])])
    (position,) = told.request_outputs[0].outputs[0].logprobs or []
    assert [position[token].rank for token in (a, b)] == [1, 1]


def test_prompt_log_probabilities_are_gathered_over_steps():
    """A completion that is ahead of the one that scores the prompt is not told before it."""
    a, b = letters("ab")
    scored = ids_of("prompt")[1:]

    def run(kind: str) -> list[RequestOutput]:
        processor = start(n=2, prompt_logprobs=0, output_kind=kind)
        positions = [PositionLogprobs([token], [-1.0], 1) for token in scored]
        core = [
            CoreOutput("r/0", [], prompt_logprobs=positions[:1]),
            CoreOutput("r/1", [b], "length"),
            CoreOutput("r/0", [a], prompt_logprobs=positions[1:]),
            CoreOutput("r/0", [b], "length"),
        ]
        return [told for output in core for told in processor.process([output]).request_outputs]

    texts = map(TOKENIZER.id_to_token, scored)
    expected = [None, *({t: Logprob(-1.0, 1, text)} for t, text in zip(scored, texts, strict=True))]
    assert [output.prompt_logprobs for output in run("cumulative")] == [expected, expected]
    assert [output.prompt_logprobs for output in run("delta")] == [expected, None]
    assert [len(output.outputs) for output in run("delta")] == [2, 1]


def test_adapter_digest_and_cache_hits_are_carried():
    processor = start(n=2, lora=LORA)
    core = [
        CoreOutput("r/0", letters("a"), num_cached_tokens=3, adapter_digest="d1"),
        CoreOutput("r/1", letters("b"), num_cached_tokens=6, adapter_digest="d1"),
    ]
    processor.process(core)
    told = processor.process([CoreOutput("r/0", letters("c"))]).request_outputs[0]
    assert (told.adapter_digest, told.num_cached_tokens) == ("d1", 3)
    assert told.lora_request is LORA
    assert [c.lora_request for c in told.outputs] == [LORA, LORA]
    assert (told.prompt, told.prompt_token_ids) == ("prompt", ids_of("prompt"))


def test_an_error_ends_its_request_and_nothing_else():
    processor = start(n=2)
    start(name="q", processor=processor)
    reason = LoramuxError("broken")
    processor.process([CoreOutput("r/1", letters("x"))])
    told = processor.process(
        [CoreOutput("r/0", [], "error", error=reason), CoreOutput("q/0", letters("a"))]
    )
    failed, other = told.request_outputs
    assert (failed.finished, failed.error) == (True, reason)
    assert [(c.finish_reason, c.text) for c in failed.outputs] == [("error", ""), ("abort", "x")]
    assert told.to_abort == ["r/1"]
    assert (other.finished, other.error, other.outputs[0].text) == (False, None, "a")


def test_a_failing_tokenizer_fails_one_request():
    processor = start()
    start(name="q", processor=processor)
    told = processor.process([CoreOutput("r/0", [-5]), CoreOutput("q/0", letters("a"))])
    failed, other = told.request_outputs
    assert failed.outputs[0].finish_reason == "error"
    assert isinstance(failed.error, OverflowError)
    assert told.to_abort == ["r/0"]
    assert other.outputs[0].text == "a"


@pytest.mark.parametrize("kind", KINDS)
def test_aborting_tells_what_there_was(kind: str):
    processor = start(n=2, output_kind=kind, stop=["bx"])
    processor.process([CoreOutput("r/0", letters("ab")), CoreOutput("r/1", letters("y"), "length")])
    told = processor.abort("r")
    (output,) = told.request_outputs
    assert told.to_abort == ["r/0"]
    assert output.finished
    assert output.outputs[0].finish_reason == "abort"
    assert output.outputs[0].text == ("b" if kind == "delta" else "ab")
    assert processor.process([CoreOutput("r/0", letters("c"))]).request_outputs == []
    assert processor.num_unfinished_requests == 0
    assert processor.abort("r").request_outputs == []


def test_a_name_is_free_again_when_its_request_has_finished():
    processor = start()
    steps(processor, letters("a"))
    start(processor=processor)


def test_without_a_tokenizer_there_are_tokens_but_no_text():
    processor = OutputProcessor(None)
    start(processor=processor, logprobs=0)
    position = PositionLogprobs([5], [-1.0], 1)
    told = processor.process([CoreOutput("r/0", [5], "length", logprobs=[position])])
    completion = told.request_outputs[0].outputs[0]
    assert (completion.text, completion.token_ids) == ("", [5])
    assert completion.logprobs == [{5: Logprob(-1.0, 1, None)}]


def test_messages_and_outputs_pickle():
    core = CoreOutput("r/0", [5], "length", 5, [PositionLogprobs([5], [-1.0], 1)], error=None)
    assert pickle.loads(pickle.dumps(core)) == core
    output = start(lora=LORA, logprobs=0).process([core]).request_outputs[0]
    assert pickle.loads(pickle.dumps(output)) == output


def test_a_long_stream_is_cheap():
    processor = start(output_kind="delta", stop=["never this", "nor that"])
    tokens = (ids_of("".join(made.TEXTS)) * 60)[:10_000]
    text = "".join(output.outputs[0].text for output in steps(processor, tokens))
    assert text == TOKENIZER.decode(tokens)
