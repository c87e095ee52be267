"""Does the server leak or lose anything under many streams whose clients come and go?

    python benchmarks/engine_soak.py MODEL [--seconds 300] [--streams 64] [--tensor-parallel-size 2]

Starts `shardwise serve MODEL`, keeps `--streams` requests in flight, three in ten of which hang up
at a random point, and then asks: did every request that stayed get each of its tokens, are all KV
blocks free, is nothing in flight? What it teaches: a paged cache is only as good as its clean-up.
Prints one JSON line; exit 1 if anything leaked or was lost.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

SERVE = "import sys; from shardwise.cli.serve import serve; serve.main(sys.argv[1:])"
VOCABULARY = 128  #: prompts use the first ids, which every model has


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return {k: float(v) for k, v in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}


def await_health(process: subprocess.Popen[bytes], port: int) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    sys.exit("the server did not start")


def one_request(port: int, draw: random.Random) -> str:
    """How one request ended: whole, cancelled, short or failed."""
    osl = draw.randint(8, 64)
    body = {
        "prompt": [draw.randrange(VOCABULARY) for _ in range(draw.randint(4, 100))],
        "max_tokens": osl,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body))
        response = connection.getresponse()
        if response.status != 200:
            return f"status {response.status}"
        if draw.random() < 0.3:
            response.read(draw.randrange(1, 200 * osl))
            return "cancelled"
        text = response.read().decode()
        done = "data: [DONE]" in text and f'"completion_tokens":{osl},' in text
        return "whole" if done else "short"
    except (OSError, http.client.HTTPException) as e:
        return f"failed: {type(e).__name__}"
    finally:
        connection.close()


def soak(port: int, seconds: float, streams: int) -> Counter[str]:
    ended: Counter[str] = Counter()
    lock, stop_at = threading.Lock(), time.monotonic() + seconds

    def client(seed: int) -> None:
        draw = random.Random(seed)
        while time.monotonic() < stop_at:
            outcome = one_request(port, draw)
            with lock:
                ended[outcome] += 1

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description="64 streams with random cancellations")
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tensor-parallel-size", type=int, default=2)
    options = parser.parse_args()
    port = free_port()
    tp_size = str(options.tensor_parallel_size)
    command = [sys.executable, "-c", SERVE, str(options.model), "--port", str(port)]
    # fewer seats and less cache than streams, so that queueing and preemption happen too
    command += ["--tensor-parallel-size", tp_size, "--max-num-seqs", "48"]
    command += ["--kv-cache-tokens", "4096", "--max-num-batched-tokens", "256"]
    with subprocess.Popen(command) as process:
        try:
            await_health(process, port)
            ended = soak(port, options.seconds, options.streams)
            deadline = time.monotonic() + 5
            while (left := metrics(port))["shardwise_kv_blocks_used"] and (
                time.monotonic() < deadline
            ):
                time.sleep(0.1)
        finally:
            process.terminate()
        code = process.wait(timeout=60)
    result = {
        "seconds": options.seconds,
        "streams": options.streams,
        "tp_size": options.tensor_parallel_size,
        "ended": dict(ended),
        "kv_blocks_used": left["shardwise_kv_blocks_used"],
        "in_flight": left["shardwise_requests_in_flight"],
        "output_tokens": left["shardwise_output_tokens_total"],
        "exit_code": code,
    }
    print(json.dumps(result))
    clean = not (result["kv_blocks_used"] or result["in_flight"] or code)
    sys.exit(0 if clean and set(ended) <= {"whole", "cancelled"} else 1)


if __name__ == "__main__":
    main()
