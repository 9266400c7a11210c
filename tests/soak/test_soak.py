"""The short form of the soak; ``python -m tests.soak`` is the long one."""

from __future__ import annotations

import pytest

from tests.soak.run import soak

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


def test_a_crowd_of_clients_and_adapters_that_change(tmp_path):
    seen = soak(tmp_path, seconds=3, adapters=40, clients=6, moods=0.3, timeout=2)
    assert seen.problems() == []
    for kind in ("answered", "left", "unknown", "hostile", "base", "replaced on disk"):
        assert seen.tally.answers[kind] > 0, kind
