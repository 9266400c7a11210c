"""Attention libraries on a GPU: right in bfloat16, and as fast as Triton's attention or not.

    PYTHONPATH=core:kernels:. python -m tests.kernels.gpu_flash [LIBRARY ...]

Libraries are ``FlashInfer``, ``flash-attn 2`` and ``FlashAttention 3``; what is not installed is
named and left out. Checks run side by side, each in a process of its own, since FlashInfer
compiles a module for each kind of layer; then one process measures. Nothing touches the GPU before
these processes are forked.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from functools import partial

import torch
from torch import Tensor

from loramux.engine.running.attention import AttentionBackend, PaddedBatch
from loramux_kernels.attention_libraries.library import AttentionLibraryError
from loramux_kernels.paged_attention import AttentionOptions, LayerCache
from tests.kernels.attention_cases import Batch, Case, plain_attention, relative_error
from tests.kernels.flash_cases import GARBAGE, layout_of, stored_batch
from tests.kernels.flash_timing import BF16, BLOCK_SIZES, CAPTURED, DEVICE, backend, measure

FORK = multiprocessing.get_context("fork")
ERROR = 6e-3
CHECK_SECONDS = 400
MIXED = ((2000, 1), (517, 1), (1, 1), (3000, 300), (700, 700), (129, 128), (4097, 1))
DECODES = (*((n, 1) for n in range(1, 1000, 11)), (9000, 1))
LLAMA = Case(MIXED, heads=32, kv_heads=8, key_dim=128, value_dim=128)
CASES = {
    "mixed": LLAMA,
    "decodes": LLAMA.with_(shapes=DECODES),
    "28/4 heads": LLAMA.with_(heads=28, kv_heads=4),
    "window 700": LLAMA.with_(window=700),
    "decodes, window": LLAMA.with_(shapes=DECODES, window=128),
    "dim 256, soft cap": Case(MIXED, 16, 8, 256, 256, softcap=50.0),
}


def batch_of(name: str, case: Case, stale: float = GARBAGE) -> tuple[Case, Batch]:
    case = case.with_(block_size=BLOCK_SIZES[name])
    return case, stored_batch(case, BF16, DEVICE, stale)


def check(name: str, case: Case) -> str:
    """Twice the same as float64 but for rounding, and whether masked NaN stay where they are."""
    errors = []
    for stale in (GARBAGE, GARBAGE, float("nan")):
        case, batch = batch_of(name, case, stale)
        attend = backend(name).over(layout_of(case, batch.blocks), batch.metadata.slots)
        out = attend(batch.query, batch.cache, batch.options)
        errors.append(relative_error(out, batch.expected))
    said = "ok" if all(error < ERROR for error in errors[:2]) else "WRONG"
    return f"{said}  error {max(errors[:2]):.1e}, stale NaN " + (
        "stay" if errors[2] < ERROR else "SPREAD"
    )


def check_captured(name: str) -> str:
    """One captured decode, then other lengths and sequences through the same tensors."""
    case, batch = batch_of(name, LLAMA.with_(shapes=((900, 1),) * 8))
    made, size = batch.metadata, case.block_size
    lengths = made.lengths.clone()
    padded = PaddedBatch(
        made.slots, made.block_table.clone(), lengths, made.query_start_loc, size, is_decode=True
    )
    attend = partial(over_padded, backend(name), padded, batch.options)
    attend(batch.query, batch.cache)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend(batch.query, batch.cache)
    errors = []
    for given in ([900] * 8, [1, 5, 16, 17, 0, 0, 650, 899], [0] * 8):
        order = torch.randperm(8)
        padded.block_table.copy_(made.block_table[order])
        lengths.copy_(torch.tensor(given))
        batch.query.normal_()
        graph.replay()
        expected = expected_rows(batch, padded.block_table, given)
        errors.append(float((out.double() - expected).norm() / expected.norm().clamp(min=1)))
    said = "ok" if all(error < ERROR for error in errors) else "WRONG"
    return f"{said}  error {max(errors):.1e}"


def over_padded(
    attention: AttentionBackend,
    batch: PaddedBatch,
    options: AttentionOptions,
    query: Tensor,
    cache: LayerCache,
) -> Tensor:
    return attention.over_padded(batch)(query, cache, options)


def expected_rows(batch: Batch, table: Tensor, lengths: list[int]) -> Tensor:
    rows = []
    for row, length in enumerate(lengths):
        blocks = table[row].long()
        tokens = (
            cache[blocks].flatten(0, 1)[:length] for cache in (batch.cache.keys, batch.cache.values)
        )
        rows.append(plain_attention(batch.query[row : row + 1], *tokens, batch.options))
    return torch.cat(rows)


def run_check(job: tuple[str, str]) -> str:
    name, case = job
    try:
        return check_captured(name) if case == "captured" else check(name, CASES[case])
    except Exception as error:
        return f"FAILED  {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def run_checks(names: list[str]) -> int:
    """Print what each check says; the number that failed."""
    jobs = [(name, case) for name in names for case in CASES]
    jobs += [(name, "captured") for name in names if name in CAPTURED]
    deadline, failures = time.monotonic() + CHECK_SECONDS, 0
    with FORK.Pool(6, maxtasksperchild=1) as pool:
        results = [pool.apply_async(run_check, (job,)) for job in jobs]
        for (name, case), result in zip(jobs, results, strict=True):
            try:
                said = result.get(max(0.1, deadline - time.monotonic()))
            except multiprocessing.TimeoutError:
                said = "FAILED  not done in time"
            failures += not said.startswith("ok")
            print(f"{name:18s} {case:18s} {said}", flush=True)
    return failures


def installed(wanted: list[str]) -> list[str]:
    """Those of the libraries that can be loaded; in a process of its own, for some ask the GPU."""
    names = []
    for name in wanted:
        try:
            backend(name)
            names.append(name)
        except AttentionLibraryError as error:
            print(f"{name} is left out: {error}", flush=True)
    return names


def main() -> int:
    wanted = sys.argv[1:] or [name for name in BLOCK_SIZES if name != "Triton"]
    with FORK.Pool(1) as pool:
        names = ["Triton", *pool.apply(installed, (wanted,))]
    failures = run_checks(names)
    measuring = FORK.Process(target=measure, args=(names,))
    measuring.start()
    measuring.join()
    return 1 if failures or measuring.exitcode else 0


if __name__ == "__main__":
    sys.exit(main())
