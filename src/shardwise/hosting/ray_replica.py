"""A replica on a Ray cluster, represented by one local process: `python -m
shardwise.hosting.ray_replica`.

An actor that reserves the replica's CPUs or GPUs starts the engine on its node. This process
forwards connections to it and has the same lifetime, so it is supervised, restarted, drained and
stopped like any other replica. An actor's resources are on one node, and so are the replica's
ranks; Ray's SPREAD puts replicas on different nodes. A connection closes when the engine closes its
end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

NODE_HOST: Final = (
    "{node_host}"  #: placeholder in an engine's command line for a value known only on its node
)
NODE_PORT: Final = 65535
POLL_S: Final = 0.5
GONE_S: Final = 30.0  #: an actor that does not respond for this time is considered dead
GRACE_S: Final = 20.0


def replica_argv(
    address: str, port: int, need: tuple[int, int], env: Sequence[str], engine: Sequence[str]
) -> list[str]:
    """Return the command line of this module for `need` CPUs and GPUs and variables in `env`."""
    line = [sys.executable, "-m", "shardwise.hosting.ray_replica", address, str(port)]
    line += ["--cpus", str(need[0]), "--gpus", str(need[1])]
    return [*line, *(f"--env={name}" for name in env), "--", *engine]


class Engine:
    """The actor. It runs on the replica's node, which does not need shardwise."""

    def __init__(self, line: Sequence[str], env: Mapping[str, str]) -> None:
        import ctypes
        import socket
        import subprocess

        import ray

        self.host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = int(probe.getsockname()[1])
        known = {"{node_host}": self.host, "65535": str(self.port)}
        made = [known.get(part, part) for part in line]

        def die_with_actor() -> None:
            ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL

        self.child = subprocess.Popen(
            made,
            env={**os.environ, **env},
            start_new_session=True,
            preexec_fn=die_with_actor,  # noqa: PLW1509
        )

    def address(self) -> tuple[str, int]:
        """Return the host and port of the engine."""
        return self.host, self.port

    def exit_code(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self.child.poll()

    def stop(self, grace_s: float) -> None:
        """Terminate the engine, and kill it after `grace_s` seconds."""
        import os
        import signal
        import subprocess

        self.child.terminate()
        try:
            self.child.wait(grace_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.child.pid, signal.SIGKILL)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def relay(port: int, host: str, upstream: int) -> None:
    """Forward connections from 127.0.0.1:`port` to `host`:`upstream` forever."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(host, upstream)
        except OSError:
            writer.close()
            return
        up = asyncio.ensure_future(_pump(reader, back))
        await _pump(there, writer)  # close the connection when the engine closes its end
        up.cancel()
        back.close()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    await server.serve_forever()


def main(given: Sequence[str]) -> int:
    """Run until the engine or its node ends; return the engine's exit code, 1, or 0 on SIGTERM."""
    import ray  # type: ignore[import-not-found,import-untyped,unused-ignore]

    asked = _parsed(given)
    leaving = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leaving.set())
    ray.init(address=asked.address, logging_level="ERROR")
    env = {name: os.environ[name] for name in asked.env if name in os.environ}
    actor: Any = (
        ray.remote(Engine)
        .options(num_cpus=asked.cpus, num_gpus=asked.gpus, scheduling_strategy="SPREAD")
        .remote(asked.engine, env)
    )
    try:
        host, port = ray.get(actor.address.remote())
        print(f"on {host}:{port}", flush=True)
        passing = asyncio.run
        threading.Thread(target=passing, args=(relay(asked.port, host, port),), daemon=True).start()
        code = _watch(ray, actor, leaving)
    except ray.exceptions.RayError as error:
        print(f"the replica's node or actor ended: {error}", file=sys.stderr, flush=True)
        code = 1
    with contextlib.suppress(ray.exceptions.RayError):
        ray.kill(actor)
    return code


def _watch(ray: Any, actor: Any, leaving: threading.Event) -> int:
    while not leaving.wait(POLL_S):
        code = ray.get(actor.exit_code.remote(), timeout=GONE_S)
        if code is not None:
            print(f"the engine ended with exit code {code}", file=sys.stderr, flush=True)
            return int(code) or 1
    ray.get(actor.stop.remote(GRACE_S), timeout=GRACE_S + GONE_S)
    return 0


def _parsed(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--cpus", type=int)
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("engine", nargs="+")
    return parser.parse_args(given)


if __name__ == "__main__":
    # exit without waiting for Ray's threads, which may wait for an answer that never arrives
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
