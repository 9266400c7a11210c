"""Starts an engine: what takes no interpreter gets ready while Python imports transformers."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from loramux.engine.args import EngineArgs
from loramux.engine.head_start import HeadStart
from loramux.engine.phases import Phases
from loramux.garbage import importing
from loramux.logger import get_logger

if TYPE_CHECKING:
    from loramux.engine.assembly import EngineParts

log = get_logger(__name__)


def start_engine(args: EngineArgs) -> EngineParts:
    """Load the model and build everything around it.

    Raises:
        InvalidRequestError: the model or the arguments do not fit.
    """
    phases = Phases()
    with ExitStack() as on_failure:
        head_start = HeadStart.begin(args, on_failure)
        phases.end("device and processes")
        # Importing transformers takes a core for seconds; what was begun needs others.
        with importing():
            from loramux.engine.assembly import assemble
        phases.end("modules imported")
        parts = assemble(args, head_start, phases)
        on_failure.pop_all()
    log.info("the engine has started: %s", phases)
    return parts
