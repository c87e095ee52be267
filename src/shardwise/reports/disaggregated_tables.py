"""Format the verdict on disaggregated prefill and decode as text and for JSON."""

from __future__ import annotations

import math
from typing import Any

from shardwise.hardware.gpu import Gpu
from shardwise.perfmodel.pools import TRANSFER_SHARE
from shardwise.planner.disaggregated import RATIO_WIDTH, Point, Verdict
from shardwise.reports.numbers import quantity
from shardwise.units import GB


def link_of(gpu: Gpu) -> str:
    """Describe the link between two GPUs of a node and the share that transfers are assumed to
    reach."""
    rate = gpu.interconnect.peer_bandwidth(2) / GB
    return (
        f"{gpu.interconnect.technology} ({rate:,.0f} GB/s between two GPUs, "
        f"{TRANSFER_SHARE:.0%} of it assumed)"
    )


def disaggregated_lines(found: Verdict, link: str) -> list[str]:
    """Return the verdict with its reason, the values of the pools, and their uncertainty.

    `link` describes the link between two GPUs of the node.
    """
    because = {"for you": "", "measure it": "", "not for you": ", because"}[found.answer]
    joined = f"{because} " if because else ": "
    lines = [f"Disaggregated prefill and decode: {found.answer}{joined}{found.reason}."]
    if found.best is None:
        return lines
    lines.append(_numbers(found.best, link))
    lines.append(
        "No calibration row has disaggregated pools, so the gain has an assumed error of "
        f"{100 * (math.exp(RATIO_WIDTH) - 1):.0f} % either way. If that decides, the verdict is "
        "'measure it'. The commands below are for the aggregated layout."
    )
    return lines


def _numbers(best: Point, link: str) -> str:
    v = best.values
    return (
        f"{best.pools.name}, the best pair of pools: TTFT {quantity(v['ttft_s'], 's')}, TPOT "
        f"{quantity(v['tpot_s'], 's')}, E2E latency {quantity(v['e2e_latency_s'], 's')}, "
        f"{quantity(v['output_tok_s'], 'output tok/s')} with {best.in_flight:,.0f} in flight. "
        f"Sending "
        f"a prompt's KV cache, {best.transfer_bytes / GB:.2g} GB per decode GPU, takes "
        f"{best.transfer_s * 1e3:.3g} ms over {link}."
    )


def disaggregated_document(found: Verdict, link: str) -> dict[str, Any]:
    """Return the verdict for JSON, in SI units."""
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
