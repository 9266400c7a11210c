"""However a tensor file is damaged, a reading process refuses it or reads a sound adapter."""

from __future__ import annotations

import pytest

from tests.lora import test_damaged_files
from tests.lora.test_damaged_files import (  # noqa: F401
    adapter,
    content,
    test_announced_header_is_bounded_by_the_file,
    test_arbitrary_bytes,
    test_files_with_something_behind,
    test_flipped_bits,
    test_mutated_headers,
    test_truncated_files,
    test_undamaged_file_is_read,
)


@pytest.fixture(autouse=True)
def read_in_a_process(there, content, monkeypatch):  # noqa: F811
    """``content`` is read before anything damages the file."""
    monkeypatch.setattr(test_damaged_files, "read_adapter", there)
