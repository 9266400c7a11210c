"""Train the demo from nothing: tokenizer, base model, adapters.

    python examples/demo/train.py --out trained

writes trained/loramux-demo and trained/adapters/NAME, then prints how often each adapter is
exactly right on held-out prompts. It takes about five minutes on one recent GPU. With --keep-base
the base model in --out is kept and only the adapters named by --adapters are trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from demo_text import TASKS, Example, heldout
from demo_text.corpus import documents
from demo_training.adapters import BASE_NAME, save_adapter, train_adapter
from demo_training.base import learn_to_copy, learn_to_read, new_model, save_base
from demo_training.data import corpus_rows, task_rows
from demo_training.evaluate import answers, exact, show_base
from demo_training.loop import Schedule
from demo_training.tokenizer import MAX_LENGTH, train_tokenizer

SEED = 20260
ADAPTER_LENGTH = 136


@dataclass(frozen=True)
class Size:
    """How much of everything a run uses."""

    tokenizer_documents: int
    corpus_chunks: int
    rows_per_batch: int
    copy: Schedule
    copy_goal: float
    base: Schedule
    task_examples: int
    task_rows_per_batch: int
    task: Schedule
    heldout: int


FULL = Size(
    tokenizer_documents=60_000,
    corpus_chunks=340,
    rows_per_batch=64,
    copy=Schedule(steps=1500, peak=1e-3, seconds=40, floor=1.0, weight_decay=0.01),
    copy_goal=0.99,
    base=Schedule(steps=3000, peak=1.5e-3, seconds=115, warmup=200, weight_decay=0.1),
    task_examples=64_000,
    task_rows_per_batch=256,
    task=Schedule(steps=400, peak=2e-3, seconds=15),
    heldout=256,
)
SMOKE = Size(
    tokenizer_documents=2_000,
    corpus_chunks=2,
    rows_per_batch=4,
    copy=Schedule(steps=3, peak=1e-3, seconds=60),
    copy_goal=0.0,
    base=Schedule(steps=4, peak=1e-3, seconds=60),
    task_examples=64,
    task_rows_per_batch=8,
    task=Schedule(steps=4, peak=1e-3, seconds=60),
    heldout=4,
)


def train_base(folder: Path, size: Size, device: torch.device) -> None:
    """Train tokenizer and base model and write both to `folder`."""
    tokenizer = train_tokenizer(documents(size.tokenizer_documents, SEED), 1280)
    corpus = corpus_rows(tokenizer, size.corpus_chunks, MAX_LENGTH)
    print(f"corpus: {corpus.numel() / 1e6:.1f} million tokens", flush=True)
    model = new_model(tokenizer, SEED).to(device)
    print(f"model: {model.num_parameters() / 1e6:.2f} million parameters", flush=True)
    learn_to_copy(model, size.copy, SEED, size.copy_goal)
    learn_to_read(model, corpus.to(device), size.rows_per_batch, size.base, SEED)
    save_base(model, tokenizer, folder)
    show_base(model, tokenizer)


def train_task(
    task: str, out: Path, tokenizer: PreTrainedTokenizerFast, size: Size, device: torch.device
) -> str:
    """Train, save and score the adapter of one task; returns its line of the table."""
    rows = task_rows(task, size.task_examples, ADAPTER_LENGTH, tokenizer)
    base = AutoModelForCausalLM.from_pretrained(out / BASE_NAME, dtype=torch.float32).to(device)
    questions = heldout(task, size.heldout, SEED)
    generic = answers(base, tokenizer, questions)
    adapted = train_adapter(
        task, base, rows, rows_per_batch=size.task_rows_per_batch, schedule=size.task, seed=SEED
    )
    texts = answers(adapted, tokenizer, questions)
    save_adapter(adapted, out / "adapters" / task)
    _print_samples(questions, generic, texts)
    return f"{task:8} {exact(questions, texts):8.1%} {exact(questions, generic):8.1%}"


def _print_samples(
    questions: Sequence[Example], generic: Sequence[str], texts: Sequence[str]
) -> None:
    triples = list(zip(questions, generic, texts, strict=True))
    wrong = [triple for triple in triples[2:] if triple[2] != triple[0].expected]
    for question, chat, text in triples[:2] + wrong[:6]:
        print(f"  {question.prompt}\n    base     {chat}\n    adapter  {text}")
        if text != question.expected:
            print(f"    EXPECTED {question.expected}")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--adapters", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--keep-base", action="store_true", help="use the base model in --out")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, untrained")
    arguments = parser.parse_args()
    size = SMOKE if arguments.smoke else FULL
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not arguments.keep_base:
        train_base(arguments.out / BASE_NAME, size, device)
    tokenizer = AutoTokenizer.from_pretrained(arguments.out / BASE_NAME)
    table = [train_task(t, arguments.out, tokenizer, size, device) for t in arguments.adapters]
    print("\n".join([f"{'task':8} {'adapter':>8} {'base':>8}", *table]))


if __name__ == "__main__":
    main()
