"""aiperf's `profile_export_aiperf.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from shardwise.bench.importers.about import Found, exactly, from_moments, number
from shardwise.errors import InputError
from shardwise.evidence.record import Interval


def is_aiperf(document: Mapping[str, Any]) -> bool:
    """Return whether a JSON document is a result of AIPerf."""
    return "aiperf_version" in document or (
        "time_to_first_token" in document and "request_latency" in document
    )


def read_aiperf(document: Mapping[str, Any]) -> Found:
    """Convert one result. Raises InputError for a missing field."""
    settings = document.get("input_config") or {}
    phase = _measured_phase(settings)
    metrics = {
        ours: _milliseconds(document, theirs)
        for ours, theirs in (
            ("ttft_s", "time_to_first_token"),
            ("tpot_s", "inter_token_latency"),
            ("e2e_latency_s", "request_latency"),
        )
        if theirs in document
    }
    n = int(number(document, "request_count", "avg"))
    metrics["output_tok_s"] = exactly(number(document, "output_token_throughput", "avg"), n)
    if "total_token_throughput" in document:
        metrics["total_tok_s"] = exactly(number(document, "total_token_throughput", "avg"), n)
    rate = phase.get("rate") or phase.get("request_rate")
    concurrency = phase.get("concurrency")
    if not concurrency and not rate:
        raise InputError("the file names neither a concurrency nor a request rate")
    models = (settings.get("models") or {}).get("items") or [{}]
    return Found(
        tool=f"aiperf {document.get('aiperf_version', '')}".strip(),
        metrics=metrics,
        isl=number(document, "input_sequence_length", "avg"),
        osl=number(document, "output_sequence_length", "avg"),
        concurrency=int(concurrency or 1),
        request_rate=float(rate) if rate else None,
        requests=n,
        model=str(models[0].get("name") or ""),
        date=str(document.get("start_time") or "")[:10],
        notes=(
            "its inter-token latency, (latency - TTFT) / (tokens - 1) of a request, is TPOT here",
            "errors inside a stream count as success there",
            "throughput is of the whole run, its beginning and end included",
        ),
    )


def _measured_phase(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the load: a list of phases, or `loadgen` in files of older versions."""
    phases = [p for p in settings.get("phases") or () if p.get("kind", "profiling") == "profiling"]
    return phases[-1] if phases else settings.get("loadgen") or {}


def _milliseconds(document: Mapping[str, Any], name: str) -> Interval:
    unit = document[name].get("unit")
    factor = {"ms": 1e-3, "s": 1.0, "us": 1e-6, "ns": 1e-9}.get(str(unit))
    if factor is None:
        raise InputError(f"{name} is in {unit!r}", "allowed: s, ms, us, ns")
    mean = number(document, name, "avg") * factor
    spread = float(document[name].get("std", math.nan)) * factor
    count = int(document[name].get("count") or number(document, "request_count", "avg"))
    return from_moments(mean, spread, count)
