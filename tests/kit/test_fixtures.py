"""What the pytest plugin brings into a test without an import."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from loramux import LoRAResolver
from loramux.errors import AdapterRefusedError, PluginError
from loramux.lora.checkpoint.summary import summarise_checkpoint
from loramux.lora.request import LoRARequest
from loramux.plugins import collect_lora_resolvers
from loramux.sampling_params import RequestOutputKind, SamplingParams
from loramux_resolvers import filesystem
from loramux_resolvers.filesystem import FilesystemLoRAResolver
from tests.kit.copying_source import CopyingSource


def test_the_plugin_costs_a_test_run_nothing():
    code = (
        "import sys, pytest\n"
        "import loramux.testing\n"
        "heavy = {'torch', 'transformers', 'numpy', 'fastapi', 'safetensors'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
        "assert loramux.testing.ResolverContract.__name__ == 'ResolverContract'\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pytest_finds_it_by_its_entry_point(pytestconfig):
    assert pytestconfig.pluginmanager.get_plugin("loramux") is sys.modules["loramux.testing"]


def test_names_that_are_not_there_are_no_surprise():
    import loramux.testing

    assert all(getattr(loramux.testing, name) is not None for name in loramux.testing.__all__)
    with pytest.raises(AttributeError, match=r"'loramux\.testing' has no attribute 'Nothing'"):
        loramux.testing.Nothing  # noqa: B018


def test_plugin_host_takes_a_module_as_an_entry_point_would(plugin_host, monkeypatch, tmp_path):
    monkeypatch.setenv(filesystem.VARIABLE, str(tmp_path))
    plugin_host.register(filesystem, "files")
    (named,) = collect_lora_resolvers(plugin_host)
    assert named.name == "lora_filesystem_resolver"
    assert named.resolver.directory == tmp_path


def test_plugin_host_is_empty_and_refuses_what_is_not_configured(plugin_host, monkeypatch):
    assert plugin_host.describe() == []
    monkeypatch.delenv(filesystem.VARIABLE, raising=False)
    with pytest.raises(Exception, match=filesystem.VARIABLE):
        plugin_host.register(filesystem, "files")
    monkeypatch.setenv(filesystem.VARIABLE, "/no/such/directory")
    plugin_host.register(filesystem, "again")
    with pytest.raises(PluginError, match="/no/such/directory"):
        collect_lora_resolvers(plugin_host)


# --- the fake engine --------------------------------------------------------------------------


async def collect(engine, adapter: LoRARequest | None, **params) -> list:
    prompt = {"prompt_token_ids": [1, 2, 3]}
    stream = engine.generate(prompt, SamplingParams(**params), "request", adapter)
    return [output async for output in stream]


def generate(engine, adapter: LoRARequest | None = None, **params) -> list:
    return asyncio.run(collect(engine, adapter, **params))


def test_fake_engine_says_which_adapter_answered(fake_engine, adapter_files, tmp_path):
    path = adapter_files(tmp_path / "sql", rank=2)
    adapter = LoRARequest("sql", 1, str(path))
    digest = summarise_checkpoint(path).digest
    (output,) = generate(fake_engine, adapter, max_tokens=8)
    assert output.outputs[0].text == digest[:8]
    assert output.adapter_digest == digest
    (output,) = generate(fake_engine, max_tokens=8)
    assert output.outputs[0].text == "base bas"
    assert output.adapter_digest is None
    assert fake_engine.loads == [adapter]
    (info,) = fake_engine.adapter_infos()
    assert (info.name, info.digest, info.rank) == ("sql", digest, 2)
    asyncio.run(fake_engine.unload_lora("sql"))
    assert fake_engine.adapter_infos() == []


def test_fake_engine_streams_one_token_after_the_other(fake_engine):
    outputs = generate(fake_engine, max_tokens=7, n=2, output_kind=RequestOutputKind.DELTA)
    assert [output.finished for output in outputs] == [False] * 6 + [True]
    for index in range(2):
        assert "".join(output.outputs[index].text for output in outputs) == "base ba"
    assert all(len(c.token_ids) == 1 for output in outputs for c in output.outputs)


def test_fake_engine_reads_what_a_source_brings(fake_engine, adapter_files, tmp_path):
    source = CopyingSource(adapter_files(tmp_path / "store"), "1")
    info = asyncio.run(fake_engine.load_lora(LoRARequest("sql", 1, "store", source=source)))
    assert info.digest == summarise_checkpoint(tmp_path / "store").digest


def test_fake_engine_refuses_what_is_no_adapter(fake_engine, tmp_path):
    with pytest.raises(AdapterRefusedError, match=r"adapter_config\.json is missing"):
        asyncio.run(fake_engine.load_lora(LoRARequest("sql", 1, str(tmp_path))))
    assert fake_engine.adapter_infos() == []


# --- the server around it ---------------------------------------------------------------------


def test_a_resolver_can_be_tried_over_http(serve_with, fake_engine, adapter_files, tmp_path):
    adapter_files(tmp_path / "sql")
    client = serve_with(FilesystemLoRAResolver(tmp_path))
    body = {"model": "sql", "prompt": "select", "max_tokens": 6}
    answers = [client.post("/v1/completions", json=body) for _ in range(2)]
    digest = summarise_checkpoint(tmp_path / "sql").digest
    for answer in answers:
        assert answer.json()["choices"][0]["text"] == digest[:6]
        assert answer.headers["x-loramux-adapter-found-by"] == "resolver under test"
    assert len(fake_engine.loads) == 1
    assert client.post("/v1/completions", json={**body, "model": "nobody"}).status_code == 404
    chat = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    answer = client.post("/v1/chat/completions", json=chat).json()
    assert answer["choices"][0]["message"]["content"] == "base"


class Unreachable(LoRAResolver):
    async def resolve_lora(self, base_model_name, lora_name):
        raise OSError("no route to the store")


def test_a_resolver_that_cannot_tell_is_a_503(serve_with):
    answer = serve_with(Unreachable()).post(
        "/v1/completions", json={"model": "sql", "prompt": "select"}
    )
    assert answer.status_code == 503
    assert "no route" not in answer.text
    assert Path.cwd().name not in answer.text
