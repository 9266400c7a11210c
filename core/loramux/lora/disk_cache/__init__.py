"""Fetched adapters on the local disk, shared by processes."""
