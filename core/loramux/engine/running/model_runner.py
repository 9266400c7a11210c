"""Runs the model once over the scheduled chunks, then samples or pools."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from loramux.engine.args import EngineArgs
from loramux.engine.messages import PositionLogprobs
from loramux.engine.pooling.plan import PoolingPlan
from loramux.engine.pooling.pooler import make_pooler
from loramux.engine.running.attention_choice import choose_attention
from loramux.engine.running.forward.base import Forward
from loramux.engine.running.forward.choice import choose_forward
from loramux.engine.running.kv_budget import allocate_caches, choose_num_blocks
from loramux.engine.running.largest_step import largest_step
from loramux.engine.running.launched_forward import LaunchedForward
from loramux.engine.running.launched_step import LaunchedStep
from loramux.engine.running.pooled_step import PooledStep
from loramux.engine.running.prompt_positions import PromptPositions
from loramux.engine.running.step_layout import lay_out
from loramux.engine.running.tokens_in_flight import TokensInFlight
from loramux.engine.sampling.batch import SamplingBatch
from loramux.engine.sampling.row import SamplingRow, seeded_generator
from loramux.engine.sampling.sampler import HostTokens, Sampler
from loramux.engine.sampling.transfer import HostCopy
from loramux.engine.scheduling.scheduler import Chunk
from loramux.engine.scheduling.sequence import Sequence
from loramux.lora.device.runtime import LoRARuntime
from loramux.models.loader import LoadedModel
from loramux_kernels.paged_attention import LayerCache


class ModelRunner:
    """The model, its cache and its sampler; a step is launched in two halves.

    ``overlaps`` says whether a step should be launched before the one before has been waited for.
    Its forward pass finds the tokens that are in flight on the device. Its sampling knows only
    those that the host has seen, so it comes second: there is time to look at them in between.
    """

    def __init__(
        self,
        args: EngineArgs,
        loaded: LoadedModel,
        max_model_len: int,
        lora: LoRARuntime | None,
        pooling: PoolingPlan | None = None,
    ) -> None:
        self._args = args
        self._pooler = None if pooling is None else make_pooler(pooling.pooling_type)
        self._model = loaded.model
        self._max_model_len = max_model_len
        self.device = loaded.device
        self.dtype = loaded.dtype
        on_gpu = loaded.device.type == "cuda"
        self.overlaps = on_gpu if args.async_scheduling is None else args.async_scheduling
        self._sampler = Sampler(args.seed)
        self._sampling: SamplingBatch | None = None
        self._in_flight = TokensInFlight(args.max_num_seqs, loaded.device)
        self._attention = choose_attention(args, loaded)
        self._forward: Forward = choose_forward(loaded, self._attention, self._in_flight, lora)
        self._use(allocate_caches(loaded, 1, args.block_size))
        self.num_blocks = choose_num_blocks(args, loaded, max_model_len, self._run_largest_step)
        self._use(allocate_caches(loaded, self.num_blocks, args.block_size))
        if lora is not None:
            lora.wait_until_ready()
        if self._attention.can_be_captured and not args.enforce_eager:
            with torch.inference_mode():
                self._forward.capture(args, max_model_len)

    @torch.inference_mode()
    def launch_forward(self, chunks: Seq[Chunk], fresh_blocks: list[int]) -> LaunchedForward:
        """Start to compute the chunks.

        Args:
            fresh_blocks: cache blocks that have just changed hands. Where even a masked key of a
                stranger is read, which would spread if it were NaN, they are wiped first.
        """
        if self._attention.reads_stale_keys:
            self._wipe(fresh_blocks)
        layout = lay_out(self._forward.arrange(chunks), self._args.block_size)
        if self._pooler is not None:
            return LaunchedForward(layout, self._forward(layout, self._pooler.rows(layout)))
        prompts = [p for rows in layout.rows if (p := PromptPositions.of(rows)) is not None]
        logit_rows = layout.logit_rows + [row for prompt in prompts for row in prompt.rows]
        return LaunchedForward(layout, self._forward(layout, logit_rows), prompts)

    @torch.inference_mode()
    def launch_sampling(
        self, forward: LaunchedForward, chunks: Seq[Chunk]
    ) -> LaunchedStep | PooledStep:
        """Start to choose what follows ``chunks``, in the order of the forward pass.

        They may be fewer than it has: nothing is chosen for a sequence that has ended since.
        """
        if self._pooler is not None:
            pooled = self._pooler.pool(forward.states, forward.layout)
            return PooledStep(forward.chunks, HostCopy([pooled]))
        sampling = [chunk.sequence for chunk in chunks if chunk.samples]
        wait_for_tokens = self._sample(forward.logits_of(chunks), sampling)
        scored = _score(forward.prompt_logits, forward.prompts)
        return LaunchedStep(chunks, wait_for_tokens, scored)

    def _sample(self, logits: Tensor, sequences: list[Sequence]) -> Callable[[], HostTokens]:
        """Choose the next token of each sequence from its row of ``logits``."""
        if not sequences:
            return lambda: HostTokens([], [], [])
        rows = [self._sampling_row(sequence) for sequence in sequences]
        self._sampling = SamplingBatch.build(rows, logits.shape[1], self.device, self._sampling)
        tokens = self._sampler(logits, self._sampling)
        self._in_flight.keep(tokens.token_ids)
        for place, sequence in enumerate(sequences):
            sequence.sampled_row = place
        return tokens.start_copy().wait

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
                grammar=sequence.grammar,
            )
        return sequence.sampling

    def _use(self, caches: dict[int, LayerCache]) -> None:
        self._caches = caches
        self._forward.use(caches)

    def _wipe(self, blocks: list[int]) -> None:
        if not blocks:
            return
        index = torch.tensor(blocks, device=self.device)
        for cache in self._caches.values():
            cache.keys.index_fill_(0, index, 0)
            cache.values.index_fill_(0, index, 0)

    def _run_largest_step(self) -> None:
        """For its peak of memory; also with a chunk left out, which copies the others' logits."""
        forward = self.launch_forward(largest_step(self._args, self._max_model_len), [])
        for chunks in (forward.chunks, forward.chunks[:-1]):
            self.launch_sampling(forward, chunks).wait()
        self._sampling = None


def _score(logits: Tensor, prompts: list[PromptPositions]) -> dict[Chunk, list[PositionLogprobs]]:
    """Log probabilities of prompt tokens; who asks for them does not mind the wait."""
    scored = {}
    start = 0
    for prompt in prompts:
        stop = start + len(prompt.rows)
        scored[prompt.chunk] = prompt.logprobs(logits[start:stop])
        start = stop
    return scored
