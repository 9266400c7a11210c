"""Norms, rotation and activation for NVIDIA GPUs, in Triton; import only where Triton is installed.

``loramux_kernels.blocks`` has the same functions for every device, and says what they take.
"""

from loramux_kernels.triton_blocks.activation import gated_activation
from loramux_kernels.triton_blocks.normalization import add_rms_norm_, rms_norm
from loramux_kernels.triton_blocks.rotation import rotate_and_store_

__all__ = ["add_rms_norm_", "gated_activation", "rms_norm", "rotate_and_store_"]
