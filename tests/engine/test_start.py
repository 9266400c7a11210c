"""How an engine starts: on what it tells, and what gets ready beside it."""

from __future__ import annotations

import logging
import re
import threading

import torch

from loramux.engine import head_start
from tests.engine.world import make_engine


def test_the_log_tells_how_long_each_part_took(world, caplog):
    with caplog.at_level(logging.INFO, "loramux.engine.start"):
        make_engine(world.model).shutdown()
    (line,) = [each.message for each in caplog.records if each.name == "loramux.engine.start"]
    assert re.findall(r"[:,] ([a-z ]+) \d+\.\d s", line) == [
        "device and processes", "modules imported", "configuration and tokenizer", "model",
        "room for adapters", "cache and graphs",
    ]  # fmt: skip


def test_a_device_that_cannot_be_opened_is_left_to_whoever_uses_it(caplog):
    """It is opened on a thread, whose errors nobody would see."""
    opened = threading.Thread(target=head_start._open, args=(torch.device("cuda:77"),))
    with caplog.at_level(logging.DEBUG, "loramux.engine.head_start"):
        opened.start()
        opened.join()
    (line,) = [each.message for each in caplog.records if each.name == "loramux.engine.head_start"]
    assert line.startswith("the device cuda:77 cannot be opened: ")
