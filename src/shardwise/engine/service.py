"""The engine in its own process, so that HTTP never holds up a step, and the server's end of it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from shardwise.engine.engine import Engine, Output
from shardwise.engine.options import EngineOptions
from shardwise.engine.ranks import RankDiedError, end_with_parent
from shardwise.engine.scheduler import SamplingParams
from shardwise.errors import InputError, ShardwiseError


@dataclass(frozen=True)
class EngineInfo:
    """What a loaded engine says of itself."""

    max_model_len: int
    vocab_size: int
    dtype: str
    device: str
    kv_blocks: int
    pids: list[int]  #: of the ranks, 0 first


@dataclass(frozen=True)
class Load:
    """How busy the engine is after a step."""

    running: int = 0
    waiting: int = 0
    kv_blocks_used: int = 0


@dataclass(frozen=True)
class Refused:
    """Why the engine could not take a request."""

    request_id: str
    message: str


def engine_main(path: Path, options: EngineOptions, pipe: Connection, parent_pid: int) -> None:
    """Rank 0's process: serve what comes down `pipe` until it closes or says stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # stopping is the server's to decide
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent(parent_pid)
    try:
        engine = Engine(path, options, on_death=_die)
    except ShardwiseError as e:
        pipe.send(e)
        return
    scheduler = engine.scheduler
    blocks = scheduler.allocator.num_blocks
    device = engine.options.device
    pids = [os.getpid(), *engine.group.pids]
    pipe.send(
        EngineInfo(
            engine.max_model_len, engine.config.vocab_size, engine.dtype, device, blocks, pids
        )
    )
    try:
        while _take_commands(engine, pipe):
            outputs = engine.step()
            used = blocks - scheduler.allocator.num_free
            pipe.send((outputs, Load(len(scheduler.running), len(scheduler.waiting), used)))
    except (EOFError, BrokenPipeError):
        pass  # the server is gone
    except RankDiedError as e:
        _die(str(e))
    finally:
        engine.close()


def _die(message: str) -> None:
    """The main thread may be waiting for a dead peer: leave without it."""
    sys.stderr.write(f"shardwise engine: {message}; the replica is going down\n")
    sys.stderr.flush()
    os._exit(1)


def _take_commands(engine: Engine, pipe: Connection) -> bool:
    """Runs the commands that wait, or waits for one while idle; False: stop."""
    while not engine.has_work or pipe.poll():
        command, *args = pipe.recv()
        if command == "stop":
            return False
        if command == "cancel":
            engine.cancel(args[0])
            if not engine.has_work:
                return True  # report the freed blocks
            continue
        try:
            engine.add(*args)
        except InputError as e:
            pipe.send(Refused(args[0], str(e)))
    return True


class EngineDownError(ShardwiseError):
    """The engine's process is gone."""

    exit_code = 1


class EngineClient:
    """The server's end: requests in, tokens out to one queue each, on the running event loop."""

    def __init__(self, on_down: Callable[[str], None]) -> None:
        self.load = Load()
        self.down = ""  #: why the engine is gone; empty while it runs
        self._on_down = on_down
        self._streams: dict[str, asyncio.Queue[Output | ShardwiseError]] = {}
        self._outbox: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()

    @property
    def in_flight(self) -> int:
        return len(self._streams)

    async def start(self, path: Path, options: EngineOptions) -> EngineInfo:
        """Spawns the engine and waits until it is loaded. Raises what made it fail."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=engine_main, args=(path, options, theirs, os.getpid()), name="shardwise-engine"
        )
        self._process.start()
        theirs.close()
        loop = asyncio.get_running_loop()
        try:
            first = await loop.run_in_executor(None, self._pipe.recv)
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise EngineDownError(f"the engine ended while loading, exit code {code}") from None
        if isinstance(first, ShardwiseError):
            raise first
        assert isinstance(first, EngineInfo)
        loop.add_reader(self._pipe.fileno(), self._receive)
        threading.Thread(target=self._send, daemon=True).start()
        return first

    def submit(
        self, request_id: str, prompt: list[int], params: SamplingParams
    ) -> asyncio.Queue[Output | ShardwiseError]:
        """Queues a request; its tokens, or the error that ends it, come on the queue."""
        stream: asyncio.Queue[Output | ShardwiseError] = asyncio.Queue()
        self._streams[request_id] = stream
        if self.down:
            stream.put_nowait(EngineDownError(self.down))
        self._outbox.put(("add", request_id, prompt, params))
        return stream

    def release(self, request_id: str, finished: bool) -> None:
        """The client has all it wanted, or has left."""
        self._streams.pop(request_id, None)
        if not finished:
            self._outbox.put(("cancel", request_id))

    def stop(self) -> None:
        """Ends the engine's process and waits for it."""
        if not self.down:
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
        self._outbox.put(("stop",))
        self._outbox.put(None)
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send(self) -> None:
        # a long prompt fills the pipe until the engine's step ends; the event loop must not wait
        while (message := self._outbox.get()) is not None:
            try:
                self._pipe.send(message)
            except OSError:
                return

    def _receive(self) -> None:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            self._lost()
            return
        if isinstance(message, Refused):
            self._deliver(message.request_id, InputError(message.message))
            return
        outputs, self.load = message
        for output in outputs:
            self._deliver(output.request_id, output)

    def _deliver(self, request_id: str, item: Output | ShardwiseError) -> None:
        if stream := self._streams.get(request_id):
            stream.put_nowait(item)

    def _lost(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pipe.fileno())
        self._process.join(timeout=1)
        self.down = f"the engine process died, exit code {self._process.exitcode}"
        for stream in self._streams.values():
            stream.put_nowait(EngineDownError(self.down))
        self._on_down(self.down)
