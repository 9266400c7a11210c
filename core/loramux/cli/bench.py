"""``loramux bench``: measurements anybody can repeat on their own machine."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loramux.bench.throughput import ThroughputReport


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Add the command; its parser carries :func:`run` as ``args.run``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="measure throughput with adapters against the same engine without, and against PEFT",
        description=(
            "Run the same requests without LoRA, with adapters mixed in every batch, and one at a "
            "time through PEFT, on a random model; print tokens per second and the ratios."
        ),
    )
    parser.add_argument("--shape", default="tiny", help="tiny or llama-3.1-8b (default: tiny)")
    parser.add_argument("--num-adapters", type=int, default=8, help="adapters in the mix")
    parser.add_argument("--ranks", default="8,16", help="ranks dealt out to the adapters")
    parser.add_argument("--num-requests", type=int, default=36)
    parser.add_argument("--input-len", type=int, default=64, help="prompt tokens of a request")
    parser.add_argument("--output-len", type=int, default=64, help="output tokens of a request")
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each case")
    parser.add_argument("--no-peft", action="store_true", help="leave PEFT out")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from loramux.bench.random_model import SHAPES, write_adapter, write_model
    from loramux.bench.throughput import measure
    from loramux.bench.workload import Workload

    if args.shape not in SHAPES:
        raise SystemExit(f"--shape must be one of {', '.join(SHAPES)}, got {args.shape!r}.")
    shape = SHAPES[args.shape]
    ranks = [int(rank) for rank in args.ranks.split(",")]
    with tempfile.TemporaryDirectory(prefix="loramux-bench-") as scratch:
        model = write_model(Path(scratch) / "model", shape)
        adapters = [
            write_adapter(Path(scratch) / f"adapter-{i}", shape, ranks[i % len(ranks)], seed=i)
            for i in range(args.num_adapters)
        ]
        workload = Workload.random(
            args.num_requests, args.input_len, args.output_len, shape.vocab_size
        )
        report = measure(str(model), adapters, workload, args.repeats, not args.no_peft)
    print(json.dumps(asdict(report), indent=2) if args.json else _table(report))
    return 0


def _table(report: ThroughputReport) -> str:
    width = max(len(row.case) for row in report.rows)
    lines = [f"{'case':{width}}  {'tokens/s':>10}  {'of LoRA off':>11}"]
    lines += [
        f"{row.case:{width}}  {row.tokens_per_second:10.0f}  {row.ratio:11.2f}"
        for row in report.rows
    ]
    if report.peft_agreement is not None:
        lines.append(f"PEFT chose the same tokens for {report.peft_agreement:.0%} of the requests.")
    return "\n".join(lines)
