"""Token ids to text, token by token."""

from __future__ import annotations

from loramux.engine.detokenizer.factory import Detokenizer, DetokenizerFactory

__all__ = ["Detokenizer", "DetokenizerFactory"]
