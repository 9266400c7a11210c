"""Adapters that many tests of the reader start from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lora.peft_adapters import make_adapter
from tests.lora.reading import MODELS
from tests.lora.reading_process import ProcessReading


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "llama"
    return make_adapter(MODELS["llama"], path, target_modules=["q_proj", "down_proj"])


@pytest.fixture
def adapter(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "adapter"))


@pytest.fixture(scope="module")
def there() -> Iterator[ProcessReading]:
    reader = ProcessReading()
    yield reader
    reader.shutdown()
