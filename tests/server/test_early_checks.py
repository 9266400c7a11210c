"""What a server refuses, or warns of, before it loads a model."""

from __future__ import annotations

from logging import WARNING
from pathlib import Path
from typing import Any

import pytest

from loramux.engine.args import EngineArgs
from loramux.engine.async_llm_engine import AsyncLLMEngine
from loramux.env import EnvironmentVariableError
from loramux.errors import AdapterNotFoundError, InvalidRequestError
from loramux.lora.resolve.catalog import AdapterModule
from loramux.server.launch import serve
from loramux.server.serve_options import ServeOptions


class ModelLoaded(Exception):
    """Raised where the engine would be made."""


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(args: EngineArgs) -> AsyncLLMEngine:
        raise ModelLoaded

    monkeypatch.setattr(AsyncLLMEngine, "from_engine_args", load)
    monkeypatch.setenv("LORAMUX_PLUGINS", "")


def start(*modules: tuple[str, str], enable_lora: bool = True, **options: Any) -> None:
    """Start a server whose base model is called ``base``, with adapters to begin with."""
    adapters = tuple(AdapterModule(name, path) for name, path in modules)
    args = EngineArgs(model="m", served_model_name=["base"], enable_lora=enable_lora)
    serve(args, ServeOptions(port=0, adapters=adapters, **options))


def test_where_nothing_is_wrong_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelLoaded):
        start(("a", str(tmp_path)), ("b", str(tmp_path)))


@pytest.mark.parametrize(
    "variable",
    [
        "LORAMUX_LORA_RESOLVE_TIMEOUT",
        "LORAMUX_LORA_RECHECK_SECONDS",
        "LORAMUX_LORA_NEGATIVE_TTL",
        "LORAMUX_MAX_CONCURRENT_FETCHES",
        "LORAMUX_MAX_ADAPTER_BYTES",
        "LORAMUX_ADAPTER_CACHE_SIZE",
        "LORAMUX_HOST_CACHE_BYTES",
        "LORAMUX_READ_THREADS",
    ],
)
def test_a_number_that_cannot_be_read(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "soon")
    with pytest.raises(EnvironmentVariableError, match=f"^{variable} is 'soon'; set it to "):
        start()


def test_an_adapter_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AdapterNotFoundError, match="'/no/such/adapter': there is no such dir"):
        start(("a", str(tmp_path)), ("b", "/no/such/adapter"))


def test_a_chat_template_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidRequestError,
        match=r"^--chat-template '/no/such\.jinja' cannot be read \(No such file or directory\); "
        r"give the path of a Jinja file in UTF-8\.$",
    ):
        start(chat_template=Path("/no/such.jinja"))
    (tmp_path / "latin.jinja").write_bytes("ä".encode("latin-1"))
    with pytest.raises(InvalidRequestError, match=r"cannot be read \(it is not UTF-8\); give"):
        start(chat_template=tmp_path / "latin.jinja")


def test_a_directory_that_clients_may_load_from_and_that_is_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAMUX_ALLOWED_ADAPTER_ROOTS", "/not/here")
    with pytest.raises(ModelLoaded):
        start(allowed_roots=("/no/such", str(tmp_path), "hf://org/repo"))
    assert [line for line in caplog.messages if "--allowed-local-adapter-path" in line] == [
        f"clients may load adapters from {path!r}, and there is no such directory; unless it is "
        "mounted later, correct --allowed-local-adapter-path or LORAMUX_ALLOWED_ADAPTER_ROOTS"
        for path in ("/no/such", "/not/here")
    ]


def test_a_name_that_is_given_twice(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidRequestError,
        match=r"^--lora-modules: the name 'sql' is given twice; give each adapter its own\.$",
    ):
        start(("sql", str(tmp_path)), ("sql", str(tmp_path)))


def test_a_name_that_is_the_base_models(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="'base' is that of the base model; give"):
        start(("base", str(tmp_path)))


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORAMUX_PLUGINS", "lora_filesystem_resolver")
    monkeypatch.setenv("LORAMUX_LORA_RESOLVER_CACHE_DIR", str(tmp_path))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= WARNING]


@pytest.mark.usefixtures("configured")
def test_resolvers_that_are_never_asked_are_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ModelLoaded):
        start(enable_lora=False)
    assert warnings_of(caplog) == [
        "no adapter is served, although there are resolvers (lora_filesystem_resolver), because "
        "--enable-lora is not given; add it to serve adapters"
    ]


@pytest.mark.usefixtures("configured")
def test_resolvers_that_are_asked_need_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ModelLoaded):
        start()
    assert warnings_of(caplog) == []


def test_adapters_that_cannot_come_from_anywhere_are_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoaded):
        start()
    (line,) = warnings_of(caplog)
    assert "`loramux plugins`" in line
    assert "LORAMUX_PLUGINS=" in line
    caplog.clear()
    with pytest.raises(ModelLoaded):
        start(("a", str(tmp_path)))
    monkeypatch.setenv("LORAMUX_ALLOW_RUNTIME_LORA_UPDATING", "1")
    with pytest.raises(ModelLoaded):
        start(allowed_roots=(str(tmp_path),))
    assert warnings_of(caplog) == []


def test_a_door_open_to_other_machines_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for options in ({"host": "0.0.0.0"}, {"host": "0.0.0.0", "api_keys": ("k",)}):
        with pytest.raises(ModelLoaded):
            start(enable_lora=False, **options)
    (line,) = warnings_of(caplog)
    assert line.startswith("anybody who reaches 0.0.0.0 may use this server")
    assert "--api-key" in line
