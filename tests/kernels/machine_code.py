"""Kernels compiled for Hopper without a GPU, and what their machine code must not do."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

Instructions = list[tuple[int, str]]
"""Address and text."""

HOPPER = ("cuda", 90, 32)
STORES_NOTHING = ("ST", "RED", "BRA", "BAR", "WARPGROUP", "LDGSTS", "ISETP", "FSETP", "PLOP3")
WIDTHS = {".128": 4, ".64": 2, ".WIDE": 2, "CS2R": 2, "LDSM.16.M88.4": 4, "LDSM.16.MT88.4": 4}


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], **options: int) -> str:
    """Machine code of a kernel; pointers and strides are taken to be multiples of 16.

    ``types`` are of the arguments that are no ``constants``; options are num_warps and num_stages.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name.endswith(("_stride", "_features"))
    }
    source = ASTSource(kernel, signature, constants, aligned)
    code = triton.compile(source, target=GPUTarget(*HOPPER), options=options).asm["cubin"]
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [str(tool), "-sass", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def instructions(machine_code: str) -> Instructions:
    found = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", machine_code, re.MULTILINE)
    return [(int(address, 16), text) for address, text in found]


def register_products(code: Instructions) -> list[tuple[int, set[int]]]:
    """Asynchronous products that read a matrix from registers: where, and which registers."""
    products = []
    for index, (_, text) in enumerate(code):
        match = re.search(r"HGMMA\S* R\d+, R(\d+), gdesc", text)
        if match:
            products.append((index, set(range(int(match[1]), int(match[1]) + 4))))
    return products


def overwritten_operands(machine_code: str) -> list[str]:
    """Instructions that may write what an asynchronous product still reads.

    ptxas before CUDA 13.3 is known to emit such code for Hopper.
    """
    code = instructions(machine_code)
    at = {address: index for index, (address, _) in enumerate(code)}
    found = []
    for start, registers in register_products(code):
        todo, seen = [start + 1], set()
        while todo:
            index = todo.pop()
            text = code[index][1] if index < len(code) else "EXIT"
            if index in seen or "WARPGROUP.DEPBAR" in text or text.startswith("EXIT"):
                continue
            seen.add(index)
            if _written(text) & registers:
                found.append(f"{code[start][1]} -> {text}")
            target = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)
            if target:
                todo.append(at[int(target[1], 16)])
            if not target or text.startswith("@"):
                todo.append(index + 1)
    return found


def broken_overlap(machine_code: str) -> list[str]:
    """What a kernel does before it has waited for the one ahead: all but loads and arithmetic.

    See ``loramux_kernels.overlap`` for the rule.
    """
    code = instructions(machine_code)
    forbidden = ("ST", "RED", "ATOM", "EXIT", "PREEXIT", "UBLKCP", "UTMASTG")
    return [
        f"{address:04x} {text}"
        for address, text in _before_the_wait(code)
        if _operation(text).startswith(forbidden) and not _operation(text).startswith("STS")
    ]


def loads_before_the_wait(machine_code: str) -> int:
    """Loads from device memory that do not wait for the kernel ahead."""
    code = _before_the_wait(instructions(machine_code))
    return sum(_operation(text).startswith(("LDG", "UTMALDG")) for _, text in code)


def _before_the_wait(code: Instructions) -> Instructions:
    """What may run before, on any path."""
    at = {address: index for index, (address, _) in enumerate(code)}
    todo, seen = [0], set()
    while todo:
        index = todo.pop()
        if index in seen or "ACQBULK" in code[index][1]:
            continue
        seen.add(index)
        text = code[index][1]
        target = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)
        if target:
            todo.append(at[int(target[1], 16)])
        if text.startswith("@") or not (target or _operation(text) == "EXIT"):
            todo.append(index + 1)
    return [code[index] for index in sorted(seen)]


def _operation(text: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", text).partition(" ")[0]


def _written(text: str) -> set[int]:
    """Registers that an instruction writes, at least."""
    operation, _, operands = re.sub(r"^@!?U?P\w+\s+", "", text).partition(" ")
    match = re.match(r"(?:U?P\w+,\s*)?R(\d+)\b", operands.strip())
    if operation.startswith(STORES_NOTHING) or match is None:
        return set()
    product = re.match(r"HGMMA\.64x(\d+)x", operation)
    width = max((width for part, width in WIDTHS.items() if part in operation), default=1)
    first = int(match[1])
    return set(range(first, first + (int(product[1]) // 2 if product else width)))
