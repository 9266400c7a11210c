"""A report as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from loramux.cli.table import aligned

FEW_CORES = 2
"""On so few, what the client computes is missing to the model."""

RATIOS = frozenset({"of_without", "of_offline", "of_quiet", "of_all_resident"})
"""Figures that are the speed of some work, with more to do beside it, over the speed without."""

HIGHEST_RATIO = 1.1
"""Nothing becomes faster by having more to do; up to here it is what two runs differ by."""

Section = Mapping[str, Any]
Row = Sequence[str]


def table(report: Mapping[str, Any]) -> str:
    """Every section that the report has, ceilings first; a failed one is its sentence."""
    sections = [_section(name, report[name]) for name in SECTIONS if name in report]
    return "\n\n".join(sections)


def _section(name: str, section: Section) -> str:
    title, rows = SECTIONS[name]
    if "error" in section:
        return f"{title}\n{section['error']}"
    return "\n".join([title, aligned(rows(section)), *_doubts(section)])


def _doubts(section: Section) -> Iterator[str]:
    """A line for people who would otherwise believe a ratio that no machine at rest shows."""
    highest = max(_ratios(section), default=0.0)
    if highest > HIGHEST_RATIO:
        yield (
            f"{highest:.2f} is above {HIGHEST_RATIO}: the machine's own speed moved, so trust none "
            "of these ratios."
        )


def _ratios(figures: Any) -> Iterator[float]:
    """Those of ``RATIOS`` anywhere in a section."""
    if isinstance(figures, Mapping):
        yield from (figures[name] for name in RATIOS & figures.keys())
        yield from _ratios(list(figures.values()))
    elif isinstance(figures, list):
        for figure in figures:
            yield from _ratios(figure)


def _ceilings(section: Section) -> list[Row]:
    bus = section["host_to_device_bytes_per_second"]
    return [
        ("device", f"{section['device']}, torch {section['torch']}"),
        ("memory copied, read and written", f"{section['copy_bytes_per_second'] / 1e9:,.0f} GB/s"),
        ("matrix product", f"{section['matmul_flop_per_second'] / 1e12:,.2f} TFLOP/s"),
        ("pinned host to device", f"{bus / 1e9:,.1f} GB/s" if bus else "no GPU"),
    ]


def _throughput(section: Section) -> list[Row]:
    head = ("case", "tokens/s", "of LoRA off", "prefill s", "decode tokens/s")
    rows = [
        (
            case["case"],
            f"{case['tokens_per_second']:,.0f}",
            f"{case['of_without']:.2f}",
            _number(case["prefill_seconds"], ".2f"),
            _number(case["decode_tokens_per_second"], ",.0f"),
        )
        for case in section["cases"]
    ]
    bound = section["decode_bound"]
    speed = _number(bound["tokens_per_second"], ",.0f")
    share_of_bound = _number(bound["of_bound"], ".2f")
    rows += [
        (f"decode at batch {bound['batch']}, LoRA off", "", "", "", speed),
        ("of what reading weights and KV allows", "", "", "", share_of_bound),
        ("all adapters loaded, s", f"{section['load_seconds']:.2f}", "", "", ""),
    ]
    if section["peft_agreement"] is not None:
        share = f"{section['peft_agreement']:.0%}"
        rows.append(("requests with PEFT's very tokens", share, "", "", ""))
    return [head, *rows]


def _http(section: Section) -> list[Row]:
    rows: list[Row] = [
        ("case", "tokens/s", "of offline"),
        ("offline, LLM.generate", f"{section['offline_tokens_per_second']:,.0f}", "1.00"),
        (f"HTTP, {section['streams']} streams at once",
         f"{section['http_tokens_per_second']:,.0f}", f"{section['of_offline']:.2f}"),
        ("goal", "", f"{section['goal']:.2f}"),
        ("tokens in one event", "", f"{section['tokens_per_event']:.2f}"),
        ("the client computed, of one core", "", f"{section['client_share']:.2f}"),
    ]  # fmt: skip
    if section["cores"] <= FEW_CORES:
        note = f"this machine has {section['cores']} cores, for model, server and client together"
        rows.append((note, "", ""))
    return rows


def _cold(section: Section) -> list[Row]:
    spreads = {
        "first token, base": section["base_ms"],
        "first token, warm adapter": section["warm_adapter_ms"],
        "first token, never-seen adapter": section["never_seen_ms"],
        f"gap between tokens, {section['num_streams']} streams": section["streams"]["gap_ms"],
    }
    head = ("milliseconds", "p50", "p99", "max", "of")
    rows = [(name, *_spread(spread), _count(spread)) for name, spread in spreads.items()]
    return [head, *rows]


def _storm(section: Section) -> list[Row]:
    head = (
        "beside the streams, each second", "tokens/s", "of quiet", "gap p50", "p99", "max ms",
        "answered", "first token p50", "p99", "max ms",
    )  # fmt: skip
    return [head, *map(_phase, section["phases"])]


def _phase(phase: Section) -> Row:
    kinds = {
        "never_seen": "never-seen adapters",
        "resident": "resident adapters",
        "unknown": "names of no adapter",
    }
    is_quiet = phase["kind"] == "quiet"
    return (
        "nothing" if is_quiet else f"{phase['rate']:g} {kinds[phase['kind']]}",
        f"{phase['streams']['tokens_per_second']:,.0f}",
        f"{phase['of_quiet']:.2f}",
        *_spread(phase["streams"]["gap_ms"]),
        "" if is_quiet else f"{phase['answered']} of {phase['sent']}",
        *(("", "", "") if is_quiet else _spread(phase["first_token_ms"])),
    )


def _memory(section: Section) -> list[Row]:
    adapter, start, law = section["adapter"], section["server_start"], section["power_law"]
    weights = "made in place" if start["load_format"] == "dummy" else "in the page cache"
    return [
        (f"device memory of a rank-{adapter['rank']} adapter with max_lora_rank="
         f"{adapter['max_lora_rank']}, over its own bytes", f"{adapter['of_own_bytes']:.3f}"),
        (f"server ready, weights {weights}", f"{start['without_lora_seconds']:.1f} s"),
        ("the same with LoRA", f"{start['with_lora_seconds']:.1f} s"),
        (f"tokens/s of {law['num_requests']} requests for {law['num_drawn']} of "
         f"{law['num_adapters']} adapters, {law['resident']} resident",
         f"{law['tokens_per_second']:,.0f}"),
        ("the same, all resident", f"{law['all_resident_tokens_per_second']:,.0f}"),
        ("over all resident", f"{law['of_all_resident']:.2f}"),
    ]  # fmt: skip


def _spread(spread: Section | None) -> Row:
    if spread is None:
        return ("", "", "")
    return tuple(f"{spread[name]:,.1f}" for name in ("p50", "p99", "max"))


def _count(spread: Section | None) -> str:
    return "0" if spread is None else f"{spread['count']:,}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


SECTIONS: Mapping[str, tuple[str, Callable[[Section], list[Row]]]] = {
    "ceilings": ("What this machine can do", _ceilings),
    "throughput": ("Throughput", _throughput),
    "http": ("The same work over HTTP", _http),
    "cold": ("A name nobody has heard, on an idle server", _cold),
    "storm": ("Streams while adapters are asked for", _storm),
    "memory": ("Memory, start, and more adapters than fit", _memory),
}
