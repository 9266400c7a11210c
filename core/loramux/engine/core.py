"""The engine without text: token ids in, token ids out, one step at a time."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterable
from collections.abc import Sequence as Seq

import torch

from loramux.engine.args import EngineArgs
from loramux.engine.messages import CoreOutput
from loramux.engine.pooling.plan import PoolingPlan
from loramux.engine.running.launched_forward import LaunchedForward
from loramux.engine.running.launched_step import ChunkResult, LaunchedStep
from loramux.engine.running.model_runner import ModelRunner
from loramux.engine.running.pooled_step import PooledStep
from loramux.engine.scheduling.kv_cache import KVCacheManager
from loramux.engine.scheduling.scheduler import Chunk, Scheduler
from loramux.engine.scheduling.sequence import Sequence
from loramux.engine.structured.settling import broken_grammars, settle_grammars
from loramux.errors import AdapterRefusedError, EngineDeadError, LoramuxError
from loramux.logger import get_logger
from loramux.lora.device.admission import AdapterAdmission
from loramux.lora.device.runtime import LoRARuntime
from loramux.models.loader import LoadedModel

log = get_logger(__name__)


class EngineCore:
    """Scheduler, cache and model runner, driven by one thread.

    With ``async_scheduling`` a step is launched before the results of the one before are looked
    at, so that the device computes while the host schedules and hands out tokens. What the host
    has not seen yet, the tokens in flight, the device passes on by itself. Only the choice of a
    token may depend on them, under a grammar or penalties: they are looked at between the two
    halves of the launch then, while the device computes the forward pass.

    Every way a single sequence can fail ends that sequence with an error and no other. Only a
    broken device ends the engine.
    """

    def __init__(
        self,
        args: EngineArgs,
        loaded: LoadedModel,
        max_model_len: int,
        lora: LoRARuntime | None,
        pooling: PoolingPlan | None = None,
    ) -> None:
        self.runner = ModelRunner(args, loaded, max_model_len, lora, pooling)
        self.cache = KVCacheManager(
            self.runner.num_blocks, args.block_size, args.enable_prefix_caching
        )
        if pooling is not None:
            log.info("embeddings are made by %s", pooling)
        admission = None
        if lora is not None:
            admission = AdapterAdmission(lora.pool, args.max_loras, args.lora_drain_wait_threshold)
            lora.pool.on_change = self.wake
        self.scheduler = Scheduler(
            self.cache,
            admission,
            args.max_num_seqs,
            args.max_num_batched_tokens,
            # Where embeddings are made there are no streams that a long step would hold up.
            args.prefill_chunk_size if pooling is None else args.max_num_batched_tokens,
        )
        self._overlaps = self.runner.overlaps
        self._launched: LaunchedStep | PooledStep | None = None
        self._sequences: dict[str, Sequence] = {}
        self.num_generated_tokens = 0
        self._woken = threading.Event()

    @property
    def has_unfinished(self) -> bool:
        return bool(self._sequences)

    def add(self, sequence: Sequence) -> None:
        self._sequences[sequence.sequence_id] = sequence
        self.scheduler.add(sequence)

    def abort(self, sequence_ids: Iterable[str]) -> None:
        """Free sequences at once; ids that have finished already are passed over."""
        for sequence_id in sequence_ids:
            sequence = self._sequences.pop(sequence_id, None)
            if sequence is not None:
                self.scheduler.discard(sequence)

    def step(self) -> list[CoreOutput]:
        """Launch the model over whatever can run, and tell what the latest results brought.

        Raises:
            EngineDeadError: the device is broken; no further step can succeed.
        """
        outputs = self._settle(self.scheduler.running)
        outputs += self._fail_all(broken_grammars(self.scheduler.waiting.suspended()))
        chunks = self.scheduler.schedule()
        outputs += self._fail_all(self.scheduler.take_unplaceable())
        forward = self._launch_forward(chunks, outputs) if chunks else None
        if any(chunk.samples and chunk.sequence.awaits_token_in_flight for chunk in chunks):
            outputs += self._collect()
            outputs += self._settle(chunk.sequence for chunk in chunks if self._is_here(chunk))
        launched = self._launch_sampling(forward, outputs) if forward else None
        outputs += self._collect()
        self._launched = launched
        if not self._overlaps:
            outputs += self._collect()
        if not self._sequences:
            self._launched = None  # nobody is left who would want its results
        return outputs

    def wait_for_change(self, timeout: float) -> None:
        """Sleep until an adapter arrives, somebody calls ``wake``, or the time is over."""
        self._woken.wait(timeout)
        self._woken.clear()

    def collect_adapters(self) -> None:
        """Free what was unloaded while nothing runs; ``step`` does so by itself."""
        if self.scheduler.admission is not None:
            self.scheduler.admission.pool.collect()

    def wake(self) -> None:
        """May be called from any thread."""
        self._woken.set()

    def _settle(self, sequences: Iterable[Sequence]) -> list[CoreOutput]:
        """Let grammars catch up with the tokens; sequences that cannot go on end."""
        return self._fail_all(settle_grammars(sequences))

    def _launch_forward(
        self, chunks: list[Chunk], outputs: list[CoreOutput]
    ) -> LaunchedForward | None:
        """Start to compute; if that fails, the sequences end and ``outputs`` say so."""
        try:
            return self.runner.launch_forward(chunks, self.cache.take_fresh_blocks())
        except Exception as error:
            outputs += self._fail_step(chunks, error)
            return None

    def _launch_sampling(
        self, forward: LaunchedForward, outputs: list[CoreOutput]
    ) -> LaunchedStep | PooledStep | None:
        """Start to choose tokens; if that fails, the sequences end and ``outputs`` say so.

        Who has ended since the forward pass was launched is left out, and so is who does not know
        what may come next: its chunk counts as not computed, and comes again.
        """
        chunks = [c for c in forward.chunks if self._is_here(c) and not c.sequence.awaits_mask]
        try:
            launched = self.runner.launch_sampling(forward, chunks)
        except Exception as error:
            outputs += self._fail_step(chunks, error)
            return None
        for chunk in chunks:
            sequence = chunk.sequence
            sequence.num_prompt_logprobs += len(chunk.scored)
            sequence.num_computed_tokens = chunk.end
            sequence.num_in_flight += chunk.samples
        return launched

    def _collect(self) -> list[CoreOutput]:
        """Wait for the step that was launched, and take its results in."""
        launched, self._launched = self._launched, None
        if launched is None:
            return []
        try:
            results = launched.wait()
        except Exception as error:
            return self._fail_step(launched.chunks, error)
        return [self._advance(result) for result in results if self._is_here(result.chunk)]

    def _is_here(self, chunk: Chunk) -> bool:
        """Whether the sequence still runs: it may have ended or gone since the launch."""
        return self._sequences.get(chunk.sequence.sequence_id) is chunk.sequence

    def _fail_step(self, chunks: Seq[Chunk], error: Exception) -> list[CoreOutput]:
        """End the sequences of a step that raised; the others go on if the device can."""
        log.error("a step failed:\n%s", "".join(traceback.format_exception(error)))
        if isinstance(error, torch.AcceleratorError):
            raise EngineDeadError(f"The device failed and the engine has ended: {error}") from error
        reason = LoramuxError(f"The step that computed this request failed: {error!r}.")
        return [self._fail(c.sequence, reason) for c in chunks if self._is_here(c)]

    def _advance(self, result: ChunkResult) -> CoreOutput:
        """Take in what a chunk brought, and end its sequence if it is over."""
        chunk, sequence = result.chunk, result.chunk.sequence
        if result.is_invalid:
            return self._fail(sequence, _invalid_logits(sequence))
        if chunk.num_preemptions == sequence.num_preemptions:
            self.cache.publish_computed(sequence, chunk.end)
        output = CoreOutput(
            sequence_id=sequence.sequence_id,
            new_token_ids=[],
            num_cached_tokens=sequence.num_cached_tokens,
            adapter_digest=sequence.adapter.digest if sequence.adapter else None,
            first_scheduled_time=sequence.first_scheduled_time,
            prompt_logprobs=result.prompt_logprobs,
        )
        if result.token_id is not None:
            self._append(sequence, result, output)
        if result.embedding is not None:
            output.embedding, output.finish_reason = result.embedding, "stop"
            self._remove(sequence)
        return output

    def _append(self, sequence: Sequence, result: ChunkResult, output: CoreOutput) -> None:
        assert result.token_id is not None
        sequence.output_token_ids.append(result.token_id)
        sequence.num_in_flight -= 1
        output.new_token_ids.append(result.token_id)
        self.num_generated_tokens += 1
        if result.logprobs is not None:
            output.logprobs = [result.logprobs]
        output.finish_reason, output.stop_reason = sequence.ending
        if output.finish_reason is not None:
            self._remove(sequence)
        elif sequence.grammar is not None:
            sequence.grammar.advance(result.token_id)

    def _fail_all(self, broken: Iterable[tuple[Sequence, Exception]]) -> list[CoreOutput]:
        return [self._fail(sequence, error) for sequence, error in broken]

    def _fail(self, sequence: Sequence, error: Exception) -> CoreOutput:
        self._remove(sequence)
        return CoreOutput(sequence.sequence_id, [], finish_reason="error", error=error)

    def _remove(self, sequence: Sequence) -> None:
        """Forget a sequence; one whose adapter failed has left the scheduler already."""
        del self._sequences[sequence.sequence_id]
        self.scheduler.discard(sequence)


def _invalid_logits(sequence: Sequence) -> Exception:
    if sequence.grammar is not None and (error := sequence.grammar.error()) is not None:
        return error
    if sequence.adapter is None:
        return LoramuxError("The base model produced no finite numbers for this request.")
    return AdapterRefusedError.at(
        sequence.adapter.origin.place,
        "the adapter makes the model produce NaN for this request; its weights are likely broken, "
        "train or export it again.",
    )
