"""``python -m loramux`` is the command ``loramux``."""

from __future__ import annotations

import sys

from loramux.cli import main

sys.exit(main())
