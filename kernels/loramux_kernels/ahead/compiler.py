"""The process that compiles kernels ahead: ``python -m loramux_kernels.ahead.compiler``.

It gets ready at once, reads what to compile from its standard input when that is known, compiles
everything into Triton's cache, and ends; its status says whether all is there. It uses no GPU.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.cache import triton_key

import loramux_kernels
from loramux_kernels.ahead.rehearsal import Specialization


def main() -> None:
    """Read an order, carry it out, and end with status 1 if some of it failed."""
    driver = nvidia_driver()
    triton_key()  # Triton hashes itself once in each process: forks have it from this one
    import_kernels()
    order = sys.stdin.read()
    if order:  # else whoever started this has changed its mind
        sys.exit(not carry_out(order, driver))


def import_kernels() -> None:
    """Import all there are, so that an order finds those that it names."""
    for module in walk_packages(loramux_kernels.__path__, f"{loramux_kernels.__name__}."):
        if ".triton_" in module.name:
            import_module(module.name)


def order_of(specializations: Iterable[Specialization]) -> str:
    """What to write to the process, for the GPU that this one uses."""
    target = triton.runtime.driver.active.get_current_target()
    return json.dumps({"target": vars(target), "specializations": list(specializations)})


def carry_out(order: str, driver: Any) -> bool:
    """Compile what an order names, on as many cores as there are; whether all went well.

    Args:
        driver: Triton's, which need not have a GPU.
    """
    fields = json.loads(order)
    target = GPUTarget(**fields["target"])
    driver.get_current_device = lambda: 0
    driver.get_current_target = lambda: target
    triton.runtime.driver.set_active(driver)
    asked = [Specialization(*entry) for entry in fields["specializations"]]
    kernels = {one: getattr(import_module(one.module), one.name) for one in asked}
    # The longest first, for they are done last.
    in_order = sorted(asked, key=lambda one: -len(kernels[one].src))
    tasks = [partial(compile_kernel, kernels[one], one, driver) for one in in_order]
    return run_in_forks(tasks, len(os.sched_getaffinity(0)))


def nvidia_driver() -> Any:
    """Triton's driver for NVIDIA GPUs; it loads CUDA's library, but asks no GPU for anything."""
    from triton.backends.nvidia.driver import CudaDriver

    return CudaDriver()


def compile_kernel(kernel: Any, specialization: Specialization, driver: Any) -> None:
    """Bring a kernel into Triton's cache, and what launches it, which Triton 3.6 has compiled too.

    Raises:
        Exception: whatever Triton's compiler raises.
    """
    compiled = kernel.preload(specialization.data)
    driver.launcher_cls(compiled.src, compiled.metadata)


def run_in_forks(tasks: Sequence[Callable[[], None]], at_once: int) -> bool:
    """Run each task in a process of its own, so many at a time; whether all went well.

    A process ends with its task, whatever becomes of this one.
    """
    running, all_well = 0, True
    for task in tasks:
        if running == at_once:
            all_well &= os.wait()[1] == 0
            running -= 1
        _fork(task)
        running += 1
    for _ in range(running):
        all_well &= os.wait()[1] == 0
    return all_well


def _fork(task: Callable[[], None]) -> None:
    """Safe here: this process has one thread and no GPU."""
    if os.fork():
        return
    status = 1
    try:
        task()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # and run nothing that the other process has put in order for its end


if __name__ == "__main__":
    main()
