"""A node: some GPUs of one kind that share a scale-up domain."""

from __future__ import annotations

import msgspec

from shardwise.errors import InputError
from shardwise.hardware.gpu import Gpu


class Node(msgspec.Struct, frozen=True):
    """`gpus` GPUs of one kind. InputError if fewer than one or more than can talk at link speed."""

    gpu: Gpu
    gpus: int

    def __post_init__(self) -> None:
        if not 1 <= self.gpus <= self.gpu.interconnect.max_world:
            raise InputError(
                f"{self.gpus} x {self.gpu.id} in one node",
                f"allowed: 1 to {self.gpu.interconnect.max_world} GPUs",
            )

    def check_tp(self, tp_size: int) -> None:
        """InputError unless `tp_size` GPUs of this node can shard one layer."""
        if not 1 <= tp_size <= self.gpus:
            raise InputError(
                f"TP={tp_size} on {self.gpus} x {self.gpu.id}", f"allowed: 1 to {self.gpus}"
            )
