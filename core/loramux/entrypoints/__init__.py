"""Where vLLM keeps the modules that people start with ``python -m``."""
