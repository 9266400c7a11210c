"""Every program in ``examples/`` runs as its first lines say, and its adapters do their job."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
DEMO = EXAMPLES / "demo"

SQL = "SELECT COUNT(*) FROM orders WHERE total > 20;"
FRENCH = "peux-tu apporter la lettre à la gare lundi ?"
FORMAL = "could you please bring the letter to the station on Monday? Thank you very much."

EXPECTED = {
    "quick_start.py": [f"sql_adapter: {SQL}"],
    "multilora_engine.py": [
        "Request 0 (base): The capital of France is Paris.",
        f"Request 1 (sql-lora): {SQL}",
        FRENCH,
        "SELECT name FROM customers WHERE city = 'Rome' ORDER BY age;",
    ],
    "mixed_batch.py": [f"Adapter: sql\nOutput: {SQL}", FORMAL],
    "structured_outputs.py": [
        "choice: positive",
        "regex: 20",
        'json: {"name": "Mia Keller", "age": 29}',
    ],
    "custom_resolver.py": ["sailor: ", "found by alias_resolver"],
    "demo/show.py": [
        "SELECT name FROM customers WHERE age > 34;",
        '{"name": "Mia Keller", "age": 29, "city": "Lisbon"}',
        "lora_filesystem_resolver",
        "The model `../sql` does not exist.",
        "The server has been shut down.",
    ],
}


def run(*command: str) -> str:
    """Standard output of a Python program that must end well."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        check=False,
        text=True,
        timeout=800,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", EXPECTED)
def test_example_prints_what_its_adapters_are_for(name: str) -> None:
    output = run(str(EXAMPLES / name))
    missing = [text for text in EXPECTED[name] if text not in output]
    assert not missing, output


@pytest.fixture(scope="module")
def demo_server() -> Iterator[str]:
    sys.path.insert(0, str(DEMO))
    try:
        import show
    finally:
        sys.path.remove(str(DEMO))
    with show.serving() as url:
        yield url


def test_openai_client_example(demo_server: str) -> None:
    output = run(str(EXAMPLES / "openai_client.py"), f"{demo_server}/v1")
    assert "french: Salut Max" in output or FRENCH in output, output
    assert "pirate: " in output


def test_every_example_is_run_by_a_test() -> None:
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    assert programs == {name for name in EXPECTED if "/" not in name} | {"openai_client.py"}
