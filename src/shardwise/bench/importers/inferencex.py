"""InferenceX `agg_*.json`: fields of vLLM's client, with `*_ms` renamed and in seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from shardwise.bench.importers.about import Found, exactly, from_moments, number

#: Its benchmark scripts send ten prompts per slot: num-prompts = concurrency x 10.
WAVES: Final = 10


def is_inferencex(document: Mapping[str, Any]) -> bool:
    """Return whether a JSON document is a result of InferenceX."""
    return "tput_per_gpu" in document and "conc" in document


def read_inferencex(document: Mapping[str, Any]) -> Found:
    """Convert one result. Raises InputError for a missing field."""
    concurrency, tp = int(number(document, "conc")), int(number(document, "tp"))
    n = WAVES * concurrency
    metrics = {}
    for ours, theirs in (("ttft_s", "ttft"), ("tpot_s", "tpot"), ("e2e_latency_s", "e2el")):
        if f"mean_{theirs}" in document:
            spread = float(document.get(f"std_{theirs}", math.nan))
            metrics[ours] = from_moments(number(document, f"mean_{theirs}"), spread, n)
    if "output_tput_per_gpu" in document:
        metrics["output_tok_s"] = exactly(number(document, "output_tput_per_gpu") * tp, n)
    metrics["total_tok_s"] = exactly(number(document, "tput_per_gpu") * tp, n)
    return Found(
        tool="InferenceX",
        metrics=metrics,
        isl=float(document.get("isl") or 0.0),
        osl=float(document.get("osl") or 0.0),
        concurrency=concurrency,
        requests=n,
        model=str(document.get("model") or ""),
        gpu=str(document.get("hw") or "").split("-")[0].lower(),
        engine=str(document.get("framework") or "").lower(),
        tp_size=tp,
        weight_dtype=str(document.get("precision") or "").lower(),
        notes=(
            "times are vLLM's in seconds, throughput is per GPU times TP",
            f"n taken as {WAVES} requests a slot, as its scripts send",
        ),
        kind="published",
    )
