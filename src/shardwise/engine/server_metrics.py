"""Metrics for /metrics, in Prometheus's text format."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from shardwise.engine.service import EngineClient

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServerMetrics:
    """Counters and latencies of one server. `shardwise.metrics` defines the latencies."""

    def __init__(self, client: EngineClient) -> None:
        self.kv_blocks = 1
        self._registry = registry = CollectorRegistry()
        for name, text, read in (
            ("requests_running", "Sequences in the batch", lambda: client.load.running),
            ("requests_waiting", "Sequences queued in the engine", lambda: client.load.waiting),
            ("requests_in_flight", "Requests accepted, not answered", lambda: client.in_flight),
            ("kv_blocks_used", "KV cache blocks held", lambda: client.load.kv_blocks_used),
            ("kv_blocks", "KV cache blocks in all", lambda: self.kv_blocks),
        ):
            Gauge(f"shardwise_{name}", text, registry=registry).set_function(read)
        registry.register(_Steps(client))
        self._requests = Counter(
            "shardwise_requests", "Requests by how they ended", ["outcome"], registry=registry
        )
        self._prompt_tokens = Counter(
            "shardwise_prompt_tokens", "Prompt tokens accepted", registry=registry
        )
        self._output_tokens = Counter(
            "shardwise_output_tokens", "Tokens generated", registry=registry
        )
        latencies = [("ttft", "Request to first token"), ("itl", "Between two tokens")]
        latencies.append(("e2e_latency", "Request to last token"))
        self._latency = {
            name: Histogram(
                f"shardwise_{name}_seconds", text, buckets=LATENCY_BUCKETS_S, registry=registry
            )
            for name, text in latencies
        }

    def render(self) -> bytes:
        """Return all metrics as Prometheus text."""
        text: bytes = generate_latest(self._registry)
        return text

    def refused(self) -> None:
        """Count a request answered with 429."""
        self._requests.labels("refused").inc()

    def timer(self, num_prompt: int) -> RequestTimer:
        """Count a request with its prompt tokens, and time it from now."""
        self._prompt_tokens.inc(num_prompt)
        return RequestTimer(self)

    def ended(self, outcome: str) -> None:
        """Count a request that ended with `outcome`."""
        self._requests.labels(outcome).inc()

    def observe(self, latency: str, seconds: float) -> None:
        """Record a latency (`ttft`, `itl` or `e2e_latency`) in seconds."""
        self._latency[latency].observe(seconds)

    def generated(self) -> None:
        """Count one output token."""
        self._output_tokens.inc()


class _Steps(Collector):
    """Count a step of the engine; called when its reply is read."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    def describe(self) -> Iterable[Metric]:
        return self.collect()

    def collect(self) -> Iterable[Metric]:
        steps = float(self._client.steps)
        yield CounterMetricFamily("shardwise_engine_steps", "Steps ended", value=steps)


class RequestTimer:
    """Times one request from its arrival."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics, self._start = metrics, time.perf_counter()
        self._last = 0.0

    def token(self) -> None:
        """Record TTFT at the first token and an inter-token latency at each later one."""
        now = time.perf_counter()
        if self._last:
            self._metrics.observe("itl", now - self._last)
        else:
            self._metrics.observe("ttft", now - self._start)
        self._last = now
        self._metrics.generated()

    def ended(self, outcome: str) -> None:
        """Record the end of a request; `outcome` is "finished", "cancelled" or "failed"."""
        if outcome == "finished":
            self._metrics.observe("e2e_latency", self._last - self._start)
        self._metrics.ended(outcome)
