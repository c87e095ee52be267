"""Check whether the GPUs of this machine are ready for the replicas."""

from __future__ import annotations

from collections.abc import Sequence

from shardwise.doctor.preflight import require_ready
from shardwise.hosting.launching import Launch
from shardwise.node.here import GPU_COMMANDS, read_here
from shardwise.node.node import Node


def check_node(starting: Sequence[Launch]) -> Node | None:
    """Return the GPUs according to their tools; None if no replica uses a GPU of this machine.

    Raises:
        InputError: A GPU does not respond, is partitioned, or is in use.
    """
    on_gpus = [launch for launch in starting if launch.kind in ("cuda", "rocm")]
    if not on_gpus:
        return None
    reading = read_here(GPU_COMMANDS)
    for launch in on_gpus:
        share = launch.model.gpu_memory_utilization
        require_ready(reading, launch.replica, launch.devices, share, launch.model.engine)
    return reading.node
