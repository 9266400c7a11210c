"""Runs the model once over the scheduled chunks and samples."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from loramux.engine.args import EngineArgs
from loramux.engine.messages import PositionLogprobs
from loramux.engine.running.kv_budget import allocate_caches, choose_num_blocks
from loramux.engine.running.prompt_positions import PromptPositions
from loramux.engine.running.step_inputs import StepInputs, build_inputs
from loramux.engine.sampling.batch import SamplingBatch
from loramux.engine.sampling.row import SamplingRow, seeded_generator
from loramux.engine.sampling.sampler import INVALID_TOKEN_ID, Sampler
from loramux.engine.scheduling.scheduler import Chunk
from loramux.engine.scheduling.sequence import Sequence
from loramux.lora.device.runtime import AdapterRows, LoRARuntime
from loramux.models.attention import AttentionContext
from loramux.models.loader import LoadedModel
from loramux.sampling_params import SamplingParams


@dataclass
class ChunkResult:
    """What computing one chunk brought.

    ``token_id`` is None where the chunk did not reach the last known token, and
    ``INVALID_TOKEN_ID`` where its logits were unusable (NaN).
    """

    chunk: Chunk
    token_id: int | None = None
    logprobs: PositionLogprobs | None = None
    prompt_logprobs: list[PositionLogprobs] | None = None

    @property
    def is_invalid(self) -> bool:
        return self.token_id == INVALID_TOKEN_ID


class ModelRunner:
    """The model, its cache and its sampler; one ``execute`` is one forward pass."""

    def __init__(
        self, args: EngineArgs, loaded: LoadedModel, max_model_len: int, lora: LoRARuntime | None
    ) -> None:
        self._model = loaded.model
        self._args = args
        self._lora = lora
        self._max_model_len = max_model_len
        self.device = loaded.device
        self.dtype = loaded.dtype
        self._sampler = Sampler(args.seed)
        self._sampling: SamplingBatch | None = None
        self._caches = allocate_caches(loaded, 1, args.block_size)
        self.num_blocks = choose_num_blocks(args, loaded, max_model_len, self._run_largest_step)
        self._caches = allocate_caches(loaded, self.num_blocks, args.block_size)

    @torch.inference_mode()
    def execute(self, chunks: Seq[Chunk], fresh_blocks: list[int]) -> list[ChunkResult]:
        """Compute the chunks; one result for each, adapters first and the base model last.

        Args:
            fresh_blocks: cache blocks that have just changed hands. They are wiped first, since
                even a masked key of a stranger would spread if it were NaN.
        """
        self._wipe(fresh_blocks)
        if self._lora is not None:
            chunks = self._lora.arrange(chunks, lambda chunk: chunk.sequence.adapter)
        inputs = build_inputs(chunks, self._args.block_size, self.device)
        results = [ChunkResult(chunk) for chunk in chunks]
        sampling = [result for result in results if result.chunk.samples]
        prompts = [p for rows in inputs.rows if (p := PromptPositions.of(rows)) is not None]
        logit_rows = [rows.stop - 1 for rows in inputs.rows if rows.chunk.samples]
        logit_rows += [row for prompt in prompts for row in prompt.rows]
        logits = self._forward(inputs, logit_rows)
        self._sample(logits[: len(sampling)], sampling)
        self._score_prompts(logits[len(sampling) :], prompts, results)
        return results

    def _forward(self, inputs: StepInputs, logit_rows: list[int]) -> Tensor:
        """Logits ``[len(logit_rows), vocab]`` of the rows asked for."""
        context = AttentionContext(self._caches, inputs.attention)
        with self._adapters(inputs, logit_rows):
            output = self._model(
                input_ids=inputs.input_ids,
                position_ids=inputs.positions,
                use_cache=False,
                logits_to_keep=torch.tensor(logit_rows, dtype=torch.long, device=self.device),
                attention_context=context,
            )
        logits: Tensor = output.logits[0]
        return logits

    def _adapters(self, inputs: StepInputs, logit_rows: list[int]) -> AbstractContextManager[None]:
        if self._lora is None:
            return nullcontext()
        tokens = [(r.chunk.sequence.adapter, r.start, r.stop) for r in inputs.rows]
        return self._lora.running(tokens, _adapters_of_rows(tokens, logit_rows))

    def _sample(self, logits: Tensor, results: list[ChunkResult]) -> None:
        """Fill in the next token of each result, from its row of ``logits``."""
        if not results:
            return
        rows = [self._sampling_row(result.chunk.sequence) for result in results]
        self._sampling = SamplingBatch.build(rows, logits.shape[1], self.device, self._sampling)
        tokens = self._sampler(logits, self._sampling).to_host()
        for result, token_id, logprobs in zip(
            results, tokens.token_ids, tokens.logprobs, strict=True
        ):
            result.token_id = token_id
            result.logprobs = logprobs

    def _sampling_row(self, sequence: Sequence) -> SamplingRow:
        if sequence.sampling is None:
            seed = sequence.params.seed
            sequence.sampling = SamplingRow(
                params=sequence.params,
                prompt_token_ids=sequence.prompt_token_ids,
                output_token_ids=sequence.output_token_ids,
                generator=(
                    None if seed is None else seeded_generator(seed, self.device, sequence.index)
                ),
                eos_token_ids=sequence.eos_token_ids | sequence.stop_token_ids,
            )
        return sequence.sampling

    def _score_prompts(
        self, logits: Tensor, prompts: list[PromptPositions], results: list[ChunkResult]
    ) -> None:
        by_chunk = {result.chunk: result for result in results}
        start = 0
        for prompt in prompts:
            stop = start + len(prompt.rows)
            by_chunk[prompt.chunk].prompt_logprobs = prompt.logprobs(logits[start:stop])
            start = stop

    def _wipe(self, blocks: list[int]) -> None:
        if not blocks:
            return
        index = torch.tensor(blocks, device=self.device)
        for cache in self._caches.values():
            cache.keys.index_fill_(0, index, 0)
            cache.values.index_fill_(0, index, 0)

    def _run_largest_step(self) -> None:
        """One step as large as any will be, for its peak of memory; its results mean nothing.

        One long prompt and as many single tokens as sequences may run, all over block 0.
        """
        num_short = self._args.max_num_seqs - 1
        longest = min(self._max_model_len, self._args.max_num_batched_tokens - num_short)
        lengths = [longest] + [1] * num_short
        self.execute([_imaginary_chunk(length, self._args.block_size) for length in lengths], [])
        self._sampling = None


def _adapters_of_rows(tokens: list[AdapterRows], rows: list[int]) -> list[AdapterRows]:
    """Adapters of single rows of a batch, renumbered from 0 in the order of ``rows``."""
    adapter_of = {row: adapter for adapter, start, stop in tokens for row in range(start, stop)}
    return [(adapter_of[row], place, place + 1) for place, row in enumerate(rows)]


def _imaginary_chunk(num_tokens: int, block_size: int) -> Chunk:
    sequence = Sequence(
        sequence_id="largest step",
        prompt_token_ids=[0] * num_tokens,
        params=SamplingParams(),
        max_tokens=1,
        block_ids=[0] * -(-num_tokens // block_size),
    )
    return Chunk.of(sequence, num_tokens)
