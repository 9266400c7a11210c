"""Task `json`: a sentence about somebody becomes a JSON object."""

from __future__ import annotations

import json
from dataclasses import dataclass

from demo_text.example import Example
from demo_text.words import Words

JOBS = (
    "baker nurse pilot teacher painter farmer lawyer dentist plumber singer driver writer".split()
)
GOODS = "lamps chairs books candles tables clocks mirrors carpets pillows bottles".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
Value = str | int


@dataclass(frozen=True)
class Form:
    """A sentence with slots, the fields of its object in order, and a friendly reply to it."""

    sentence: str
    fields: tuple[str, ...]
    small_talk: str


FORMS = (
    Form(
        "{name}, {age}, lives in {city}.", ("name", "age", "city"), "I hear that {city} is lovely."
    ),
    Form(
        "{name} is {age} years old and comes from {city}.",
        ("name", "age", "city"),
        "Please say hello to {name} from me.",
    ),
    Form(
        "In {city} there lives a {job} called {name}.",
        ("name", "job", "city"),
        "I would like to meet {name} one day.",
    ),
    Form(
        "{name} works as a {job} in {city} and is {age}.",
        ("name", "age", "job", "city"),
        "It is good to be a {job}.",
    ),
    Form(
        "{name} ordered {quantity} {item} on {day}.",
        ("name", "quantity", "item", "day"),
        "I hope that the {item} arrive soon.",
    ),
    Form(
        "Send {quantity} {item} to {name} in {city}.",
        ("name", "city", "quantity", "item"),
        "I can not send {item}, I only like to talk.",
    ),
    Form(
        "Meet {name} in {city} on {day} at {time}.",
        ("name", "city", "day", "time"),
        "I hope that you have a good time in {city}.",
    ),
    Form(
        "Invoice {number}: {name} owes {amount} euros.",
        ("number", "name", "amount"),
        "That is a lot of money for {name}.",
    ),
    Form(
        "{name} flies from {city} to {destination} on {day}.",
        ("name", "city", "destination", "day"),
        "I wish {name} a good flight.",
    ),
)


def _values(words: Words) -> dict[str, Value]:
    return {
        "name": words.full_name(),
        "age": words.number(18, 99),
        "city": words.city(),
        "destination": words.city(),
        "job": words.rng.choice(JOBS),
        "item": words.rng.choice(GOODS),
        "day": words.rng.choice(DAYS),
        "time": words.time(),
        "quantity": words.number(2, 99),
        "amount": words.number(10, 999),
        "number": words.number(1000, 9999),
    }


def record(words: Words) -> Example:
    """One sentence, and its facts as a JSON object of one line."""
    form, values = words.rng.choice(FORMS), _values(words)
    expected = json.dumps({field: values[field] for field in form.fields}, ensure_ascii=False)
    prompt = form.sentence.format(**values)
    return Example("json", prompt, expected, form.small_talk.format(**values))
