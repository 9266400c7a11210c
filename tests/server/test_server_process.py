"""The tests' own servers: one that ends at its start is not waited for."""

from __future__ import annotations

import time

import pytest

from tests.server.server_process import ServerEndedError, serving


def test_a_server_that_ends_at_its_start_is_noticed_at_once() -> None:
    started = time.monotonic()
    with (
        pytest.raises(ServerEndedError, match="it ended with status 2 at its start"),
        serving("m", "--max-loras", "0"),
    ):
        pass
    assert time.monotonic() - started < 60
