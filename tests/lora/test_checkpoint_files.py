"""Missing, oversized and failing files, and pickles, which are refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from loramux.errors import AdapterUnavailableError
from loramux.lora.checkpoint.reader import MAX_CONFIG_BYTES
from loramux.lora.checkpoint.tensor_file import open_safetensors
from tests.lora.peft_adapters import (
    change_config,
    read_tensors,
)
from tests.lora.reading import read, refusal


def test_missing_directory_is_refused(tmp_path):
    assert "no such directory" in refusal(tmp_path / "absent")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_files_are_refused(adapter, name):
    (adapter / name).unlink()
    assert f"{name} is missing" in refusal(adapter)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_pipes_are_not_waited_for(adapter, name):
    (adapter / name).unlink()
    os.mkfifo(adapter / name)
    assert f"{name} is missing" in refusal(adapter)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_pipes_that_come_into_a_file_s_place_are_not_waited_for(adapter, name, monkeypatch):
    real_is_file = Path.is_file

    def exchange(path):
        was_file = real_is_file(path)
        if was_file and path.name == name:
            path.unlink()
            os.mkfifo(path)
        return was_file

    monkeypatch.setattr(Path, "is_file", exchange)
    assert f"{name} is no regular file" in refusal(adapter)


@pytest.fixture
def elsewhere(adapter, tmp_path) -> Path:
    """Another adapter, outside of the first one's directory."""
    return Path(shutil.copytree(adapter, tmp_path / "elsewhere"))


def put_link(path: Path, target: Path) -> None:
    """Put a link in the place of a file or directory."""
    path.rename(path.with_name(f"former {path.name}"))
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_that_lies_elsewhere_is_refused(adapter, elsewhere, name):
    put_link(adapter / name, elsewhere / name)
    wanted = read(adapter, allowed_directories=(str(adapter), str(elsewhere))).digest
    assert wanted == read(adapter).digest
    sentence = refusal(adapter, allowed_directories=(str(adapter),))
    assert f"{name} lies outside of the directories" in sentence


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("whole", [False, True], ids=["file", "directory"])
def test_a_link_that_comes_after_the_check_is_not_followed(
    adapter, elsewhere, monkeypatch, name, whole
):
    real_is_file = Path.is_file

    def exchange(path):
        if path.name == name and not adapter.is_symlink():
            put_link(adapter if whole else path, elsewhere if whole else elsewhere / name)
        return real_is_file(path)

    monkeypatch.setattr(Path, "is_file", exchange)
    sentence = refusal(adapter, allowed_directories=(str(adapter),))
    assert f"{name} was exchanged for a link" in sentence


def test_large_configuration_is_refused(adapter):
    text = (adapter / "adapter_config.json").read_text() + " " * MAX_CONFIG_BYTES
    (adapter / "adapter_config.json").write_text(text)
    assert "is larger than" in refusal(adapter)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_storage_errors_are_worth_another_try(adapter, name, monkeypatch):
    real_open = os.open

    def failing_open(path, *args, **kwargs):
        if Path(path).name == name:
            raise OSError(5, "Input/output error")
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing_open)
    with pytest.raises(
        AdapterUnavailableError, match=r"Input/output error.* try again\.$"
    ) as caught:
        read(adapter)
    assert str(caught.value).startswith(f"{adapter}: ")


def test_refusals_of_the_configuration_begin_with_the_path(adapter):
    assert "'use_dora'" in refusal(change_config(adapter, use_dora=True))


@pytest.fixture
def pickled(adapter) -> Path:
    torch.save(read_tensors(adapter), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    return adapter


def test_pickle_alone_is_refused_with_the_remedy(pickled):
    assert "convert it to adapter_model.safetensors" in refusal(pickled)


@pytest.mark.parametrize("last", [2.0, float("inf")])
def test_tensors_at_odd_offsets(tmp_path, last):
    """Other writers than PEFT's need not put the widest types first."""
    odd, even = torch.tensor([1.0, -2, 3]).bfloat16(), torch.tensor([-1.0, last])
    entries = {
        "odd": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]},
        "even": {"dtype": "F32", "shape": [2], "data_offsets": [6, 14]},
    }
    header = json.dumps(entries).encode()
    data = odd.view(torch.uint8).numpy().tobytes() + even.view(torch.uint8).numpy().tobytes()
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + data)
    with open_safetensors(file, 1000) as opened, opened.reading() as tensors:
        found = tensors()
    assert torch.equal(found.tensors["odd"], odd)
    assert torch.equal(found.tensors["even"], even)
    assert found.non_finite == (set() if even.isfinite().all() else {"even"})
