"""Decides which tokens of which sequences the next step computes."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass

from loramux.engine.scheduling.kv_cache import KVCacheManager
from loramux.engine.scheduling.sequence import Sequence
from loramux.engine.scheduling.waiting_queue import WaitingQueue
from loramux.lora.device.admission import AdapterAdmission

BACKLOG_STEPS = 4
"""Prompts that wait are computed in at least so many steps where streams run beside them."""

MAX_SCORED_POSITIONS = 1024
"""Prompt positions whose log probabilities one step gives; each has a row of logits of its own."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Tokens ``first`` to ``end`` of one sequence, to compute in one step.

    ``samples`` tells that it reaches the last token, so that the next one can be chosen.
    ``num_preemptions`` are those of the sequence so far: after another, the chunk's keys and
    values are no longer the sequence's.
    """

    sequence: Sequence
    first: int
    num_tokens: int
    samples: bool
    num_preemptions: int

    @classmethod
    def of(cls, sequence: Sequence, num_tokens: int) -> Chunk:
        """The next tokens of a sequence, from its first uncomputed one on."""
        samples = num_tokens == sequence.num_uncomputed_tokens
        first = sequence.num_computed_tokens
        return cls(sequence, first, num_tokens, samples, sequence.num_preemptions)

    @property
    def end(self) -> int:
        return self.first + self.num_tokens

    @property
    def scored(self) -> range:
        """Prompt positions whose log probabilities it gives."""
        sequence = self.sequence
        if not sequence.num_unscored:
            return range(0)
        first = max(self.first, sequence.num_prompt_logprobs)
        return range(first, min(self.end, len(sequence.prompt_token_ids) - 1))


class StepBudget:
    """What a step may still take in: tokens, those of prompts, prompt positions to be scored."""

    def __init__(self, tokens: int, prompt_tokens: int) -> None:
        self.tokens = tokens
        self.prompt_tokens = min(tokens, prompt_tokens)
        self.scored_positions = MAX_SCORED_POSITIONS

    def fitting(self, sequence: Sequence) -> int:
        """How many tokens of a sequence the step has room for."""
        wanted = sequence.num_uncomputed_tokens
        room = self.tokens if wanted == 1 else self.prompt_tokens
        if sequence.num_unscored > self.scored_positions:
            scored_before = sequence.num_prompt_logprobs - sequence.num_computed_tokens
            room = min(room, scored_before + self.scored_positions)
        return min(wanted, room)

    def spend(self, chunk: Chunk) -> None:
        self.scored_positions -= len(chunk.scored)
        self.tokens -= chunk.num_tokens
        if not (chunk.samples and chunk.num_tokens == 1):
            self.prompt_tokens -= chunk.num_tokens
        self.prompt_tokens = min(self.prompt_tokens, self.tokens)


class Scheduler:
    """Continuous batching with chunked prefill (Agrawal et al. 2023, arXiv:2308.16369).

    Running sequences come first, so that nobody's stream stops for a newcomer; what is left of
    the token budget goes to those who wait, in order of arrival among those whose adapter may
    run. When blocks run out, the sequence that started last gives its blocks back and waits to
    be computed again.

    A step that computes prompts takes longer, and every stream waits for it. Beside running
    streams, it therefore has ``prefill_chunk_size`` tokens while few wait, and more the more there
    are, so that a long queue is worked off at full speed.
    """

    def __init__(
        self,
        cache: KVCacheManager,
        admission: AdapterAdmission | None,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        prefill_chunk_size: int,
    ) -> None:
        self.cache = cache
        self.admission = admission
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.prefill_chunk_size = prefill_chunk_size
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []
        self._preempted = False
        self.num_preemptions = 0
        self.num_prefix_queries = 0
        """Prompt tokens that were looked for in the prefix cache."""
        self.num_prefix_hits = 0
        """Those that were found there."""

    def add(self, sequence: Sequence) -> None:
        self.waiting.push(sequence)

    @property
    def has_unfinished(self) -> bool:
        return bool(self.running or self.waiting)

    def schedule(self) -> list[Chunk]:
        """Choose the next step's chunks; empty when nobody can run just now."""
        if self.admission is not None:
            self.admission.begin(self.waiting.adapters())
        budget = StepBudget(self.max_num_batched_tokens, self._prompt_tokens())
        chunks = self._continue_running(budget)
        if not self._preempted:
            self._admit_waiting(chunks, budget)
        return chunks

    def discard(self, sequence: Sequence) -> None:
        """Take a sequence out if it is still here, and free what it holds."""
        if sequence in self.running:
            self.running.remove(sequence)
            self.cache.free(sequence)
            if self.admission is not None:
                self.admission.leave(sequence.adapter)
            return
        is_waiting = self.waiting.discard(sequence)
        if is_waiting and sequence.is_suspended and self.admission is not None:
            self.admission.abandon(sequence.adapter)

    def take_unplaceable(self) -> list[tuple[Sequence, Exception]]:
        """Remove the sequences whose adapter could not be placed, with the reason."""
        if self.admission is None:
            return []
        return [
            (sequence, error)
            for digest, error in self.admission.pool.take_failures().items()
            for sequence in self.waiting.take_line(digest)
        ]

    def _prompt_tokens(self) -> int:
        """How many tokens of prompts the next step may compute.

        Beside streams, a step has whole multiples of ``prefill_chunk_size`` tokens, theirs
        included: products of a few rows more than that take as long as those of many more.
        """
        uncomputed = [sequence.num_uncomputed_tokens for sequence in self.running]
        num_streams = uncomputed.count(1)
        if not num_streams:
            return self.max_num_batched_tokens
        backlog = self.waiting.num_tokens + sum(count for count in uncomputed if count > 1)
        size = self.prefill_chunk_size
        least = max(backlog // BACKLOG_STEPS, num_streams + max(size // 2, 1))
        return -(-least // size) * size - num_streams

    def _continue_running(self, budget: StepBudget) -> list[Chunk]:
        self._preempted = False
        chunks: list[Chunk] = []
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            num_tokens = 0 if sequence.sits_out else budget.fitting(sequence)
            if num_tokens and not self._grow_or_preempt(sequence, num_tokens):
                continue
            if num_tokens:
                chunks.append(Chunk.of(sequence, num_tokens))
                budget.spend(chunks[-1])
            index += 1
        return chunks

    def _grow_or_preempt(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make room, at the cost of the youngest; False if that was the sequence itself."""
        while not self.cache.grow(sequence, num_tokens):
            youngest = self.running.pop()
            self._preempt(youngest)
            if youngest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's blocks; it keeps its adapter, whatever becomes of the name."""
        self.cache.free(sequence)
        if self.admission is not None:
            self.admission.suspend(sequence.adapter)
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        sequence.is_suspended = True
        self.waiting.push_front(sequence)
        self._preempted = True

    def _admit_waiting(self, chunks: list[Chunk], budget: StepBudget) -> None:
        """Start waiting sequences while tokens, places and blocks last."""
        heads = [(head.arrival_time, id(head), head) for head in self.waiting.heads()]
        while heads and budget.prompt_tokens and len(self.running) < self.max_num_seqs:
            sequence = heapq.heappop(heads)[2]
            if not self._may_run(sequence) or not budget.fitting(sequence):
                continue
            num_tokens = self._start(sequence, budget)
            if not num_tokens:
                return
            chunks.append(Chunk.of(sequence, num_tokens))
            budget.spend(chunks[-1])
            if (follower := self.waiting.next_in_line(sequence)) is not None:
                heapq.heappush(heads, (follower.arrival_time, id(follower), follower))

    def _start(self, sequence: Sequence, budget: StepBudget) -> int:
        """Give a waiting sequence its first blocks; returns its tokens in this step, 0 if none."""
        cached = self.cache.attach_cached_prefix(sequence)
        num_tokens = budget.fitting(sequence)
        if not self.cache.grow(sequence, num_tokens):
            self.cache.free(sequence)
            return 0
        if not sequence.num_preemptions:
            sequence.num_cached_tokens = cached
            sequence.first_scheduled_time = time.monotonic()
            self.num_prefix_queries += len(sequence.prompt_token_ids)
            self.num_prefix_hits += cached
        self.waiting.discard(sequence)
        self.running.append(sequence)
        if self.admission is not None:
            enter = self.admission.resume if sequence.is_suspended else self.admission.join
            enter(sequence.adapter)
        sequence.is_suspended = False
        return num_tokens

    def _may_run(self, sequence: Sequence) -> bool:
        if self.admission is None:
            return True
        if sequence.is_suspended:
            return self.admission.may_resume(sequence.adapter)
        return self.admission.may_join(sequence.adapter)
