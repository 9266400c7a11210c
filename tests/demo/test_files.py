"""The shipped files: small, readable by everybody, and free of the place they were made."""

from __future__ import annotations

import json

import pytest
from demo_text import TASKS

from tests.demo.conftest import DEMO


def test_base_model_fits_in_ten_megabytes():
    weights = DEMO / "loramux-demo" / "model.safetensors"
    assert 8_000_000 < weights.stat().st_size < 10_000_000


@pytest.mark.parametrize("task", TASKS)
def test_adapter_is_two_small_files_made_for_the_base_by_name(task):
    folder = DEMO / "adapters" / task
    assert {file.name for file in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert (folder / "adapter_model.safetensors").stat().st_size < 1_000_000
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "loramux-demo"


def test_adapters_differ_in_rank_scaling_and_targets():
    configs = [
        json.loads((DEMO / "adapters" / task / "adapter_config.json").read_text()) for task in TASKS
    ]
    assert len({config["r"] for config in configs}) >= 4
    assert {config["use_rslora"] for config in configs} == {True, False}
    assert {type(config["target_modules"]) for config in configs} == {str, list}


def test_everybody_may_read_the_shipped_files():
    for folder in (DEMO / "loramux-demo", *(DEMO / "adapters" / task for task in TASKS)):
        for file in folder.iterdir():
            assert file.stat().st_mode & 0o444 == 0o444, file
