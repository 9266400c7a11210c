"""What the kernels of both products have in common."""

from __future__ import annotations

import triton.language as tl

from loramux_kernels.jit import device_function


@device_function
def own_share(num_units: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """First and last unit of this program, so that all programs get equally many.

    Successive units mostly share their adapter, whose table entries then come from the cache.
    """
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    share = num_units // programs
    extra = num_units - share * programs
    start = program * share + tl.minimum(program, extra)
    return start, start + share + (program < extra).to(tl.int32)
