"""The runtime over an arena: a whole model's logits are PEFT's, one adapter a sequence."""

from __future__ import annotations

import copy
from concurrent.futures import Future

import pytest
import torch
from peft import PeftModel

from loramux.lora.device.runtime import LoRALimits, LoRARuntime
from loramux.lora.weights import AdapterWeights
from tests.lora.peft_adapters import make_adapter
from tests.lora.reading import MODELS, SITES, read
from tests.lora.residents import make_adapter as adapter_named

TARGETS = {
    "llama": [["q_proj", "down_proj"], ["v_proj", "embed_tokens", "lm_head"]],
    "gpt2": [["c_attn"], ["c_proj", "wte"]],
}
IDS = torch.randint(0, 64, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("memory_bytes", [None, 1 << 18])
@pytest.mark.parametrize("name", TARGETS)
def test_logits_are_those_of_peft(name, memory_bytes, tmp_path):
    model = copy.deepcopy(MODELS[name])
    paths = [
        make_adapter(model, tmp_path / str(seed), target_modules=targets, r=3 + seed, seed=seed)
        for seed, targets in enumerate(TARGETS[name])
    ]
    weights = {str(seed): read(path, name) for seed, path in enumerate(paths)}
    expected = [
        PeftModel.from_pretrained(copy.deepcopy(model), str(path))(ids[None]).logits[0]
        for path, ids in zip(paths, IDS, strict=True)
    ]

    def fetch(adapter) -> Future[AdapterWeights]:
        future: Future[AdapterWeights] = Future()
        future.set_result(weights[adapter.digest])
        return future

    limits = LoRALimits(memory_bytes=memory_bytes)
    runtime = LoRARuntime(model, SITES[name], 2, fetch, limits=limits)
    runtime.wait_until_ready()
    adapters = [adapter_named(digest) for digest in weights]
    for adapter in adapters:
        while runtime.pool.get(adapter) is None:
            assert runtime.pool.prefetch(adapter)
            runtime.pool.collect()
            assert not runtime.pool.take_failures()
    length = IDS.shape[1]
    rows = [(adapter, n * length, (n + 1) * length) for n, adapter in enumerate(adapters)]
    runtime.arrange(adapters, lambda adapter: adapter)
    with torch.inference_mode(), runtime.running(rows, rows):
        logits = model(IDS).logits
    runtime.shutdown()
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-4, atol=1e-4)
