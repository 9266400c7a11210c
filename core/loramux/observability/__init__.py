"""Figures, log lines and traces: what the rest of the house counts with."""
