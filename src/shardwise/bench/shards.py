"""Distribute a load over several processes.

Each process takes every n-th request, opens its connections and reports ready. Then all start at
the same time on CLOCK_MONOTONIC, which is shared by all processes of a machine.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

from msgspec.structs import replace

from shardwise.bench.client import run_load
from shardwise.bench.load import Load, Run
from shardwise.bench.target import Target
from shardwise.errors import InputError
from shardwise.evidence.request import RequestRecord

STREAMS_A_PROCESS: Final = 512  #: at 100 tokens/s each they use half a core (benchmarks/client.py)
_START_AFTER_S: Final = 0.05  #: delay of the start after the last process is ready
_REPORT_EVERY_S: Final = 0.25

OnProgress = Callable[[int], None]  #: (requests completed so far)


def processes_for(concurrency: int) -> int:
    """Return the number of processes: one per STREAMS_A_PROCESS, leaving one core free."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(math.ceil(concurrency / STREAMS_A_PROCESS), (cores or 1) - 1))


def run_sharded(
    target: Target,
    load: Load,
    on_progress: OnProgress | None = None,
    processes: int | None = None,
) -> Run:
    """Send `load` to `target` from `processes` processes (None: `processes_for` its concurrency).

    `on_progress` is called from time to time with the number of completed requests. If a process
    dies, its records are lost and `Run.problems` reports it; the others' records are kept.
    """
    count = processes_for(load.concurrency) if processes is None else processes
    if count < 1:
        raise InputError(f"{count} load processes", "allowed: at least 1")
    count = min(count, load.concurrency, len(load.requests))
    if count == 1:
        return _run_here(target, load, on_progress)
    context = multiprocessing.get_context("spawn")
    shards: list[_Shard] = []
    try:
        for number in range(count):
            ours, theirs = context.Pipe()
            part = _part(load, number, count)
            process = context.Process(target=_shard, args=(theirs, target, part), daemon=True)
            shards.append(_Shard(number, process, ours))
            with _without_ctrl_c():
                process.start()
            theirs.close()
        return _gather(shards, on_progress or (lambda _: None))
    finally:
        for shard in shards:
            if shard.process.pid is not None:
                shard.process.kill()
                shard.process.join()
            shard.pipe.close()


@dataclass
class _Shard:
    number: int
    process: BaseProcess
    pipe: Connection
    started: bool = False
    ended: int = 0
    run: Run | None = None
    problem: str = ""

    def receive(self) -> None:
        """Receive one message: a count of completed requests, a Run, or an InputError."""
        try:
            message: Any = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(1.0)
            code = self.process.exitcode
            self.problem = f"load process {self.number} died (exit code {code}), with its records"
            return
        if isinstance(message, InputError):
            raise message
        if isinstance(message, Run):
            self.run = message
        else:
            self.ended = int(message)


def _run_here(target: Target, load: Load, on_progress: OnProgress | None) -> Run:
    ended, told_s = 0, time.monotonic()

    def count(_: RequestRecord) -> None:
        nonlocal ended, told_s
        ended += 1
        if on_progress is not None and time.monotonic() - told_s > _REPORT_EVERY_S:
            told_s = time.monotonic()
            on_progress(ended)

    return run_load(target, load, count)


def _part(load: Load, number: int, count: int) -> Load:
    """Return every `count`-th request starting at `number`, with its share of the concurrency."""
    concurrency = load.concurrency // count + (number < load.concurrency % count)
    due_s = None if load.due_s is None else load.due_s[number::count]
    return replace(
        load,
        requests=load.requests[number::count],
        asked=load.asked[number::count],
        concurrency=concurrency,
        due_s=due_s,
    )


def _shard(pipe: Connection, target: Target, load: Load) -> None:
    """Run one process: send ready, receive the start time, send counts and the Run."""
    told_s = time.monotonic()
    ended = 0

    def count(_: RequestRecord) -> None:
        nonlocal ended, told_s
        ended += 1
        if time.monotonic() - told_s > _REPORT_EVERY_S:
            told_s = time.monotonic()
            pipe.send(ended)

    async def wait_to_start() -> float:
        loop = asyncio.get_running_loop()
        start: asyncio.Future[float] = loop.create_future()

        def receive() -> None:
            try:
                start.set_result(float(pipe.recv()))
            except (EOFError, ConnectionResetError):  # the parent process is gone
                os._exit(1)

        loop.add_reader(pipe.fileno(), receive)
        pipe.send(0)
        return await start

    try:
        pipe.send(run_load(target, load, count, wait_to_start))
    except InputError as error:
        pipe.send(error)


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Block SIGINT. Processes started in the block keep it blocked; this one forwards it."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt like SIGINT. No-op in a thread (no signals there)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    former = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)


def _gather(shards: list[_Shard], on_progress: OnProgress) -> Run:
    interrupted = False
    waiting = list(shards)
    unready = set(range(len(shards)))
    with terminable():
        while waiting:
            try:
                readable = wait([shard.pipe for shard in waiting])
                for shard in [s for s in waiting if s.pipe in readable]:
                    shard.receive()
                    unready.discard(shard.number)
                    if shard.run is not None or shard.problem:
                        waiting.remove(shard)
                    if not unready:
                        _start(shards)
                        on_progress(sum(s.ended for s in shards))
            except KeyboardInterrupt:
                interrupted = True
                for shard in waiting:
                    shard.process.terminate()
    return _merge(shards, len(shards), interrupted)


def _start(shards: list[_Shard]) -> None:
    start_s = time.monotonic() + _START_AFTER_S
    for shard in shards:
        if not shard.started and not shard.problem and shard.run is None:
            shard.started = True
            with suppress(BrokenPipeError):  # it just died; `receive` detects that
                shard.pipe.send(start_s)


def _merge(shards: list[_Shard], count: int, interrupted: bool) -> Run:
    records: list[RequestRecord] = []
    lags_s: array[float] = array("d")
    runs = [shard.run for shard in shards if shard.run is not None]
    # a process that has not started yet has no results to lose
    problems = [s.problem for s in shards if s.problem and (s.started or not interrupted)]
    if not runs and not interrupted:
        raise InputError("every load process died", remedy="; ".join(problems))
    for shard in shards:
        if shard.run is None:
            continue
        for record in shard.run.records:
            record.index = record.index * count + shard.number
            records.append(record)
        lags_s.extend(shard.run.lags_s)
    records.sort(key=lambda record: record.index)
    return Run(
        records=records,
        started_s=min((run.started_s for run in runs), default=math.nan),
        ended_s=max((run.ended_s for run in runs), default=math.nan),
        cpu_s=sum(run.cpu_s for run in runs),
        lags_s=lags_s,
        interrupted=interrupted or any(run.interrupted for run in runs),
        processes=count,
        cpu_share=max((run.cpu_share for run in runs), default=math.nan),
        problems=problems,
    )
