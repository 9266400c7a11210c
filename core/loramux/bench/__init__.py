"""Measurements anybody can repeat: ratios within one run, never absolute claims."""
