"""`vllm bench serve --save-result` (plain and detailed) and `sglang.bench_serving` JSONL.

SGLang's client is based on vLLM's. It has the same fields in milliseconds, two with other names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from shardwise.bench.importers.about import Found, exactly, from_moments, number
from shardwise.bench.statistics import mean_interval
from shardwise.errors import InputError
from shardwise.evidence.record import Interval

_IN_BAND: Final = "errors inside a stream count as success there"
_WHOLE: Final = "throughput is of the whole run, its beginning and end included"
_E2E: Final = ("e2el", "e2e_latency")


def is_vllm(document: Mapping[str, Any]) -> bool:
    """Return whether a JSON document is a result of `vllm bench serve`."""
    return "mean_ttft_ms" in document and "total_output_tokens" in document


def read_vllm(document: Mapping[str, Any]) -> Found:
    """Convert one result of either client. Raises InputError for a missing field."""
    sglang = "mean_e2e_latency_ms" in document
    completed = int(number(document, "completed"))
    if completed < 1:
        raise InputError("a result in which no request completed")
    osl = number(document, "total_output_tokens") / completed
    rate = document.get("request_rate")
    finite = isinstance(rate, int | float) and math.isfinite(rate)
    asked = document.get("max_concurrency")
    failed = int(document.get("failed") or 0)
    return Found(
        tool="sglang.bench_serving" if sglang else "vllm bench serve",
        metrics={**_latencies(document, completed), **_throughputs(document, completed)},
        isl=number(document, "total_input_tokens") / completed,
        osl=osl,
        concurrency=int(asked) if asked else int(document.get("num_prompts") or completed),
        mode="closed_loop" if asked or finite else "max_throughput",
        request_rate=float(rate) if finite and rate is not None else None,
        requests=completed,
        model=str(document.get("model_id") or ""),
        engine="sglang" if sglang else "vllm",
        date=_date(str(document.get("date") or "")),
        notes=(
            _IN_BAND,
            _WHOLE,
            "concurrency is what was asked; max_concurrent_requests overstates the peak",
            *([f"{failed} requests failed"] if failed else []),
        ),
    )


def _latencies(document: Mapping[str, Any], n: int) -> dict[str, Interval]:
    detailed = _detailed(document)
    if detailed:
        return detailed
    found = {}
    for metric, names in (("ttft_s", ("ttft",)), ("tpot_s", ("tpot",)), ("e2e_latency_s", _E2E)):
        for name in names:
            if f"mean_{name}_ms" in document:
                mean = number(document, f"mean_{name}_ms") / 1e3
                spread = float(document.get(f"std_{name}_ms", math.nan)) / 1e3
                found[metric] = from_moments(mean, spread, n)
    return found


def _detailed(document: Mapping[str, Any]) -> dict[str, Interval]:
    """Compute metrics from the lists of single requests, in seconds."""
    ttfts, itls = document.get("ttfts"), document.get("itls")
    lengths, errors = document.get("output_lens"), document.get("errors") or []
    if not (ttfts and itls and lengths):
        return {}
    good = [i for i in range(len(ttfts)) if not (i < len(errors) and errors[i])]
    if not good:
        return {}
    ttft = np.array([ttfts[i] for i in good])
    decode = np.array([float(sum(itls[i])) for i in good])
    gaps = np.array([max(int(lengths[i]) - 1, 0) for i in good])
    found = {"ttft_s": mean_interval(ttft), "e2e_latency_s": mean_interval(ttft + decode)}
    if (gaps > 0).any():
        found["tpot_s"] = mean_interval(decode[gaps > 0] / gaps[gaps > 0])
    return found


def _throughputs(document: Mapping[str, Any], n: int) -> dict[str, Interval]:
    total = "total_token_throughput" if "total_token_throughput" in document else "total_throughput"
    return {
        "output_tok_s": exactly(number(document, "output_throughput"), n),
        "total_tok_s": exactly(number(document, total), n),
    }


def _date(text: str) -> str:
    """Convert 20261123-071013 to 2026-11-23."""
    digits = text.split("-", maxsplit=1)[0]
    whole = len(digits) == 8 and digits.isdigit()
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}" if whole else ""
