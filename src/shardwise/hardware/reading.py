"""Convert a GPU's table of a catalogue file to a `Gpu` and to printable facts, with checks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from shardwise.errors import InputError
from shardwise.hardware.gpu import AllReduceLine, Gpu, Interconnect, Island
from shardwise.hardware.plausible import check_memory, check_rates
from shardwise.hardware.tables import GpuTable, LinkTable, Text, Value, number

FLOPS = ("bf16", "fp16", "fp8", "fp4", "int8", "fp32")
DATE = re.compile(r"(\d{4}-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?")
RELEASED = re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?")
CAPABILITY = re.compile(r"(\d{1,2})\.(\d)")
FP8_CAPABILITY = (8, 9)  #: first capability with fp8 conversions; Triton refuses fp8e4nv below it
FP8_TARGETS = ("gfx94", "gfx95", "gfx12")  #: prefixes of LLVM targets with fp8 instructions


class Fact(msgspec.Struct, frozen=True):
    """One value of a GPU as written in its file, for printing."""

    field: str
    value: float | str
    unit: str  #: empty for a text
    source: str
    date: str
    alternatives: tuple[str, ...] = ()
    why: str = ""


def gpu_of(gpu_id: str, table: GpuTable, where: str) -> Gpu:
    """Return the GPU of a table. Raises InputError naming `where` and an implausible key."""

    def amount(key: str, quantity: str) -> float:
        fact = getattr(table, key)
        return number(fact, quantity, f"{where}.{key}") if fact else 0.0

    nameplate, runtime = amount("memory", "memory"), amount("runtime_memory", "memory")
    usable = amount("usable_memory", "memory") or nameplate
    bandwidth = amount("memory_bandwidth", "memory bandwidth")
    flops = _flops(table, f"{where}.flops")
    check_memory(nameplate, usable, runtime, where)
    if table.vendor != "cpu":  # without bf16 instructions, a core is slower than its memory
        check_rates(flops, bandwidth, where)
    capability = _capability(table.compute_capability, f"{where}.compute_capability")
    target = table.llvm_target.value if table.llvm_target else ""
    return Gpu(
        id=gpu_id,
        name=table.name or gpu_id,
        vendor=table.vendor,
        generation=table.generation or gpu_id,
        memory_bytes=usable,
        memory_bandwidth=bandwidth,
        flops=flops,
        tdp_w=amount("tdp", "power"),
        num_compute_units=_whole(amount("compute_units", "compute units"), where),
        interconnect=_interconnect(table.interconnect, f"{where}.interconnect"),
        node_gpus=_node_gpus(table, where),
        memory_nameplate_gb=nameplate / 1e9,
        all_reduce=dict(_all_reduce(table, f"{where}.all_reduce")),
        runtime_memory_bytes=runtime,
        l2_cache_bytes=amount("l2_cache", "cache"),
        compute_capability=capability,
        llvm_target=target,
        kv_fp8=_kv_fp8(table.kv_fp8, capability, target, flops),
        status=table.status,
        released=_released(table.released, f"{where}.released"),
    )


def _flops(table: GpuTable, where: str) -> dict[str, float]:
    facts = {k: v for k in FLOPS if (v := getattr(table.flops, k)) is not None}
    if not {"bf16", "fp16"} & set(facts):
        raise InputError(f"{where}: no 16-bit rate", "give flops.bf16 or flops.fp16")
    return {k: number(v, "matrix rate", f"{where}.{k}") for k, v in facts.items()}


def _capability(fact: Text | None, where: str) -> tuple[int, int] | None:
    if fact is None:
        return None
    found = CAPABILITY.fullmatch(fact.value)
    if not found:
        raise InputError(f"{where}: value {fact.value!r}", 'allowed: "major.minor", e.g. "9.0"')
    return int(found[1]), int(found[2])


def _kv_fp8(
    given: bool | None,
    capability: tuple[int, int] | None,
    target: str,
    flops: Mapping[str, float],
) -> bool | None:
    """Return whether kernels read an fp8 KV cache: from the file, else from the instructions."""
    if given is not None:
        return given
    if capability:
        return capability >= FP8_CAPABILITY
    if target:
        return target.startswith(FP8_TARGETS)
    return True if "fp8" in flops else None


def _released(fact: Text | None, where: str) -> str:
    if fact and not RELEASED.fullmatch(fact.value):
        raise InputError(f"{where}: value {fact.value!r}", 'allowed: "YYYY", "YYYY-MM" or a day')
    return fact.value if fact else ""


def _whole(count: float, where: str) -> int:
    if count != int(count):
        raise InputError(f"{where}.compute_units: value {count:g}", "allowed: a whole number")
    return int(count)


def _all_reduce(table: GpuTable, where: str) -> Iterable[tuple[int, AllReduceLine]]:
    for line in table.all_reduce:
        if line.world_size < 2:
            raise InputError(f"{where}: world_size {line.world_size}", "allowed: 2 or more")
        latency = number(line.latency, "latency", f"{where}.latency")
        rate = number(line.bandwidth, "link bandwidth", f"{where}.bandwidth")
        yield line.world_size, AllReduceLine(latency, rate)


def _interconnect(link: LinkTable, where: str) -> Interconnect:
    for key, count in (("links", link.links), ("max_world", link.max_world)):
        if count < 1:
            raise InputError(f"{where}.{key}: {count}", "allowed: 1 or more")
    if link.topology == "full_mesh" and link.links < link.max_world - 1:
        raise InputError(
            f"{where}.links: {link.links}", f"a full mesh of {link.max_world} needs one per peer"
        )
    rate = number(link.bandwidth, "link bandwidth", f"{where}.bandwidth")
    name = link.technology or link.topology
    island = _island(link, f"{where}.island")
    return Interconnect(name, link.topology, rate, link.links, link.max_world, island)


def _island(link: LinkTable, where: str) -> Island | None:
    table = link.island
    if table is None:
        return None
    if not 2 <= table.gpus < link.max_world:
        raise InputError(f"{where}.gpus: {table.gpus}", f"allowed: 2 to {link.max_world - 1}")
    rate = number(table.bandwidth, "link bandwidth", f"{where}.bandwidth")
    return Island(table.technology or "island", table.gpus, rate, table.fitted)


def _node_gpus(table: GpuTable, where: str) -> int:
    most = table.interconnect.max_world
    if not 0 <= table.node_gpus <= most:
        raise InputError(f"{where}.node_gpus: {table.node_gpus}", f"allowed: 1 to {most}")
    return table.node_gpus or most


def facts_of(table: GpuTable, file: str, where: str) -> Iterable[Fact]:
    """Return each value of a table with unit and source. InputError for a malformed date."""
    for parent, part in (
        ("", table),
        ("flops.", table.flops),
        ("interconnect.", table.interconnect),
        ("interconnect.island.", table.interconnect.island),
    ):
        for key in part.__struct_fields__ if part else ():
            fact = getattr(part, key)
            if isinstance(fact, Value | Text):
                check_date(fact, f"{where}.{parent}{key}")
                yield Fact(
                    parent + key,
                    fact.value,
                    fact.unit if isinstance(fact, Value) else "",
                    fact.source or file,
                    fact.date,
                    tuple(fact.alternatives),
                    fact.why,
                )


def check_date(fact: Value | Text, where: str) -> None:
    """Raise InputError unless the date is empty, a year and month, or a day."""
    if not DATE.fullmatch(fact.date):
        raise InputError(f"{where}: date {fact.date!r}", 'allowed: "YYYY-MM-DD" or "YYYY-MM"')
