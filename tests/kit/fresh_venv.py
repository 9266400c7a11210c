"""Environments in which loramux and others' packages are really installed, from wheels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
READY = "loramux is ready: "


def build_wheels(directory: Path, *sources: Path) -> list[Path]:
    """Build a wheel of each project, without fetching anything; in the order of their names."""
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(directory))
    subprocess.run([*PIP, "wheel", *options, *map(str, sources)], check=True)
    return sorted(directory.glob("*.whl"))


class FreshVenv:
    """An environment with nothing of ours but the wheels that are given.

    Heavy dependencies such as torch are those of the environment that runs the tests, by way of
    a ``.pth`` file. Files of that kind are not followed from there, so that an editable install
    of loramux stays out.
    """

    def __init__(self, directory: Path, wheels: Sequence[Path]) -> None:
        self.bin = directory / "bin"
        venv.create(directory, symlinks=True)
        (site,) = directory.glob("lib/python*/site-packages")
        here = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
        (site / "dependencies.pth").write_text("\n".join(here))
        options = ("install", "--no-deps", "--no-index", *map(str, wheels))
        subprocess.run([*PIP, "--python", str(self.bin / "python"), *options], check=True)

    def run(self, *words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment to its end."""
        return subprocess.run(
            [self.bin / words[0], *words[1:]],
            cwd=cwd,
            env=_environment(environment),
            capture_output=True,
            text=True,
            timeout=800,  # it ends what hangs, and no machine that is busy
            check=False,
        )

    def plugins(self, cwd: Path, **environment: str) -> dict[str, dict[str, object]]:
        """What ``loramux plugins`` tells, by the plugins' names."""
        done = self.run("loramux", "plugins", "--json", cwd=cwd, **environment)
        assert done.returncode == 0, done.stderr
        return {plugin["name"]: plugin for plugin in json.loads(done.stdout)}

    @contextmanager
    def serving(self, *words: str, cwd: Path, **environment: str) -> Iterator[str]:
        """``loramux serve`` on a free port; yields its address."""
        with subprocess.Popen(
            [self.bin / "loramux", "serve", *words, "--port", "0"],
            cwd=cwd,
            env=_environment(environment),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line.startswith(READY), line
                yield line.removeprefix(READY).split()[0]
            finally:
                process.kill()


def _environment(changes: dict[str, str]) -> dict[str, str]:
    """This process's environment without what would lead back to this checkout or its plugins."""
    ours = ("LORAMUX_", "PYTHON", "PLUGINS", "PYTEST_", "COV_", "COVERAGE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "OMP_NUM_THREADS": "1", **changes}
