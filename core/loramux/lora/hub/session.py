"""huggingface_hub's HTTP session, which all threads share and any of them may close.

huggingface_hub closes it, under everybody, whenever one of its retries finds no connection. What
others were reading through it then fails in many ways (a bad file descriptor, a closed client),
none of which says anything about what they asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError

from loramux.errors import AdapterError
from loramux.lora.fetch.shared_work import Abandoned

MAX_CLOSINGS = 5
"""How often one call begins anew because the session was closed as it ran."""

Result = TypeVar("Result")


def again_if_closed(call: Callable[[], Result]) -> Result:
    """``call()``, and again where it failed while somebody closed the session.

    An answer of the Hub stands, whatever became of the session.
    """
    for _ in range(MAX_CLOSINGS):
        session = get_session()
        try:
            return call()
        except (AdapterError, Abandoned, HfHubHTTPError):
            raise
        except Exception:
            if not session.is_closed:
                raise
    return call()
