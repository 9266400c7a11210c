"""One row added to the residual and normalized, as the norm without updates does it."""

from __future__ import annotations

import triton.language as tl

from loramux_kernels.jit import device_function
from loramux_kernels.triton_blocks.normalization import (
    inverse_root,
    normalized,
    rounded_sum,
    squares,
)


# fmt: off
@device_function
def add_normalize_row(  # noqa: PLR0917
    out: tl.tensor, residual: tl.tensor, index: tl.tensor, exists: tl.tensor, values: tl.tensor,
    before: tl.tensor, gain: tl.tensor, eps: tl.tensor,
    WIDTH: tl.constexpr, PLUS_ONE: tl.constexpr,
) -> None:
    """Store a row's sum, and its norm; its bits depend on the number of warps."""
    values = rounded_sum(before, values)
    tl.store(residual + index, values, mask=exists)
    inverse = inverse_root(tl.sum(squares(values), 0), eps, WIDTH)
    tl.store(out + index, normalized(values, gain, inverse, PLUS_ONE), mask=exists)
# fmt: on
