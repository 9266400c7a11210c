"""The door /v1/chat/completions."""
