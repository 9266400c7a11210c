"""Measurements anybody can repeat: ratios within one run, never absolute claims."""

from __future__ import annotations

from loramux.errors import LoramuxError


class BenchmarkError(LoramuxError):
    """A measurement that could not be made."""
