"""Gives sequences the cache blocks they need and finds prefixes that are already computed."""

from __future__ import annotations

import hashlib
from array import array

from loramux.engine.scheduling.block_pool import BlockHash, BlockPool
from loramux.engine.scheduling.sequence import Sequence


class KVCacheManager:
    """Block tables of all sequences over one pool.

    A cached block is named by a chain of hashes that starts from the digest of the adapter, so
    the KV of one adapter (or of the base model) can never serve another, and from the sequence's
    salt, so that neither can that of another salt; and the hash is a cryptographic one, so that no
    crafted prompt can collide with a stranger's.
    """

    def __init__(self, num_blocks: int, block_size: int, enable_prefix_caching: bool) -> None:
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self.pool = BlockPool(num_blocks)
        self._fresh: list[int] = []

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def attach_cached_prefix(self, sequence: Sequence) -> int:
        """Start a new sequence on the longest prefix in the cache; returns its tokens.

        At least one token is left to compute, since the last one's hidden state is needed.
        """
        if not self.enable_prefix_caching or sequence.needs_all_tokens:
            return 0
        self._extend_hashes(sequence)
        blocks = self._cached_blocks(sequence)
        self.pool.share(blocks)
        sequence.block_ids = blocks
        sequence.num_computed_tokens = len(blocks) * self.block_size
        return sequence.num_computed_tokens

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make room for ``num_tokens`` more computed tokens; False if blocks are short."""
        needed = self.num_blocks_for(sequence.num_computed_tokens + num_tokens)
        missing = needed - len(sequence.block_ids)
        if missing > self.pool.num_free:
            return False
        if missing > 0:
            taken = self.pool.take(missing)
            self._fresh += taken
            sequence.block_ids += taken
        return True

    def take_fresh_blocks(self) -> list[int]:
        """Blocks handed out since last asked; they still hold what a stranger left in them."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def publish_computed(self, sequence: Sequence, num_tokens: int) -> None:
        """Make the blocks findable that the sequence's first ``num_tokens`` tokens have filled."""
        if not self.enable_prefix_caching:
            return
        num_full = num_tokens // self.block_size
        if num_full > len(sequence.block_hashes):
            self._extend_hashes(sequence)
        for index in range(sequence.num_published_blocks, num_full):
            self.pool.publish(sequence.block_ids[index], sequence.block_hashes[index])
        sequence.num_published_blocks = max(sequence.num_published_blocks, num_full)

    def free(self, sequence: Sequence) -> None:
        """Give all blocks back, the end of the sequence first: prefixes stay useful longest."""
        self.pool.release(reversed(sequence.block_ids))
        sequence.block_ids = []
        sequence.num_computed_tokens = 0
        sequence.num_published_blocks = 0

    def _cached_blocks(self, sequence: Sequence) -> list[int]:
        blocks: list[int] = []
        for block_hash in sequence.block_hashes[: (sequence.num_tokens - 1) // self.block_size]:
            block = self.pool.find(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _extend_hashes(self, sequence: Sequence) -> None:
        """Name every full block of the tokens known so far."""
        hashes = sequence.block_hashes
        parent = hashes[-1] if hashes else _root(sequence)
        for index in range(len(hashes), sequence.num_known_tokens // self.block_size):
            start = index * self.block_size
            tokens = array("q", sequence.tokens(start, start + self.block_size))
            parent = hashlib.blake2b(parent + tokens.tobytes(), digest_size=16).digest()
            hashes.append(parent)


def _root(sequence: Sequence) -> BlockHash:
    """Start of the hash chain: whose weights computed the keys and values, and for whom."""
    weights = sequence.adapter.digest.encode() if sequence.adapter else b"base"
    if not sequence.cache_salt:
        return weights
    # Hashed, because clients choose salts: appended, one could look like a block's hash.
    return hashlib.blake2b(weights + b"\0" + sequence.cache_salt).digest()
