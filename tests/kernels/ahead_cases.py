"""Launches without a GPU: Triton's own path, down to a driver that stands in for NVIDIA's."""

from __future__ import annotations

import os
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch


class StandInDriver:
    """Compiles for Hopper, loads nothing, and counts launches."""

    def __init__(self) -> None:
        from triton.backends.compiler import GPUTarget

        self.launched: list[str] = []
        self.launchers_made = 0
        self.target = GPUTarget("cuda", 90, 32)
        self.utils = SimpleNamespace(
            load_binary=lambda *arguments: (1, 1, 0, 0, 1024),
            get_device_properties=lambda device: {"max_shared_mem": 228 * 1024},
        )

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self.target

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        self.launchers_made += 1
        return lambda *arguments: self.launched.append(metadata.name)


def launch_some() -> None:
    """Norms, activation, rotation and a product over descriptors: options and arguments of all
    kinds, some of them more than once."""
    from loramux_kernels.blocks import HeadLayout, RMSNorm
    from loramux_kernels.paged_attention import LayerCache
    from loramux_kernels.triton_blocks import gated_activation, rms_norm, rotate_and_store_
    from loramux_kernels.triton_lora.place import place_by_kernel_

    x = torch.empty(4, 64, dtype=torch.bfloat16)
    norm = RMSNorm(torch.empty(64, dtype=torch.bfloat16), 1e-5)
    for rows in (4, 1, 3):
        rms_norm(x[:rows], norm)
    gated_activation(x, "silu")
    gated_activation(x, "gelu_tanh")
    head_norm = RMSNorm(torch.empty(16, dtype=torch.bfloat16), 1e-5, plus_one=True)
    table = torch.empty(8, 16)
    integers = torch.zeros(8, dtype=torch.int32)
    rotate_and_store_(
        x, integers[1:5], table, table, HeadLayout(2, 1, 16, 16, head_norm, None),
        LayerCache(torch.empty(1, 4, 1, 16), torch.empty(1, 4, 1, 16)), integers[:4],
    )  # fmt: skip
    records = torch.zeros(1, 5, dtype=torch.int64)
    place_by_kernel_(torch.empty(64, dtype=torch.bfloat16), torch.empty(64), records)


def rehearse_compile_and_launch(cache_directory: str) -> dict[str, Any]:
    """What an engine does, in a process of its own; compiling happens in forks of it."""
    import triton
    from triton import knobs

    from loramux_kernels.ahead.compiler import carry_out, order_of
    from loramux_kernels.ahead.rehearsal import rehearsal

    knobs.cache.dir = cache_directory
    driver, cache_hits = StandInDriver(), []
    knobs.compilation.listener = lambda *, cache_hit, **_: cache_hits.append(cache_hit)
    triton.runtime.driver.set_active(driver)
    with rehearsal() as found:
        launch_some()
    seen = {"rehearsed": list(driver.launched), "compiled_early": list(cache_hits)}
    asked = list(found)
    is_well = carry_out(order_of(asked), driver)
    launch_some()
    launched = list(driver.launched)
    with rehearsal() as found_again:
        launch_some()
    return seen | {
        "asked": [one.name for one in asked],
        "is_well": is_well,
        "launched": launched,
        "cache_hits": cache_hits,
        "launched_in_second_rehearsal": driver.launched[len(launched) :],
        "asked_again": list(found_again),
    }


def fork_tasks_one_of_which_fails() -> bool:
    from loramux_kernels.ahead.compiler import run_in_forks

    return run_in_forks([bool, partial(int, "no number"), bool], 2)


def cache_keys_in_both_orders() -> list[set[str]]:
    """Of two kernels that call the same functions, hashed in forks of a process that has not."""
    from loramux_kernels.triton_attention.decode import attend_chunks
    from loramux_kernels.triton_attention.prefill import attend_queries

    kernels = [attend_chunks, attend_queries]
    seen = []
    for order in (kernels, kernels[::-1]):
        mine, theirs = os.pipe()
        if not os.fork():
            os.write(theirs, " ".join(kernel.cache_key for kernel in order).encode())
            os._exit(0)
        os.wait()
        seen.append(set(os.read(mine, 2**12).decode().split()))
    return seen
