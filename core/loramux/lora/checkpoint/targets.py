"""Which layers an adapter updates, at which rank and scaling: PEFT's rules on a list of sites."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from loramux.lora.checkpoint.config_fields import refused
from loramux.lora.checkpoint.name_pattern import MatchBudget, NamePattern, PatternTable
from loramux.lora.checkpoint.peft_config import PeftLoraConfig
from loramux.lora.checkpoint.untrusted import first_of, shown
from loramux.lora.site import LoRASite, SiteKind

MATCH_SECONDS = 2.0
"""Time that the patterns of one adapter may take; honest ones take milliseconds."""

_ALL_LINEAR = "all-linear"
_FIRST_NUMBERED_MODULE = re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")


class Target(NamedTuple):
    """One layer that the adapter updates by ``scaling * B @ A`` with matrices of this rank."""

    site: LoRASite
    rank: int
    scaling: float


def resolve_targets(config: PeftLoraConfig, sites: Mapping[str, LoRASite]) -> dict[str, Target]:
    """Return the layers PEFT would adapt for this configuration, by name.

    Follows ``check_target_module_exists``, ``_maybe_include_all_linear_layers`` and
    ``get_pattern_key`` of PEFT 0.21.

    Raises:
        AdapterRefusedError: if nothing is targeted, if a module that cannot be adapted is
            targeted, or if a pattern cannot be matched safely.
    """
    budget = MatchBudget(MATCH_SECONDS)
    choice = _Choice(config, sites, budget)
    chosen = {name: site for name, site in sites.items() if choice.includes(name)}
    if not chosen:
        raise refused(
            "target_modules",
            f"{shown(config.target_modules)} matches no layer of the base model; "
            "check that the adapter was trained for this model",
        )
    _check_containers(choice, sites)
    _check_tying(config, chosen)
    return _with_rank_and_scaling(config, chosen, budget)


class _Choice:
    """PEFT's ``check_target_module_exists`` for one configuration."""

    def __init__(
        self, config: PeftLoraConfig, sites: Mapping[str, LoRASite], budget: MatchBudget
    ) -> None:
        targets = config.target_modules
        if isinstance(targets, str) and targets.lower() == _ALL_LINEAR:
            targets = tuple(_all_linear(sites))
        self._targets = _Names("target_modules", targets, budget)
        self._excluded = _Names("exclude_modules", config.exclude_modules or (), budget)
        self._layers = _Layers(config, budget)

    def includes(self, name: str) -> bool:
        if self._excluded.match(name):
            return False
        # A full name in target_modules overrides layers_to_transform; a suffix does not.
        return self._targets.contain(name) or (
            self._targets.match(name) and self._layers.include(name)
        )


class _Names:
    """A field that holds either a list of names and suffixes or one regular expression."""

    def __init__(self, field: str, value: str | tuple[str, ...], budget: MatchBudget) -> None:
        self._pattern = NamePattern(field, value, budget) if isinstance(value, str) else None
        self._names = frozenset() if isinstance(value, str) else frozenset(value)

    def contain(self, name: str) -> bool:
        return name in self._names

    def match(self, name: str) -> bool:
        if self._pattern is not None:
            return self._pattern.fullmatch(name)
        return not self._names.isdisjoint(_suffixes(name))


class _Layers:
    """The fields ``layers_to_transform`` and ``layers_pattern``."""

    def __init__(self, config: PeftLoraConfig, budget: MatchBudget) -> None:
        wanted = config.layers_to_transform
        self._wanted = frozenset((wanted,) if isinstance(wanted, int) else wanted or ())
        self._patterns = [
            NamePattern("layers_pattern", pattern, budget, r"(?:^|.*?\.){}\.(?P<idx>\d+)\.")
            for pattern in config.layers_pattern
        ]

    def include(self, name: str) -> bool:
        if not self._wanted:
            return True
        index = self._index(name)
        return index is not None and int(index) in self._wanted

    def _index(self, name: str) -> str | None:
        """Return the number of the layer that a module is in, as text."""
        if not self._patterns:
            found = _FIRST_NUMBERED_MODULE.match(name)
            return found["idx"] if found else None
        matches = (pattern.match(name) for pattern in self._patterns)
        return next((groups["idx"] for groups in matches if groups is not None), None)


def _all_linear(sites: Mapping[str, LoRASite]) -> list[str]:
    return [
        name
        for name, site in sites.items()
        if site.kind is not SiteKind.EMBEDDING and not site.is_output
    ]


@lru_cache(maxsize=8192)  # the names are a base model's, and the same for every adapter
def _suffixes(name: str) -> tuple[str, ...]:
    """The name and what follows each of its dots."""
    parts = name.split(".")
    return tuple(".".join(parts[start:]) for start in range(len(parts)))


def _check_containers(choice: _Choice, sites: Mapping[str, LoRASite]) -> None:
    """Refuse to target a module that only contains layers, as PEFT does."""
    for name in _containers(tuple(sites)):
        if choice.includes(name):
            raise refused(
                "target_modules",
                f"matches {shown(name)}, which is no single linear or embedding layer; "
                "name the layers in it",
            )


@lru_cache(maxsize=8)  # one base model, but for tests
def _containers(sites: tuple[str, ...]) -> tuple[str, ...]:
    """The modules that contain sites and are none."""
    parents = dict.fromkeys(parent for site in sites for parent in _parents(site))
    known = frozenset(sites)
    return tuple(name for name in parents if name not in known)


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _check_tying(config: PeftLoraConfig, chosen: Mapping[str, LoRASite]) -> None:
    """Refuse adapters tied between the embeddings, whose second half PEFT derives."""
    tied = [
        name for name, site in chosen.items() if site.kind is SiteKind.EMBEDDING or site.is_output
    ]
    if config.ensure_weight_tying and tied:
        raise refused(
            "ensure_weight_tying",
            f"is true and {first_of(tied)} is targeted, which is not supported; "
            "train the adapter with ensure_weight_tying=false",
        )


def _with_rank_and_scaling(
    config: PeftLoraConfig, chosen: Mapping[str, LoRASite], budget: MatchBudget
) -> dict[str, Target]:
    ranks = PatternTable("rank_pattern", config.rank_pattern, budget)
    alphas = PatternTable("alpha_pattern", config.alpha_pattern, budget)
    targets = {}
    for name, site in chosen.items():
        rank = ranks.get(name, config.r)
        alpha = alphas.get(name, config.lora_alpha)
        divisor = math.sqrt(rank) if config.use_rslora else rank
        targets[name] = Target(site, rank, alpha / divisor)
    return targets
