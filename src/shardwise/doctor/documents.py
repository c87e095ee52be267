"""A diagnosis as plain data for --json."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import asdict

from shardwise.doctor.diagnosis import MESSAGES, Diagnosis, Verdict
from shardwise.doctor.startup_check import Comparison
from shardwise.node.node import Node
from shardwise.node.reading.startup import Startup


def diagnosis_document(
    found: Diagnosis, engines: Sequence[str], compared: Sequence[Comparison]
) -> dict[str, object]:
    """Return the output of `doctor` as data: sizes in bytes, times in seconds."""
    reading = found.reading
    nccl = reading.nccl
    return {
        "source": reading.source,
        "versions": dict(reading.versions),
        "node": node_document(reading.node) if reading.node is not None else None,
        "verdicts": [_verdict(verdict, engines) for verdict in found.verdicts],
        "nccl": {"ranks": nccl.ranks, "transports": nccl.transports} if nccl else None,
        "startups": [startup_document(start) for start in reading.startups],
        "predicted": [asdict(comparison) for comparison in compared],
        "findings": [asdict(finding) for finding in found.findings],
        "failed": [asdict(gpu) for gpu in reading.failed],
        "problems": [asdict(problem) for problem in reading.problems],
    }


def node_document(node: Node) -> dict[str, object]:
    """Return a node for JSON: devices, links and peer access."""
    return {
        "devices": [asdict(device) for device in node.devices],
        "links": {f"{a}-{b}": link.code for (a, b), link in sorted(node.links.items())},
        "peer_access": {f"{a}-{b}": yes for (a, b), yes in sorted(node.peer_access.items())},
        "host": {
            **asdict(node.host),
            "numa_cpus": {str(k): v for k, v in node.host.numa_cpus.items()},
        },
    }


def startup_document(start: Startup) -> dict[str, object]:
    """Return the contents of a start-up log for JSON."""
    names = (
        "engine", "version", "model", "tp_size", "tp_at_least", "weights_bytes", "kv_bytes",
        "kv_tokens", "concurrency", "concurrency_len", "max_model_len", "tokens_follow_concurrency",
        "graph_bytes", "graph_estimate_bytes", "graph_estimate_deducted", "activation_bytes",
        "non_torch_bytes", "total_bytes", "gpu_memory_utilization", "left_bytes", "kv_dtype",
        "custom_all_reduce", "all_reduce", "nodes", "first_line", "last_line",
    )  # fmt: skip
    found: dict[str, object] = {name: getattr(start, name) for name in names}
    return {**found, "failure": asdict(start.failure) if start.failure else None}


def _verdict(verdict: Verdict, engines: Sequence[str]) -> dict[str, object]:
    slowest = verdict.best.slowest
    return {
        "tp_size": verdict.tp_size,
        "groups": [list(group.devices) for group in verdict.groups],
        "ring": list(verdict.best.ring),
        "slowest": slowest.code if slowest else None,
        "crosses_numa": verdict.best.crosses_numa,
        "engines": [
            {
                **asdict(verdict.all_reduces[i]),
                "seconds": {str(tokens): verdict.seconds(i, tokens) for _, tokens in MESSAGES},
                "sources": [f"{c.grade}: {c.source}" for c in verdict.costs[i]],
            }
            for i, _ in enumerate(engines)
        ],
    }
