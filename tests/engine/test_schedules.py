"""Whatever arrives whenever, everybody gets their own tokens, and nothing is held at the end."""

from __future__ import annotations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.engine.simulated_core import ADAPTERS, VOCABULARY, Simulation
from tests.engine.simulated_grammar import SimulatedGrammar

adapters = st.none() | st.sampled_from(ADAPTERS)
prompts = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6)
plain = (st.just("add"), prompts, adapters, st.integers(1, 6))
adds = st.tuples(*plain)
grammars = st.builds(SimulatedGrammar, st.integers(0, 4), st.none() | st.integers(1, 3))
choosy_adds = st.tuples(*plain, st.none() | grammars, st.sampled_from([0.0, 1.0]))
steps = st.tuples(st.just("step"), st.integers(1, 4))
aborts = st.tuples(st.just("abort"), st.integers(0, 30))
events = st.lists(adds | adds | steps | aborts, min_size=5, max_size=60)
choosy_events = st.lists(adds | choosy_adds | steps | aborts, min_size=5, max_size=60)


def play(simulation: Simulation, events: list[tuple]) -> None:
    for kind, *arguments in events:
        if kind == "add":
            simulation.add(*arguments)
        elif kind == "step":
            for _ in range(arguments[0]):
                simulation.step()
        elif arguments[0] < len(simulation.sequences):
            simulation.abort(str(arguments[0]))
    simulation.drain()


@settings(deadline=None, max_examples=250)
@given(
    events=choosy_events,
    num_blocks=st.integers(6, 10),
    max_loras=st.integers(1, 4),
    delay=st.integers(0, 3),
    caching=st.booleans(),
    budget=st.integers(4, 12),
    gentle=st.sampled_from([1, 3, 256]),
    overlap=st.booleans(),
)
def test_everybody_gets_their_own_tokens(
    events, num_blocks, max_loras, delay, caching, budget, gentle, overlap
):
    simulation = Simulation.make(
        num_blocks,
        pool_capacity=2 * max_loras,
        delay=delay,
        max_loras=max_loras,
        enable_prefix_caching=caching,
        max_num_batched_tokens=budget,
        prefill_chunk_size=gentle,
        async_scheduling=overlap,
    )
    play(simulation, events)
    simulation.check_all_right()
    event("preempted", any(s.num_preemptions for s in simulation.sequences.values()))
    event("left out", bool(simulation.core.runner.left_out))
    event("cached", any(s.num_cached_tokens for s in simulation.sequences.values()))


@settings(deadline=None, max_examples=60)
@given(
    events=events,
    max_loras=st.integers(1, 2),
    broken=st.sets(st.sampled_from("abcd")),
    overlap=st.booleans(),
)
def test_adapters_that_cannot_be_placed_fail_their_own_sequences(
    events, max_loras, broken, overlap
):
    simulation = Simulation.make(
        12, pool_capacity=2, delay=1, max_loras=max_loras, async_scheduling=overlap
    )
    simulation.pool.broken = broken
    play(simulation, events)
    simulation.check_all_right()
    for name, sequence in simulation.sequences.items():
        is_broken = sequence.adapter is not None and sequence.adapter.digest in broken
        assert simulation.endings[name] in (
            {"error", "abort"} if is_broken else {"length", "abort"}
        )


def test_results_are_looked_at_while_the_next_step_runs():
    simulation = Simulation.make(40, async_scheduling=True)
    name = simulation.add([0, 1], None, 3)
    seen = []
    for _ in range(4):
        simulation.step()
        seen.append((simulation.core.runner.num_steps, len(simulation.tokens[name])))
    assert seen == [(1, 0), (2, 1), (3, 2), (3, 3)], "no step is launched for what is over"
    simulation.check_all_right()


def test_tokens_that_a_choice_depends_on_are_looked_at_between_the_halves_of_a_step():
    simulation = Simulation.make(40, async_scheduling=True)
    simulation.add([0], None, 3, penalty=1.0)
    simulation.add([0, 1], None, 5)
    simulation.drain()
    simulation.check_all_right()
    assert simulation.core.runner.events == [
        *("forward 1", "sampling 1"),
        *("forward 2", "wait 1", "sampling 2"),
        *("forward 3", "wait 2", "sampling 3"),
        *("forward 4", "sampling 4", "wait 3"),
        *("forward 5", "sampling 5", "wait 4", "wait 5"),
    ]


def test_who_does_not_know_what_may_come_next_is_left_out_and_comes_again():
    simulation = Simulation.make(40, async_scheduling=True)
    late = simulation.add([0, 1], None, 3, SimulatedGrammar(delay=3))
    other = simulation.add([0], None, 6, SimulatedGrammar())
    seen = []
    for _ in range(4):
        simulation.step()
        seen.append((len(simulation.tokens[late]), len(simulation.tokens[other])))
    assert seen == [(0, 0), (1, 1), (1, 2), (2, 3)]
    assert simulation.core.runner.left_out == {simulation.sequences[late]}
    simulation.drain()
    simulation.check_all_right()


def test_a_preempted_sequence_whose_mask_is_late_holds_up_nobody_and_is_ended_when_it_is_overdue():
    simulation = Simulation.make(5, async_scheduling=True)
    simulation.add([0, 1, 0, 1], None, 6)
    late = simulation.add([0, 1, 1], None, 6, SimulatedGrammar(delay=10**6, overdue_after=40))
    for _ in range(4):
        simulation.step()
    assert simulation.sequences[late].is_suspended
    newcomer = simulation.add([1], None, 3)
    for _ in range(20):
        simulation.step()
    assert simulation.endings.get(newcomer) == "length"
    assert late not in simulation.endings
    simulation.drain()
    assert simulation.endings[late] == "error"
    simulation.check_all_right()


def test_tokens_that_never_come_end_the_sequences_that_sampled_them():
    simulation = Simulation.make(40, async_scheduling=True)
    simulation.core.runner.failing_steps = {2}
    broken = [simulation.add([0], None, 4, penalty=1.0), simulation.add([1], None, 4)]
    simulation.step()
    simulation.step()
    newcomer = simulation.add([1, 0], None, 4, SimulatedGrammar())
    simulation.drain()
    simulation.check_all_right()
    assert [simulation.endings[name] for name in broken] == ["error", "error"]
    assert simulation.endings[newcomer] in ("length", "stop")


def test_prompts_come_in_small_pieces_beside_a_stream_unless_many_wait():
    simulation = Simulation.make(100, max_num_batched_tokens=64, prefill_chunk_size=4)
    simulation.add([0], None, 50)
    simulation.step()
    short = simulation.add([1] * 6, None, 1)
    simulation.step()
    assert simulation.sequences[short].num_computed_tokens == 4 - 1, "the stream has a token too"
    simulation.step()
    assert simulation.endings[short] == "length"
    long = simulation.add([2] * 80, None, 1)
    simulation.step()
    assert simulation.sequences[long].num_computed_tokens == 80 // 4 - 1
    simulation.drain()
    simulation.check_all_right()


def test_the_smallest_pieces_get_on_beside_streams_too():
    simulation = Simulation.make(100, max_num_batched_tokens=64, prefill_chunk_size=1)
    simulation.add([0], None, 50)
    simulation.step()
    short = simulation.add([1] * 3, None, 1)
    for _ in range(4):
        simulation.step()
    assert simulation.endings == {short: "length"}
    simulation.drain()
    simulation.check_all_right()


def test_blocks_that_run_out_are_taken_from_who_came_last():
    simulation = Simulation.make(6)
    names = [simulation.add([n % 3] * 4, None, 6) for n in range(3)]
    simulation.drain()
    simulation.check_all_right()
    preemptions = [simulation.sequences[name].num_preemptions for name in names]
    assert preemptions[0] == 0
    assert preemptions[1] > 0
    assert preemptions[2] > 0


def test_a_stream_never_pauses_for_a_newcomer():
    simulation = Simulation.make(40, max_num_batched_tokens=4)
    first = simulation.add([0], None, 20)
    simulation.step()
    simulation.add([1] * 12, None, 2)
    for _ in range(6):
        simulation.step()
    assert len(simulation.tokens[first]) == 7


@pytest.mark.parametrize("max_loras", [1, 2])
def test_endless_company_starves_nobody(max_loras):
    """Requests for other adapters keep coming for as long as one waits for its own."""
    simulation = Simulation.make(40, max_loras=max_loras, pool_capacity=2 * max_loras)
    crowd = ADAPTERS[:max_loras]
    for adapter in crowd:
        simulation.add([0], adapter, 3)
    simulation.step()
    lonely = simulation.add([1], ADAPTERS[-1], 2)
    for _ in range(20):
        for adapter in crowd:
            simulation.add([0, 1], adapter, 3)
        simulation.step()
        if lonely in simulation.endings:
            break
    assert simulation.endings[lonely] == "length"
    simulation.drain()
    simulation.check_all_right()


def test_a_crowd_for_one_adapter_holds_up_neither_the_base_model_nor_the_others():
    simulation = Simulation.make(40, max_loras=2, delay=10)
    for _ in range(10):
        simulation.add([0], ADAPTERS[0], 2)
    base = simulation.add([1], None, 2)
    simulation.step()
    simulation.step()
    assert simulation.endings == {base: "length"}
    simulation.drain()
    simulation.check_all_right()


def test_one_at_a_time_is_in_the_order_of_arrival():
    simulation = Simulation.make(40, max_loras=1, max_num_seqs=1)
    names = [simulation.add([0], adapter, 2) for adapter in ADAPTERS * 2]
    simulation.drain()
    assert list(simulation.endings) == names
