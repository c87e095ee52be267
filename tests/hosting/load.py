"""A bounded closed loop of streams, each on a connection of its own, and how each ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import msgspec


class Ended(msgspec.Struct, frozen=True):
    outcome: str  #: whole; cut (status 200, no [DONE]); refused (a status); failed (no answer)
    started_s: float
    ttft_s: float
    ended_s: float
    server: str = ""  #: what the replica says it is
    detail: str = ""


async def stream(port: int, tokens: int, name: str = "toy") -> Ended:
    """One streamed completion."""
    start = time.monotonic()
    first, server, outcome, detail = 0.0, "", "failed", ""
    body = json.dumps(
        {
            "model": name,
            "prompt": "1 2 3",
            "max_tokens": tokens,
            "stream": True,
            "ignore_eos": True,
        }
    ).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + body)
        status = (await reader.readline()).decode()
        if " 200 " not in status:
            outcome, detail = ("refused" if status else "failed"), status
        else:
            # an engine may send its headers before the first token, as vLLM does: what a balancer
            # has passed on it cannot take back, so the stream has begun
            outcome = "cut"
            while line := await reader.readline():
                if line.startswith(b"data: [DONE]"):
                    outcome = "whole"
                    break
                if line.startswith(b'data: {"error"'):
                    # smg ends a cut stream so: visible, and no [DONE] after it
                    outcome, detail = ("cut" if first else "refused"), line.decode()
                    break
                if line.startswith(b"data: {"):
                    first = first or time.monotonic()
                    text = json.loads(line[6:])["choices"][0]["text"]
                    server = server or text.strip()
    except (OSError, asyncio.IncompleteReadError) as error:
        detail = repr(error)
    finally:
        if writer:
            writer.close()
    return Ended(
        outcome, start, (first or time.monotonic()) - start, time.monotonic(), server, detail
    )


async def closed_loop(
    port: int,
    streams: int,
    requests: int,
    tokens: int,
    name: str = "toy",
    limit_s: float = 60.0,
    underway: Callable[[], None] = lambda: None,
) -> list[Ended]:
    """`requests` in all, `streams` of them in flight; hanging ones fail after `limit_s`.

    `underway` is called once, when as many have ended as are in flight: a machine of any speed is
    then in the middle of them.
    """
    left = iter(range(requests))
    ended: list[Ended] = []

    async def client() -> None:
        for _ in left:
            ended.append(await asyncio.wait_for(stream(port, tokens, name), limit_s))
            if len(ended) == streams:
                underway()

    await asyncio.gather(*(client() for _ in range(streams)))
    return ended


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
