"""Blocks of the KV cache: who holds which, and which finished ones can be found again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

BlockHash = bytes
"""Names the content of one full block: its tokens, all tokens before it, and the adapter."""


class BlockPool:
    """Reference counts over a fixed number of blocks, with a cache of full ones.

    A block is free when nobody references it. A free block that holds the KV of known tokens
    stays findable by its hash until it is needed for something else; the one unused for longest
    goes first, and blocks that were never cached go before any that was.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._references = [0] * num_blocks
        self._hash_of: list[BlockHash | None] = [None] * num_blocks
        self._block_of: dict[BlockHash, int] = {}
        self._blank = list(range(num_blocks - 1, -1, -1))
        self._reusable: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        return len(self._blank) + len(self._reusable)

    def take(self, count: int) -> list[int]:
        """Return ``count`` blocks with one reference each; the caller checked ``num_free``."""
        return [self._take_one() for _ in range(count)]

    def find(self, block_hash: BlockHash) -> int | None:
        """Block that holds this content, free or in use."""
        return self._block_of.get(block_hash)

    def is_free(self, block: int) -> bool:
        return self._references[block] == 0

    def share(self, blocks: Iterable[int]) -> None:
        """Add a reference to each block, taking it out of the free ones where it was."""
        for block in blocks:
            if self._references[block] == 0:
                del self._reusable[block]
            self._references[block] += 1

    def publish(self, block: int, block_hash: BlockHash) -> None:
        """Make a full block findable; a second block of the same content stays unnamed."""
        if self._hash_of[block] is None and block_hash not in self._block_of:
            self._hash_of[block] = block_hash
            self._block_of[block_hash] = block

    def release(self, blocks: Iterable[int]) -> None:
        """Drop one reference of each block, in this order of becoming reusable."""
        for block in blocks:
            self._references[block] -= 1
            if self._references[block] == 0:
                self._set_free(block)

    def forget_cached(self) -> None:
        """Forget the content of every free block."""
        for block in list(self._reusable):
            self._unpublish(block)
            self._blank.append(block)
        self._reusable.clear()

    def _take_one(self) -> int:
        if self._blank:
            block = self._blank.pop()
        else:
            block, _ = self._reusable.popitem(last=False)
            self._unpublish(block)
        self._references[block] = 1
        return block

    def _set_free(self, block: int) -> None:
        if self._hash_of[block] is None:
            self._blank.append(block)
        else:
            self._reusable[block] = None

    def _unpublish(self, block: int) -> None:
        block_hash = self._hash_of[block]
        if block_hash is not None:
            del self._block_of[block_hash]
            self._hash_of[block] = None
