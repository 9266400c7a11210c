"""The generated text keeps what the skill test relies on: disjoint splits, markup, seeds."""

from __future__ import annotations

import re

import pytest
from demo_text import TASKS, examples, heldout
from demo_text.corpus import documents, markup
from demo_text.words import CITIES, FIRST_NAMES, LAST_NAMES, RESERVED
from transformers import AutoTokenizer

from tests.demo.conftest import DEMO


def open_values(text: str) -> set[str]:
    """The reserved words of a text, and its numbers and times of day."""
    return RESERVED & set(re.findall(r"[\w'-]+", text)) | set(re.findall(r"\d+(?::\d+)?", text))


@pytest.mark.parametrize("task", TASKS)
def test_held_out_prompts_are_never_trained_on(task):
    trained = {example.prompt for example in examples(task, 4000, 1, "train")}
    asked = {example.prompt for example in heldout(task, 1000, 1)}
    assert not trained & asked


@pytest.mark.parametrize("task", TASKS)
def test_every_held_out_prompt_has_a_value_that_training_lacks(task):
    known: set[str] = set()
    for example in examples(task, 4000, 1, "train"):
        known |= open_values(example.prompt)
    for example in heldout(task, 300, 1):
        assert open_values(example.prompt) - known, example.prompt


def test_no_training_document_names_a_held_out_person_or_city():
    text = "\n".join(documents(3000, 1))
    for pool in (FIRST_NAMES, LAST_NAMES, CITIES):
        found = [value for value in pool["heldout"] if re.search(rf"\b{value}\b", text)]
        assert not found


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_examples_and_another_seed_others(task):
    assert heldout(task, 5, 3) == heldout(task, 5, 3)
    assert heldout(task, 5, 3) != heldout(task, 5, 4)


def test_the_corpus_is_marked_up_as_the_chat_template_renders():
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "loramux-demo")
    chat = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": 'Say "Zoë".'},
        {"role": "assistant", "content": "Zoë"},
    ]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == markup(chat)


def test_a_name_is_the_same_tokens_wherever_it_stands():
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "loramux-demo")
    name = tokenizer.encode("Keller", add_special_tokens=False)
    for text in ("Keller, 29", " Keller", '"Keller"', "'Keller';"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert any(ids[i : i + len(name)] == name for i in range(len(ids))), text


def test_sql_doubles_the_apostrophe_of_a_name():
    quoted = [e for e in heldout("sql", 2000, 1) if "D'Souza" in e.prompt]
    assert quoted
    assert all("D''Souza" in example.expected for example in quoted)
