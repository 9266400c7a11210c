"""One decoder for the common families, over packed weights and kernels that fuse the rest."""

from loramux.models.fused.decoder import FusedDecoder
from loramux.models.fused.step import FusedStep, StepLoRA

__all__ = ["FusedDecoder", "FusedStep", "StepLoRA"]
