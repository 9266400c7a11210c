"""The way of tensors from host memory into the arena: gathered, sent, placed."""

from __future__ import annotations

import os
import queue
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
from torch import Tensor

from loramux.lora.device.packed_moves import PackedMoves
from loramux.lora.device.pieces import (
    ALIGNMENT,
    DIRECT_DTYPES,
    Move,
    Piece,
    cut,
    gather,
    record_rows,
    split_runs,
)
from loramux_kernels.triton_lora.place import PLACE_FIELDS, place_

MAX_RECORDS = 1024
NUM_SLOTS = 8
SLOT_BYTES = 16 * 2**20
"""Small enough that an adapter is on the bus soon after the first of it has been gathered."""

GATHER_BYTES = 4 * 2**20
MAX_GATHERING_THREADS = 4
"""They fill host memory's channels; more only take time from the engine's thread."""

RECORD_BYTES = -(-MAX_RECORDS * PLACE_FIELDS * 8 // ALIGNMENT) * ALIGNMENT


@dataclass(eq=False)
class StagingSlot:
    """Room for one piece on the host, pinned for a GPU, and the same on the device.

    A slot begins with the records and goes on with the data, so that one copy moves both.
    """

    host: Tensor
    device: Tensor
    sent: torch.cuda.Event | None = None
    """Recorded behind the last use; the slot may be filled again when it is complete."""


@dataclass(frozen=True, eq=False)
class GatheredPiece:
    """A piece on its way into a slot."""

    piece: Piece
    slot: StagingSlot
    copied: list[Future[None]]


class Staging:
    """Moves matrices into the arena on a stream of its own, several adapters at the same time.

    Host memory is pinned on a thread when the staging area is made, so that no start waits for
    it; the first adapter does, should it come so early.

    Args:
        arena: flat tensor on any device; without a GPU the same steps run on the CPU.
        num_slots: at least twice the number of threads that call ``move``.
        slot_bytes: of one slot, records included; PyTorch pins powers of two.
    """

    def __init__(
        self, arena: Tensor, num_slots: int = NUM_SLOTS, slot_bytes: int = SLOT_BYTES
    ) -> None:
        self._arena = arena
        self._slot_bytes = slot_bytes
        self._stream = _copy_stream(arena.device)
        self._slots: queue.SimpleQueue[StagingSlot] = queue.SimpleQueue()
        self._device_bytes = [self._empty(arena.device) for _ in range(num_slots)]
        self._gatherers = ThreadPoolExecutor(
            min(MAX_GATHERING_THREADS, os.cpu_count() or 1), thread_name_prefix="loramux-gather"
        )
        self._ready: Future[None] = self._gatherers.submit(self._prepare)

    def wait_until_ready(self) -> None:
        """Until memory is pinned and kernels are compiled; no graph may be captured before."""
        self._ready.result()

    @property
    def piece_bytes(self) -> int:
        """Most bytes that are sent at once."""
        return self._slot_bytes - RECORD_BYTES

    def move(
        self, moves: Iterable[Move] | PackedMoves, after: torch.cuda.Event | None = None
    ) -> None:
        """Put matrices in their places; returns when they are there. On any thread.

        Args:
            after: until then, what lies in those places may still be read.
        """
        self.wait_until_ready()
        if self._stream is not None and after is not None:
            self._stream.wait_event(after)
        gathering: deque[GatheredPiece] = deque()
        sent: torch.cuda.Event | None = None
        try:
            for piece in self._cut(moves):
                gathering.append(self._gather(piece))
                if len(gathering) > 1:  # while one piece is sent, the next is gathered
                    sent = self._send(gathering.popleft())
            while gathering:
                sent = self._send(gathering.popleft())
        finally:
            while gathering:
                self._give_back(gathering.popleft())
        if sent is not None:
            sent.synchronize()

    def shutdown(self) -> None:
        """End the threads; a move that is under way fails."""
        self._gatherers.shutdown(wait=False, cancel_futures=True)

    def _prepare(self) -> None:
        with torch.cuda.stream(self._stream):  # of the arena's GPU, whichever that is
            for device in self._device_bytes:
                host = self._empty(torch.device("cpu"), pinned=device.is_cuda)
                self._slots.put(StagingSlot(host, device))
            if self._stream is not None:
                self._warm_up()
                self._stream.synchronize()

    def _warm_up(self) -> None:
        """Compile the kernel for what comes, which must not happen while a request waits."""
        nothing = torch.zeros((1, PLACE_FIELDS), dtype=torch.int64, device=self._arena.device)
        for dtype in DIRECT_DTYPES:
            place_(self._arena, self._device_bytes[0].view(dtype), nothing)

    def _cut(self, moves: Iterable[Move] | PackedMoves) -> Iterator[Piece]:
        if isinstance(moves, PackedMoves):
            return moves.cut(self.piece_bytes, MAX_RECORDS)
        return cut(moves, self.piece_bytes, MAX_RECORDS)

    def _gather(self, piece: Piece) -> GatheredPiece:
        """Take a slot and have the piece copied to it."""
        slot = self._slots.get()
        if slot.sent is not None:
            slot.sent.synchronize()
        records = b"".join(fields.tobytes() for fields in piece.records.values())
        slot.host[: len(records)] = torch.frombuffer(bytearray(records), dtype=torch.uint8)
        address = slot.host.data_ptr() + RECORD_BYTES
        groups = split_runs(piece.runs, GATHER_BYTES)
        return GatheredPiece(
            piece, slot, [self._gatherers.submit(gather, group, address) for group in groups]
        )

    def _send(self, gathered: GatheredPiece) -> torch.cuda.Event | None:
        """Bring a gathered piece to the device and place it; the event behind that."""
        slot = gathered.slot
        try:
            for copied in gathered.copied:
                copied.result()
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                self._place(gathered.piece, slot)
                if self._stream is not None:
                    slot.sent = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                    slot.sent.record(self._stream)
            return slot.sent
        finally:
            self._give_back(gathered)

    def _give_back(self, gathered: GatheredPiece) -> None:
        """Let others have the slot, once nobody writes to it any more."""
        wait(gathered.copied)
        self._slots.put(gathered.slot)

    def _place(self, piece: Piece, slot: StagingSlot) -> None:
        used = RECORD_BYTES + piece.num_bytes
        slot.device[:used].copy_(slot.host[:used], non_blocking=True)
        records = slot.device[:RECORD_BYTES].view(torch.int64)
        data = slot.device[RECORD_BYTES:]
        for dtype, start, stop in record_rows(piece):
            fields = records[start * PLACE_FIELDS : stop * PLACE_FIELDS]
            place_(self._arena, data.view(dtype), fields.view(-1, PLACE_FIELDS))

    def _empty(self, device: torch.device, pinned: bool = False) -> Tensor:
        return torch.empty(self._slot_bytes, dtype=torch.uint8, device=device, pin_memory=pinned)


def _copy_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream beside the one that computes, so that copies hold no step up."""
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
