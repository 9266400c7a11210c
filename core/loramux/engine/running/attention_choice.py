"""Which attention an engine has."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from loramux.engine.args import EngineArgs
from loramux.engine.running.attention import AttentionBackend, TorchAttention, TritonAttention
from loramux.engine.running.library_attention import FlashAttention, FlashInferAttention
from loramux.errors import InvalidRequestError
from loramux.logger import get_logger
from loramux.models.loader import LoadedModel
from loramux_kernels.gpu import gpu_of, unserved_device
from loramux_kernels.tuned.attention import attention_tiles

log = get_logger(__name__)

BACKENDS: dict[str, Callable[[EngineArgs, LoadedModel], AttentionBackend]] = {
    "torch": lambda args, loaded: TorchAttention(),
    "triton": lambda args, loaded: TritonAttention(args.max_num_seqs),
    "flashinfer": FlashInferAttention.of,
    "flash_attn": FlashAttention.of,
}
"""Attention by name, made for one engine; ``EngineArgs.attention_backend`` chooses."""


MIN_TRITON_DIM = 16
"""Narrower heads than any tensor core takes are left to torch."""


def choose_attention(args: EngineArgs, loaded: LoadedModel) -> AttentionBackend:
    """The attention asked for; ``auto`` is Triton's on a GPU that runs it and torch's elsewhere.

    Raises:
        InvalidRequestError: it cannot run on this device, or not this model.
    """
    name = args.attention_backend
    if name == "torch":
        return TorchAttention()
    reason = unserved_device(loaded.device)
    if reason is None and name in {"auto", "triton"}:
        reason = _unserved_heads(loaded)
    if name == "auto":
        if reason is not None and loaded.device.type == "cuda":
            _tell(f"attention is computed by torch, since {reason}")
        name = "triton" if reason is None else "torch"
    elif reason is not None:
        raise InvalidRequestError(
            f"attention_backend {name!r} cannot run here, since {reason}; use 'torch' or 'auto'.",
            "attention_backend",
        )
    return BACKENDS[name](args, loaded)


@cache
def _tell(sentence: str) -> None:
    """Once a process."""
    log.warning(sentence)


def _unserved_heads(loaded: LoadedModel) -> str | None:
    """Why Triton's attention cannot serve some layer, as a clause; None where it can."""
    gpu = gpu_of(loaded.device)
    for shape in loaded.kv_shapes.values():
        dims, group = (shape.key_dim, shape.value_dim), shape.group
        if min(dims) < MIN_TRITON_DIM:
            return f"heads of {min(dims)} values are narrower than {MIN_TRITON_DIM}"
        if attention_tiles(gpu, max(dims), loaded.dtype.itemsize, group) is None:
            return f"heads of {max(dims)} values, {group} to a KV head, do not fit the GPU"
    return None
