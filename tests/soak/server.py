"""``python -m tests.soak.server ADAPTERS RECORD SHARE WORDS...``: ``loramux serve WORDS...``.

Of its three resolvers the second one always finds what is in the directory ``ADAPTERS``; those
before and behind it fail with ``SHARE`` of the questions, and say so in the file ``RECORD``.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from loramux.cli import main
from loramux.lora.resolver import LoRAResolverRegistry
from loramux_resolvers.filesystem import FilesystemLoRAResolver
from tests.soak.moods import MoodyResolver, Record


def serve(adapters: str, record_path: str, share: str, *words: str) -> int:
    model = words[0]
    truth = FilesystemLoRAResolver(adapters)
    wrong = [model, f"{model}/config.json", adapters, str(Path(adapters, "nowhere"))]
    record = Record(Path(record_path))
    before = MoodyResolver(truth, wrong, record, float(share), seed=1)
    behind = MoodyResolver(None, wrong, record, float(share), seed=2)
    for name, resolver in {"before": before, "truth": truth, "behind": behind}.items():
        LoRAResolverRegistry.register_resolver(name, resolver)
    logging.disable(logging.WARNING)  # a line for each request and each failure would be millions
    return main(["serve", *words])


if __name__ == "__main__":
    sys.exit(serve(*sys.argv[1:]))
