"""Templated text of the demo: the five adapter tasks and the small talk of the base model."""

from __future__ import annotations

from demo_text.example import Example, Message
from demo_text.tasks import TASKS, examples, heldout

__all__ = ["TASKS", "Example", "Message", "examples", "heldout"]
