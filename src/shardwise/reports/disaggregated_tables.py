"""The verdict on disaggregated prefill and decode, in words and for JSON."""

from __future__ import annotations

import math
from typing import Any

from shardwise.hardware.gpu import Gpu
from shardwise.perfmodel.pools import TRANSFER_SHARE
from shardwise.planner.disaggregated import RATIO_WIDTH, Point, Verdict
from shardwise.reports.numbers import quantity
from shardwise.units import GB


def link_of(gpu: Gpu) -> str:
    """How two GPUs of a node reach each other, and what of it transfers are taken to reach."""
    rate = gpu.interconnect.peer_bandwidth(2) / GB
    return (
        f"{gpu.interconnect.technology} ({rate:,.0f} GB/s between two GPUs, "
        f"{TRANSFER_SHARE:.0%} of it assumed)"
    )


def disaggregated_lines(found: Verdict, link: str) -> list[str]:
    """The answer with its reason, the pools' numbers, and how far to trust them.

    `link` says how GPUs of the node reach each other.
    """
    because = {"for you": "", "measure it": "", "not for you": ", because"}[found.answer]
    joined = f"{because} " if because else ": "
    lines = [f"Disaggregated prefill and decode: {found.answer}{joined}{found.reason}."]
    if found.best is None:
        return lines
    lines.append(_numbers(found.best, link))
    lines.append(
        "No row is of disaggregated pools: what they gain is taken to be "
        f"{100 * (math.exp(RATIO_WIDTH) - 1):.0f} % off either way, and where that decides, the "
        "answer is 'measure it'. The commands below are the aggregated layout's."
    )
    return lines


def _numbers(best: Point, link: str) -> str:
    v = best.values
    return (
        f"{best.pools.name}, the best of its kind: TTFT {quantity(v['ttft_s'], 's')}, TPOT "
        f"{quantity(v['tpot_s'], 's')}, E2E latency {quantity(v['e2e_latency_s'], 's')}, "
        f"{quantity(v['output_tok_s'], 'output tok/s')} with {best.in_flight:,.0f} in flight; a "
        f"prompt's KV cache, {best.transfer_bytes / GB:.2g} GB a decode GPU, takes "
        f"{best.transfer_s * 1e3:.3g} ms over {link}."
    )


def disaggregated_document(found: Verdict, link: str) -> dict[str, Any]:
    """The same for JSON, in SI units."""
    return {
        "answer": found.answer,
        "reason": found.reason,
        "aggregated": found.aggregated.name,
        "pools": found.best,
        "gain": found.gain,
        "considered": found.considered,
        "link": link,
        "words": disaggregated_lines(found, link),
    }
