"""A server under load for as long as one likes: every answer is checked, and nothing may grow."""
