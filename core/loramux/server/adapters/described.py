"""The answers about models and adapters, as the documentation shows them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class ModelPermission(BaseModel):
    """OpenAI's legacy object."""

    id: str
    object: Literal["model_permission"]
    created: int
    allow_create_engine: bool
    allow_sampling: bool
    allow_logprobs: bool
    allow_search_indices: bool
    allow_view: bool
    allow_fine_tuning: bool
    organization: str
    group: str | None
    is_blocking: bool


class ModelCard(BaseModel):
    """A base model, or an adapter with the base model as its parent.

    ``root`` is where it lies, or to a key that is no admin's its name.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int
    permission: list[ModelPermission]


class ModelList(BaseModel):
    """The models that a caller can use without anything being searched for."""

    object: Literal["list"]
    data: list[ModelCard]


class AdapterRow(BaseModel):
    """An adapter; null is what the engine, having forgotten it, does not know any more.

    ``path`` and ``source`` are null to a key that is no admin's.
    """

    name: str
    found_by: str
    search_seconds: float
    path: str | None
    source: str | None
    hits: int
    last_used: float | None
    digest: str | None
    rank: int | None
    num_bytes: int | None
    tier: str | None
    load_seconds: dict[str, float] | None
    references: int | None
    pinned: bool


class ResolverRow(BaseModel):
    """How often a resolver could not answer."""

    name: str
    total: int
    in_a_row: int


class AdapterList(BaseModel):
    """The adapters that a caller can use; how resolvers are doing is shown to admins."""

    object: Literal["list"]
    data: list[AdapterRow]
    resolver_failures: list[ResolverRow]


class PlacedAdapter(BaseModel):
    """An adapter that is on the device."""

    name: str
    tier: Literal["device"]


class PinnedAdapter(PlacedAdapter):
    """An adapter that stays there."""

    pinned: Literal[True]


class UnpinnedAdapter(BaseModel):
    """An adapter that may be evicted."""

    name: str
    pinned: Literal[False]


class RemovedAdapter(BaseModel):
    """An adapter that is not served any more."""

    name: str
    removed: Literal[True]
