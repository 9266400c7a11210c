"""What kernels cannot see for themselves: they get addresses and no strides."""

from __future__ import annotations

from torch import Tensor


def require_contiguous(**tensors: Tensor) -> None:
    """Refuse a tensor with gaps, by its name.

    Raises:
        ValueError: some tensor is not contiguous.
    """
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(
                f"{name} of shape {list(tensor.shape)} has strides {list(tensor.stride())} and the "
                f"kernel reads contiguous memory only: pass {name}.contiguous()."
            )


def require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape, beyond whose end a kernel would read or write.

    Raises:
        ValueError: the shape is another one.
    """
    if tensor.shape != shape:
        raise ValueError(
            f"{name} has shape {list(tensor.shape)} and the kernel was called for {list(shape)}: "
            "pass tensors of one batch and one layer."
        )
