"""The load client: a list of requests, sent as asked, in one process.

Closed loop: `concurrency` requests are kept in flight. Open loop: each request has a due time,
which is where its latency starts, so a request that had to wait for the client shows it.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from shardwise.bench.lag import LagProbe
from shardwise.evidence.request import RequestRecord
from shardwise.bench.stream import Stream
from shardwise.bench.target import Target
from shardwise.errors import InputError

_PAUSE_S = 0.05  #: after a refused connection, lest a server that is down uses up every request
_CONNECT_S = 10.0

OnRecord = Callable[[RequestRecord], None]


@dataclass(frozen=True)
class Load:
    """What to send: `requests` are whole HTTP requests, `asked` the tokens each asks for."""

    requests: Sequence[bytes]
    asked: Sequence[int]
    concurrency: int  #: kept in flight; in an open loop, connections opened beforehand
    due_s: Sequence[float] | None = None  #: seconds from the start, ascending; None: closed loop
    stall_timeout_s: float = 120.0
    duration_s: float = float("inf")  #: no request is sent after this
    ramp_s: float = 0.0  #: over which the slots of a closed loop start, evenly


@dataclass
class Run:
    """What came of a load. Times are seconds of CLOCK_MONOTONIC."""

    records: list[RequestRecord]
    started_s: float
    ended_s: float
    cpu_s: float  #: of the client process, user and system
    lags_s: array[float] = field(default_factory=lambda: array("d"))
    interrupted: bool = False
    processes: int = 1


def run_load(
    target: Target,
    load: Load,
    on_record: OnRecord | None = None,
    wait_to_start: Callable[[], None] | None = None,
) -> Run:
    """Send `load` to `target` and return every request's record, in order of the list.

    `on_record` is called as each request ends. `wait_to_start` blocks, once connections are open,
    until the start. Interrupted by SIGINT, the run ends early and says so.
    """
    try:
        import uvloop
    except ImportError:
        raise InputError(
            "the load client needs uvloop, httptools and orjson",
            remedy="run: pip install 'shardwise[bench]'",
        ) from None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Client(target, load, on_record).run(wait_to_start))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class _Client:
    def __init__(self, target: Target, load: Load, on_record: OnRecord | None) -> None:
        self._target = target
        self._load = load
        self._on_record = on_record or (lambda _: None)
        self._next = 0
        self._records: list[RequestRecord] = []
        self._streams: set[Stream] = set()
        self._idle: list[Stream] = []
        self._stopping = False
        self._tls = ssl.create_default_context() if target.tls else None

    async def run(self, wait_to_start: Callable[[], None] | None) -> Run:
        count = min(self._load.concurrency, len(self._load.requests))
        opened = await asyncio.gather(*(self._open() for _ in range(count)))
        self._idle = [stream for stream in opened if isinstance(stream, Stream)]
        async with LagProbe() as probe:
            if wait_to_start is not None:
                await asyncio.get_running_loop().run_in_executor(None, wait_to_start)
            probe.lags = array("d")
            cpu_s, started_s = _cpu_s(), monotonic()
            watch = asyncio.create_task(self._watch_stalls())
            interrupted = await self._send_all(started_s)
            watch.cancel()
            cpu_s, ended_s = _cpu_s() - cpu_s, monotonic()
        for stream in self._streams:
            stream.close()
        self._records.sort(key=lambda record: record.index)
        return Run(self._records, started_s, ended_s, cpu_s, probe.lags, interrupted)

    async def _send_all(self, started_s: float) -> bool:
        """Whether it was interrupted."""
        sending = self._open_loop if self._load.due_s is not None else self._closed_loop
        try:
            await sending(started_s)
        except asyncio.CancelledError:
            self._stopping = True
            for stream in list(self._streams):
                stream.cancel()
            await asyncio.sleep(0)  # lets each sender keep its record
            return True
        return False

    async def _closed_loop(self, started_s: float) -> None:
        slots = min(self._load.concurrency, len(self._load.requests))
        gap_s = self._load.ramp_s / slots
        await asyncio.gather(*(self._slot(started_s, i * gap_s) for i in range(slots)))

    async def _slot(self, started_s: float, first_after_s: float) -> None:
        await asyncio.sleep(first_after_s)
        deadline_s = started_s + self._load.duration_s
        while self._next < len(self._load.requests) and not self._stopping:
            if monotonic() >= deadline_s:
                return
            index, self._next = self._next, self._next + 1
            await self._one(index, float("nan"))

    async def _open_loop(self, started_s: float) -> None:
        assert self._load.due_s is not None
        sends = []
        for index, due_s in enumerate(self._load.due_s[: len(self._load.requests)]):
            if due_s > self._load.duration_s:
                break
            wait_s = started_s + due_s - monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            sends.append(asyncio.create_task(self._one(index, started_s + due_s)))
        await asyncio.gather(*sends)

    async def _one(self, index: int, due_s: float) -> None:
        """Send request `index`; its latency starts at `due_s`, or, where NaN, when it is sent."""
        record = RequestRecord(index, due_s, self._load.asked[index])
        self._records.append(record)
        stream = self._take_idle() or await self._open()
        if isinstance(stream, Stream):
            waiter = stream.start(record, self._load.requests[index])
            if due_s != due_s:
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
            if due_s != due_s:
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
        """A new connection, or why there is none."""
        loop = asyncio.get_running_loop()
        target = self._target
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, stream = await loop.create_connection(
                    Stream, target.host, target.port, ssl=self._tls
                )
        except (OSError, TimeoutError) as error:
            return f"{target.host}:{target.port}: {error or 'no answer'}"
        self._streams.add(stream)
        return stream

    async def _watch_stalls(self) -> None:
        limit_s = self._load.stall_timeout_s
        while True:
            await asyncio.sleep(min(limit_s / 4, 1.0))
            now = monotonic()
            for stream in list(self._streams):
                if stream.record is not None and now - stream.last_receive_s > limit_s:
                    stream.fail("stall", f"no bytes for {now - stream.last_receive_s:.1f} s")
