"""A measured machine, and its catalogue file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from shardwise.errors import InputError
from shardwise.files import write_whole
from shardwise.hardware.gpu import AllReduceLine

BUSY_SHARE: Final = 0.25
_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Measured(msgspec.Struct, frozen=True):
    """Values per rank of this machine, measured with all ranks running."""

    name: str  #: name of the processor, used only as a label
    vendor: str  #: "cpu", "nvidia", "amd"
    device: str  #: "cpu" or "cuda"
    num_ranks: int  #: number of GPUs, or of shares of the cores
    threads_per_rank: int  #: 0 on a GPU
    cores: int  #: available to this process
    compute_units: int  #: of one rank: SMs or CUs, on CPU its threads
    memory_bytes: float  #: of one rank
    memory_bandwidth: float  #: bytes/s of one rank
    flops: Mapping[str, float]  #: by dtype
    all_reduce: Mapping[int, AllReduceLine]  #: by world size
    date: str
    seconds: float  #: duration of the measurement
    load_before: float  #: processes that wanted a core in the minute before the measurement
    compute_capability: str = ""  #: NVIDIA's, e.g. "9.0"
    llvm_target: str = ""  #: AMD's, e.g. "gfx942"

    @property
    def was_busy(self) -> bool:
        """Whether other processes used so much of the cores that the results are affected."""
        return self.load_before > BUSY_SHARE * self.cores

    @property
    def what(self) -> str:
        """Description of the ranks that the file's numbers refer to."""
        if self.device == "cpu":
            threads = "thread" if self.threads_per_rank == 1 else "threads"
            ranks = "rank" if self.num_ranks == 1 else "ranks"
            return (
                f"{self.num_ranks} {ranks} of {self.threads_per_rank} {threads} on {self.cores} "
                f"cores"
            )
        return f"{self.num_ranks} GPUs"


def check_id(name: str) -> str:
    """Raise InputError if `name` cannot be a catalogue id."""
    if not _ID.fullmatch(name):
        raise InputError(f"name {name[:80]!r}", "allowed: lower-case letters, digits and '-'")
    return name


def to_toml(gpu_id: str, found: Measured) -> str:
    """Return the catalogue file of `found` with the id `gpu_id`."""
    return "\n".join(_lines(check_id(gpu_id), found)) + "\n"


def write(path: Path, gpu_id: str, found: Measured) -> None:
    """Write the file atomically. Raises InputError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_toml(gpu_id, found).encode())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _lines(gpu_id: str, found: Measured) -> Iterator[str]:
    def fact(value: float, unit: str, how: str) -> str:
        source = json.dumps(f"measured: {how}")
        return (
            f'{{ value = {value:.4g}, unit = "{unit}", source = {source}, date = "{found.date}" }}'
        )

    label = f"{found.name}, {found.what}"
    yield f"# Measured by `shardwise hardware detect` in {found.seconds:.0f} s: {found.what}."
    if found.was_busy:
        load = f"load {found.load_before:.1f}"
        yield f"# The machine was busy ({load}): measure again when it is quiet."
    yield "# One rank is what a GPU is elsewhere; every rank worked while each number was taken."
    yield f"[gpu.{gpu_id}]"
    yield f"name = {json.dumps(label, ensure_ascii=False)}"
    yield f'vendor = "{found.vendor}"'
    yield f"node_gpus = {found.num_ranks}"
    instruction_set = {
        "compute_capability": found.compute_capability,
        "llvm_target": found.llvm_target,
    }
    for key, value in instruction_set.items():
        how = '"measured: as torch reports it"'
        if value:
            yield f'{key} = {{ value = "{value}", source = {how}, date = "{found.date}" }}'
    yield f"memory = {fact(found.memory_bytes / 1e9, 'GB', 'what there is, shared out')}"
    how = "best of a copy (read and written) and a sum (read)"
    yield f"memory_bandwidth = {fact(found.memory_bandwidth / 1e9, 'GB/s', how)}"
    for dtype, rate in found.flops.items():
        yield f"flops.{dtype} = {fact(rate / 1e9, 'GFLOPS', 'square matrix product')}"
    unit = "threads of a rank" if found.device == "cpu" else "multiprocessors"
    yield f"compute_units = {fact(found.compute_units, '1', unit)}"
    shared = "shared memory" if found.device == "cpu" else "as NCCL or RCCL finds it"
    yield f'interconnect.technology = "{shared}"'
    yield 'interconnect.topology = "switched"'
    yield f"interconnect.max_world = {max(found.num_ranks, 1)}"
    if found.all_reduce:
        world = max(found.all_reduce)
        # a ring sends 2 (n - 1) / n of the message (Thakur et al. 2005)
        rate = found.all_reduce[world].bytes_per_s * 2 * (world - 1) / world
        link = fact(rate / 1e9, "GB/s", f"bus bandwidth of the all-reduce of {world} ranks")
    else:
        link = fact(found.memory_bandwidth / 1e9, "GB/s", "memory bandwidth, for want of a peer")
    yield f"interconnect.bandwidth = {link}"
    for world, line in sorted(found.all_reduce.items()):
        yield f"\n[[gpu.{gpu_id}.all_reduce]]"
        yield f"world_size = {world}"
        how = "line through messages of 1 KB to 16 MB"
        yield f"latency = {fact(line.latency_s * 1e6, 'us', how)}"
        yield f"bandwidth = {fact(line.bytes_per_s / 1e9, 'GB/s', 'the same line, of message')}"
