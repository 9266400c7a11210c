"""Random models and adapters are what transformers and the reader of checkpoints take them for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from loramux.bench import BenchmarkError, shelf
from loramux.bench.random_adapter import write_adapter, write_adapters
from loramux.bench.random_model import SHAPES, ModelShape, write_model
from loramux.bench.random_tokenizer import count_tokens
from loramux.bench.settings import SHAPE_NAMES, settings_for
from loramux.bench.shelf import AdapterShelf
from loramux.engine.args import EngineArgs
from loramux.models.blueprint import Blueprint
from loramux.models.sites import find_sites

SMALL = ModelShape(97, 32, 48, 2, 4, 2, 64)


@pytest.mark.parametrize("shape", [SMALL, *SHAPES.values()])
def test_sizes_of_a_shape_are_those_of_the_model(shape: ModelShape, tmp_path: Path) -> None:
    write_model(tmp_path, shape, weights=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    matrices = {name: p for name, p in model.named_parameters() if p.dim() == 2}
    embedding = matrices.pop("model.embed_tokens.weight")
    assert shape.num_weights_per_step == sum(p.numel() for p in matrices.values())
    assert embedding.shape == (shape.vocab_size, shape.hidden_size)
    sites = [s for name, s in find_sites(model).items() if name.endswith("_proj")]
    assert shape.num_adapter_weights(3) == sum(3 * (s.in_features + s.out_features) for s in sites)
    config = model.config
    assert shape.num_cached_per_token == (
        2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    )


def test_every_token_is_a_word(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_model(tmp_path, SMALL, weights=False))
    ids = [0, 1, 2, 3, 96, 3]
    text = tokenizer.decode(ids)
    assert text == " 000000 000001 000002 000003 000096 000003"
    assert count_tokens(text) == len(ids)
    assert tokenizer(text)["input_ids"] == ids
    assert len(tokenizer) == SMALL.vocab_size


def test_words_of_other_tokenizers() -> None:
    assert [count_tokens(text) for text in ("", "\n", "ing", " two words")] == [0, 1, 1, 2]


def test_adapters_are_read_and_differ(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", SMALL, weights=False)
    blueprint = Blueprint.read(EngineArgs(model=str(model), max_lora_rank=8))
    weights = [blueprint.verify(p) for p in write_adapters(tmp_path / "a", SMALL, [2, 8], 3)]
    assert [one.max_rank for one in weights] == [2, 8, 2]
    assert len({one.digest for one in weights}) == 3
    assert weights[0].num_bytes == 2 * SMALL.num_adapter_weights(2)


def test_a_shelf_never_gives_the_same_adapter_twice(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", SMALL, weights=False)
    blueprint = Blueprint.read(EngineArgs(model=str(model)))
    template = write_adapter(tmp_path / "template", SMALL, 4, seed=0)
    adapters = AdapterShelf(tmp_path / "shelf", template)
    kept = adapters.keep(2)
    batches = [adapters.stock(count) for count in (3, 5, 2)]
    names = [*kept, *(name for batch in batches for name in batch)]
    assert len(set(names)) == len(names) == 12
    there = sorted(path.name for path in adapters.directory.iterdir())
    assert set(kept) | set(batches[-1]) <= set(there)
    assert len(there) == 2 + 5
    read = [blueprint.verify(adapters.directory / name) for name in there]
    assert len({one.digest for one in read}) == len(there)
    tensors = load_file(adapters.directory / there[0] / shelf.WEIGHTS_FILE)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    adapters.clear()
    assert not list(adapters.directory.iterdir())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"need 1,?0+\.0 GB .* GB free; name another place"):
        shelf.check_room(tmp_path, 10**18)


def test_settings_follow_the_shape_and_what_is_given() -> None:
    assert tuple(SHAPES) == SHAPE_NAMES
    large = settings_for("llama-3.1-8b", quick=True, repeats=None, rates=(2.0,))
    assert (large.requests, large.input_len, large.output_len) == (256, 512, 128)
    assert (large.repeats, large.seconds, large.samples, large.rates) == (1, 5.0, 5, (2.0,))
    assert settings_for("tiny", quick=True, seconds=9.0).seconds == 9.0
