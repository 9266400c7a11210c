"""From the path of a request to a directory, or one sentence that says why there is none."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from loramux.errors import AdapterNotFoundError, AdapterUnavailableError
from loramux.lora.fetch.locate import locate
from loramux.lora.request import LoRARequest

BAD_PATHS = {
    "nowhere": "/no/such/directory",
    "a name": "no-such-adapter",
    "NUL": "bad\0path",
    "nobody's home": "~no_such_user_here/adapter",
    "no user's home": "~\0/adapter",
    "no text's home": "~\ud800/adapter",
    "far too long": "/" + "x" * 5000,
    "a loop": "loop",
}


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS.keys())
def test_a_path_that_leads_nowhere_is_told_in_one_sentence(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(AdapterNotFoundError, match="'mine'") as refused:
        locate(LoRARequest("mine", 1, path))
    assert len(str(refused.value)) < 500


def test_storage_that_fails_is_told_as_such(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("loramux.lora.fetch.locate.os", SimpleNamespace(stat=fail, path=os.path))
    with pytest.raises(AdapterUnavailableError, match=r"'mine'.*Permission denied"):
        locate(LoRARequest("mine", 1, str(tmp_path)))
