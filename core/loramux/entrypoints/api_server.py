"""``python -m loramux.entrypoints.api_server --model M`` is ``loramux serve M``."""

from __future__ import annotations

import sys

from loramux.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
