"""Communication between ranks: an all-reduce after attention and after the MLP, and a gather.

`TorchCollectives` uses torch.distributed (gloo on CPU, NCCL on CUDA, RCCL on ROCm). On one x86-64
host, `SharedMemoryCollectives` uses a shared buffer instead, which avoids gloo's socket round trips
in decode steps; benchmarks/engine.py measures the gain.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Protocol

import msgspec
import torch
import torch.distributed as dist

SPINS_BEFORE_YIELD = 200
CACHE_LINE_BYTES = 64


class Collectives(Protocol):
    """Interface. Every rank must call the same methods in the same order with the same shapes."""

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of `x` over ranks, bitwise equal on all; `x` may be overwritten."""

    def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return every rank's `x` in rank order on rank 0, and an empty list on the others."""


class AloneCollectives:
    """No-op collectives for one rank; also used by `profile --emulate`."""

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, because there is one rank."""
        return x

    def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return a list of `x`, because there is one rank."""
        return [x]


class TorchCollectives:
    """Collectives of torch.distributed's default process group."""

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum `x` over all ranks in place."""
        dist.all_reduce(x)
        return x

    def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Every rank's `x` on rank 0; an empty list on the others."""
        if dist.get_rank() != 0:
            dist.gather(x)
            return []
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.gather(x, parts)
        return parts


class SharedBuffer(msgspec.Struct, frozen=True):
    """Memory mapped by all ranks: per rank, two slots used in turns and one turn counter."""

    slots: torch.Tensor  #: uint8, [2, world_size, slot_bytes]
    turns: torch.Tensor  #: int64, [world_size, CACHE_LINE_BYTES / 8]

    @staticmethod
    def create(world_size: int, slot_bytes: int) -> SharedBuffer:
        """Allocate a buffer for `world_size` ranks with `slot_bytes` bytes each."""
        padded = -(-slot_bytes // CACHE_LINE_BYTES) * CACHE_LINE_BYTES
        slots = torch.zeros(2, world_size, padded, dtype=torch.uint8)
        turns = torch.zeros(world_size, CACHE_LINE_BYTES // 8, dtype=torch.int64)
        return SharedBuffer(slots.share_memory_(), turns.share_memory_())


def shared_memory_works() -> bool:
    """Return whether the CPU is x86-64, which keeps stores in order (Intel SDM 3A, 8.2.2).

    A counter stored after its data is then visible after it, without a fence.
    """
    return platform.machine() in ("x86_64", "AMD64")


class SharedMemoryCollectives:
    """All-reduce in a shared buffer: write own slot, increment own counter, wait for all, sum.

    Each rank alternates between two slots. It writes turn t + 2 only after every counter reached t
    + 1, and each rank sets its counter to t + 1 only after it has read turn t. So no rank
    overwrites data that another one still reads, and a call waits only once. All ranks sum in rank
    order, so the results are bitwise equal.
    """

    def __init__(self, buffer: SharedBuffer, tp_rank: int, check_peers: Callable[[], None]) -> None:
        self._buffer, self._rank, self._check_peers = buffer, tp_rank, check_peers
        self._turns = buffer.turns.numpy()[:, 0]
        self._turn = 0
        self._views: dict[tuple[int, int, torch.dtype], torch.Tensor] = {}

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum `x` over all ranks in place, through shared memory."""
        flat = x.reshape(-1)
        slots = self._exchange(flat)
        if len(slots) == 2:
            torch.add(slots[0], slots[1], out=flat)
        else:
            torch.sum(slots, 0, out=flat)
        return flat.view_as(x)

    def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Every rank's `x` on rank 0; an empty list on the others."""
        slots = self._exchange(x.reshape(-1))
        parts = [slot.view_as(x).clone() for slot in slots] if self._rank == 0 else []
        self._exchange(x.new_zeros(1))  # no rank continues before rank 0 has copied the data
        return parts

    def _exchange(self, flat: torch.Tensor) -> torch.Tensor:
        """Return every rank's `flat`, [world_size, numel], valid until the second next call."""
        self._turn += 1
        key = (self._turn % 2, flat.numel(), flat.dtype)
        if key not in self._views:
            size = flat.numel() * flat.element_size()
            assert size <= self._buffer.slots.shape[2], "message larger than the shared slot"
            self._views[key] = self._buffer.slots[key[0], :, :size].view(flat.dtype)
        slots = self._views[key]
        slots[self._rank].copy_(flat)
        self._turns[self._rank] = self._turn
        self._await_all()
        return slots

    def _await_all(self) -> None:
        turns, turn, spins = self._turns, self._turn, 0
        for peer in range(len(turns)):
            while turns[peer] < turn:
                spins += 1
                if spins > SPINS_BEFORE_YIELD:
                    os.sched_yield()
                    if spins % 1024 == 0:
                        self._check_peers()
