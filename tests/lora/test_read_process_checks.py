"""What is read and what is refused is the same in a reading process: the reader's own tests.

Left out are those that change the reader from within, which a test can do in its own process only.
"""

from __future__ import annotations

import shutil

import pytest

from tests.lora import reading
from tests.lora.peft_adapters import change_config, change_tensors, make_adapter, read_tensors
from tests.lora.reading import SITES, A, refusal
from tests.lora.test_checkpoint import (  # noqa: F401
    test_adapter_name_inside_the_tensor_names,
    test_changed_base_weights_are_refused,
    test_copies_are_compared_as_the_base_model_holds_them,
    test_copies_of_base_weights_are_accepted_where_equal,
    test_copies_that_cannot_be_compared_are_refused,
    test_digest_covers_tensors_and_configuration,
    test_file_types_are_kept,
    test_links_inside_the_directory_are_followed,
    test_resized_base_weights_are_refused,
    test_types_may_differ_within_a_file,
    test_unaligned_tensors_are_read,
    test_updates_are_pefts,
    with_copies,
)
from tests.lora.test_checkpoint_files import (  # noqa: F401
    test_large_configuration_is_refused,
    test_missing_directory_is_refused,
    test_missing_files_are_refused,
    test_pipes_are_not_waited_for,
    test_refusals_of_the_configuration_begin_with_the_path,
)
from tests.lora.test_checkpoint_refusals import (  # noqa: F401
    test_another_base_is_refused,
    test_any_other_tensor_is_refused_by_name,
    test_bases_that_fit,
    test_embedding_halves_on_a_linear_layer_are_refused,
    test_empty_tensors_of_sharded_training_are_explained,
    test_halves_of_two_adapters_are_refused,
    test_large_file_is_refused_unread,
    test_layers_of_two_adapters_are_refused,
    test_missing_half_is_refused,
    test_names_without_the_prefix_are_explained,
    test_one_half_under_two_names_is_refused,
    test_only_ranks_of_targeted_layers_count,
    test_rank_above_the_limit_is_refused,
    test_rank_of_the_configuration_decides,
    test_targeted_layer_without_tensors_is_refused,
    test_tensor_of_an_untargeted_layer_is_refused,
    test_two_adapters_in_one_file_are_refused,
    test_types_that_lora_cannot_have_are_refused,
    test_values_that_are_not_finite_are_refused,
    test_wrong_shapes_are_refused,
)


@pytest.fixture(autouse=True)
def read_in_a_process(there, monkeypatch):
    monkeypatch.setattr(reading, "read_adapter", there)


def unreadable(adapter):
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.safetensors").mkdir()
    return adapter


DAMAGES = {
    "config": lambda adapter: change_config(adapter, use_dora=True),
    "rank": lambda adapter: change_config(adapter, r=100),
    "base": lambda adapter: change_config(adapter, base_model_name_or_path="Other"),
    "tensor": lambda adapter: change_tensors(adapter, {A: read_tensors(adapter)[A]}),
    "nan": lambda adapter: change_tensors(
        adapter, {**read_tensors(adapter), A: read_tensors(adapter)[A] / 0}
    ),
    "gone": lambda adapter: (shutil.rmtree(adapter), adapter)[1],
    "directory": unreadable,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_sentences_are_those_of_reading_here(adapter, damage, monkeypatch):
    DAMAGES[damage](adapter)
    sentence = refusal(adapter, base_names=["Base"])
    monkeypatch.undo()
    assert refusal(adapter, base_names=["Base"]) == sentence


@pytest.mark.parametrize("model", SITES)
def test_digests_and_tensors_are_those_of_reading_here(model, tmp_path, monkeypatch):
    path = make_adapter(reading.MODELS[model], tmp_path / "adapter", target_modules="all-linear")
    there = reading.read(path, model)
    monkeypatch.undo()
    here = reading.read(path, model)
    assert there.digest == here.digest
    assert (there.max_rank, there.num_bytes) == (here.max_rank, here.num_bytes)
    assert list(there.pairs) == list(here.pairs)
    for name, pair in here.pairs.items():
        assert (there.pairs[name].a == pair.a).all()
        assert (there.pairs[name].b == pair.b).all()
        assert there.pairs[name].scaling == pair.scaling
