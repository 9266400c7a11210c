"""Which attention an engine has."""

from __future__ import annotations

from collections.abc import Callable

from loramux.engine.args import EngineArgs
from loramux.engine.running.attention import AttentionBackend, TorchAttention, TritonAttention
from loramux.engine.running.library_attention import FlashAttention, FlashInferAttention
from loramux.errors import InvalidRequestError
from loramux.models.loader import LoadedModel

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
    """The attention asked for; ``auto`` is Triton's on a GPU and torch's elsewhere.

    Raises:
        InvalidRequestError: it cannot run on this device, or not this model.
    """
    name = args.attention_backend
    if name == "auto":
        shapes = loaded.kv_shapes.values()
        narrowest = min(min(shape.key_dim, shape.value_dim) for shape in shapes)
        fits = loaded.device.type == "cuda" and narrowest >= MIN_TRITON_DIM
        name = "triton" if fits else "torch"
    if name != "torch" and loaded.device.type != "cuda":
        raise InvalidRequestError(
            f"attention_backend {name!r} needs a CUDA GPU and the engine runs on {loaded.device}; "
            "use 'torch' or 'auto'.",
            "attention_backend",
        )
    return BACKENDS[name](args, loaded)
