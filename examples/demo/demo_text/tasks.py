"""The five tasks by name, and their train and held-out examples."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from demo_text.example import Example
from demo_text.messages import STYLES, message
from demo_text.records import record
from demo_text.sql import sql
from demo_text.words import Split, Words

TASKS: dict[str, Callable[[Words], Example]] = {
    "sql": sql,
    "json": record,
    **{style: partial(message, style=style) for style in STYLES},
}


def examples(task: str, n: int, seed: int, split: Split) -> list[Example]:
    """`n` examples of `task` from one split; the same arguments give the same list.

    Raises:
        KeyError: when `task` is not one of TASKS.
    """
    words = Words(split, random.Random(f"{task} {split} {seed}"))
    return [TASKS[task](words) for _ in range(n)]


def heldout(task: str, n: int, seed: int) -> list[Example]:
    """`n` examples with names and cities that no training text has, and numbers no prompt of it.

    Raises:
        KeyError: when `task` is not one of TASKS.
    """
    return examples(task, n, seed, "heldout")
