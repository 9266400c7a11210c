"""``python -m tests.soak --seconds 600``: the long form, which prints a report."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.soak.names import megabytes_while_asking
from tests.soak.run import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--names", type=int, default=0, help="unknown names to ask for as well")
    parser.add_argument(
        "--moods", type=float, default=0.3,
        help="share of the questions that two of the three resolvers do not answer soundly",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        seen = soak(
            Path(root), seconds=args.seconds, adapters=args.adapters, clients=args.clients,
            moods=args.moods, seed=args.seed,
        )  # fmt: skip
        print("\n".join(seen.lines()), flush=True)
        if args.names:
            memory = list(megabytes_while_asking(Path(root), args.names))
            print(f"{args.names} unknown names, MB: {', '.join(f'{mb:.1f}' for mb in memory)}")
    return 1 if seen.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
