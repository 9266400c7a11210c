"""The page at ``/``: what is resident where, loads as they happen, and a playground."""
