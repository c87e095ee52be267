"""Routers made for LLM engines: vllm-router, and smg for prefix-aware routing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import quote

from shardwise.hosting.balancers.adapter import Balancer
from shardwise.hosting.launching import Launch
from shardwise.replica.probing import request

#: Frequent checks and fast recovery: by default a recovered worker waits more than 7 s.
_HEALTH = [
    *("--health-check-interval-secs", "1", "--health-failure-threshold", "1"),
    *("--health-success-threshold", "1", "--health-check-endpoint", "/health"),
    *("--cb-timeout-duration-secs", "1", "--cb-success-threshold", "1"),
    *("--cb-failure-threshold", "3"),
]


class VllmRouter(Balancer):
    """vllm-router. Workers are added and removed over HTTP."""

    name: ClassVar[str] = "vllm-router"
    program: ClassVar[str] = "vllm-router"
    install: ClassVar[str] = "pip install vllm-router"
    starts_before_replicas: ClassVar[bool] = False

    def argv(self, launches: Sequence[Launch]) -> list[str]:
        """Command line with the replicas that are up."""
        return [
            *(self.executable, "--host", self.front.host, "--port", str(self.front.port)),
            *("--policy", "power_of_two", "--log-level", "warning", *_HEALTH),
            *("--prometheus-port", str(_metrics_port(launches))),
            *("--worker-urls", *(launch.url for launch in launches)),
        ]

    def apply(self, launches: Sequence[Launch], running: int) -> None:  # noqa: ARG002
        """Add and remove workers until they are the replicas."""
        wanted = {launch.url for launch in launches}
        _, answer = request(self.front.url, "/list_workers", timeout_s=5.0)
        present = set(json.loads(answer or b"{}").get("urls", []))
        for url in wanted - present:
            path = f"/add_worker?url={quote(url)}"
            request(self.front.url, path, method="POST", timeout_s=30.0)
        for url in present - wanted:
            path = f"/remove_worker?url={quote(url)}"
            request(self.front.url, path, method="POST", timeout_s=30.0)


class Smg(Balancer):
    """smg with the cache_aware policy, which keeps a prefix on one worker.

    With its default thresholds, all requests would go to one worker.
    """

    name: ClassVar[str] = "smg"
    program: ClassVar[str] = "smg"
    install: ClassVar[str] = "pip install smg"
    starts_before_replicas: ClassVar[bool] = False

    def argv(self, launches: Sequence[Launch]) -> list[str]:
        """Command line with the cache-aware policy."""
        return [
            *(self.executable, "launch", "--host", self.front.host),
            *("--port", str(self.front.port), "--policy", "cache_aware"),
            *("--balance-abs-threshold", "3", "--balance-rel-threshold", "1.2"),
            *("--cache-threshold", "0.5", "--log-level", "warn", *_HEALTH),
            *("--prometheus-port", str(_metrics_port(launches))),
            *("--worker-urls", *(launch.url for launch in launches)),
        ]

    def apply(self, launches: Sequence[Launch], running: int) -> None:  # noqa: ARG002
        """Add and remove workers until they are the replicas."""
        wanted = {launch.url for launch in launches}
        _, answer = request(self.front.url, "/workers", timeout_s=5.0)
        listed = json.loads(answer or b"{}").get("workers", [])
        present = {worker["url"]: worker["id"] for worker in listed}
        for url in wanted - set(present):
            request(self.front.url, "/workers", {"url": url}, timeout_s=30.0)
        for url in set(present) - wanted:
            request(self.front.url, f"/workers/{present[url]}", method="DELETE", timeout_s=30.0)
        if set(present) != wanted:
            time.sleep(0.5)  # both take effect after they are answered


def _metrics_port(launches: Sequence[Launch]) -> int:
    """Return the metrics port, which the routers require: one below the replicas' ports."""
    return min(launch.port for launch in launches) - 1
