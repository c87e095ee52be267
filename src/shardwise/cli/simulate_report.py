"""The answer of `shardwise simulate`, as plain data and as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardwise.errors import InputError
from shardwise.evidence.record import Evidence, Interval
from shardwise.hardware.catalogue import Price, default_catalogue
from shardwise.layout.deployment import Deployment
from shardwise.metrics import GOOD_COST, RECOVERY, percentile_name
from shardwise.reports.prices import price_note
from shardwise.simulator.capacity import highest_rate, highest_trace_rate
from shardwise.simulator.compiling import HAS_NUMBA, INSTALL
from shardwise.simulator.evidence import evidence, simulate_thrice, timeline
from shardwise.simulator.fleet import Failure, Group, make_group
from shardwise.simulator.trace import Trace
from shardwise.simulator.trace_file import read_trace
from shardwise.simulator.traffic import Lengths, Traffic, draw
from shardwise.workload.workload import Slo

WAVES = 10  #: requests of each client of a closed loop


@dataclass(frozen=True)
class Asked:
    """The command's options."""

    trace: Path | None
    rate: float | None
    concurrency: int | None
    arrivals: Any
    isl: float
    osl: float
    length_cv: float
    duration: float
    warmup: float
    policy: str
    failures: tuple[Failure, ...]
    ttft: float | None
    tpot: float | None
    usd_per_gpu_hour: float | None
    seed: int


def _traffic(asked: Asked) -> Traffic:
    closed = asked.concurrency
    if closed is not None and not 1 <= closed <= 1_000_000:
        raise InputError(f"concurrency is {closed}", "allowed: 1 to 1000000")
    return Traffic(
        request_rate=asked.rate if asked.rate is not None else float((closed or 1) * WAVES),
        isl=Lengths(asked.isl, asked.length_cv),
        osl=Lengths(asked.osl, asked.length_cv),
        duration_s=1.0 if closed else asked.duration,
        arrivals=asked.arrivals,
    )


def _price(groups: list[Group], given: float | None) -> Price | None:
    """The price of every GPU simulated; None where kinds differ and the user gave none."""
    same = len({group.deployment.gpu for group in groups}) == 1
    if given is None and not same:
        return None
    return default_catalogue().price_used(groups[0].deployment.gpu, given)


def _rate_held(groups: list[Group], asked: Asked, trace: Trace) -> float:
    if asked.trace is not None:
        return highest_trace_rate(groups, trace, policy=asked.policy, seed=asked.seed)
    return highest_rate(groups, _traffic(asked), policy=asked.policy, seed=asked.seed)


def answer(deployments: list[Deployment], asked: Asked) -> dict[str, Any]:
    """Simulate and gather what the command prints."""
    groups = [make_group(deployment) for deployment in deployments]
    trace = read_trace(asked.trace) if asked.trace else draw(_traffic(asked), asked.seed)

    price = _price(groups, asked.usd_per_gpu_hour)
    runs = simulate_thrice(
        groups,
        trace,
        policy=asked.policy,
        concurrency=asked.concurrency or 0,
        failures=asked.failures,
        seed=asked.seed,
    )
    result = runs.expected
    records = evidence(
        runs,
        slo=Slo(ttft_s=asked.ttft, tpot_s=asked.tpot),
        usd_per_gpu_hour=price.usd_per_hour if price else None,
        warmup_s=asked.warmup,
    )
    line = result.timeline()
    found: dict[str, Any] = {
        "evidence": records,
        "requests": len(trace),
        "outcomes": result.outcomes(),
        "request_rate": trace.request_rate if not asked.concurrency else None,
        "preemptions": result.preemptions,
        "queue_mean": float(line.waiting.mean()),
        "queue_peak": float(line.waiting.max()),
        "kv_share_peak": float(line.kv_share.max()),
        "timeline": timeline(result),
        "failures": len(asked.failures),
        "overloaded": result.overloaded,
        "compiled": HAS_NUMBA,
        "seed": asked.seed,
        "price_note": price_note(price),
    }
    if result.overloaded:
        held = _rate_held(groups, asked, trace)
        found["rate_held"] = held
        found["overload"] = (
            f"overload: {trace.request_rate:.3g} requests/s make the queue grow without end, up to "
            f"{line.waiting.max():.0f} requests here; "
            + (f"{held:.3g} requests/s hold" if held else "no rate holds with every request done")
        )
    return found


def require_answers(found: dict[str, Any]) -> None:
    """Raise InputError where nothing was answered that could be looked at."""
    if not found["outcomes"].get("done"):
        said = ", ".join(f"{n} {name}" for name, n in found["outcomes"].items() if n)
        raise InputError(
            f"no request was answered: {said} of {found['requests']}",
            remedy="shorten --isl and --osl to what the model and the KV cache hold",
        )
    if not any("ttft_s" in record.metrics for record in found["evidence"]):
        raise InputError("no request ended after the warm-up", remedy="shorten --warmup")


def render(found: dict[str, Any]) -> str:
    """The answer as lines of text."""
    lines = []
    if not found["compiled"]:
        lines.append(f"not compiled, so slower: {INSTALL}")
    outcomes = ", ".join(f"{n} {name}" for name, n in found["outcomes"].items() if n)
    rate = found["request_rate"]
    offered = f", {rate:.3g} requests/s offered" if rate else ""
    lines.append(f"{found['requests']} requests: {outcomes}{offered}")
    for record in found["evidence"]:
        lines += _record(record, bool(found["failures"]))
    lines += [found["price_note"]] if found["price_note"] else []
    lines.append(
        f"queue mean {found['queue_mean']:.1f}, peak {found['queue_peak']:.0f}; KV cache peak "
        f"{100 * found['kv_share_peak']:.0f} %; {found['preemptions']} preemptions"
    )
    return "\n".join(lines)


def _record(record: Evidence, failed: bool) -> list[str]:
    d, m = record.deployment, record.metrics
    pp = f" x PP={d.pp_size}" if d.pp_size > 1 else ""
    n = m["ttft_s"].n if "ttft_s" in m else 0
    lines = [
        f"{d.model} {d.dtypes.weight} on {d.gpu}, {d.replicas} x TP={d.tp_size}{pp}, {d.engine}",
        f"simulated; {record.source.name}",
        f"{f'n = {n}':10}{'p50':>26}{'p90':>26}{'p99':>26}",
    ]
    for name, label, factor in (
        ("ttft_s", "TTFT ms", 1e3),
        ("tpot_s", "TPOT ms", 1e3),
        ("e2e_latency_s", "E2E s", 1.0),
    ):
        cells = [_with_interval(m.get(percentile_name(name, at)), factor) for at in (50, 90, 99)]
        lines.append(f"{label:10}{''.join(f'{cell:>26}' for cell in cells)}")
    cost = m.get(GOOD_COST.name)
    lines.append(
        f"output {m['output_tok_s'].value:.0f} tok/s, goodput {m['goodput'].value:.3g} requests/s"
        + (f", {cost.value:.3g} USD per million good tokens" if cost else "")
    )
    if failed:
        back = m.get(RECOVERY.name)
        text = f"{back.value:.0f} s after the failure" if back else "not within the run"
        lines.append(f"TTFT back to normal: {text}")
    return lines


def _with_interval(value: Interval | None, factor: float) -> str:
    if value is None:
        return "–"
    return f"{value.value * factor:.3g} [{value.lo * factor:.3g}, {value.hi * factor:.3g}]"
