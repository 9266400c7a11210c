"""Attention by libraries that are asked for by name, with Triton's for what they do not take."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Protocol, TypeVar

from torch import Tensor

from loramux.engine.args import EngineArgs
from loramux.engine.running.attention import PaddedBatch, TritonAttention, filled_blocks
from loramux.engine.running.step_layout import StepLayout
from loramux.errors import InvalidRequestError
from loramux.logger import get_logger
from loramux.models.attention import Attend
from loramux.models.loader import LoadedModel
from loramux_kernels.attention_libraries import flash_attention
from loramux_kernels.attention_libraries.flashinfer import FlashInfer, HostBatch
from loramux_kernels.attention_libraries.library import (
    AttentionLibraryError,
    CacheShape,
    unserved_layer,
)
from loramux_kernels.gpu import gpu_of
from loramux_kernels.paged_attention import AttentionOptions, LayerCache

log = get_logger(__name__)


class Library(Protocol):
    """What every library is asked before it serves an engine."""

    @property
    def name(self) -> str: ...

    def unserved(self, cache: CacheShape) -> str | None:
        """Why it cannot attend to such a cache, None where it can."""
        ...


SomeLibrary = TypeVar("SomeLibrary", bound=Library)


class FlashAttention(TritonAttention):
    """FlashAttention 2 or 3, in steps of all kinds; see its module of ``attention_libraries``."""

    # Its documentation does not say that what is masked may be NaN.
    reads_stale_keys = True

    def __init__(self, library: flash_attention.FlashAttention, max_num_seqs: int) -> None:
        super().__init__(max_num_seqs)
        self._library = library

    @classmethod
    def of(cls, args: EngineArgs, loaded: LoadedModel) -> FlashAttention:
        """For one engine.

        Raises:
            InvalidRequestError: no library is installed that can serve it.
        """
        load = partial(flash_attention.load_flash_attention, gpu_of(loaded.device).capability)
        return cls(_library(load, args, loaded), args.max_num_seqs)

    def over(self, layout: StepLayout, slots: Tensor) -> Attend:
        metadata = self._metadata(layout, slots)
        max_new_tokens = max(rows.stop - rows.start for rows in layout.rows)
        attend = self._library.over(metadata, max_new_tokens)
        return _served(self._library, attend, lambda: self._attend_over(metadata))

    def over_padded(self, batch: PaddedBatch) -> Attend:
        metadata = self._padded_metadata(batch)
        attend = self._library.over(metadata, 1 if batch.is_decode else len(batch.slots))
        return _served(self._library, attend, lambda: self._attend_over(metadata))


class FlashInferAttention(TritonAttention):
    """FlashInfer, in steps that no CUDA graph holds; see its module of ``attention_libraries``.

    Captured steps are Triton's.
    """

    # Its documentation does not say that what is masked may be NaN.
    reads_stale_keys = True

    def __init__(self, library: FlashInfer, max_num_seqs: int) -> None:
        super().__init__(max_num_seqs)
        self._library = library

    @classmethod
    def of(cls, args: EngineArgs, loaded: LoadedModel) -> FlashInferAttention:
        """For one engine.

        Raises:
            InvalidRequestError: the library is not installed, or cannot serve it.
        """

        def load() -> FlashInfer:
            return FlashInfer(FlashInfer.requirement.load(), loaded.device)

        return cls(_library(load, args, loaded), args.max_num_seqs)

    def over(self, layout: StepLayout, slots: Tensor) -> Attend:
        batch = HostBatch(
            filled_blocks(layout),
            [rows.length for rows in layout.rows],
            [rows.chunk.num_tokens for rows in layout.rows],
            layout.block_size,
        )
        by_triton = partial(super().over, layout, slots)
        return _served(self._library, self._library.over(batch), by_triton)

    def over_padded(self, batch: PaddedBatch) -> Attend:
        _tell(
            "steps held by CUDA graphs attend with Triton, since FlashInfer plans each step on the "
            "host; enforce_eager gives it all steps"
        )
        return super().over_padded(batch)


def _library(load: Callable[[], SomeLibrary], args: EngineArgs, loaded: LoadedModel) -> SomeLibrary:
    try:
        library = load()
    except AttentionLibraryError as error:
        raise _refusal(args, str(error)) from error
    for shape in loaded.kv_shapes.values():
        cache_shape = CacheShape(loaded.dtype, args.block_size, shape.key_dim, shape.value_dim)
        reason = library.unserved(cache_shape)
        if reason is not None:
            raise _refusal(args, reason)
    return library


def _refusal(args: EngineArgs, reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"attention_backend {args.attention_backend!r} cannot serve this engine, since {reason}; "
        "change that or use 'triton'.",
        "attention_backend",
    )


def _served(library: Library, by_library: Attend, make_triton: Callable[[], Attend]) -> Attend:
    """The library's attention where a layer's options allow it, else Triton's."""
    by_triton = cache(make_triton)

    def attend(query: Tensor, layer: LayerCache, options: AttentionOptions) -> Tensor:
        unserved = unserved_layer(options)
        if unserved is None:
            return by_library(query, layer, options)
        _tell(f"layers with {unserved} attend with Triton, since {library.name} takes none")
        return by_triton()(query, layer, options)

    return attend


@cache
def _tell(sentence: str) -> None:
    """Once a process."""
    log.warning(sentence)
