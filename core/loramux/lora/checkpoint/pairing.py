"""From named tensors to one checked low-rank pair for each targeted layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import torch

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint.targets import Target
from loramux.lora.checkpoint.tensor_names import (
    PREFIX,
    TensorName,
    base_parameter_name,
    parse_tensor_name,
)
from loramux.lora.checkpoint.untrusted import first_of, shown
from loramux.lora.site import LoRASite, SiteKind
from loramux.lora.weights import LowRankPair

BaseParameter = Callable[[str], torch.Tensor]

_CHUNK_ELEMENTS = 2**24


Shape = tuple[int, ...]


class _Half(NamedTuple):
    """One tensor of the checkpoint that is half of a pair, under its name there."""

    key: str
    name: TensorName
    shape: Shape


class PairPlan:
    """Which tensors of a checkpoint are the pair of which layer, as their names and shapes tell.

    Args:
        pairs: the tensors' names for each targeted layer.
        copies: for each further tensor the parameter of the base model that it must be equal to.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        pairs: Mapping[str, tuple[str, str]],
        copies: Mapping[str, torch.Tensor],
    ) -> None:
        self._targets = targets
        self._pairs = pairs
        self._copies = copies

    def fill(
        self, tensors: Mapping[str, torch.Tensor], *, non_finite: Collection[str] = ()
    ) -> dict[str, LowRankPair]:
        """The pairs, now that the tensors have been read.

        Args:
            non_finite: names of the tensors that hold an infinity or a NaN.

        Raises:
            AdapterRefusedError: naming a tensor that is no copy of the base model's, or holds a
                value that is not finite.
        """
        unequal = [key for key, base in self._copies.items() if not _is_copy(tensors[key], base)]
        if unequal:
            raise _changes_base(unequal)
        pairs = {}
        for layer, (a, b) in self._pairs.items():
            for key in (a, b):
                _check_finite(key, non_finite)
            pairs[layer] = LowRankPair(tensors[a], tensors[b], self._targets[layer].scaling)
        if not self._copies:
            return pairs
        # Views keep the whole file in memory: wasteful only where it holds more than the pairs.
        return {layer: _cloned(pair) for layer, pair in pairs.items()}


def plan_pairs(
    shapes: Mapping[str, Shape],
    targets: Mapping[str, Target],
    sites: Mapping[str, LoRASite],
    base_parameter: BaseParameter | None = None,
) -> PairPlan:
    """Give every targeted layer its two tensors, and every tensor its layer.

    Args:
        shapes: those of the checkpoint's tensors by name.
        targets: the layers that the configuration targets.
        sites: all layers of the base model that could be targeted.
        base_parameter: returns a parameter of the base model by name or raises AttributeError, as
            ``model.get_parameter`` does; with it, copies of base weights in the checkpoint are
            accepted where they are equal to the base model's.

    Raises:
        AdapterRefusedError: naming the tensor or layer, if one is missing, left over or misshapen.
    """
    halves, others = [], {}
    for key, shape in shapes.items():
        name = parse_tensor_name(key)
        if name is None:
            others[key] = shape
        else:
            halves.append(_Half(key, name, shape))
    copies = _base_copies(others, base_parameter)
    _check_one_adapter(halves)
    _check_layers(halves, targets, sites)
    return PairPlan(targets, _pairs(halves, targets), copies)


def _base_copies(
    others: Mapping[str, Shape], base_parameter: BaseParameter | None
) -> dict[str, torch.Tensor]:
    """The parameters that tensors which are no part of a pair are copies of, unless they differ."""
    found = {key: _base_of(key, shape, base_parameter) for key, shape in others.items()}
    unequal = [key for key, base in found.items() if base is None]
    if unequal and not any(key.startswith(PREFIX) for key in unequal):
        raise AdapterRefusedError(
            f"tensor names must start with {PREFIX!r}, unlike {first_of(unequal)}; "
            "save the adapter with PEFT's save_pretrained."
        )
    if unequal:
        raise _changes_base(unequal)
    return {key: base for key, base in found.items() if base is not None}


def _changes_base(tensors: Collection[str]) -> AdapterRefusedError:
    return AdapterRefusedError(
        f"tensor {first_of(tensors)} changes the base model beyond LoRA; save the adapter without "
        "it (for copies of the embeddings: save_pretrained with save_embedding_layers=False)."
    )


def _base_of(key: str, shape: Shape, base_parameter: BaseParameter | None) -> torch.Tensor | None:
    name = base_parameter_name(key)
    if name is None or base_parameter is None:
        return None
    try:
        base = base_parameter(name)
    except AttributeError:
        return None
    return base if base.shape == shape else None


def _is_copy(copy: torch.Tensor, base: torch.Tensor) -> bool:
    return _equal_as_loaded(copy.flatten(), base.detach().flatten())


def _equal_as_loaded(copy: torch.Tensor, base: torch.Tensor) -> bool:
    """Compare after the cast that loading does, in chunks that need no second full copy."""
    chunks = zip(
        torch.split(copy, _CHUNK_ELEMENTS), torch.split(base, _CHUNK_ELEMENTS), strict=True
    )
    return all(torch.equal(mine.to(base.dtype), theirs.cpu()) for mine, theirs in chunks)


def _check_one_adapter(halves: Iterable[_Half]) -> None:
    """Refuse a file whose tensors are named for several adapters."""
    keys = {half.name.adapter: half.key for half in halves}
    if len(keys) > 1:
        raise AdapterRefusedError(
            f"the tensors belong to several adapters, as {first_of(keys.values())} show; "
            "save each adapter in a directory of its own."
        )


def _check_layers(
    halves: Iterable[_Half], targets: Mapping[str, Target], sites: Mapping[str, LoRASite]
) -> None:
    """Refuse halves of layers that the model lacks or the configuration leaves out."""
    unknown = [half.key for half in halves if half.name.site not in sites]
    if unknown:
        raise AdapterRefusedError(
            f"tensor {first_of(unknown)} belongs to no layer of the base model that LoRA can "
            "update; check that the adapter was trained for this model."
        )
    left_out = [half.key for half in halves if half.name.site not in targets]
    if left_out:
        raise AdapterRefusedError(
            f"tensor {first_of(left_out)} belongs to a layer that target_modules and the fields "
            "that narrow it leave out; correct adapter_config.json."
        )


def _pairs(halves: Iterable[_Half], targets: Mapping[str, Target]) -> dict[str, tuple[str, str]]:
    found: dict[tuple[str, str], _Half] = {}
    for half in halves:
        twin = found.setdefault((half.name.site, half.name.half), half)
        if twin is not half:
            raise AdapterRefusedError(
                f"tensors {shown(twin.key)} and {shown(half.key)} are the same half of one layer; "
                "save the adapter again."
            )
    missing = [
        f"{layer} ({half})" for layer in targets for half in "AB" if (layer, half) not in found
    ]
    if missing:
        raise AdapterRefusedError(
            f"the tensor of the targeted layer and half {first_of(missing)} is missing; "
            "correct target_modules or save the adapter again."
        )
    return {
        layer: _pair(target, found[layer, "A"], found[layer, "B"])
        for layer, target in targets.items()
    }


def _pair(target: Target, a: _Half, b: _Half) -> tuple[str, str]:
    site = target.site
    _check_half(a, site, (target.rank, site.in_features))
    _check_half(b, site, (site.out_features, target.rank))
    return a.key, b.key


def _check_half(half: _Half, site: LoRASite, shape: Shape) -> None:
    if half.name.is_embedding != (site.kind is SiteKind.EMBEDDING):
        raise AdapterRefusedError(
            f"tensor {shown(half.key)} is named for another kind of layer than {site.kind}; "
            "check that the adapter was trained for this model."
        )
    if half.shape != shape:
        raise AdapterRefusedError(
            f"tensor {shown(half.key)} has the shape {list(half.shape)} instead of "
            f"{list(shape)}; check the base model and the fields r and rank_pattern."
        )


def _check_finite(key: str, non_finite: Collection[str]) -> None:
    if key in non_finite:
        raise AdapterRefusedError(
            f"tensor {shown(key)} holds a value that is not finite; train the adapter again."
        )


def _cloned(pair: LowRankPair) -> LowRankPair:
    return LowRankPair(pair.a.clone(), pair.b.clone(), pair.scaling)
