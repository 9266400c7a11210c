"""Shapes of the tiles that LoRA kernels compute, and how many programs share the work."""

from __future__ import annotations

from dataclasses import dataclass

from loramux_kernels.gpu import GPU

MIN_STAGES = 2
"""With fewer nothing is loaded ahead."""


@dataclass(frozen=True)
class ShrinkTiles:
    """Shape of one product ``x A``.

    Attributes:
        slices: slices whose rank vectors one tile computes, reading ``x`` once; a power of two.
        features: input features a step of the inner loop multiplies.
        split_features: at least so many of them belong to one split; a multiple of ``features``.
        max_splits: at most so many partial sums of one rank vector.
        stages: depth of the inner loop's prefetching, at most.
        programs_per_sm: persistent programs for each multiprocessor, which share its memory.
        whole_rows: so many rows keep the GPU reading without splits; None for splits whatever
            the number of rows.
        max_registers: of a thread: what the blocks behind it need to be there when it ends.
    """

    slices: int
    features: int
    split_features: int
    max_splits: int
    warps: int
    stages: int
    programs_per_sm: int
    whole_rows: int | None = None
    max_registers: int = 255

    def split(self, in_features: int, num_rows: int, num_slices: int = 1) -> tuple[int, int]:
        """Features of one split and the number of splits, in a step of so many rows.

        Slices that are not computed together are programs enough with fewer splits.
        """
        if self.whole_rows is not None and num_rows >= self.whole_rows:
            return -(-in_features // self.features) * self.features, 1
        apart = -(-num_slices // self.slices)
        width = max(self.split_features * apart, -(-in_features // self.max_splits))
        width = -(-width // self.features) * self.features
        return width, -(-in_features // width)

    def step_bytes(self, rows: int, columns: int, element_size: int) -> int:
        """Of ``features`` of so many rows of ``x`` and of ``A``, which one stage holds."""
        return (rows + columns) * self.features * element_size

    def stages_on(self, gpu: GPU, rows: int, columns: int, element_size: int) -> int:
        """As many as fit into the shared memory of a program."""
        fitting = gpu.bytes_of_each(self.programs_per_sm)
        fitting //= self.step_bytes(rows, columns, element_size)
        return max(MIN_STAGES, min(self.stages, fitting))


@dataclass(frozen=True)
class ExpandTiles:
    """Shape of one product with ``B``.

    Attributes:
        rows: divides the rows of the work list's tiles. Fewer than 64: with more, Triton uses
            wgmma with its operand in registers, which ptxas before 13.3 compiles wrongly.
    """

    rows: int
    columns: int
    rank: int
    warps: int
    stages: int
    programs_per_sm: int


@dataclass(frozen=True)
class ActivationTiles:
    """Shape of what one program activates at a time, after both updates.

    Attributes:
        columns: of gates, and as many of what they multiply.
        steps: so many times ``columns`` share one sum of the rank vectors' parts.
        max_registers: of a thread; the compiler takes far more than it needs without a limit.
    """

    columns: int
    steps: int
    warps: int
    programs_per_sm: int
    max_registers: int


@dataclass(frozen=True)
class WalkingActivation:
    """An activation that holds B for some columns and walks down the rows of an adapter.

    Attributes:
        columns: of gates, and as many of what they multiply.
    """

    columns: int
    warps: int
    programs_per_sm: int
    max_registers: int


@dataclass(frozen=True)
class RotationTiles:
    """Shape of what one program rotates at a time, after its update.

    Attributes:
        heads: share one sum of the rank vector's parts, and the rows' rotary factors.
    """

    heads: int
    programs_per_sm: int
    max_registers: int


@dataclass(frozen=True)
class NormalizationTiles:
    """Shape of what one program normalizes at a time, after its update.

    Attributes:
        rows: divides those of the list's tiles.
    """

    rows: int
    programs_per_sm: int
    max_registers: int


@dataclass(frozen=True)
class FusedTiles:
    """Shapes of the kernels that add an update to what they read anyway.

    Attributes:
        rows: rows of one adapter, or of none, that a program computes at a time. Fewer than 64,
            as in ``ExpandTiles``.
        rank: components of the rank vector that one product takes, at most.
        max_rank: largest rank that a step may have; updates of larger ones are added by a kernel
            of their own before each block. None: any.
        normalization: None for updates that are added by a kernel of their own before a norm.
    """

    rows: int
    rank: int
    activation: ActivationTiles | WalkingActivation
    rotation: RotationTiles
    normalization: NormalizationTiles | None = None
    max_rank: int | None = None


@dataclass(frozen=True)
class LoRATiles:
    """Tiles of one path.

    Attributes:
        rows: rows of one adapter that a tile of the work list holds at most.
        rank: components of one slice's rank vector that a tile of the work list computes.
        dense: whether a step of one adapter alone may go to plain matrix products instead. Not
            where launches are captured: the path would be that of the step at capture.
        overlap: launch each kernel before those it depends on have ended (programmatic dependent
            launch, from compute capability 9.0 on); it reads the work list meanwhile and waits
            for them before it reads what they write.
        short: what computes steps of at most ``short_rows`` from the same lists: with as many
            rows for the fused kernels, and with such as divide this one's for shrink and expand.
    """

    rows: int
    rank: int
    shrink: ShrinkTiles
    expand: ExpandTiles
    fused: FusedTiles
    dense: bool = False
    overlap: bool = False
    short: LoRATiles | None = None
    short_rows: int = 0

    def for_rows(self, num_rows: int) -> LoRATiles:
        """Those of a step of so many rows, by what is fixed for a captured step."""
        return self.short if self.short is not None and num_rows <= self.short_rows else self
