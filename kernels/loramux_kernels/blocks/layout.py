"""What model families vary in these parts of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Activation = Literal["silu", "gelu", "gelu_tanh"]
"""``gelu`` is the exact one, ``gelu_tanh`` its approximation (Hendrycks, arXiv:1606.08415)."""


@dataclass(frozen=True, eq=False)
class RMSNorm:
    """Root mean square normalization (Zhang and Sennrich, arXiv:1910.07467).

    What is normalized is rounded to the dtype of the rows before it is multiplied by the weight,
    as transformers does for Llama, Mistral and Qwen. With ``plus_one`` it is multiplied by
    ``1 + weight`` in float32 and rounded once, as for Gemma.

    Shapes:
        weight: ``[width]``, of the dtype of the rows.
    """

    weight: Tensor
    eps: float
    plus_one: bool = False


@dataclass(frozen=True)
class HeadLayout:
    """How a packed row ``[queries | keys | values]`` of an attention layer divides into heads.

    The first ``rotary_dim`` values of each query and key head are rotated. Norms are those of each
    single head before its rotation (Qwen 3, Gemma 3).

    Raises:
        ValueError: the rotated part is odd or larger than a head, or the query heads cannot be
            shared out among the key heads.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None

    def __post_init__(self) -> None:
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise ValueError(
                f"The rotated part of a head is {self.rotary_dim} wide and must be an even number "
                f"from 2 to the head's {self.head_dim}: take rotary_dim from the width of cos."
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.num_heads} query heads cannot share {self.num_kv_heads} key heads evenly: "
                "take both counts from the model's config."
            )

    @property
    def row_width(self) -> int:
        """Values of one packed row."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
