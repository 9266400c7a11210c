"""Whatever an adapter's files, its name and its path say: a result or one sentence, and soon.

The examples are the same in each run. ``python -m tests.lora.test_fuzz 100000`` tries other ones,
so many for each test.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loramux.errors import AdapterRefusedError, LoramuxError
from loramux.lora.checkpoint.host_buffer import host_buffer
from loramux.lora.checkpoint.peft_config import parse_config
from loramux.lora.checkpoint.reader import read_adapter
from loramux.lora.checkpoint.safetensors_header import MAX_HEADER_BYTES, parse_header
from loramux.lora.checkpoint.targets import resolve_targets
from loramux.lora.fetch.locate import locate
from loramux.lora.local_path import is_directory
from loramux.lora.request import LoRARequest
from loramux.models.sites import find_sites
from loramux.server.access.name_patterns import NamePatterns
from loramux.server.adapters.allowed_paths import AllowedPaths
from loramux_resolvers.filesystem import FilesystemLoRAResolver
from tests.lora.peft_adapters import tiny_llama

SITES = find_sites(tiny_llama())
IS_CAMPAIGN = __name__ == "__main__"

SECONDS = 30.0 if IS_CAMPAIGN else 10.0
"""Of the processor, for one example; patterns that never end are given less than that. In a
campaign hypothesis remembers so much that a collection of garbage takes longer."""

hostile = settings(
    max_examples=int(sys.argv[1]) if IS_CAMPAIGN else 60,
    derandomize=not IS_CAMPAIGN,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def ends_well(act: Callable[[], object]) -> bool:
    """Whether it was taken; what it may raise is a sentence that can be sent to anybody."""
    started = time.process_time()
    try:
        act()
    except LoramuxError as error:
        sentence = str(error)
        assert sentence.isprintable(), ascii(sentence)
        assert len(sentence) < 2000
        taken = False
    else:
        taken = True
    assert time.process_time() - started < SECONDS
    return taken


@pytest.fixture(autouse=True)
def little_time(monkeypatch):
    monkeypatch.setattr("loramux.lora.checkpoint.targets.MATCH_SECONDS", 0.1)


any_text = st.text(st.characters(), max_size=20)
"""With control characters and halves of surrogate pairs."""

pieces = st.sampled_from([
    "a", "q_proj", "layers", "0", ".", r"\.", "*", "+", "?", "*?", "*+", "^", "$", "|", "(", "(?:",
    "(?=", "(?!", "(?<=a", "(?>", "(?i)", "(?i:", "(?P<n>", "(?P=n)", "(?(1)", ")", ")*", ")+",
    ")?", r"\1", r"\b", r"\w", r"\W", "[ab]", "[^a]", "[", "]", "[!-~]", "[!-\uffff]", "{2}",
    "{1,32}", "{", "}", "\n", "\u212a", "\ud800", ".*", ".+?", "()", "#", r"\N{", r"\u0041",
])  # fmt: skip
patterns = st.builds(
    lambda parts, times: "".join(parts) * times, st.lists(pieces, max_size=12), st.integers(1, 400)
)
numbers = st.one_of(
    st.integers(-2, 40),
    st.sampled_from([2**31, 2**63 - 1, 2**63, 10**308, 10**309, 10**4299, -(10**4299)]),
    st.floats(),
)
scalars = st.none() | st.booleans() | numbers | any_text | patterns
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text | patterns, inner),
    max_leaves=6,
)
fields = st.sampled_from([
    "alpha_pattern", "base_model_name_or_path", "bias", "ensure_weight_tying", "exclude_modules",
    "fan_in_fan_out", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha",
    "modules_to_save", "peft_type", "r", "rank_pattern", "target_modules", "task_type", "use_dora",
    "use_rslora",
])  # fmt: skip
tables = st.dictionaries(patterns, numbers | st.integers(1, 8), max_size=5)
BASE = {"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}
configs = st.builds(
    lambda given, ranks: {**BASE, "rank_pattern": ranks, **given},
    st.dictionaries(fields | any_text, values, max_size=3),
    st.just({}) | tables,
)


def use_config(text: bytes) -> None:
    config = parse_config(text)
    resolve_targets(config, SITES)
    config.identity()


@hostile
@given(configs)
def test_fields_of_any_type(config):
    ends_well(lambda: use_config(json.dumps(config).encode()))


@hostile
@given(st.sampled_from(["target_modules", "exclude_modules", "layers_pattern"]), patterns)
def test_patterns(field, pattern):
    config = {**BASE, field: pattern}
    if field == "layers_pattern":
        config["layers_to_transform"] = [0]
    ends_well(lambda: use_config(json.dumps(config).encode()))


@hostile
@given(configs, st.data())
def test_damaged_documents(config, data):
    text = json.dumps(config).encode()
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    more = data.draw(
        st.binary(max_size=9)
        | st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"NaN", b"1e999"])
    )
    ends_well(lambda: use_config(text[:start] + more + text[end:]))


@hostile
@given(any_text | st.builds(lambda text, times: text * times, any_text, st.integers(1, 9999)))
def test_names_and_paths(text):
    async def find() -> object:
        return await FilesystemLoRAResolver("/usr/share").resolve_lora("base", text)

    with mock.patch("loramux.lora.fetch.locate.find_on_hub"):
        for path in (text, f"~{text}", f"/usr/share/{text}", f"org/{text}"):
            ends_well(lambda path=path: locate(LoRARequest("name", 1, path)))
            ends_well(lambda path=path: AllowedPaths.of(["/usr/share", "hf://org/x"]).check(path))
            is_directory(path)
    if 0 < len(text) <= 512 and text.isprintable():
        assert asyncio.run(find()) is None
    NamePatterns.of(["*", "team/*/x*"]).fit(text)


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")
HUGE = 2**30
HEADERS = {
    "a huge tensor": {A: [HUGE, 16], B: [16, HUGE]},
    "a huge rank": {A: [HUGE // 16, 16], B: [16, HUGE // 16]},
    "a huge tensor besides": {A: [1, 16], B: [16, 1], A.replace("q_proj", "x_proj"): [HUGE]},
    "a huge copy": {A: [1, 16], B: [16, 1], "base_model.model.lm_head.weight": [HUGE]},
    "a huge stranger": {A: [1, 16], B: [16, 1], "x": [HUGE]},
    "one half": {A: [HUGE, 16]},
}


@pytest.mark.parametrize("shapes", HEADERS.values(), ids=HEADERS)
def test_no_memory_for_tensors_that_cannot_be_served(tmp_path, shapes):
    """The file is as long as it says, and full of holes."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    with (tmp_path / "adapter_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)
    config = json.dumps({**BASE, "layers_to_transform": [0]})
    (tmp_path / "adapter_config.json").write_text(config)
    allocate = mock.Mock(side_effect=host_buffer)
    with pytest.raises(AdapterRefusedError):
        read_adapter(
            tmp_path, SITES, max_rank=8, base_names=None, max_bytes=2**50, allocate=allocate
        )
    allocate.assert_not_called()


FILLINGS = {
    "lists": b"[],",
    "objects": b'{"":0},',
    "numbers": b"1000,",
    "texts": b'"",',
    "opened": b"[",
    "digits": b"9",
}


@pytest.mark.parametrize("filling", FILLINGS.values(), ids=FILLINGS)
def test_headers_as_large_as_they_may_be(filling):
    header = b'{"a":[' + filling * ((MAX_HEADER_BYTES - 10) // len(filling)) + b"0]}"
    tracemalloc.start()
    try:
        assert not ends_well(lambda: parse_header(header, 2**40))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MAX_HEADER_BYTES


PROPERTIES = (
    test_patterns,
    test_fields_of_any_type,
    test_damaged_documents,
    test_names_and_paths,
)


def campaign() -> None:
    """Each property with other examples, and many."""
    for test in PROPERTIES:
        started = time.monotonic()
        with mock.patch("loramux.lora.checkpoint.targets.MATCH_SECONDS", 0.1):
            test()
        print(f"{test.__name__}: {time.monotonic() - started:.0f} s", flush=True)


if IS_CAMPAIGN:
    campaign()
