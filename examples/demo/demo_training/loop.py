"""One optimisation loop for all stages: AdamW, warm-up, cosine decay, a limit in seconds."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
"""Input ids and labels, both [rows, length]."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns; it ends early, but decayed, when `seconds` run out."""

    steps: int
    peak: float
    seconds: float
    warmup: int = 50
    floor: float = 0.02
    weight_decay: float = 0.0

    def rate(self, step: int, elapsed: float) -> float:
        """The learning rate after `step` steps and `elapsed` seconds."""
        progress = min(1.0, max(step / self.steps, elapsed / self.seconds))
        cosine = self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2
        return self.peak * cosine * min(1.0, (step + 1) / self.warmup)


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 arithmetic on a GPU, plain float32 elsewhere."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def train(
    name: str,
    model: torch.nn.Module,
    schedule: Schedule,
    next_batch: Callable[[], Batch],
    finished: Callable[[int], bool] = lambda step: False,
) -> None:
    """Train the parameters that require a gradient until the schedule or `finished` says stop."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=0.0, betas=(0.9, 0.95), weight_decay=schedule.weight_decay
    )
    model.train()
    started = time.monotonic()
    step = 0
    while step < schedule.steps:
        elapsed = time.monotonic() - started
        if elapsed > schedule.seconds or finished(step):
            break
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step, elapsed)
        loss = _step(model, optimizer, weights, next_batch())
        if step % 100 == 0:
            print(f"{name}: step {step}, {elapsed:.0f} s, loss {loss.item():.4f}", flush=True)
        step += 1
    print(f"{name}: done after {time.monotonic() - started:.0f} s and {step} steps", flush=True)
    model.eval()


def _step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: list[torch.nn.Parameter],
    batch: Batch,
) -> Tensor:
    inputs, labels = batch
    with autocast(inputs.device):
        loss: Tensor = model(input_ids=inputs, labels=labels, use_cache=False).loss
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()
