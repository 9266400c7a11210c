"""Tools that a model may call: what a request says of them, and how a text becomes calls."""
