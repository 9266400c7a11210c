"""Base models on the Hub: one question tells whether it answers, and the local cache is enough."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from loramux import LLM, SamplingParams
from loramux.errors import InvalidRequestError
from tests.engine.world import save_model
from tests.resolvers.hub_server import answer as unavailable
from tests.resolvers.hub_server import drop

REPO = "acme/tiny"


def answer(model: str | Path, **arguments: str) -> list[int]:
    """What the model writes, greedily."""
    engine = LLM(str(model), kv_cache_memory_bytes=2**20, max_model_len=32, **arguments)
    try:
        (output,) = engine.generate("ab", SamplingParams(temperature=0, max_tokens=8))
    finally:
        engine.shutdown()
    return list(output.outputs[0].token_ids)


def test_without_the_hub_what_is_cached_is_served_after_one_question(hub, tmp_path, caplog):
    main, old = save_model(tmp_path / "main"), save_model(tmp_path / "old", seed=1)
    for directory in (main, old):
        files = {path.name: path.read_bytes() for path in directory.iterdir()}
        hub.repository(REPO).push(files, branch=directory.name)
    expected = answer(main)
    assert answer(REPO) == answer(main, tokenizer=REPO) == expected
    assert answer(REPO, revision="old") == answer(old) != expected

    cache = Path(constants.HF_HUB_CACHE)
    shutil.rmtree(cache / "models--acme--tiny" / ".no_exist")  # what a copied cache lacks
    hub.when("", drop)
    hub.requests.clear()
    with caplog.at_level(logging.WARNING, "loramux.models.hub"):
        assert answer(REPO) == expected
    (line,) = [record.message for record in caplog.records if record.name == "loramux.models.hub"]
    assert line.startswith("Models are taken from the local cache as they are: the Hugging Face")
    assert answer(main, tokenizer=REPO) == expected
    assert answer(REPO, revision="old") == answer(old)
    with pytest.raises(InvalidRequestError, match="The tokenizer of 'acme/other' cannot be loaded"):
        answer(main, tokenizer="acme/other")
    assert len(hub.requests) == 4
    hub.when("", unavailable(503))
    assert answer(REPO) == expected
    assert len(hub.requests) == 5

    hub.behave()
    hub.repository(REPO).push({path.name: path.read_bytes() for path in old.iterdir()})
    assert answer(REPO) == answer(old)


@pytest.mark.parametrize(
    ("is_offline", "fault", "why"),
    [
        (False, drop, r"the Hugging Face Hub \(127.0.0.1\) does not answer \(\w+\)"),
        (False, unavailable(503), r"the Hugging Face Hub \(127.0.0.1\) answers with status 503"),
        (True, drop, "HF_HUB_OFFLINE forbids to ask the Hub"),
    ],
)
def test_what_is_not_cached_is_refused_after_one_question(hub, monkeypatch, is_offline, fault, why):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    hub.when("", fault)
    said = f"' is not in the local .*, and {why}; "
    with pytest.raises(InvalidRequestError, match=REPO + said):
        answer(REPO)
    assert len(hub.requests) == (0 if is_offline else 1)
    with pytest.raises(InvalidRequestError, match="no/model/id" + said):
        answer("no/model/id", tokenizer=REPO)
