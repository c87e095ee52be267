"""The processes of one replica: rank 0 is the caller, the others are spawned.

Rank 0 sends each command through a pipe and executes it too. A rank exits when its parent is gone.
When a spawned rank dies, rank 0 is notified at once, so it does not wait for an all-reduce that
never completes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import msgspec
import torch
import torch.distributed as dist
import torch.multiprocessing as torch_mp
from torch._C._distributed_c10d import TCPStore

from shardwise.engine.collectives import (
    AloneCollectives,
    Collectives,
    SharedBuffer,
    SharedMemoryCollectives,
    TorchCollectives,
    shared_memory_works,
)
from shardwise.engine.rank import GroupSpec, Rank
from shardwise.errors import ShardwiseError

PARENT_POLL_S = 0.2
PR_SET_PDEATHSIG = 1  #: linux/prctl.h
T = TypeVar("T")


class RankDiedError(ShardwiseError):
    """A rank process has died, so the replica cannot continue."""

    exit_code = 1


class RankGroup:
    """`tp_size` ranks; this process is rank 0. Commands run on all ranks in the same order.

    `on_death` is called with one line from a monitoring thread and may end the process, as the
    server does. By default the next command raises RankDiedError.
    """

    def __init__(self, spec: GroupSpec, on_death: Callable[[str], None] | None = None) -> None:
        self.spec = spec
        self._died = ""
        self._closing = False
        self._on_death = on_death
        self._threads_before = torch.get_num_threads()
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        if spec.tp_size == 1:
            self.local = Rank(spec, 0, AloneCollectives())
            return
        buffer = None
        if spec.all_reduce == "shared_memory" or (
            spec.all_reduce == "auto" and spec.device == "cpu" and shared_memory_works()
        ):
            buffer = SharedBuffer.create(spec.tp_size, spec.slot_bytes)
        # an ephemeral port on the loopback interface; spawned ranks inherit the interface name
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
        store = TCPStore("127.0.0.1", 0, spec.tp_size, is_master=True, wait_for_workers=False)
        context = torch_mp.get_context("spawn")
        for tp_rank in range(1, spec.tp_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_rank_main,
                args=(_Seat(spec, tp_rank, store.port, buffer, os.getpid()), theirs),
                name=f"tp-rank-{tp_rank}",
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            _join_group(spec, 0, store)
        except RuntimeError as e:
            self._raise_if_died(e)
            raise
        self.local = Rank(spec, 0, _collectives(0, buffer, self._raise_if_died))

    @property
    def pids(self) -> list[int]:
        """Process ids of the spawned ranks, rank 1 first."""
        return [process.pid for process in self._processes]

    def run(self, command: str, *args: Any) -> Any:
        """Run `Rank.command(*args)` on every rank; return rank 0's result."""
        try:
            for pipe in self._pipes:
                pipe.send((command, args))
            return getattr(self.local, command)(*args)
        except (OSError, RuntimeError) as e:
            # a socket broken by a peer's death is noticed before the watcher sees the death
            deadline = time.monotonic() + 0.5
            while self._processes and not self._died and time.monotonic() < deadline:
                time.sleep(0.01)
            self._raise_if_died(e)
            raise

    def collect(self, work: Callable[..., T], *args: Any) -> list[T]:
        """Run `work(rank, *args)` on every rank; return all results in rank order.

        `work` must be a module-level function, so that spawned ranks can import it.
        """
        mine: T = self.run("call", work, args)
        return [mine, *(pipe.recv() for pipe in self._pipes)]

    def close(self) -> None:
        """Stop the spawned ranks. Safe to call twice."""
        self._closing = True
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=2)
            if process.is_alive():
                process.kill()
                process.join()
        if self._processes:
            dist.destroy_process_group()
        self._pipes, self._processes = [], []
        torch.set_num_threads(self._threads_before)

    def _raise_if_died(self, cause: Exception | None = None) -> None:
        if self._died:
            raise RankDiedError(self._died) from cause

    def _watch(self) -> None:
        sentinels: dict[Any, Any] = {process.sentinel: process for process in self._processes}
        gone = wait(list(sentinels))
        if self._closing:
            return
        process = sentinels[gone[0]]
        process.join()
        self._died = f"{process.name} (pid {process.pid}) died, exit code {process.exitcode}"
        if self._on_death:
            self._on_death(self._died)


def _collectives(
    tp_rank: int, buffer: SharedBuffer | None, check: Callable[[], None]
) -> Collectives:
    return SharedMemoryCollectives(buffer, tp_rank, check) if buffer else TorchCollectives()


def _join_group(spec: GroupSpec, tp_rank: int, store: TCPStore) -> None:
    dist.init_process_group(
        "nccl" if spec.device == "cuda" else "gloo",
        store=store,
        rank=tp_rank,
        world_size=spec.tp_size,
        timeout=timedelta(seconds=120),
    )


class _Seat(msgspec.Struct, frozen=True):
    """Arguments of a spawned rank."""

    spec: GroupSpec
    tp_rank: int
    port: int
    buffer: SharedBuffer | None
    parent_pid: int


def _rank_main(seat: _Seat, commands: Connection) -> None:
    """Main function of a spawned rank: join, then run rank 0's commands until the pipe closes."""
    # Ctrl-C and a service manager's SIGTERM reach every process, but only rank 0 decides to stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent(seat.parent_pid)
    store = TCPStore("127.0.0.1", seat.port, seat.spec.tp_size, is_master=False)
    _join_group(seat.spec, seat.tp_rank, store)
    rank = Rank(seat.spec, seat.tp_rank, _collectives(seat.tp_rank, seat.buffer, lambda: None))
    while True:
        try:
            command, args = commands.recv()
        except EOFError:
            break
        result = getattr(rank, command)(*args)
        if command == "call":
            commands.send(result)
    dist.destroy_process_group()


def end_with_parent(parent_pid: int) -> None:
    """Kill this process soon after its parent `parent_pid` has ended for any reason.

    On Linux the kernel does it, even if this process is stopped (SIGSTOP). The parent is the thread
    that started the process, so that thread must outlive its children.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(PARENT_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
