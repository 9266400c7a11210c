"""The engine's core over a model that is a hash function: thousands of steps in a second.

Every cell of the simulated cache remembers which tokens under which adapter it was computed from.
A sequence that would attend to anything but its own past is caught at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from zlib import crc32

import pytest

from loramux.engine import core as core_module
from loramux.engine.args import EngineArgs
from loramux.engine.core import EngineCore
from loramux.engine.messages import CoreOutput
from loramux.engine.running.launched_step import LaunchedStep
from loramux.engine.sampling.sampler import HostTokens
from loramux.engine.scheduling.scheduler import Chunk
from loramux.engine.scheduling.sequence import Sequence as EngineSequence
from loramux.lora.adapter import Adapter
from loramux.lora.device.pool import ResidentAdapter
from loramux.sampling_params import SamplingParams
from tests.engine.simulated_grammar import ENDING, SimulatedGrammar
from tests.lora.residents import make_adapter

VOCABULARY = 3
"""Few tokens, so that prompts often begin alike."""
ADAPTERS = [make_adapter(digest) for digest in "abcd"]

Past = int
"""Hash of an adapter and of all tokens up to a position."""


def past(adapter: Adapter | None, tokens: Iterable[int]) -> Past:
    return crc32(bytes(tokens), crc32(adapter.digest.encode()) if adapter else 0)


def next_token(adapter: Adapter | None, tokens: Iterable[int]) -> int:
    return past(adapter, tokens) % VOCABULARY


def expected_output(adapter: Adapter | None, prompt: Sequence[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(adapter, tokens))
    return tokens[len(prompt) :]


class SimulatedPool:
    """A device pool whose adapters arrive some steps after they were asked for."""

    def __init__(self, capacity: int, delay: int) -> None:
        self.capacity = capacity
        self.delay = delay
        self.resident: dict[str, ResidentAdapter] = {}
        self.placing: dict[str, tuple[Adapter, int]] = {}
        self.failures: dict[str, Exception] = {}
        self.broken: set[str] = set()

    def collect(self) -> None:
        for digest, (adapter, steps) in list(self.placing.items()):
            self.placing[digest] = (adapter, steps - 1)
            if steps <= 0:
                del self.placing[digest]
                self._arrive(adapter)

    def _arrive(self, adapter: Adapter) -> None:
        if adapter.digest in self.broken:
            self.failures[adapter.digest] = RuntimeError("broken")
        else:
            self.resident[adapter.digest] = ResidentAdapter(adapter, {})

    def prefetch(self, adapter: Adapter, keep: set[str]) -> bool:
        digest = adapter.digest
        if digest in self.resident or digest in self.placing or digest in self.failures:
            return True
        idle = [d for d, r in self.resident.items() if not r.references and d not in keep]
        if len(self.resident) + len(self.placing) >= self.capacity:
            if not idle:
                return False
            del self.resident[idle[0]]
        self.placing[digest] = (adapter, self.delay)
        return True

    def note_waiting(self, adapter: Adapter) -> None:
        """Nothing is given up here."""

    def get(self, adapter: Adapter) -> ResidentAdapter | None:
        return self.resident.get(adapter.digest)

    def hold(self, adapter: Adapter) -> None:
        self.resident[adapter.digest].references += 1

    def let_go(self, adapter: Adapter) -> None:
        self.resident[adapter.digest].references -= 1

    def take_failures(self) -> dict[str, Exception]:
        failures, self.failures = self.failures, {}
        return failures


class SimulatedRunner:
    """Computes chunks over the simulated cache, and checks all that the model relies on."""

    def __init__(
        self, args: EngineArgs, _loaded: None, _length: int, lora: SimpleNamespace, _pooling: None
    ) -> None:
        self.args = args
        self.pool = lora.pool
        self.num_blocks = args.num_gpu_blocks_override
        self.cells: list[list[Past | None]] = [
            [None] * args.block_size for _ in range(self.num_blocks)
        ]
        self.num_steps = 0
        self.failing_steps: set[int] = set()
        """Those whose tokens never come."""
        self.events: list[str] = []
        self.left_out: set[EngineSequence] = set()
        """Sequences that a forward pass had and its sampling had not."""
        self.overlaps = bool(args.async_scheduling)
        self.latest: list[int] = []
        self.rows: dict[EngineSequence, int] = {}

    def launch_forward(self, chunks: list[Chunk], fresh_blocks: list[int]) -> SimpleNamespace:
        self.num_steps += 1
        self.events.append(f"forward {self.num_steps}")
        self._check_limits(chunks)
        for block in fresh_blocks:
            self.cells[block] = [None] * self.args.block_size
        for chunk in chunks:
            self._write(chunk)
        self._check_pasts(chunks)
        return SimpleNamespace(chunks=chunks)

    def launch_sampling(self, forward: SimpleNamespace, chunks: list[Chunk]) -> LaunchedStep:
        """Sample at once; what is launched is told only when it is waited for."""
        step = self.num_steps
        self.events.append(f"sampling {step}")
        sampling = [chunk.sequence for chunk in chunks if chunk.samples]
        sampled = [self._sample(chunk) for chunk in chunks if chunk.samples]
        self.latest = sampled
        self.rows = {sequence: place for place, sequence in enumerate(sampling)}
        self.left_out |= {chunk.sequence for chunk in set(forward.chunks) - set(chunks)}
        return LaunchedStep(chunks, lambda: self._wait(step, sampled), {})

    def _wait(self, step: int, sampled: list[int]) -> HostTokens:
        self.events.append(f"wait {step}")
        if step in self.failing_steps:
            raise RuntimeError("the tokens never came")
        return HostTokens(sampled, [None] * len(sampled), [])

    def _check_limits(self, chunks: list[Chunk]) -> None:
        assert 0 < len(chunks) <= self.args.max_num_seqs
        assert sum(chunk.num_tokens for chunk in chunks) <= self.args.max_num_batched_tokens
        assert all(chunk.num_tokens > 0 for chunk in chunks)
        adapters = {s.adapter for chunk in chunks if (s := chunk.sequence).adapter is not None}
        assert len(adapters) <= self.args.max_loras
        assert all(self.pool.get(adapter) is not None for adapter in adapters)

    def _tokens(self, chunk: Chunk, end: int) -> list[int]:
        """Tokens of the chunk's sequence, the one in flight looked up where a device would."""
        sequence = chunk.sequence
        known = sequence.tokens(0, min(end, sequence.num_known_tokens))
        assert end - len(known) <= 1, "at most one token is in flight when a step is launched"
        return known if end == len(known) else [*known, self.latest[self.rows[sequence]]]

    def _write(self, chunk: Chunk) -> None:
        sequence, size = chunk.sequence, self.args.block_size
        for position in range(chunk.first, chunk.end):
            cells = self.cells[sequence.block_ids[position // size]]
            content = past(sequence.adapter, self._tokens(chunk, position + 1))
            known = {None, content} if sequence in self.left_out else {None}
            assert cells[position % size] in known, "a computed cell is never written again"
            cells[position % size] = content

    def _check_pasts(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            sequence, size = chunk.sequence, self.args.block_size
            for position in range(chunk.end):
                cell = self.cells[sequence.block_ids[position // size]][position % size]
                assert cell == past(sequence.adapter, self._tokens(chunk, position + 1))

    def _sample(self, chunk: Chunk) -> int:
        sequence = chunk.sequence
        assert chunk.end == sequence.num_tokens
        if sequence.params.has_penalties or sequence.grammar is not None:
            assert not sequence.num_in_flight, "it is chosen by the tokens before"
        if sequence.grammar is not None:
            sequence.grammar.check_mask_of(sequence.output_token_ids)
        return next_token(sequence.adapter, self._tokens(chunk, chunk.end))


@dataclass
class Simulation:
    """A core, the sequences it was given, and what it has said of them."""

    core: EngineCore
    pool: SimulatedPool
    sequences: dict[str, EngineSequence] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    endings: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(
        cls, num_blocks: int, *, pool_capacity: int = 4, delay: int = 0, **args: int
    ) -> Simulation:
        settings = EngineArgs(
            model="simulated",
            num_gpu_blocks_override=num_blocks,
            lora_drain_wait_threshold=0.0,
            **{"block_size": 2, "max_num_seqs": 4, "max_num_batched_tokens": 8, **args},
        )
        pool = SimulatedPool(pool_capacity, delay)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core_module, "ModelRunner", SimulatedRunner)
            core = EngineCore(settings, None, num_blocks * 2, SimpleNamespace(pool=pool))
        return cls(core, pool)

    def add(
        self,
        prompt: list[int],
        adapter: Adapter | None,
        max_tokens: int,
        grammar: SimulatedGrammar | None = None,
        penalty: float = 0.0,
    ) -> str:
        name = str(len(self.sequences))
        params = SamplingParams(presence_penalty=penalty)
        sequence = EngineSequence(
            name, prompt, params, max_tokens, adapter=adapter, grammar=grammar
        )
        self.sequences[name] = sequence
        self.tokens[name] = []
        self.core.add(sequence)
        return name

    def abort(self, name: str) -> None:
        if name not in self.endings:
            self.endings[name] = "abort"
            self.core.abort([name])

    def step(self) -> list[CoreOutput]:
        outputs = self.core.step()
        for output in outputs:
            self.tokens[output.sequence_id] += output.new_token_ids
            if output.finish_reason is not None:
                assert output.sequence_id not in self.endings, "nobody finishes twice"
                self.endings[output.sequence_id] = output.finish_reason
        return outputs

    def drain(self, limit: int = 2000) -> None:
        """Step until everybody has finished; no schedule may take for ever."""
        for _ in range(limit):
            if not self.core.has_unfinished:
                return
            self.step()
        raise AssertionError(f"unfinished after {limit} steps: {self.core.scheduler.waiting}")

    def check_all_right(self) -> None:
        """Everybody got the tokens that nobody's company can change, and nothing is held."""
        for name, sequence in self.sequences.items():
            tokens, ending = self.tokens[name], self.endings[name]
            expected = expected_output(
                sequence.adapter, sequence.prompt_token_ids, sequence.max_tokens
            )
            if sequence.grammar is not None and ENDING in expected:
                expected = expected[: expected.index(ENDING) + 1]
            assert tokens == expected[: len(tokens)]
            assert ending in {"abort", "error"} or tokens == expected
        self.check_nothing_held()

    def check_nothing_held(self) -> None:
        scheduler = self.core.scheduler
        assert scheduler.running == []
        assert not scheduler.waiting
        assert self.core.cache.pool.num_free == self.core.runner.num_blocks
        assert all(resident.references == 0 for resident in self.pool.resident.values())
        assert len(scheduler.admission._running) == 0
        assert len(scheduler.admission._suspended) == 0
        assert scheduler.waiting.num_tokens == 0
