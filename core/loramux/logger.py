"""Loggers under one name, with a handler only if the application has none."""

from __future__ import annotations

import logging
import os

from loramux.observability.log_lines import JsonLines, formatter_for


def get_logger(name: str) -> logging.Logger:
    """Logger of a module; all of them live below ``loramux``."""
    return logging.getLogger(name)


def configure_logging(level: str = "INFO", log_format: str = "text") -> None:
    """Send the process's log to stderr; used by the command line, never by the library itself.

    Args:
        level: of loramux's own loggers; others, such as uvicorn's, have theirs.
        log_format: one of ``LOG_FORMATS``.
    """
    logging.getLogger("loramux").setLevel(level.upper())
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    for handler in root.handlers:
        handler.setFormatter(formatter_for(log_format))
    if log_format == "json":
        logging.captureWarnings(True)
        hide_progress_bars()  # they are no JSON
    _remove_handlers_of_hub()


def _remove_handlers_of_hub() -> None:
    """huggingface_hub's lines reach the root's handlers; its own would write each once more."""
    import huggingface_hub.utils.logging  # noqa: F401  # adds its handler as it is imported

    logger = logging.getLogger("huggingface_hub")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)


def hide_progress_bars() -> None:
    """Those of huggingface_hub and transformers, which look when they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def line_for_stdout(sentence: str, name: str) -> str:
    """A sentence as it is, or as the log line of a logger where the log is written as JSON."""
    formatters = [handler.formatter for handler in logging.getLogger().handlers]
    lines = next((each for each in formatters if isinstance(each, JsonLines)), None)
    if lines is None:
        return sentence
    return lines.format(logging.LogRecord(name, logging.INFO, "", 0, sentence, None, None))
