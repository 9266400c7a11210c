"""However a tensor file is damaged, reading it ends in a refusal or in a sound adapter."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint import safetensors_header
from loramux.lora.checkpoint.reader import read_adapter
from loramux.lora.checkpoint.safetensors_header import header_length, parse_header
from loramux.models.sites import find_sites
from tests.lora.peft_adapters import make_adapter, tiny_llama

MODEL = tiny_llama()
SITES = find_sites(MODEL)
ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}

hostile = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "llama"
    return make_adapter(MODEL, path, target_modules=["q_proj"], layers_to_transform=[0], r=1)


@pytest.fixture(scope="module")
def content(adapter) -> bytes:
    return (adapter / "adapter_model.safetensors").read_bytes()


def read_or_refuse(adapter: Path, content: bytes) -> bool:
    """Return whether the adapter was read; any error other than a refusal fails the test."""
    (adapter / "adapter_model.safetensors").write_bytes(content)
    try:
        weights = read_adapter(adapter, SITES, max_rank=8, base_names=None)
    except AdapterRefusedError:
        return False
    (pair,) = weights.pairs.values()
    assert pair.a.shape == (1, 16)
    assert pair.b.shape == (16, 1)
    assert pair.a.isfinite().all()
    assert pair.b.isfinite().all()
    return True


def test_undamaged_file_is_read(adapter, content):
    assert read_or_refuse(adapter, content)


@hostile
@given(data=st.data())
def test_truncated_files(adapter, content, data):
    length = data.draw(st.integers(0, len(content) - 1))
    assert not read_or_refuse(adapter, content[:length])


@hostile
@given(more=st.binary(min_size=1, max_size=20))
def test_files_with_something_behind(adapter, content, more):
    assert not read_or_refuse(adapter, content + more)


@hostile
@given(data=st.data())
def test_flipped_bits(adapter, content, data):
    damaged = bytearray(content)
    for bit in data.draw(st.sets(st.integers(0, len(content) * 8 - 1), min_size=1, max_size=3)):
        damaged[bit // 8] ^= 1 << bit % 8
    read_or_refuse(adapter, bytes(damaged))


@hostile
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes(adapter, content):
    assert not read_or_refuse(adapter, content)


numbers = st.one_of(
    st.integers(-2, 40), st.sampled_from([2**31, 2**62, 2**63, 2**64, 10**30]), st.booleans()
)
values = st.one_of(numbers, st.none(), st.text(max_size=3), st.floats(allow_nan=False))
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F64", "F32", "F16", "BF16", "F8_E4M3", "I8", "BOOL"]) | values,
        "shape": st.lists(numbers, max_size=10) | values,
        "data_offsets": st.lists(numbers, max_size=3) | values,
    },
    optional={"more": values},
)


@hostile
@given(
    data=st.data(),
    header=st.dictionaries(st.text(max_size=4), entries | values, max_size=3),
    body=st.binary(max_size=40),
)
def test_mutated_headers(adapter, content, data, header, body):
    (length,) = struct.unpack("<Q", content[:8])
    own = json.loads(content[8 : 8 + length])
    for name in data.draw(st.sets(st.sampled_from(sorted(own)), max_size=2)):
        own[name] = data.draw(entries | values)
    for mutated, tensors in ((own, content[8 + length :]), (header, body)):
        text = json.dumps(mutated).encode()
        read_or_refuse(adapter, struct.pack("<Q", len(text)) + text + tensors)


@hostile
@given(header=st.dictionaries(st.sampled_from("abc"), entries, max_size=3), body=st.integers(0, 48))
def test_accepted_headers_are_accepted_by_safetensors(header, body):
    text = json.dumps(header).encode()
    try:
        found = parse_header(text, 8 + len(text) + body)
    except AdapterRefusedError:
        return
    tensors = load(struct.pack("<Q", len(text)) + text + bytes(body))
    assert {name: (e.dtype, e.shape) for name, e in found.items()} == {
        name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()
    }


@hostile
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=3), st.integers(0, 3))
def test_headers_of_safetensors_are_accepted(shapes, kind):
    dtype = (torch.float64, torch.float32, torch.float16, torch.bfloat16)[kind]
    tensors = {f"t{i}": torch.ones(shape, dtype=dtype) for i, shape in enumerate(shapes)}
    file = save(tensors, metadata={"format": "pt"})
    length = header_length(file[:8], len(file))
    found = parse_header(file[8 : 8 + length], len(file))
    assert {name: entry.shape for name, entry in found.items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    ("header", "size", "words"),
    [
        ({"a": ENTRY, "b": ENTRY}, 24, "a gap or an overlap before tensor 'b'"),
        ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [32, 56]}}, 56, "gap or an overlap"),
        ({"a": {**ENTRY, "data_offsets": [8, 32]}}, 32, "gap or an overlap before tensor 'a'"),
        ({"a": ENTRY}, 23, "is truncated"),
        ({"a": ENTRY}, 25, "has 1 bytes that belong to no tensor"),
        ({"a": {**ENTRY, "shape": [2, 4]}}, 24, "not what its shape"),
        ({"a": {**ENTRY, "shape": [-2, -3]}}, 24, "impossible shape"),
        ({"a": {**ENTRY, "shape": [True, 6]}}, 24, "impossible shape"),
        ({"a": {**ENTRY, "data_offsets": [24, 0]}}, 24, "not what its shape"),
        ({"a": {**ENTRY, "data_offsets": [0, 24, 24]}}, 24, "impossible offsets"),
        ({"a": {**ENTRY, "dtype": ["F32"]}}, 24, "which is none of"),
        ({"a": {"dtype": "F32"}}, 24, "without exactly"),
        ({"a": [1]}, 24, "without exactly"),
        ({"a": ENTRY, "__metadata__": {"x": 1}}, 24, "metadata"),
        ({"a": ENTRY, "__metadata__": []}, 24, "metadata"),
    ],
)
def test_rules_of_the_format(header, size, words):
    text = json.dumps(header).encode()
    with pytest.raises(AdapterRefusedError, match=words):
        parse_header(text, 8 + len(text) + size)
    with pytest.raises(SafetensorError):
        load(struct.pack("<Q", len(text)) + text + bytes(size))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}, "impossible shape"),
        ({"dtype": "F32", "shape": [0, 2], "data_offsets": [0, 0]}, "the empty tensor 'a'"),
        ({"dtype": "F8_E5M2", "shape": [2], "data_offsets": [0, 2]}, "'F8_E5M2', which is none of"),
        ({"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}, "'I64', which is none of"),
        ({**ENTRY, "more": 1}, "without exactly"),
    ],
)
def test_rules_beyond_the_format(entry, words):
    text = json.dumps({"a": entry}).encode()
    size = entry["data_offsets"][1]
    with pytest.raises(AdapterRefusedError, match=words):
        parse_header(text, 8 + len(text) + size)


def test_duplicate_names_are_refused():
    text = f'{{"a": {json.dumps(ENTRY)}, "a": {json.dumps(ENTRY)}}}'.encode()
    with pytest.raises(AdapterRefusedError, match="the key 'a' appears twice"):
        parse_header(text, 8 + len(text) + 24)


@pytest.mark.parametrize("announced", [0, 1, 2**40, 2**64 - 1])
def test_announced_header_is_bounded_by_the_file(adapter, announced):
    assert not read_or_refuse(adapter, struct.pack("<Q", announced) + b"{}"[: announced % 2])


def test_announced_header_is_bounded_in_itself():
    limit = safetensors_header.MAX_HEADER_BYTES
    assert header_length(struct.pack("<Q", limit), 2**40) == limit
    with pytest.raises(AdapterRefusedError, match=f"has a header of {limit + 1} bytes"):
        header_length(struct.pack("<Q", limit + 1), 2**40)


def test_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path = make_adapter(MODEL, tmp_path / "adapter", target_modules="all-linear", r=32)
    file = path / "adapter_model.safetensors"

    def parse_then_truncate(header, size):
        entries = parse_header(header, size)
        os.truncate(file, size - 30)
        return entries

    monkeypatch.setattr("loramux.lora.checkpoint.tensor_file.parse_header", parse_then_truncate)
    with pytest.raises(AdapterRefusedError, match="became shorter while it was read"):
        read_adapter(path, SITES, max_rank=32, base_names=None)
