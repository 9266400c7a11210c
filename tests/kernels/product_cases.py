"""Products as the Triton kernel computes them, beside float64."""

from __future__ import annotations

import torch

from tests.kernels.block_cases import Place, poisoned_outputs


def check_product(place: Place, rows: int, shape: tuple[int, int], has_bias: bool) -> None:
    """Every tiling that holds so many rows, for ``(out_features, in_features)``."""
    from loramux_kernels.triton_products import streamed_linear
    from loramux_kernels.tuned.products import BY_ROWS

    torch.manual_seed(rows)
    x, weight = place.random(rows, shape[1]), place.random(*shape) * 0.1
    bias = place.random(shape[0]) if has_bias else None
    exact = torch.nn.functional.linear(
        x.double(), weight.double(), None if bias is None else bias.double()
    )
    for tiles in (tiles for choices in BY_ROWS.values() for tiles in choices):
        if rows > tiles.rows:
            continue
        with poisoned_outputs():
            out = streamed_linear(x, weight, bias, tiles)
        assert out.dtype == place.dtype
        torch.testing.assert_close(
            out.double(), exact, rtol=2 * torch.finfo(place.dtype).eps, atol=2e-5 * shape[1] ** 0.5
        )
        alone = streamed_linear(x[-1:].contiguous(), weight, bias, tiles)
        assert torch.equal(alone[0], out[-1]), "a row depends on the rows beside it"


def refusals() -> list[str]:
    """What the kernel says to tensors that it would misread."""
    from loramux_kernels.triton_products import streamed_linear
    from loramux_kernels.tuned.products import BY_ROWS

    tiles, x, weight = BY_ROWS[16][0], torch.zeros(4, 8), torch.zeros(6, 8)
    calls = [
        (torch.zeros(17, 8), weight, None),
        (x, torch.zeros(6, 7), None),
        (x, weight, torch.zeros(5)),
    ]
    said = []
    for call in calls:
        try:
            streamed_linear(*call, tiles)
        except ValueError as error:
            said.append(str(error))
    return said
