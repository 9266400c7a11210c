"""The fused decoder: a loaded transformers model, run without its modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from loramux.logger import get_logger
from loramux.lora.site import PackedSites
from loramux.models.backbone import Backbone
from loramux.models.fused.assembly import LayerAssembly, layer_types, read_norm
from loramux.models.fused.families import Family
from loramux.models.fused.layer import FusedLayer
from loramux.models.fused.rotary import RotaryTable, rotary_tables
from loramux.models.fused.step import FusedStep, StepLoRA
from loramux.models.fused.structure import UnfusableError, known_family, require
from loramux.models.sites import find_sites
from loramux_kernels.blocks import RMSNorm, add_rms_norm_, rms_norm
from loramux_kernels.products import linear

log = get_logger(__name__)


@dataclass(frozen=True, eq=False)
class Embedding:
    """Token embeddings, ``[vocab_size, hidden_size]``, and what their rows are multiplied by."""

    weight: Tensor
    scale: float | None

    def __call__(self, ids: Tensor, lora: StepLoRA | None) -> Tensor:
        """Tokens ``[rows]`` to ``[rows, hidden_size]``."""
        y = functional.embedding(ids, self.weight)
        if lora is not None:
            lora.add_embedding_(y, ids)
        return y if self.scale is None else y.mul_(self.scale)


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """The last norm: how a model ends that has no output layer."""

    norm: RMSNorm

    def __call__(self, x: Tensor, residual: Tensor, step: FusedStep) -> Tensor:
        """Hidden states ``[n, hidden_size]`` of the rows that the step wants."""
        if step.logit_rows is not None:
            x = x.index_select(0, step.logit_rows)
            residual = residual.index_select(0, step.logit_rows)
        return add_rms_norm_(x, residual, self.norm)


@dataclass(frozen=True, eq=False)
class Output:
    """The last norm and the product with the output embedding, ``[vocab_size, hidden_size]``."""

    hidden_states: HiddenStates
    weight: Tensor
    softcap: float | None

    def __call__(self, x: Tensor, residual: Tensor, step: FusedStep) -> Tensor:
        """Logits ``[n, vocab_size]`` of the rows that the step wants."""
        x = self.hidden_states(x, residual, step)
        logits = linear(x, self.weight)
        if step.lora is not None:
            step.lora.add_output_(logits, x)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits


class FusedDecoder:
    """Runs a model's layers over packed weights, with the residual sums and norms in one kernel.

    The transformers model stays valid and shares every weight. It must not be moved to another
    device or type any more, which would give it weights of its own.

    Attributes:
        projections: the products that adapters may change, four a layer: query-key-value, output,
            gate-up, down. ``StepLoRA.add_`` is given their index.
    """

    def __init__(
        self,
        embedding: Embedding,
        layers: Sequence[FusedLayer],
        output: Output | HiddenStates,
        projections: list[PackedSites],
    ) -> None:
        self._embedding = embedding
        self._layers = tuple(layers)
        self._output = output
        self.projections = projections

    @classmethod
    def of(cls, model: nn.Module, max_positions: int) -> Self | None:
        """Pack a loaded model's weights, layer by layer, or leave the model as it is.

        Args:
            model: a transformers causal language model or its ``Backbone``, on its device.
            max_positions: tokens of the longest sequence that will be run.

        Returns:
            None if the model is not exactly what the table of families describes; the log says why.
        """
        try:
            family = known_family(model)
            tables = _tables(model, family, max_positions)
        except UnfusableError as reason:
            log.info("%s runs unfused: %s", type(model).__name__, reason)
            return None
        return cls._packed(model, family, tables)

    @classmethod
    def _packed(
        cls, model: nn.Module, family: Family, tables: dict[str | None, RotaryTable]
    ) -> Self:
        config: Any = model.config
        assembly = LayerAssembly(family, config, tables)
        modules = model.get_submodule("model.layers").children()
        return cls(
            _embedding(model),
            [assembly.build(index, layer) for index, layer in enumerate(modules)],
            _output(model, family),
            _projections(model, family),
        )

    def __call__(self, step: FusedStep) -> Tensor:
        """Run one step; the caches take the new keys and values.

        Shapes:
            returns: logits ``[n, vocab_size]`` of ``logit_rows``, or of all rows; of a
                ``Backbone``, hidden states ``[n, hidden_size]``.
        """
        residual = self._embedding(step.input_ids, step.lora)
        first, *others = self._layers
        last = first(rms_norm(residual, first.input_norm), residual, step)
        for layer in others:
            last = layer(last.normalized_sum(residual, layer.input_norm), residual, step)
        return self._output(last.updated(), residual, step)

    def excerpt(self) -> Self:
        """As few layers as launch every kernel that all of them do: two, and one of each kind."""
        kinds = {_kind(layer): layer for layer in reversed(self._layers)}
        kept = dict.fromkeys((*self._layers[:2], *kinds.values()))
        return type(self)(self._embedding, list(kept), self._output, self.projections)


def _kind(layer: FusedLayer) -> object:
    """What layers differ in within a model."""
    attention = layer.attention
    options, heads = attention.options, attention.heads
    shapes = (options.window, options.softcap, heads.num_kv_heads, heads.head_dim, heads.rotary_dim)
    return *shapes, layer.mlp.gate_up.weight.shape


def _tables(model: nn.Module, family: Family, max_positions: int) -> dict[str | None, RotaryTable]:
    config: Any = model.config
    device = next(model.parameters()).device
    rotary = model.get_submodule("model.rotary_emb")
    tables = rotary_tables(rotary, max_positions, device, layer_types(family, config))
    head_dims: set[int] = {
        layer.get_submodule("self_attn").head_dim  # type: ignore[misc]
        for layer in model.get_submodule("model.layers").children()
    }
    for table in tables.values():
        width = table.cos.shape[1]
        fits = all(width == dim or (family.partial_rotary and width < dim) for dim in head_dims)
        require(fits and width % 2 == 0, f"its rotary factors are {width} wide, unlike its heads")
    return tables


def _embedding(model: nn.Module) -> Embedding:
    module: Any = model.get_submodule("model.embed_tokens")
    scale = getattr(module, "embed_scale", None)
    if scale is not None:  # rounded as transformers rounds it, so that the product is the same
        scale = float(torch.as_tensor(scale).to(module.weight.dtype))
    return Embedding(module.weight.detach(), scale)


def _output(model: nn.Module, family: Family) -> Output | HiddenStates:
    hidden_states = HiddenStates(read_norm(model.get_submodule("model.norm"), family))
    if isinstance(model, Backbone):
        return hidden_states
    config: Any = model.config
    return Output(
        hidden_states=hidden_states,
        weight=model.get_parameter("lm_head.weight").detach(),
        softcap=config.final_logit_softcapping if family.logit_softcap else None,
    )


def _projections(model: nn.Module, family: Family) -> list[PackedSites]:
    sites = find_sites(model)
    layers = model.get_submodule("model.layers").children()
    return [
        PackedSites(
            f"model.layers.{index}.{product.name}",
            tuple(sites[f"model.layers.{index}.{name}"] for name in product.members),
        )
        for index, _ in enumerate(layers)
        for product in family.products
    ]
