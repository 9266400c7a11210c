"""One tiny model and its adapters on disk, what PEFT says of them, and runs of an engine."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from loramux import EngineArgs, LLMEngine, LoRARequest, RequestOutput, SamplingParams
from tests.lora.peft_adapters import change_tensors, make_adapter, read_tensors
from tests.server.tokenizer import letter_tokenizer

NUM_TOKENS = 16
"""Longest completion that tests ask of the reference."""
BLOCK = 4
MAX_MODEL_LEN = 64

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
RECIPES: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ATTENTION, "r": 4},
    "mlp": {"target_modules": ["gate_proj", "up_proj", "down_proj"], "r": 7, "use_rslora": True},
    "wide": {"target_modules": "all-linear", "r": 80},
    "embeddings": {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "r": 3},
    "narrow": {"target_modules": ["down_proj"], "r": 1},
    "patterned": {"target_modules": "all-linear", "r": 8, "rank_pattern": {"v_proj": 13}},
}
"""Ranks odd and even, one that is too large to share a product, and targets that differ."""

PROMPTS: list[list[int]] = [
    [5],
    [7, 8],
    [9, 10, 11, 12],
    [9, 10, 11, 12, 13],
    [9, 10, 11, 12, 13, 14, 15, 16],
    [9, 10, 11, 12, 13, 14, 15, 16, 40],
    list(range(20, 39)),
    list(range(50, 82)),
]
"""Some begin alike, some fill blocks exactly, one is a single token."""


def save_model(directory: Path, seed: int = 0) -> Path:
    tokenizer = letter_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2 * MAX_MODEL_LEN,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.4,  # large enough that the likeliest token is so by far
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@dataclass
class World:
    """A model, adapters by name, and PEFT's own answers, computed when first asked for."""

    model: Path
    adapters: dict[str, Path]
    _reference: PeftModel = field(init=False)
    _answers: dict[tuple[str | None, tuple[int, ...]], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        base = self.base_model()
        names = list(self.adapters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._reference = PeftModel.from_pretrained(base, self.adapters[names[0]], names[0])
            for name in names[1:]:
                self._reference.load_adapter(str(self.adapters[name]), name)
        self._reference.eval()

    @classmethod
    def make(cls, directory: Path) -> World:
        model = save_model(directory / "model")
        base = LlamaForCausalLM.from_pretrained(model)
        adapters = {
            name: make_adapter(base, directory / name, seed=seed, **{"lora_alpha": 2, **recipe})
            for seed, (name, recipe) in enumerate(RECIPES.items())
        }
        return cls(model, adapters)

    def base_model(self) -> LlamaForCausalLM:
        model = LlamaForCausalLM.from_pretrained(self.model, attn_implementation="eager").eval()
        model.generation_config.eos_token_id = None  # completions of a length that is known
        return model

    def lora(self, name: str | None) -> LoRARequest | None:
        return None if name is None else LoRARequest(name, 1, str(self.adapters[name]))

    def greedy(self, name: str | None, prompt: Iterable[int], num_tokens: int) -> list[int]:
        """PEFT's greedy completion under an adapter, or transformers' under none."""
        key = (name, tuple(prompt))
        if key not in self._answers:
            self._answers[key] = self._generate(name, list(prompt))
        assert num_tokens <= NUM_TOKENS
        return self._answers[key][:num_tokens]

    def logits(self, name: str | None, tokens: list[int]) -> torch.Tensor:
        """Reference logits after each of the tokens, ``[tokens, vocabulary]``."""
        with torch.no_grad():
            if name is not None:
                self._reference.set_adapter(name)
                return self._reference(torch.tensor([tokens])).logits[0]
            with self._reference.disable_adapter():
                return self._reference(torch.tensor([tokens])).logits[0]

    def _generate(self, name: str | None, prompt: list[int]) -> list[int]:
        if name is not None:
            self._reference.set_adapter(name)
            return generate(self._reference, prompt)
        with self._reference.disable_adapter():
            return generate(self._reference, prompt)


def generate(model: torch.nn.Module, prompt: list[int], num_tokens: int = NUM_TOKENS) -> list[int]:
    """What transformers generates, greedily and past every end-of-sequence token."""
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=num_tokens,
        do_sample=False,
    )
    return output[0, len(prompt) :].tolist()


def greedy_params(num_tokens: int = NUM_TOKENS, **changes: Any) -> SamplingParams:
    fields = {"temperature": 0.0, "max_tokens": num_tokens, "ignore_eos": True, **changes}
    return SamplingParams(**fields)


def make_engine(model: Path, **changes: Any) -> LLMEngine:
    """An engine with little of everything."""
    defaults = {
        "enable_lora": True,
        "max_loras": 4,
        "max_lora_rank": 128,
        "block_size": BLOCK,
        "max_model_len": MAX_MODEL_LEN,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 24,
        "num_gpu_blocks_override": 64,
    }
    if torch.cuda.is_available():  # the default is a share of the GPU, for each engine
        defaults["lora_memory_bytes"] = 64 << 20
    return LLMEngine.from_engine_args(EngineArgs(model=str(model), **{**defaults, **changes}))


@dataclass(frozen=True)
class Job:
    """A request and the step before which it arrives."""

    prompt: list[int]
    lora: LoRARequest | None = None
    params: SamplingParams = field(default_factory=greedy_params)
    at: int = 0


_ids = count()


def run(engine: LLMEngine, jobs: list[Job]) -> list[RequestOutput]:
    """Let the jobs arrive when they do, step until all have finished; outputs in their order."""
    names = [f"job {next(_ids)}" for _ in jobs]
    waiting = sorted(zip(names, jobs, strict=True), key=lambda item: item[1].at)
    finished: dict[str, RequestOutput] = {}
    for step in range(100_000):
        while waiting and waiting[0][1].at <= step:
            name, job = waiting.pop(0)
            engine.add_request(name, {"prompt_token_ids": job.prompt}, job.params, job.lora)
        if not waiting and not engine.has_unfinished_requests():
            break
        finished |= {output.request_id: output for output in engine.step() if output.finished}
    check_idle(engine)
    return [finished[name] for name in names]


def run_together(engine: LLMEngine, jobs: list[Job]) -> list[RequestOutput]:
    """Like ``run``, with all adapters read and placed so that the first step begins with all."""
    loras = {job.lora for job in jobs if job.lora is not None}
    run(engine, [Job([1], lora, greedy_params(1)) for lora in loras])
    names = [f"job {next(_ids)}" for _ in jobs]
    for name, job in zip(names, jobs, strict=True):
        request = engine.prepare(name, {"prompt_token_ids": job.prompt}, job.params, job.lora)
        adapter = engine.materializer.load(job.lora).result(240) if job.lora else None
        engine.submit(request, adapter)
    finished = {}
    while engine.has_unfinished_requests():
        finished |= {output.request_id: output for output in engine.step() if output.finished}
    return [finished[name] for name in names]


def tokens(output: RequestOutput) -> list[int]:
    """Tokens of a request with one completion that went well."""
    assert output.error is None, output.error
    return output.outputs[0].token_ids


def check_idle(engine: LLMEngine) -> None:
    """Nobody runs, and nothing is held: no block, no adapter, no bookkeeping."""
    core = engine.core
    assert not engine.has_unfinished_requests()
    assert engine.get_num_unfinished_requests() == 0
    assert not core.has_unfinished
    assert core.scheduler.running == []
    assert not core.scheduler.waiting
    assert core.cache.pool.num_free == core.runner.num_blocks
    assert engine._outputs.num_unfinished_requests == 0
    if engine._lora is not None:
        held = engine._lora.pool._resident.values()
        assert all(resident.references == 0 for resident in held)
        assert len(core.scheduler.admission._running) == 0


def copy_adapter(source: Path, directory: Path, factor: float = 1.0) -> Path:
    """A copy of an adapter in ``directory``, whose update is ``factor`` times as large."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        shutil.copy(file, directory / file.name)
    if factor != 1.0:
        scaled = {
            name: tensor * factor if "lora_B" in name or "embedding_B" in name else tensor
            for name, tensor in read_tensors(source).items()
        }
        change_tensors(directory, scaled)
    return directory
