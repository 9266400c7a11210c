"""The product with a weight: by Triton where few rows make it a matter of reading, else torch's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from loramux_kernels.gpu import runs_kernels


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b``, as ``torch.nn.functional.linear``.

    Sums are float32, rounded once; which of two ways computes them depends on shapes and device
    alone, so that the same step always gives the same bits.

    Shapes:
        x: ``[rows, in_features]``; weight: ``[out_features, in_features]``; bias:
            ``[out_features]``; returns: ``[rows, out_features]``.
    """
    if runs_kernels(x.device) and not torch.is_grad_enabled():
        from loramux_kernels.triton_products import stream_tiles, streamed_linear

        tiles = stream_tiles(x, weight)
        if tiles is not None:
            return streamed_linear(x, weight, bias, tiles)
    return functional.linear(x, weight, bias)
