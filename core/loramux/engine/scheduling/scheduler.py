"""Decides which tokens of which sequences the next step computes."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from loramux.engine.scheduling.kv_cache import KVCacheManager
from loramux.engine.scheduling.sequence import Sequence
from loramux.engine.scheduling.waiting_queue import WaitingQueue
from loramux.lora.device.admission import AdapterAdmission


@dataclass(frozen=True, eq=False)
class Chunk:
    """Tokens of one sequence to compute in one step, from its first uncomputed one on.

    ``samples`` tells that it reaches the last known token, so that the next one can be chosen.
    """

    sequence: Sequence
    num_tokens: int
    samples: bool

    @classmethod
    def of(cls, sequence: Sequence, num_tokens: int) -> Chunk:
        return cls(sequence, num_tokens, num_tokens == sequence.num_uncomputed_tokens)


class Scheduler:
    """Continuous batching with chunked prefill (Agrawal et al. 2023, arXiv:2308.16369).

    Running sequences come first, so that nobody's stream stops for a newcomer; what is left of
    the token budget goes to those who wait, in order of arrival among those whose adapter may
    run. When blocks run out, the sequence that started last gives its blocks back and waits to
    be computed again.
    """

    def __init__(
        self,
        cache: KVCacheManager,
        admission: AdapterAdmission | None,
        max_num_seqs: int,
        max_num_batched_tokens: int,
    ) -> None:
        self.cache = cache
        self.admission = admission
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []
        self._preempted = False

    def add(self, sequence: Sequence) -> None:
        self.waiting.push(sequence)

    @property
    def has_unfinished(self) -> bool:
        return bool(self.running or self.waiting)

    def schedule(self) -> list[Chunk]:
        """Choose the next step's chunks; empty when nobody can run just now."""
        if self.admission is not None:
            self.admission.begin(self.waiting.adapters())
        chunks = self._continue_running()
        if not self._preempted:
            self._admit_waiting(chunks)
        return chunks

    def discard(self, sequence: Sequence) -> None:
        """Take a sequence out if it is still here, and free what it holds."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._stop_running(sequence)
        else:
            self.waiting.discard(sequence)

    def take_unplaceable(self) -> list[tuple[Sequence, Exception]]:
        """Remove the sequences whose adapter could not be placed, with the reason."""
        if self.admission is None:
            return []
        return [
            (sequence, error)
            for digest, error in self.admission.pool.take_failures().items()
            for sequence in self.waiting.take_line(digest)
        ]

    def _continue_running(self) -> list[Chunk]:
        self._preempted = False
        chunks: list[Chunk] = []
        budget = self.max_num_batched_tokens
        index = 0
        while index < len(self.running) and budget:
            sequence = self.running[index]
            num_tokens = min(sequence.num_uncomputed_tokens, budget)
            if self._grow_or_preempt(sequence, num_tokens):
                chunks.append(Chunk.of(sequence, num_tokens))
                budget -= num_tokens
                index += 1
        return chunks

    def _grow_or_preempt(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make room, at the cost of the youngest; False if that was the sequence itself."""
        while not self.cache.grow(sequence, num_tokens):
            youngest = self.running.pop()
            self._stop_running(youngest)
            youngest.num_preemptions += 1
            self.waiting.push_front(youngest)
            self._preempted = True
            if youngest is sequence:
                return False
        return True

    def _admit_waiting(self, chunks: list[Chunk]) -> None:
        """Start waiting sequences while tokens, places and blocks last."""
        budget = self.max_num_batched_tokens - sum(chunk.num_tokens for chunk in chunks)
        heads = [(head.arrival_time, id(head), head) for head in self.waiting.heads()]
        while heads and budget and len(self.running) < self.max_num_seqs:
            sequence = heapq.heappop(heads)[2]
            if self.admission is not None and not self.admission.may_join(sequence.adapter):
                continue
            num_tokens = self._start(sequence, budget)
            if not num_tokens:
                return
            chunks.append(Chunk.of(sequence, num_tokens))
            budget -= num_tokens
            if (follower := self.waiting.next_in_line(sequence)) is not None:
                heapq.heappush(heads, (follower.arrival_time, id(follower), follower))

    def _start(self, sequence: Sequence, budget: int) -> int:
        """Give a waiting sequence its first blocks; returns its tokens in this step, 0 if none."""
        cached = self.cache.attach_cached_prefix(sequence)
        num_tokens = min(sequence.num_uncomputed_tokens, budget)
        if not self.cache.grow(sequence, num_tokens):
            self.cache.free(sequence)
            return 0
        if not sequence.num_preemptions:
            sequence.num_cached_tokens = cached
        self.waiting.discard(sequence)
        self.running.append(sequence)
        if self.admission is not None:
            self.admission.join(sequence.adapter)
        return num_tokens

    def _stop_running(self, sequence: Sequence) -> None:
        self.cache.free(sequence)
        if self.admission is not None:
            self.admission.leave(sequence.adapter)
