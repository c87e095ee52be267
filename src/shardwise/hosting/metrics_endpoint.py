"""One Prometheus endpoint for the deployment: metrics of each replica under common names."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from shardwise.engines import every, get
from shardwise.hosting.deployment_file import DeploymentFile
from shardwise.hosting.state import Journal, ReplicaState
from shardwise.replica.probing import request

if TYPE_CHECKING:
    from prometheus_client.core import Metric

#: reported quantities, with their common names
NAMES: Final = (*get("builtin").metrics.names, "shardwise_tpot_seconds")
#: engine's name of a quantity -> common name
_OURS: Final = {theirs: ours for engine in every() for ours, theirs in engine.metrics.names.items()}


def serve_metrics(file: DeploymentFile, journal: Journal) -> None:
    """Serve `metrics_port` in a thread, on the balancer's address."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(_Deployment(journal))
    start_http_server(file.metrics_port, addr=file.host, registry=registry)


class _Deployment:
    """Collects metrics from the replicas on each scrape."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        return []  # otherwise registering would query every replica

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily as Gauge

        with self._journal.lock:
            replicas = list(self._journal.state.replicas)
            balancer_restarts = self._journal.state.balancer_restarts
        labels = ["model", "replica"]
        is_up = Gauge("shardwise_replica_up", "1 while the replica is ready", labels=labels)
        restarts = Gauge(
            "shardwise_replica_restarts", "Restarts since it was first started", labels=labels
        )
        for replica in replicas:
            at = [replica.model, replica.replica]
            is_up.add_metric(at, float(replica.status == "ready"))
            restarts.add_metric(at, float(replica.restarts))
        balancer = Gauge("shardwise_balancer_restarts", "Restarts of the balancer")
        balancer.add_metric([], float(balancer_restarts))
        yield from (is_up, restarts, balancer)
        merged: dict[str, Metric] = {}
        with ThreadPoolExecutor(max_workers=16) as pool:
            texts = list(pool.map(lambda r: request(r.url, "/metrics")[1].decode(), replicas))
        for replica, text in zip(replicas, texts, strict=True):
            _merge(merged, replica, text)
        yield from merged.values()


def _merge(merged: dict[str, Metric], replica: ReplicaState, text: str) -> None:
    from prometheus_client.core import Metric
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(text):
        ours = _OURS.get(family.name)
        if ours is None:
            continue
        metric = merged.setdefault(ours, Metric(ours, family.documentation, family.type))
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            kept = {k: v for k, v in sample.labels.items() if k in ("le", "outcome")}
            if "finished_reason" in sample.labels:
                kept["outcome"] = sample.labels["finished_reason"]
            labels = {**kept, "model": replica.model, "replica": replica.replica}
            metric.add_sample(ours + sample.name.removeprefix(family.name), labels, sample.value)
