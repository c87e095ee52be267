"""Receive lag: how late this process stamps what has already arrived.

A small second process writes the time into a pipe which the load client's own loop reads, in the
same way as it reads sockets. The difference of the two clocks (CLOCK_MONOTONIC is one for the whole
machine) is what the client adds to every timestamp; a server's delays are not in it.
"""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
from array import array
from time import monotonic
from typing import Final

EVERY_S: Final = 0.01
_STAMP: Final = struct.Struct("d")
_PROBE: Final = f"""
import os, struct, time
while True:
    time.sleep({EVERY_S})
    try:
        os.write(1, struct.pack("d", time.monotonic()))
    except OSError:
        break
"""


class LagProbe(asyncio.Protocol):
    """`async with LagProbe() as probe`: `probe.lags` are seconds, one for every EVERY_S."""

    def __init__(self) -> None:
        self.lags: array[float] = array("d")
        self._rest = b""
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> LagProbe:
        command = [sys.executable, "-I", "-S", "-c", _PROBE]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(lambda: self, self._process.stdout)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        now = monotonic()
        data = self._rest + data
        whole = len(data) // _STAMP.size * _STAMP.size
        self._rest = data[whole:]
        self.lags.extend(now - sent for (sent,) in _STAMP.iter_unpack(data[:whole]))
