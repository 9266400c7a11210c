"""Attention by libraries outside this package, where they are installed."""
