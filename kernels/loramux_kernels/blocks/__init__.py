"""What stands between the matrix products of a decoder layer, each part in one call.

On CUDA devices with Triton these are kernels of one launch, which neither wait for the device nor
allocate anything but their result, so that CUDA graphs can hold them. Elsewhere they are the torch
functions of ``loramux_kernels.blocks.reference``.
"""

from loramux_kernels.blocks.dispatch import (
    add_rms_norm_,
    gated_activation,
    rms_norm,
    rotate_and_store_,
)
from loramux_kernels.blocks.layout import Activation, HeadLayout, RMSNorm
from loramux_kernels.blocks.rotation import Rotation

__all__ = [
    "Activation",
    "HeadLayout",
    "RMSNorm",
    "Rotation",
    "add_rms_norm_",
    "gated_activation",
    "rms_norm",
    "rotate_and_store_",
]
