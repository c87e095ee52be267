"""guidellm's JSON report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from shardwise.bench.importers.about import Found, exactly, from_moments, number
from shardwise.evidence.record import Interval


def is_guidellm(document: Mapping[str, Any]) -> bool:
    """Return whether a JSON document is a result of GuideLLM."""
    return isinstance(document.get("benchmarks"), list)


def read_guidellm(document: Mapping[str, Any]) -> list[Found]:
    """Return a result for each benchmark of the report. Raises InputError for a missing field."""
    return [_read(item, _version(document)) for item in document["benchmarks"]]


def _version(document: Mapping[str, Any]) -> str:
    return str((document.get("metadata") or {}).get("guidellm_version") or "")


def _read(item: Mapping[str, Any], version: str) -> Found:
    metrics = item.get("metrics") or {}
    strategy = (item.get("config") or {}).get("strategy") or {}
    rate = strategy.get("rate")
    done = _of(metrics, "request_latency")
    errored = int((metrics.get("request_totals") or {}).get("errored") or 0)
    streams = strategy.get("streams") or strategy.get("max_concurrency")
    begun = item.get("start_time")
    return Found(
        tool=f"guidellm {version}".strip(),
        metrics={
            "ttft_s": _interval(metrics, "time_to_first_token_ms", 1e-3),
            "tpot_s": _interval(metrics, "inter_token_latency_ms", 1e-3),
            "e2e_latency_s": _interval(metrics, "request_latency", 1.0),
            "output_tok_s": exactly(_of(metrics, "output_tokens_per_second")["mean"], _n(done)),
            "total_tok_s": exactly(_of(metrics, "tokens_per_second")["mean"], _n(done)),
        },
        isl=_of(metrics, "prompt_token_count")["mean"],
        osl=_of(metrics, "output_token_count")["mean"],
        concurrency=int(streams or 1),
        request_rate=float(rate) if rate else None,
        requests=_n(done),
        date=datetime.fromtimestamp(begun, UTC).date().isoformat() if begun else "",
        notes=(
            "its inter-token latency is TPOT here; its time per output token counts TTFT in",
            *([f"{errored} requests failed"] if errored else []),
        ),
    )


def _of(metrics: Mapping[str, Any], name: str) -> dict[str, float]:
    """Return a metric over the successful requests."""
    return {key: number(metrics, name, "successful", key) for key in ("mean", "std_dev", "count")}


def _n(found: Mapping[str, float]) -> int:
    return int(found["count"])


def _interval(metrics: Mapping[str, Any], name: str, factor: float) -> Interval:
    found = _of(metrics, name)
    return from_moments(found["mean"] * factor, found["std_dev"] * factor, _n(found))
