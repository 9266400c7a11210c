"""Adapters on the device: placed, admitted, stacked and applied."""
