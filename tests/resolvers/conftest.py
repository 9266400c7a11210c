"""What the tests of several resolvers share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.resolvers.hub_server import HubServer, downloads_under_way, hub_server


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on loopback, and this process's huggingface_hub set up for it with an empty cache."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with hub_server() as hub:
        # They are read from the environment when huggingface_hub is imported.
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        # Or the first request of a process is accompanied by one for a list of coding agents.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        forget_asked_hub()
        huggingface_hub.close_session()
        yield hub
        # What was left ends with its next request, which must not be during the next test.
        hub.close()
        for thread in downloads_under_way():
            thread.join(60)
        forget_asked_hub()
        huggingface_hub.close_session()


def forget_asked_hub() -> None:
    """transformers keeps the address of the first Hub it asks; one that is gone takes minutes."""
    if (asked := sys.modules.get("transformers.utils.hub")) is not None:
        asked.__dict__["_hf_api"] = None
