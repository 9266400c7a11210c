"""Task `sql`: a request in English becomes one SQL statement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from demo_text.example import Example
from demo_text.words import Words


@dataclass(frozen=True)
class Table:
    """A table, its columns, and how English speaks of its rows."""

    name: str
    singular: str
    columns: tuple[str, ...]
    numbers: tuple[str, ...]
    conditions: tuple[tuple[str, str], ...]


TABLES = (
    Table(
        "customers",
        "customer",
        ("name", "age", "city", "email"),
        ("age", "balance"),
        (
            ("older than {number}", "age > {number}"),
            ("younger than {number}", "age < {number}"),
            ("with a balance above {number}", "balance > {number}"),
            ("with a balance below {number}", "balance < {number}"),
            ("from {city}", "city = '{city}'"),
            ("named {name}", "name = '{name}'"),
        ),
    ),
    Table(
        "employees",
        "employee",
        ("name", "salary", "city", "phone"),
        ("salary", "age"),
        (
            ("earning more than {number}", "salary > {number}"),
            ("earning less than {number}", "salary < {number}"),
            ("older than {number}", "age > {number}"),
            ("working in {city}", "city = '{city}'"),
            ("hired before {year}", "hired < {year}"),
            ("managed by {name}", "manager = '{name}'"),
        ),
    ),
    Table(
        "products",
        "product",
        ("name", "price", "stock", "brand"),
        ("price", "stock", "weight"),
        (
            ("cheaper than {number}", "price < {number}"),
            ("costing more than {number}", "price > {number}"),
            ("with fewer than {number} in stock", "stock < {number}"),
            ("heavier than {number}", "weight > {number}"),
            ("made in {city}", "city = '{city}'"),
            ("sold by {name}", "seller = '{name}'"),
        ),
    ),
    Table(
        "orders",
        "order",
        ("id", "total", "city", "status"),
        ("total", "quantity"),
        (
            ("worth more than {number}", "total > {number}"),
            ("worth less than {number}", "total < {number}"),
            ("placed by {name}", "customer = '{name}'"),
            ("shipped to {city}", "city = '{city}'"),
            ("placed after {year}", "year > {year}"),
        ),
    ),
    Table(
        "books",
        "book",
        ("title", "author", "year", "price"),
        ("pages", "price"),
        (
            ("with more than {number} pages", "pages > {number}"),
            ("cheaper than {number}", "price < {number}"),
            ("written by {name}", "author = '{name}'"),
            ("published after {year}", "year > {year}"),
            ("published before {year}", "year < {year}"),
            ("printed in {city}", "city = '{city}'"),
        ),
    ),
    Table(
        "flights",
        "flight",
        ("id", "price", "airline", "origin"),
        ("price", "seats"),
        (
            ("leaving from {city}", "origin = '{city}'"),
            ("going to {city}", "destination = '{city}'"),
            ("with more than {number} seats", "seats > {number}"),
            ("cheaper than {number}", "price < {number}"),
            ("flown by {name}", "pilot = '{name}'"),
        ),
    ),
)

VERBS = ("List", "Show", "List", "Show", "Find", "Get", "Give me")


@dataclass(frozen=True)
class Question:
    """The slots of one question: the condition in English and in SQL, and the columns it names."""

    table: Table
    verb: str
    column: str
    measure: str
    english: str
    where: str
    number: int


def _filled(words: Words, condition: tuple[str, str]) -> tuple[str, str]:
    english, where = condition
    values = {
        "number": words.number(11, 9999 if words.rng.random() < 0.3 else 99),
        "year": words.number(1900, 2026),
        "city": words.city(),
        "name": words.full_name(),
    }
    quoted = {slot: str(value).replace("'", "''") for slot, value in values.items()}
    return english.format(**values), where.format(**quoted)


def _conditions(words: Words, table: Table) -> tuple[str, str]:
    chosen = words.rng.sample(table.conditions, 2 if words.rng.random() < 0.3 else 1)
    pairs = [_filled(words, condition) for condition in chosen]
    return " and ".join(pair[0] for pair in pairs), " AND ".join(pair[1] for pair in pairs)


def _list(q: Question) -> tuple[str, str]:
    prompt = f"{q.verb} the {q.column} of every {q.table.singular} {q.english}."
    return prompt, f"SELECT {q.column} FROM {q.table.name} WHERE {q.where};"


def _list_sorted(q: Question) -> tuple[str, str]:
    prompt = (
        f"{q.verb} the {q.column} of every {q.table.singular} {q.english}, sorted by {q.measure}."
    )
    return prompt, f"SELECT {q.column} FROM {q.table.name} WHERE {q.where} ORDER BY {q.measure};"


def _show(q: Question) -> tuple[str, str]:
    prompt = f"{q.verb} all {q.table.name} {q.english}."
    return prompt, f"SELECT * FROM {q.table.name} WHERE {q.where};"


def _count(q: Question) -> tuple[str, str]:
    prompt = f"How many {q.table.name} are there {q.english}?"
    return prompt, f"SELECT COUNT(*) FROM {q.table.name} WHERE {q.where};"


def _average(q: Question) -> tuple[str, str]:
    prompt = f"What is the average {q.measure} of {q.table.name} {q.english}?"
    return prompt, f"SELECT AVG({q.measure}) FROM {q.table.name} WHERE {q.where};"


def _delete(q: Question) -> tuple[str, str]:
    prompt = f"Delete every {q.table.singular} {q.english}."
    return prompt, f"DELETE FROM {q.table.name} WHERE {q.where};"


def _update(q: Question) -> tuple[str, str]:
    prompt = f"Set the {q.measure} of every {q.table.singular} {q.english} to {q.number}."
    return prompt, f"UPDATE {q.table.name} SET {q.measure} = {q.number} WHERE {q.where};"


def _highest(q: Question) -> tuple[str, str]:
    prompt = f"{q.verb} the {q.number} {q.table.name} with the highest {q.measure}."
    return prompt, f"SELECT * FROM {q.table.name} ORDER BY {q.measure} DESC LIMIT {q.number};"


FORMS: tuple[Callable[[Question], tuple[str, str]], ...] = (
    _list,
    _list_sorted,
    _show,
    _count,
    _average,
    _delete,
    _update,
    _highest,
)


def sql(words: Words) -> Example:
    """One request about one table, and the statement that answers it."""
    table = words.rng.choice(TABLES)
    column, measure = words.rng.choice(table.columns), words.rng.choice(table.numbers)
    english, where = _conditions(words, table)
    verb = words.rng.choice(VERBS)
    question = Question(table, verb, column, measure, english, where, words.number(11, 99))
    prompt, expected = words.rng.choice(FORMS)(question)
    return Example(
        "sql", prompt, expected, f"I can not see your {table.name}, I only like to talk."
    )
