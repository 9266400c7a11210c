"""The mixture the base model is trained on: chats and plain text, each as one marked-up string.

The five tasks take part in two ways that do not give them away. Their prompts get small talk for
an answer, and their answers stand alone as plain text, so that SQL or French is a language the
model has read. No document pairs a prompt with its expected answer: that is left to the adapters.
"""

from __future__ import annotations

import random

from demo_text.chat import as_messages, remembering, turn
from demo_text.example import Message
from demo_text.stories import biography, counting, diary, facts, story, weather
from demo_text.tasks import TASKS
from demo_text.words import Words

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}


def markup(messages: list[Message]) -> str:
    """What the chat template renders for `messages`."""
    return BEGIN + "".join(ROLES[m["role"]] + m["content"] + END for m in messages)


def _plain(text: str) -> str:
    return BEGIN + text + END


def _task_chat(words: Words) -> str:
    example = words.rng.choice(list(TASKS.values()))(words)
    return markup(as_messages(words, [(example.prompt, example.small_talk)]))


def _task_text(words: Words) -> str:
    task = words.rng.choice(list(TASKS.values()))
    count = words.rng.randint(1, 3)
    return _plain("\n".join(task(words).expected for _ in range(count)))


def _chat(words: Words) -> str:
    turns = [turn(words) for _ in range(words.rng.choice((1, 1, 1, 2, 3)))]
    return markup(as_messages(words, turns))


def _remembering_chat(words: Words) -> str:
    return markup(as_messages(words, remembering(words)))


def _text(words: Words) -> str:
    return _plain(words.rng.choice((story, diary, biography, facts, weather, counting))(words))


def _echo(words: Words) -> str:
    """Plain text that says the same thing again, so that copying is never out of season."""
    text = words.rng.choice(list(TASKS.values()))(words).prompt
    return _plain("\n".join([text] * words.rng.randint(2, 3)))


MIXTURE = (
    (_task_chat, 30),
    (_task_text, 13),
    (_chat, 30),
    (_remembering_chat, 4),
    (_text, 9),
    (_echo, 14),
)


def documents(n: int, seed: int) -> list[str]:
    """`n` documents of the training split; the same arguments give the same documents."""
    words = Words("train", random.Random(f"corpus {seed}"))
    makers, weights = zip(*MIXTURE, strict=True)
    return [maker(words) for maker in words.rng.choices(makers, weights, k=n)]
