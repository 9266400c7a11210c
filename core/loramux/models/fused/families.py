"""Which model families the fused decoder knows, and what each does unlike Llama."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from loramux_kernels.blocks import Activation

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""transformers' name of an activation: ours. Other spellings of the tanh round differently."""


class Window(StrEnum):
    """Where a family's sliding window is said to be."""

    NONE = "none"
    MODEL = "model"
    """``config.sliding_window``, of every layer."""
    LAYER = "layer"
    """``self_attn.sliding_window``, of some layers."""


@dataclass(frozen=True)
class Product:
    """One matrix product of a layer: its name, and the modules that its weight is packed from."""

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class NormNames:
    """A layer's norms. Those before a part read the residual; those after it, what it returns."""

    before_attention: str
    after_attention: str | None
    before_mlp: str
    after_mlp: str | None

    @property
    def present(self) -> tuple[str, ...]:
        """The norms that the layer has."""
        every = (self.before_attention, self.after_attention, self.before_mlp, self.after_mlp)
        return tuple(name for name in every if name is not None)


SPLIT_PRODUCTS = (
    Product("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Product("self_attn.o_proj", ("self_attn.o_proj",)),
    Product("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj")),
    Product("mlp.down_proj", ("mlp.down_proj",)),
)
PACKED_PRODUCTS = tuple(Product(product.name, (product.name,)) for product in SPLIT_PRODUCTS)

LLAMA_NORMS = NormNames("input_layernorm", None, "post_attention_layernorm", None)
SANDWICH_NORMS = NormNames(
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")


@dataclass(frozen=True)
class Family:
    """What one family computes; the defaults are Llama's.

    Args:
        architecture: transformers' class, no other and no subclass of it.
        products: the products of a layer: query-key-value, output, gate-up, down.
        norms: names of a layer's norms.
        plus_one_norms: norms multiply by ``1 + weight`` and keep epsilon in ``eps``.
        head_norms: each head of queries and keys is normalized before it is rotated.
        partial_rotary: the rotated part of a head may be smaller than the head.
        rotary_by_layer_type: full and sliding layers are rotated by different tables.
        window: where the sliding window is said to be.
        scaled_embedding: embeddings are multiplied by the module's ``embed_scale``.
        attention_softcap: attention scores are capped by ``attn_logit_softcapping``.
        logit_softcap: logits are capped by ``final_logit_softcapping``.
        activation: field of the configuration with the activation's name.
    """

    architecture: str
    products: tuple[Product, ...] = SPLIT_PRODUCTS
    norms: NormNames = LLAMA_NORMS
    plus_one_norms: bool = False
    head_norms: bool = False
    partial_rotary: bool = False
    rotary_by_layer_type: bool = False
    window: Window = Window.NONE
    scaled_embedding: bool = False
    attention_softcap: bool = False
    logit_softcap: bool = False
    activation: str = "hidden_act"


FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM", window=Window.MODEL),
    "qwen2": Family("Qwen2ForCausalLM", window=Window.LAYER),
    "qwen3": Family("Qwen3ForCausalLM", window=Window.LAYER, head_norms=True),
    "phi3": Family(
        "Phi3ForCausalLM",
        products=PACKED_PRODUCTS,
        partial_rotary=True,
        window=Window.MODEL,
    ),
    "gemma": Family("GemmaForCausalLM", plus_one_norms=True, scaled_embedding=True),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        norms=SANDWICH_NORMS,
        plus_one_norms=True,
        window=Window.LAYER,
        scaled_embedding=True,
        attention_softcap=True,
        logit_softcap=True,
        activation="hidden_activation",
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        norms=SANDWICH_NORMS,
        plus_one_norms=True,
        head_norms=True,
        rotary_by_layer_type=True,
        window=Window.LAYER,
        scaled_embedding=True,
        logit_softcap=True,
        activation="hidden_activation",
    ),
}
"""By ``model_type`` of the configuration."""
