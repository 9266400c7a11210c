"""What the server has been doing lately, gathered as it happens."""

from __future__ import annotations

import time

from loramux.outputs import RequestOutput
from loramux.server.dashboard.load_log import LoadLog
from loramux.server.dashboard.token_gaps import TokenGaps


class Activity:
    """Counters behind the dashboard. Everything runs on the server's event loop.

    ``is_closing`` ends the streams that watch, so that a server that stops does not wait for
    them.
    """

    def __init__(self) -> None:
        self.gaps = TokenGaps()
        self.loads = LoadLog()
        self.started = time.monotonic()
        self.num_watchers = 0
        self.is_closing = False

    def request(self) -> WatchedRequest:
        """Measure a request that begins now."""
        return WatchedRequest(self.gaps)

    def close(self) -> None:
        """End every stream that watches."""
        self.is_closing = True


class WatchedRequest:
    """Measures one request from output to output."""

    def __init__(self, gaps: TokenGaps) -> None:
        self._gaps = gaps
        self._last: float | None = None

    def saw(self, output: RequestOutput) -> None:
        """Count an output's tokens, and the gap before it."""
        tokens = 0
        for completion in output.outputs:
            tokens += len(completion.token_ids)
        if not tokens:
            return
        now, last = time.monotonic(), self._last
        self._gaps.add(now, tokens, None if last is None else now - last)
        self._last = now
