"""Splits of a machine: replicas and ranks on GPUs or on shares of the CPU cores."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shardwise.errors import InputError
from shardwise.replica.devices import kind_here, present


class Machine(msgspec.Struct, frozen=True):
    """Available devices. `gpu` is the id in the catalogue; "": it is measured first."""

    kind: str  #: cpu, cuda or rocm
    devices: tuple[int, ...]  #: GPUs, or CPU cores
    gpu: str = ""


class Split(msgspec.Struct, frozen=True):
    """`replicas` replicas, each sharded over `tp_size` ranks of `threads` CPU threads (0: a
    GPU)."""

    tp_size: int
    replicas: int = 1
    threads: int = 0

    @property
    def ranks(self) -> int:
        """Total number of ranks."""
        return self.tp_size * self.replicas

    @property
    def cores(self) -> int:
        """CPU cores in use; 0 on GPUs."""
        return self.ranks * self.threads

    @property
    def label(self) -> str:
        """Replicas, TP size and cores, for a table."""
        copies = f"{self.replicas} x " if self.replicas > 1 else ""
        cores = f" on {self.cores} core{'s' * (self.cores > 1)}" if self.cores else ""
        return f"{copies}TP={self.tp_size}{cores}"

    @property
    def slug(self) -> str:
        """`label` in a form for names of files and cells."""
        return f"{self.replicas}xtp{self.tp_size}" + (f"-{self.threads}t" if self.threads else "")


def machine_here(kind: str = "", gpu: str = "") -> Machine:
    """Return every device available to this process. InputError if there is none of `kind`."""
    kind = kind or kind_here()
    found = tuple(sorted(present(kind)))
    if not found:
        raise InputError(f"no {kind} device is here", "allowed: cpu, or a GPU that is present")
    return Machine(kind, found, gpu)


def splits(machine: Machine, tp_sizes: Sequence[int]) -> list[Split]:
    """Return one replica at each TP, then on CPU the same at equal total threads, then replicas of
    each TP that fill the machine.

    A rank's threads are the cores divided by the largest TP. InputError for more ranks than GPUs;
    a CPU runs them oversubscribed.
    """
    there = len(machine.devices)
    if machine.kind != "cpu":
        if max(tp_sizes) > there:
            raise InputError(f"TP={max(tp_sizes)} on {there} GPUs", f"allowed: up to {there}")
        copies = [Split(tp, there // tp) for tp in tp_sizes if there // tp > 1]
        return [*(Split(tp) for tp in tp_sizes), *copies]
    width = max(1, there // max(tp_sizes))
    single = [Split(tp, 1, width) for tp in tp_sizes]
    equal = [Split(tp, 1, there // tp) for tp in tp_sizes if there // tp > width]
    most = there // width
    copies = [Split(tp, most // tp, width) for tp in tp_sizes if most // tp > 1]
    return list(dict.fromkeys([*single, *equal, *copies]))


def is_oversubscribed(split: Split, machine: Machine) -> bool:
    """Return whether there are more threads than cores; such a run only checks that it works."""
    return split.cores > len(machine.devices)


def devices_of(split: Split, machine: Machine) -> list[tuple[int, ...]]:
    """Return the devices of each replica, shared only if the machine is oversubscribed."""
    each = split.tp_size * (split.threads or 1)
    there = machine.devices
    return [
        tuple(dict.fromkeys(there[(r * each + i) % len(there)] for i in range(each)))
        for r in range(split.replicas)
    ]


def busy_ranks(split: Split, concurrency: int) -> int:
    """Return the number of ranks with work at a load; a replica without requests is idle."""
    return split.tp_size * min(split.replicas, concurrency)
