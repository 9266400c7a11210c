"""Products for NVIDIA GPUs, in Triton; import only where Triton is installed."""

from loramux_kernels.triton_products.streamed import streamed_linear
from loramux_kernels.tuned.products import StreamTiles, stream_tiles

__all__ = ["StreamTiles", "stream_tiles", "streamed_linear"]
