"""Loggers under one name, with a handler only if the application has none."""

from __future__ import annotations

import logging


def get_logger(name: str) -> logging.Logger:
    """Logger of a module; all of them live below ``loramux``."""
    return logging.getLogger(name)


def configure_logging(level: str = "INFO") -> None:
    """Send loramux's log to stderr; used by the command line, never by the library itself."""
    root = logging.getLogger("loramux")
    root.setLevel(level.upper())
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
