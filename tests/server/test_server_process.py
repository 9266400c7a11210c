"""The tests' own servers: one that ends at its start is not waited for."""

from __future__ import annotations

import pytest

from tests.server.server_process import ServerEndedError, serving


def test_a_server_that_ends_at_its_start_is_noticed_at_once() -> None:
    with (  # who waits for its ready line instead raises another error after minutes
        pytest.raises(ServerEndedError, match="it ended with status 2 at its start"),
        serving("m", "--max-loras", "0"),
    ):
        pass
