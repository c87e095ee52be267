"""Check before a start whether a replica would fail on this node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shardwise.errors import InputError
from shardwise.node.node import Device
from shardwise.node.reading.read import Reading
from shardwise.units import GIB


def require_ready(
    reading: Reading, replica: str, devices: Sequence[int], utilization: float, engine: str
) -> None:
    """Raise InputError for the first problem that would stop `replica` on `devices` of the node.

    A GPU without a reading passes.
    """
    problem = next(_problems(reading, devices, utilization, engine), None)
    if problem is not None:
        what, remedy = problem
        raise InputError(f"{replica}: {what}", remedy=remedy)


def _problems(
    reading: Reading, devices: Sequence[int], utilization: float, engine: str
) -> Iterator[tuple[str, str]]:
    for gpu in reading.failed:
        where = f"GPU {gpu.bus_id} does not answer" if gpu.bus_id else "no GPU answers"
        yield f"{where} ({gpu.what})", "see 'shardwise doctor'"
    known = {device.index: device for device in (reading.node.devices if reading.node else ())}
    taken = [known[i] for i in devices if i in known]
    if len(taken) > 1 and (split := [d for d in taken if d.mig]):
        what = f"GPU {split[0].index} has MIG on, which TP and PP cannot use"
        yield what, "turn MIG off, or run one replica per slice"
    for device in taken:
        if engine == "vllm" and (short := _short(device, utilization)):
            yield short


def _short(device: Device, utilization: float) -> tuple[str, str] | None:
    """vLLM refuses to start unless its share of the whole GPU is free.

    Source: vllm/v1/worker/utils.py, request_memory.
    """
    if device.memory_bytes is None or device.used_bytes is None:
        return None
    free, wanted = device.memory_bytes - device.used_bytes, utilization * device.memory_bytes
    if free >= wanted:
        return None
    fits = int(100 * free / device.memory_bytes) / 100
    return (
        f"{device.used_bytes / GIB:.1f} GiB of GPU {device.index} are in use; vLLM needs "
        f"{wanted / GIB:.1f} of {device.memory_bytes / GIB:.1f} GiB free",
        f"stop the processes there, or set gpu_memory_utilization to at most {fits:g}",
    )
