"""A small OpenAI server with known delays, run as its own process in place of an engine.

python stand_in.py HOST PORT NAME [TTFT_S] [TPOT_S]. The first token comes after TTFT_S, the others
TPOT_S apart; headers wait for the first token. SIGTERM lets streams finish. After SIGUSR1 it hangs:
no token comes any more, while /health answers as before. After SIGUSR2 it is only busy: its counter
of tokens moves, and no completion ends.
"""

import asyncio
import json
import os
import signal
import sys
import time

HOST, PORT, NAME = sys.argv[1], int(sys.argv[2]), sys.argv[3]
TTFT_S = float(sys.argv[4]) if len(sys.argv) > 4 else 0.02
TPOT_S = float(sys.argv[5]) if len(sys.argv) > 5 else 0.01
streams: set[object] = set()
hangs, busy = asyncio.Event(), asyncio.Event()
made = [0]  # tokens


async def token(delay_s: float) -> None:
    """Return after `delay_s`, or never once it hangs."""
    await asyncio.sleep(delay_s)
    while hangs.is_set() or busy.is_set():
        await asyncio.sleep(0.1)
    made[0] += 1


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.decode().split("\r\n")
            path = lines[0].split()[1]
            sizes = [x for x in lines if x.lower().startswith("content-length:")]
            body = await reader.readexactly(int(sizes[0].split(":")[1])) if sizes else b""
            streams.add(writer)
            try:
                await answer(writer, path, body)
            finally:
                streams.discard(writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def answer(writer: asyncio.StreamWriter, path: str, body: bytes) -> None:
    if path == "/health":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return
    if path == "/metrics":
        count = made[0] + (time.monotonic_ns() if busy.is_set() else 0)
        send(writer, f"vllm:generation_tokens_total {count}\n")
        return
    if path == "/v1/models":
        send(writer, {"object": "list", "data": [{"id": NAME, "object": "model"}]})
        return
    if not body:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return
    asked = json.loads(body)
    await token(TTFT_S)
    if not asked.get("stream"):
        await asyncio.sleep(TPOT_S * asked.get("max_tokens", 1))
        send(writer, {"choices": [{"text": str(os.getpid()), "index": 0}], "model": NAME})
        return
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for number in range(asked["max_tokens"]):
        if number:
            await token(TPOT_S)
        event = {"choices": [{"text": f"{os.getpid()} ", "index": 0}], "model": NAME}
        chunk(writer, f"data: {json.dumps(event)}\n\n".encode())
        await writer.drain()
    chunk(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def send(writer: asyncio.StreamWriter, value: object) -> None:
    data = (value if isinstance(value, str) else json.dumps(value)).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(data) + data)


async def main() -> None:
    server = await asyncio.start_server(handle, HOST, PORT, backlog=1024)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, hangs.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, busy.set)
    await told.wait()
    server.close()
    while streams:
        await asyncio.sleep(0.01)


asyncio.run(main())
