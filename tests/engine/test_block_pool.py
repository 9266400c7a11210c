"""Blocks of the cache: none is lost, none has two owners, and what is known stays findable."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from loramux.engine.scheduling.block_pool import BlockPool

HASHES = [bytes([number]) for number in range(4)]


class Holders(RuleBasedStateMachine):
    """Holders take, share, publish and release blocks of a small pool."""

    @initialize(num_blocks=st.integers(1, 6))
    def start(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks)
        self.tables: list[list[int]] = []
        self.content: dict[int, bytes] = {}
        self.unused: list[int] = []
        """Free blocks that hold something, the one unused for longest first."""

    def references(self) -> Counter[int]:
        return Counter(block for table in self.tables for block in table)

    @rule(count=st.integers(0, 6))
    def take(self, count: int) -> None:
        if count > self.pool.num_free:
            return
        num_blank = self.pool.num_free - len(self.unused)
        taken = self.pool.take(count)
        assert len(set(taken)) == count
        assert not set(taken) & self.references().keys()
        evicted = self.unused[: max(0, count - num_blank)]
        assert set(evicted) <= set(taken), "what was unused for longest goes first"
        for block in evicted:
            del self.content[block]
        self.unused = self.unused[len(evicted) :]
        self.tables.append(taken)

    @rule(block_hash=st.sampled_from(HASHES))
    def share_what_is_found(self, block_hash: bytes) -> None:
        block = self.pool.find(block_hash)
        if block is None:
            return
        assert self.pool.is_free(block) == (block in self.unused)
        self.pool.share([block])
        self.tables.append([block])
        if block in self.unused:
            self.unused.remove(block)

    @precondition(lambda self: self.references())
    @rule(data=st.data(), block_hash=st.sampled_from(HASHES))
    def publish(self, data: st.DataObject, block_hash: bytes) -> None:
        block = data.draw(st.sampled_from(sorted(self.references())))
        self.pool.publish(block, block_hash)
        if block not in self.content and block_hash not in self.content.values():
            self.content[block] = block_hash

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.pool.release(table)
        held = self.references()
        self.unused += [block for block in table if block in self.content and not held[block]]

    @rule()
    def forget_cached(self) -> None:
        self.pool.forget_cached()
        for block in self.unused:
            del self.content[block]
        self.unused = []

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        held = self.references()
        assert self.pool.num_free == self.pool.num_blocks - len(held)
        assert [self.pool.is_free(b) for b in range(self.pool.num_blocks)] == [
            held[b] == 0 for b in range(self.pool.num_blocks)
        ]

    @invariant()
    def what_is_known_is_found(self) -> None:
        block_of = {block_hash: block for block, block_hash in self.content.items()}
        assert [self.pool.find(h) for h in HASHES] == [block_of.get(h) for h in HASHES]


TestHolders = Holders.TestCase


def test_blocks_that_hold_nothing_go_before_any_that_does():
    pool = BlockPool(3)
    known, blank = pool.take(2)
    pool.publish(known, b"known")
    pool.release([known, blank])
    assert known not in pool.take(2)
    assert pool.find(b"known") == known
    assert pool.take(1) == [known]
    assert pool.find(b"known") is None
