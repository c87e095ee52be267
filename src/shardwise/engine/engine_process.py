"""Run the engine in a separate process, so that HTTP does not delay steps."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from shardwise.engine.engine import Engine
from shardwise.engine.options import EngineOptions
from shardwise.engine.ranks import RankDiedError, end_with_parent
from shardwise.errors import InputError, ShardwiseError


class EngineInfo(msgspec.Struct, frozen=True):
    """Description of a loaded engine."""

    max_model_len: int
    vocab_size: int
    dtype: str
    device: str
    kv_blocks: int
    pids: list[int]  #: of the ranks, rank 0 first


class Load(msgspec.Struct, frozen=True):
    """Load of the engine after a step."""

    running: int = 0
    waiting: int = 0
    kv_blocks_used: int = 0


class Refused(msgspec.Struct, frozen=True):
    """Why the engine refused a request."""

    request_id: str
    message: str


def engine_main(
    path: Path, options: EngineOptions, commands: Connection, replies: Connection, parent_pid: int
) -> None:
    """Main function of rank 0's process: execute `commands` until the pipe closes or sends stop.

    Each direction has a separate pipe with blocking reads and writes of whole messages.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the server decides when to stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent(parent_pid)
    try:
        engine = Engine(path, options, on_death=_die)
    except ShardwiseError as e:
        replies.send(e)
        return
    blocks = engine.scheduler.allocator.num_blocks
    pids = [os.getpid(), *engine.group.pids]
    device = engine.options.device
    vocab_size = engine.config.vocab_size
    replies.send(EngineInfo(engine.max_model_len, vocab_size, engine.dtype, device, blocks, pids))
    try:
        _step_until_stopped(engine, commands, replies)
    except (EOFError, BrokenPipeError):
        pass  # the server process is gone
    except RankDiedError as e:
        _die(str(e))
    except Exception as e:  # noqa: BLE001 - out of memory, a bug: either way nobody can go on
        traceback.print_exc()
        _die(f"a step failed: {type(e).__name__}: {e}")
    finally:
        engine.close()


def _step_until_stopped(engine: Engine, commands: Connection, replies: Connection) -> None:
    scheduler = engine.scheduler
    while _take_commands(engine, commands, replies):
        outputs = engine.step()
        used = scheduler.allocator.num_blocks - scheduler.allocator.num_free
        replies.send((outputs, Load(len(scheduler.running), len(scheduler.waiting), used)))


def _die(message: str) -> None:
    """Exit immediately: the main thread may be waiting for a dead peer."""
    sys.stderr.write(f"shardwise engine: {message}; the replica is going down\n")
    sys.stderr.flush()
    os._exit(1)


def _take_commands(engine: Engine, commands: Connection, replies: Connection) -> bool:
    """Run the waiting commands, or wait for one if idle; return False to stop."""
    while not engine.has_work or commands.poll():
        command, *args = commands.recv()
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
            replies.send(Refused(args[0], str(e)))
    return True
