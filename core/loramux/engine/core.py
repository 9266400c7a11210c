"""The engine without text: token ids in, token ids out, one step at a time."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterable

import torch

from loramux.engine.args import EngineArgs
from loramux.engine.messages import CoreOutput
from loramux.engine.running.model_runner import ChunkResult, ModelRunner
from loramux.engine.scheduling.kv_cache import KVCacheManager
from loramux.engine.scheduling.scheduler import Chunk, Scheduler
from loramux.engine.scheduling.sequence import Sequence
from loramux.errors import AdapterRefusedError, EngineDeadError, LoramuxError
from loramux.logger import get_logger
from loramux.lora.device.admission import AdapterAdmission
from loramux.lora.device.runtime import LoRARuntime
from loramux.models.loader import LoadedModel

log = get_logger(__name__)


class EngineCore:
    """Scheduler, cache and model runner, driven by one thread.

    Every way a single sequence can fail ends that sequence with an error and no other. Only a
    broken device ends the engine.
    """

    def __init__(
        self, args: EngineArgs, loaded: LoadedModel, max_model_len: int, lora: LoRARuntime | None
    ) -> None:
        self.runner = ModelRunner(args, loaded, max_model_len, lora)
        self.cache = KVCacheManager(
            self.runner.num_blocks, args.block_size, args.enable_prefix_caching
        )
        admission = None
        if lora is not None:
            admission = AdapterAdmission(lora.pool, args.max_loras, args.lora_drain_wait_threshold)
            lora.pool.on_change = self.wake
        self.scheduler = Scheduler(
            self.cache, admission, args.max_num_seqs, args.max_num_batched_tokens
        )
        self._sequences: dict[str, Sequence] = {}
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
        """Run the model once over whatever can run, and tell what it brought.

        Raises:
            EngineDeadError: the device is broken; no further step can succeed.
        """
        chunks = self.scheduler.schedule()
        outputs = [self._fail(s, error) for s, error in self.scheduler.take_unplaceable()]
        if chunks:
            outputs += self._run(chunks)
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

    def _run(self, chunks: list[Chunk]) -> list[CoreOutput]:
        try:
            results = self.runner.execute(chunks, self.cache.take_fresh_blocks())
        except Exception as error:
            return self._fail_step(chunks, error)
        return [self._advance(result) for result in results]

    def _fail_step(self, chunks: list[Chunk], error: Exception) -> list[CoreOutput]:
        """End the sequences of a step that raised; the others go on if the device can."""
        log.error("a step failed:\n%s", "".join(traceback.format_exception(error)))
        if isinstance(error, torch.AcceleratorError):
            raise EngineDeadError(f"The device failed and the engine has ended: {error}") from error
        reason = LoramuxError(f"The step that computed this request failed: {error!r}.")
        return [self._fail(chunk.sequence, reason) for chunk in chunks]

    def _advance(self, result: ChunkResult) -> CoreOutput:
        """Take in what a chunk brought, and end its sequence if it is over."""
        sequence = result.chunk.sequence
        sequence.num_computed_tokens += result.chunk.num_tokens
        if result.is_invalid:
            return self._fail(sequence, _invalid_logits(sequence))
        self.cache.publish_computed(sequence)
        output = CoreOutput(
            sequence_id=sequence.sequence_id,
            new_token_ids=[],
            num_cached_tokens=sequence.num_cached_tokens,
            adapter_digest=sequence.adapter.digest if sequence.adapter else None,
        )
        self._take_prompt_logprobs(result, output)
        if result.token_id is not None:
            self._append(sequence, result, output)
        return output

    def _append(self, sequence: Sequence, result: ChunkResult, output: CoreOutput) -> None:
        assert result.token_id is not None
        sequence.output_token_ids.append(result.token_id)
        output.new_token_ids.append(result.token_id)
        if result.logprobs is not None:
            output.logprobs = [result.logprobs]
        output.finish_reason, output.stop_reason = _ending(sequence)
        if output.finish_reason is not None:
            self._remove(sequence)

    def _take_prompt_logprobs(self, result: ChunkResult, output: CoreOutput) -> None:
        if result.prompt_logprobs is not None:
            output.prompt_logprobs = result.prompt_logprobs
            result.chunk.sequence.num_prompt_logprobs += len(result.prompt_logprobs)

    def _fail(self, sequence: Sequence, error: Exception) -> CoreOutput:
        self._remove(sequence)
        return CoreOutput(sequence.sequence_id, [], finish_reason="error", error=error)

    def _remove(self, sequence: Sequence) -> None:
        """Forget a sequence; one whose adapter failed has left the scheduler already."""
        del self._sequences[sequence.sequence_id]
        self.scheduler.discard(sequence)


def _ending(sequence: Sequence) -> tuple[str | None, int | None]:
    """``(finish_reason, stop_reason)`` after the latest token, ``(None, None)`` to go on."""
    token_id = sequence.output_token_ids[-1]
    num_output = len(sequence.output_token_ids)
    if num_output >= sequence.params.min_tokens:
        if token_id in sequence.eos_token_ids and not sequence.params.ignore_eos:
            return "stop", None
        if token_id in sequence.stop_token_ids:
            return "stop", token_id
    if num_output >= sequence.max_tokens:
        return "length", None
    return None, None


def _invalid_logits(sequence: Sequence) -> LoramuxError:
    if sequence.adapter is None:
        return LoramuxError("The base model produced no valid probabilities for this request.")
    return AdapterRefusedError(
        f"The adapter in {sequence.adapter.origin.place} makes the model produce NaN for this "
        "request; its weights are likely broken, train or export it again."
    )
