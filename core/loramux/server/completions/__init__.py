"""The doors /v1/completions and /generate."""
