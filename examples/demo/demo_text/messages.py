"""Tasks `pirate`, `formal` and `french`: one everyday message, said in another style."""

from __future__ import annotations

import string

from demo_text.clauses import CLAUSES, CLOSINGS, GREETINGS, NO_GREETING, Clause
from demo_text.example import Example
from demo_text.lexicon import CLOSED_SLOTS, Styled
from demo_text.words import Words

STYLES = ("pirate", "formal", "french")


def _slots(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def _values(words: Words, clause: Clause) -> dict[str, Styled]:
    closed = {slot: words.rng.choice(options) for slot, options in CLOSED_SLOTS.items()}
    number = str(words.number(11, 9999 if "call me" in clause.style.casual else 999))
    opened = {
        "name": words.first_name(),
        "other": words.full_name() if words.rng.random() < 0.3 else words.first_name(),
        "city": words.city(),
        "time": words.time(),
        "number": number,
    }
    return closed | {slot: Styled(*[value] * 4) for slot, value in opened.items()}


def _greeting(words: Words, clause: Clause) -> Styled:
    # Without an open-class slot only the name keeps a held-out prompt apart from the training ones.
    if _slots(clause.style.casual) <= CLOSED_SLOTS.keys() or words.rng.random() < 0.7:
        return words.rng.choice(GREETINGS)
    return NO_GREETING


def _say(style: str, parts: tuple[Styled, ...], values: dict[str, Styled]) -> str:
    template = "".join(getattr(part, style) for part in parts)
    text = template.format(**{slot: getattr(value, style) for slot, value in values.items()})
    return text[0].upper() + text[1:]


def message(words: Words, style: str) -> Example:
    """One everyday message and the same message in `style`, one of STYLES."""
    clause = words.rng.choice(CLAUSES)
    values = _values(words, clause)
    parts = (_greeting(words, clause), clause.style, words.rng.choice(CLOSINGS))
    small_talk = _say("casual", (Styled(*[clause.small_talk] * 4),), values)
    return Example(style, _say("casual", parts, values), _say(style, parts, values), small_talk)
