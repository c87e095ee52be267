"""A Grafana dashboard of the deployment's metrics endpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shardwise.hosting.deployment_file import DeploymentFile
from shardwise.hosting.launching import Launch


def _quantile(q: float, name: str) -> str:
    rate = f"rate({name}_bucket[1m])"
    return f"histogram_quantile({q}, sum by (le, replica) ({rate}))"


_PANELS = [
    ("Replicas ready", "shardwise_replica_up", "none"),
    ("Requests per second", "sum by (replica) (rate(shardwise_requests_total[1m]))", "reqps"),
    ("TTFT, median", _quantile(0.5, "shardwise_ttft_seconds"), "s"),
    ("TTFT, p95", _quantile(0.95, "shardwise_ttft_seconds"), "s"),
    ("Between two tokens, median", _quantile(0.5, "shardwise_itl_seconds"), "s"),
    ("TPOT (vLLM), median", _quantile(0.5, "shardwise_tpot_seconds"), "s"),
    ("Running", "shardwise_requests_running", "none"),
    ("Waiting", "shardwise_requests_waiting", "none"),
    ("Output tokens per second", "rate(shardwise_output_tokens_total[1m])", "none"),
    ("Restarts", "shardwise_replica_restarts", "none"),
]


def write(file: DeploymentFile, made: Sequence[Launch]) -> dict[str, str]:  # noqa: ARG001
    """Return dashboard.json. On import, Grafana asks for the Prometheus data source."""
    source = {"type": "prometheus", "uid": "${prometheus}"}
    panels: list[dict[str, Any]] = []
    for number, (title, query, unit) in enumerate(_PANELS):
        panels.append(
            {
                "id": number + 1,
                "title": title,
                "type": "timeseries",
                "datasource": source,
                "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
                "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                "targets": [
                    {
                        "refId": "A",
                        "datasource": source,
                        "expr": query,
                        "legendFormat": "{{replica}}",
                    }
                ],
            }
        )
    dashboard = {
        "title": f"{file.name}: replicas",
        "uid": f"shardwise-{file.name}"[:40],
        "schemaVersion": 39,
        "time": {"from": "now-15m", "to": "now"},
        "refresh": "5s",
        "templating": {
            "list": [
                {
                    "name": "prometheus",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                }
            ]
        },
        "panels": panels,
    }
    return {"dashboard.json": json.dumps(dashboard, indent=2) + "\n"}
