"""Each command runs to its end on a CPU, and its figures fit together."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest

from loramux.bench import BenchmarkError
from loramux.bench.offline import with_engine
from loramux.bench.own_server import serving
from loramux.bench.random_model import SHAPES, write_model
from loramux.bench.run import failed, run_each
from loramux.bench.settings import settings_for
from loramux.bench.workload import Workload
from loramux.cli import main
from loramux.llm import LLM

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

SMALL = ["--input-len", "8"]


def bench(capsys: pytest.CaptureFixture[str], name: str, *words: str) -> Any:
    """The JSON of a benchmark, checked for what every one has."""
    assert main(["bench", name, "--json", "-", *SMALL, *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["input_len"] == 8
    assert report["ceilings"]["copy_bytes_per_second"] > 1e6
    assert report["ceilings"]["matmul_flop_per_second"] > 1e6
    return report[name]


def check_spread(spread: Any) -> None:
    assert 0 < spread["p50"] <= spread["p99"] <= spread["max"]


def test_throughput(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--requests", "4", "--output-len", "4", "--repeats", "1", "--adapters", "1,3"]
    report = bench(capsys, "throughput", *words, "--bound-batch", "2", "--ranks", "2,4", "--peft")
    cases = {case["case"]: case for case in report["cases"]}
    assert list(cases) == [
        "LoRA off", "LoRA on, no request names one", "1 adapter", "3 adapters mixed",
        "PEFT generate, one request at a time",
    ]  # fmt: skip
    without = cases["LoRA off"]
    assert without["of_without"] == 1
    for case in cases.values():
        ratio = case["tokens_per_second"] / without["tokens_per_second"]
        assert case["of_without"] == pytest.approx(ratio)
    assert without["prefill_seconds"] < 16 / without["tokens_per_second"]
    assert without["decode_tokens_per_second"] > 0
    bound = report["decode_bound"]
    assert bound["batch"] == 2
    assert 0 < bound["of_bound"] == bound["tokens_per_second"] / bound["bound_tokens_per_second"]
    assert report["load_seconds"] > 0
    assert report["peft_agreement"] == 1


def test_http(capsys: pytest.CaptureFixture[str]) -> None:
    report = bench(capsys, "http", "--concurrent", "3", "--output-len", "4", "--repeats", "2")
    assert report["streams"] == 3
    assert len(report["offline_runs"]) == len(report["http_runs"]) == 2
    offline, http = max(report["offline_runs"]), max(report["http_runs"])
    assert report["of_offline"] == pytest.approx(http / offline)
    assert 1 <= report["tokens_per_event"] <= 4
    assert report["client_share"] > 0


def test_cold(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--samples", "2", "--streams", "2", "--seconds", "0.5", "--answer-len", "2"]
    report = bench(capsys, "cold", *words)
    for name in ("base_ms", "warm_adapter_ms", "never_seen_ms"):
        assert report[name]["count"] == 2
        check_spread(report[name])
    check_spread(report["streams"]["gap_ms"])
    assert report["streams"]["tokens_per_second"] > 0
    assert report["adapter_bytes"] >= 2 * SHAPES["tiny"].num_adapter_weights(16)
    assert report["ready_seconds"] > 0


def test_storm_at_a_server_that_runs_already(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model", SHAPES["tiny"], weights=False)
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    engine_args = {"load_format": "dummy", "enable_lora": True, "max_loras": 4}
    words = ["--streams", "2", "--seconds", "1", "--rates", "3", "--unknown-rate", "5"]
    with serving(model, adapters, tmp_path / "log", engine_args) as server:
        place = ["--base-url", server.url, "--model", "base", "--adapters-dir", str(adapters)]
        report = bench(capsys, "storm", *place, *words, "--warm-adapters", "2")
    assert not list(adapters.iterdir())
    phases = report["phases"]
    assert [(phase["kind"], phase["rate"], phase["sent"]) for phase in phases] == [
        ("quiet", 0, 0), ("resident", 3, 3), ("never_seen", 3, 3), ("unknown", 5, 5),
    ]  # fmt: skip
    for phase in phases:
        assert phase["answered"] == phase["sent"]
        check_spread(phase["streams"]["gap_ms"])
        ratio = phase["streams"]["tokens_per_second"] / phases[0]["streams"]["tokens_per_second"]
        assert phase["of_quiet"] == pytest.approx(ratio)
        assert phase["send_delay_ms"] >= 0
    assert phases[0]["first_token_ms"] is None
    for phase in phases[1:]:
        assert phase["first_token_ms"]["count"] == phase["sent"]
        check_spread(phase["first_token_ms"])
    assert report["ready_seconds"] is None


def test_memory(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--num-adapters", "6", "--power-law-requests", "8", "--resident", "2"]
    report = bench(capsys, "memory", *words, "--output-len", "2", "--load-format", "dummy")
    adapter = report["adapter"]
    assert (adapter["rank"], adapter["max_lora_rank"]) == (8, 256)
    assert adapter["own_bytes"] == 4 * SHAPES["tiny"].num_adapter_weights(8)
    assert 1 <= adapter["of_own_bytes"] == adapter["device_bytes"] / adapter["own_bytes"]
    start = report["server_start"]
    assert start["load_format"] == "dummy"
    assert min(start["without_lora_seconds"], start["with_lora_seconds"]) > 0
    law = report["power_law"]
    assert law["num_adapters"] == 6
    assert 2 < law["num_drawn"] <= 6
    ratio = law["tokens_per_second"] / law["all_resident_tokens_per_second"]
    assert law["of_all_resident"] == pytest.approx(ratio)


def test_an_engine_leaves_no_model_behind(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", SHAPES["tiny"], weights=False)
    arguments = {"load_format": "dummy", "skip_tokenizer_init": True, "enable_lora": True}

    def work(llm: LLM) -> list[weakref.ref[Any]]:
        Workload.random(2, 4, 2, 100).run(llm, [None])
        return [weakref.ref(llm.llm_engine), weakref.ref(llm.llm_engine.core)]

    assert [reference() for reference in with_engine(model, arguments, work)] == [None, None]


def test_a_benchmark_that_fails_says_why_and_holds_up_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = settings_for("tiny", quick=True, load_format="dummy", peft=True)
    (report,) = run_each(settings, ["throughput"])
    assert failed(report)
    assert "--peft needs the weights on disk" in report["throughput"]["error"]


def test_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--requests", "2", "--output-len", "2", "--repeats", "1", "--adapters", "1"]
    assert main(["bench", "throughput", *SMALL, *words, "--bound-batch", "2"]) == 0
    printed = capsys.readouterr().out
    for text in ("memory copied", "case", "LoRA off", "1 adapter", "of what reading"):
        assert text in printed


def test_the_model_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--load-format", "dummy", "--output", str(tmp_path / "m")]
    assert main(["bench", "model", *words]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'm'}\n"
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert {"config.json", "tokenizer.json"} <= names
    assert "model.safetensors" not in names


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sing"], "invalid choice: 'sing'"),
        (["--shape", "huge"], "--shape must be one of tiny, llama-3.1-8b, got 'huge'"),
        (["model"], "needs --output DIR"),
        (["--adapters", "many"], "argument --adapters: it takes numbers with commas between them"),
        (["--json", "/nowhere/at/all"], "--json /nowhere/at/all is in no directory"),
        (["--engine-args", "[]"], "engine_args must be a JSON object such as {"),
    ],
)
def test_command_lines_that_make_no_sense(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", *words])
    assert end.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "number", "says"),
    [
        ("--repeats", "0", "--repeats must be at least 1, got 0"),
        ("--ranks", "8,0", "--ranks must be at least 1, got 0"),
        ("--rates", "5,-1", "--rates must be a finite number above 0, got -1"),
        ("--seconds", "nan", "--seconds must be a finite number above 0, got nan"),
    ],
)
def test_numbers_that_nothing_can_be_measured_with(
    flag: str, number: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", flag, number]) == 1
    assert says in capsys.readouterr().err


def test_a_foreign_server_has_to_be_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "cold", "--base-url", "http://127.0.0.1:9"]) == 1
    assert "--base-url needs --model" in capsys.readouterr().err


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        pytest.raises(BenchmarkError, match=r"status 1 before .*cannot be loaded"),
        serving(tmp_path / "nothing", tmp_path, log, {"enable_lora": True}),
    ):
        pass
