"""The load client: sends a list of requests in one process.

Closed loop: `concurrency` requests are kept in flight. Open loop: the latency of a request starts
at its due time, so delays of the client are included.
"""

from __future__ import annotations

import asyncio
import gc
import math
import resource
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic, process_time

from shardwise.bench.lag import LagProbe
from shardwise.bench.load import Load, Run
from shardwise.bench.priority import ahead
from shardwise.bench.stream import Stream
from shardwise.bench.target import Target, tls_context
from shardwise.bench.timer import Alarm
from shardwise.errors import InputError
from shardwise.evidence.request import FailureKind, RequestRecord

_PAUSE_S = 0.05  #: after a refused connection, so that not all requests fail at once
_CONNECT_S = 10.0
_SPARE_FILES = 64  #: open files other than connections

OnRecord = Callable[[RequestRecord], None]


def run_load(
    target: Target,
    load: Load,
    on_record: OnRecord | None = None,
    wait_to_start: Callable[[], Awaitable[float]] | None = None,
) -> Run:
    """Send `load` to `target` and return every request's record, in order of the list.

    `on_record` is called when a request ends. `wait_to_start` is awaited after connections are
    opened, and returns the start time on CLOCK_MONOTONIC. After SIGINT or SIGTERM the run ends
    early and is marked as interrupted.
    """
    try:
        import uvloop
    except ImportError:
        raise InputError(
            "the load client needs uvloop, httptools and orjson",
            remedy="run: pip install 'shardwise[bench]'",
        ) from None
    _allow_files(min(load.concurrency, len(load.requests)) + _SPARE_FILES)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Client(target, load, on_record).run(wait_to_start))


def _allow_files(needed: int) -> None:
    """Raise this process's soft limit of open files to `needed`. Raises InputError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InputError(
            f"concurrency {needed - _SPARE_FILES} needs {needed} open files",
            f"allowed here: {hard}",
            "lower it, or raise the limit: ulimit -Hn",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class _Client:
    def __init__(self, target: Target, load: Load, on_record: OnRecord | None) -> None:
        self._target = target
        self._load = load
        self._on_record = on_record or (lambda _: None)
        self._next = 0
        self._records: list[RequestRecord] = []
        self._streams: set[Stream] = set()
        self._idle: list[Stream] = []
        self._tls = tls_context(target)

    async def run(self, wait_to_start: Callable[[], Awaitable[float]] | None) -> Run:
        probe = LagProbe()
        interrupted = False
        cpu_s, started_s = process_time(), monotonic()
        watch: asyncio.Task[None] | None = None
        with _interruptible(), _without_gc(), ahead():
            try:
                count = min(self._load.concurrency, len(self._load.requests))
                opened = await asyncio.gather(*(self._open() for _ in range(count)))
                self._idle = [stream for stream in opened if isinstance(stream, Stream)]
                started_s = monotonic() if wait_to_start is None else await wait_to_start()
                await asyncio.sleep(started_s - monotonic())
                watch = asyncio.create_task(self._watch_stalls())
                probe.start()
                cpu_s = process_time()
                sending = self._closed_loop if self._load.due_s is None else self._open_loop
                await sending(started_s)
            except asyncio.CancelledError:
                interrupted = True
                await self._cancel_all()
            cpu_s, ended_s = process_time() - cpu_s, monotonic()
            probe.stop()
            if watch is not None:
                watch.cancel()
            for stream in self._streams:
                stream.close()
        self._records.sort(key=lambda record: record.index)
        return Run(
            self._records,
            started_s,
            ended_s,
            cpu_s,
            probe.lags,
            interrupted,
            cpu_share=cpu_s / max(ended_s - started_s, 1e-9),
        )

    async def _cancel_all(self) -> None:
        for record in self._records:
            if math.isnan(record.done_s):  # includes requests that wait for a connection
                record.cancelled = True
        for stream in list(self._streams):
            stream.cancel()
        await asyncio.sleep(0)

    async def _closed_loop(self, started_s: float) -> None:
        slots = min(self._load.concurrency, len(self._load.requests))
        gap_s = self._load.ramp_s / slots
        await asyncio.gather(*(self._slot(started_s, i * gap_s) for i in range(slots)))

    async def _slot(self, started_s: float, first_after_s: float) -> None:
        await asyncio.sleep(first_after_s)
        deadline_s = started_s + self._load.duration_s
        while self._next < len(self._load.requests) and monotonic() < deadline_s:
            index, self._next = self._next, self._next + 1
            await self._one(index, math.nan)

    async def _open_loop(self, started_s: float) -> None:
        assert self._load.due_s is not None
        alarm = Alarm()
        sends = []
        try:
            for index, due_s in enumerate(self._load.due_s):
                if due_s > self._load.duration_s:
                    break
                await alarm.until(started_s + due_s)
                sends.append(asyncio.ensure_future(self._one(index, started_s + due_s)))
            await asyncio.gather(*sends)
        finally:
            alarm.close()

    async def _one(self, index: int, due_s: float) -> None:
        """Send request `index`. Its latency starts at `due_s`, or at sending if that is NaN."""
        record = RequestRecord(index, due_s, self._load.asked[index])
        self._records.append(record)
        stream = self._take_idle() or await self._open()
        if isinstance(stream, Stream):
            waiter = stream.start(record, self._load.requests[index])
            if math.isnan(due_s):
                record.origin_s = record.sent_s
            await waiter
            if stream.usable:
                self._idle.append(stream)
            else:
                self._streams.discard(stream)
            self._on_record(record)
        else:
            record.failure, record.detail = "refused", stream
            record.done_s = monotonic()
            if math.isnan(due_s):
                record.origin_s = record.done_s
            self._on_record(record)
            await asyncio.sleep(_PAUSE_S)

    def _take_idle(self) -> Stream | None:
        while self._idle:
            stream = self._idle.pop()
            if stream.usable:
                return stream
            self._streams.discard(stream)
        return None

    async def _open(self) -> Stream | str:
        """Return a new connection, or the reason why there is none."""
        loop = asyncio.get_running_loop()
        target = self._target
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, stream = await loop.create_connection(
                    partial(Stream, exact=self._load.exact),
                    target.host,
                    target.port,
                    ssl=self._tls,
                )
        except (OSError, TimeoutError) as error:
            return f"{target.host}:{target.port}: {error or 'no answer'}"
        self._streams.add(stream)
        return stream

    async def _watch_stalls(self) -> None:
        load = self._load
        least_s = min(load.stall_timeout_s, load.first_token_timeout_s, load.request_timeout_s)
        while True:
            await asyncio.sleep(min(least_s / 4, 1.0))
            for stream in list(self._streams):
                failure = _overdue(stream, load)
                if failure is not None:
                    stream.fail(*failure)


def _overdue(stream: Stream, load: Load) -> tuple[FailureKind, str] | None:
    """Return the limit that the current request has exceeded; None for none."""
    record = stream.record
    if record is None:
        return None
    now = monotonic()
    silent_s, whole_s = now - stream.last_event_s, now - record.sent_s
    if silent_s > load.stall_timeout_s:
        comments = stream.last_receive_s > stream.last_event_s
        what = "no event, though bytes came," if comments else "no bytes"
        return "stall", f"{what} for {silent_s:.1f} s"
    if whole_s > load.first_token_timeout_s and not record.arrivals:
        return "timeout", f"no token in {whole_s:.1f} s"
    if whole_s > load.request_timeout_s:
        return "timeout", f"{len(record.arrivals)} pieces in {whole_s:.1f} s, and no end"
    return None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGINT and SIGTERM cancel the current task, so that results so far are kept."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    former = [signal.getsignal(number) for number in signals]
    signalled = False

    def cancel_once() -> None:  # a second signal must not interrupt the cleanup after the first
        nonlocal signalled
        if not signalled:
            signalled = True
            task.cancel()

    try:
        for number in signals:
            loop.add_signal_handler(number, cancel_once)
    except (RuntimeError, ValueError):  # not in the main thread, so no signals arrive
        yield
        return
    try:
        yield
    finally:
        for number, handler in zip(signals, former, strict=True):
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextmanager
def _without_gc() -> Iterator[None]:
    """Disable garbage collection in this block. A run creates almost no cyclic garbage."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
