"""The workspace of slots holds exactly the adapters of the batch, whatever it held before."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loramux.lora.device.resident import ResidentAdapter
from loramux.lora.device.stack import MAX_IDLE_SHARE, AdapterStack
from tests.lora.residents import CPU, SITES, make_resident

RANKS = [
    {"up": 1},
    {"up": 5, "down": 2},
    {"down": 7},
    {"up": 3, "down": 3, "side": 3},
    {"side": 6},
    {"up": 8},
]
batches = st.lists(st.sets(st.integers(0, len(RANKS) - 1), max_size=4), min_size=1, max_size=8)


def make_residents() -> list[ResidentAdapter]:
    torch.manual_seed(0)
    return [make_resident(str(number), ranks) for number, ranks in enumerate(RANKS)]


def make_stack() -> AdapterStack:
    return AdapterStack(SITES, CPU, torch.float32)


def delta(stack: AdapterStack, site: str, slot: int) -> torch.Tensor:
    """What a slot adds to a site's weight, ``[in_features, out_features]``."""
    matrices = stack.get(site)
    if matrices is None:
        return torch.zeros(SITES[site].in_features, SITES[site].out_features)
    return matrices.scaling[slot] * (matrices.a[slot] @ matrices.b[slot])


def check(stack: AdapterStack, resident: ResidentAdapter) -> None:
    slot = stack.slot_of(resident)
    assert slot < len(stack)
    for site in SITES:
        pair = resident.pairs.get(site)
        expected = torch.zeros(SITES[site].in_features, SITES[site].out_features)
        if pair is not None:
            expected = pair.scaling * (pair.a @ pair.b)
        torch.testing.assert_close(delta(stack, site, slot), expected)


@settings(deadline=None, max_examples=60)
@given(batches)
def test_every_adapter_of_every_batch_is_what_its_slot_computes(batches):
    residents, stack = make_residents(), make_stack()
    for batch in batches:
        adapters = [residents[number] for number in sorted(batch)]
        stack.assign(adapters)
        assert len({stack.slot_of(adapter) for adapter in adapters}) == len(adapters)
        for adapter in adapters:
            check(stack, adapter)
        for site in SITES:
            matrices = stack.get(site)
            assert matrices is None or matrices.slots == len(stack)


def test_an_adapter_that_stays_is_not_copied_again():
    residents, stack = make_residents(), make_stack()
    stack.assign(residents[:2])
    slot = stack.slot_of(residents[0])
    marked = stack.get("up")
    marked.a[slot].fill_(7.0)
    stack.assign([residents[0], residents[5]])
    assert stack.slot_of(residents[0]) == slot
    assert (stack.get("up").a[slot, :, :5] == 7.0).all()


def test_slots_are_reused_and_never_more_than_ran_together():
    residents, stack = make_residents(), make_stack()
    for first in range(4):
        stack.assign(residents[first : first + 2])
    assert len(stack) == 2


def test_a_crowd_that_has_left_gives_its_memory_back():
    residents, stack = make_residents(), make_stack()
    stack.assign(residents[:5])
    assert len(stack) == 5 > MAX_IDLE_SHARE
    stack.assign(residents[:1])
    assert len(stack) == 1
    assert stack.get("side") is None
    check(stack, residents[0])


def test_a_batch_without_adapters_leaves_the_slots_alone():
    residents, stack = make_residents(), make_stack()
    stack.assign(residents[:2])
    stack.assign([])
    for adapter in residents[:2]:
        check(stack, adapter)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_nothing_of_a_broken_adapter_is_left_in_its_slot(value):
    """Not even in columns that the next adapter's rank does not reach."""
    residents, stack = make_residents(), make_stack()
    broken = make_resident("broken", {"up": 8, "down": 8})
    for pair in broken.pairs.values():
        pair.a.fill_(value)
        pair.b.fill_(value)
    stack.assign([broken])
    stack.assign([residents[1]])
    assert stack.slot_of(residents[1]) == 0
    assert stack.get("up").a.isfinite().all()
    check(stack, residents[1])


def test_a_slot_that_could_not_be_filled_is_nobodys(monkeypatch):
    first, second = make_resident("a", {"up": 2, "down": 2}), make_resident("b", {"up": 9})
    stack = AdapterStack(SITES, CPU, torch.float32)
    stack.assign([first])

    def no_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(stack, "_allocate", no_memory)
        with pytest.raises(MemoryError):
            stack.assign([second])
    with pytest.raises(ValueError, match="not in list"):
        stack.slot_of(second)
    stack.assign([second])
    up = stack.get("up")
    slot = stack.slot_of(second)
    torch.testing.assert_close(up.b[slot, :9], second.pairs["up"].b)
    assert not stack.get("down").b[slot].any(), "nothing of another adapter is left"


def test_an_adapter_that_left_the_device_is_let_go():
    adapter = make_resident("a", {"up": 2})
    stack = AdapterStack(SITES, CPU, torch.float32)
    stack.assign([adapter])
    stack.forget(adapter)
    assert len(stack) == 0
    assert stack.get("up") is None
