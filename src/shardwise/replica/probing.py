"""HTTP probes of a replica: health, completions, requests in flight."""

from __future__ import annotations

import http.client
import json
import re
import socket
from typing import Any, Final
from urllib.parse import urlsplit

from shardwise.errors import InputError

LAST_PORT: Final = 65535
#: Gauges whose sum is the number of requests in flight, by engine.
IN_FLIGHT: Final = {
    "builtin": ("shardwise_requests_in_flight",),
    "vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting"),
    "sglang": ("sglang:num_running_reqs", "sglang:num_queue_reqs"),
}

#: Counters that increase while an engine works. vLLM counts steps as observations of a histogram.
PROGRESS: Final = (
    "shardwise_engine_steps_total",
    "vllm:iteration_tokens_total_count",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "sglang:prompt_tokens_total",
    "sglang:generation_tokens_total",
)

_SAMPLE: Final = re.compile(r"([\w:]+)(?:\{.*\})? ([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)$")


def request(
    url: str,
    path: str,
    body: Any = None,
    method: str = "",
    key: str = "",
    timeout_s: float = 2.0,
) -> tuple[int, bytes]:
    """Return status and body; (0, b"") if there is no answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = json.dumps(body) if body is not None else None
    try:
        connection.request(method or ("POST" if data else "GET"), path, data, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def healthy(url: str) -> bool:
    """Return whether `GET /health` answers 200."""
    return request(url, "/health")[0] == 200


def complete(
    url: str, name: str, task: str = "generate", key: str = "", timeout_s: float = 60.0
) -> str:
    """Request one completion (or embedding); return "" on success, else the answer."""
    body: dict[str, Any]
    if task == "embed":
        path, body, found = "/v1/embeddings", {"model": name, "input": "1"}, "data"
    else:
        # token ids, which also work for a model without a tokenizer
        path, found = "/v1/completions", "choices"
        body = {"model": name, "prompt": [1, 2, 3], "max_tokens": 1, "temperature": 0}
    status, answer = request(url, path, body, key=key, timeout_s=timeout_s)
    try:
        good = status == 200 and bool(json.loads(answer)[found])
    except (ValueError, KeyError, TypeError):
        good = False
    return "" if good else f"{path} answered {status}: {answer[:200].decode(errors='replace')}"


def in_flight(url: str, engine: str) -> int | None:
    """Return the accepted but unanswered requests, from the engine's metrics; None if it has
    none."""
    names = IN_FLIGHT.get(engine)
    total = _sum(url, names) if names else None
    return None if total is None else int(total)


def progress(url: str) -> float | None:
    """Return a counter that grows while the engine works, from its metrics; None if it has none."""
    return _sum(url, PROGRESS)


def _sum(url: str, names: tuple[str, ...]) -> float | None:
    """Return the sum of these samples on /metrics; None if there are none."""
    status, text = request(url, "/metrics")
    if status != 200:
        return None
    total, found = 0.0, False
    for line in text.decode(errors="replace").splitlines():
        match = _SAMPLE.match(line)
        if match and match[1] in names:
            total, found = total + float(match[2]), True
    return total if found else None


def require_port(port: int) -> None:
    """Raise InputError for a number that no port has."""
    if not 1 <= port <= LAST_PORT:
        raise InputError(f"port is {port}", f"allowed: 1 to {LAST_PORT}", field="port")


def port_in_use(host: str, port: int) -> bool:
    """Return whether another process listens on `port`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
