"""The answer of `shardwise simulate`, as plain data and as text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardwise.errors import InputError
from shardwise.evidence.record import Deployment
from shardwise.hardware.catalogue import default_catalogue
from shardwise.simulator.capacity import highest_rate, highest_trace_rate
from shardwise.simulator.compiling import HAS_NUMBA, INSTALL
from shardwise.simulator.fleet import Group, make_group
from shardwise.simulator.results import LATENCIES, Result
from shardwise.simulator.simulate import Failure
from shardwise.simulator.simulate import simulate as run
from shardwise.simulator.trace_file import read_trace
from shardwise.simulator.traffic import Lengths, Trace, Traffic, draw
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


def _price(groups: list[Group], given: float | None) -> float | None:
    if given is not None:
        return given
    price = default_catalogue().price(groups[0].deployment.gpu)
    same = len({group.deployment.gpu for group in groups}) == 1
    return price.usd_per_hour if price and same else None


def _latencies(runs: tuple[Result, Result, Result], warmup_s: float) -> dict[str, Any]:
    """Percentiles of the run, with those of the faster and the slower one as interval."""
    out: dict[str, Any] = {}
    for name in LATENCIES:
        mid, fast, slow = (one.percentiles(name, warmup_s) for one in runs)
        out[name] = {
            f"p{at:g}": {"value": value, "lo": fast.values[at], "hi": slow.values[at]}
            for at, value in mid.values.items()
        } | {"mean": mid.mean, "n": mid.n}
    return out


def _rate_held(groups: list[Group], asked: Asked, trace: Trace) -> float:
    if asked.trace is not None:
        return highest_trace_rate(groups, trace, policy=asked.policy, seed=asked.seed)
    return highest_rate(groups, _traffic(asked), policy=asked.policy, seed=asked.seed)


def answer(deployments: list[Deployment], asked: Asked) -> dict[str, Any]:
    """Simulate and gather what the command prints."""
    groups = [make_group(deployment) for deployment in deployments]
    trace = read_trace(asked.trace) if asked.trace else draw(_traffic(asked), asked.seed)

    def once(log_factor: float) -> Result:
        scaled = [g.slower(math.exp(log_factor * g.half_widths["tpot_s"])) for g in groups]
        return run(
            scaled,
            trace,
            policy=asked.policy,
            concurrency=asked.concurrency or 0,
            failures=asked.failures,
            seed=asked.seed,
        )

    runs = once(0.0), once(-1.0), once(1.0)
    result, slo = runs[0], Slo(ttft_s=asked.ttft, tpot_s=asked.tpot)
    price = _price(groups, asked.usd_per_gpu_hour)
    line = result.timeline()
    found: dict[str, Any] = {
        "kind": "simulated",
        "deployment": [
            f"{g.deployment.model} {g.deployment.weight_dtype} on {g.deployment.gpu}, "
            f"{g.deployment.replicas} x TP={g.deployment.tp_size}, {g.deployment.engine}"
            for g in groups
        ],
        "source": "; ".join(dict.fromkeys(group.note for group in groups)),
        "requests": len(trace),
        "outcomes": result.outcomes(),
        "request_rate": trace.request_rate if not asked.concurrency else None,
        "latency": _latencies(runs, asked.warmup),
        "output_tok_s": result.output_tok_s(asked.warmup),
        "goodput": result.goodput(slo, asked.warmup),
        "usd_per_million_good_tok": (
            None if price is None else result.usd_per_million_good_tok(slo, price, asked.warmup)
        ),
        "preemptions": result.preemptions,
        "queue_mean": float(line.waiting.mean()),
        "queue_peak": float(line.waiting.max()),
        "kv_share_peak": float(line.kv_share.max()),
        "recovery_s": result.recovery_s(),
        "overloaded": result.overloaded,
        "compiled": HAS_NUMBA,
        "seed": asked.seed,
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


def render(found: dict[str, Any]) -> str:
    """The answer as lines of text."""
    lines = [*found["deployment"], f"simulated; {found['source']}"]
    if not found["compiled"]:
        lines.append(f"not compiled, so slower: {INSTALL}")
    outcomes = ", ".join(f"{n} {name}" for name, n in found["outcomes"].items() if n)
    rate = found["request_rate"]
    offered = f", {rate:.3g} requests/s offered" if rate else ""
    lines.append(f"{found['requests']} requests: {outcomes}{offered}")
    lines.append(f"{'':10}{'p50':>26}{'p90':>26}{'p99':>26}{'n':>8}")
    for name, label, factor in (
        ("ttft_s", "TTFT ms", 1e3),
        ("tpot_s", "TPOT ms", 1e3),
        ("e2e_latency_s", "E2E s", 1.0),
    ):
        values = found["latency"][name]
        cells = "".join(f"{_with_interval(values[f'p{at}'], factor):>26}" for at in (50, 90, 99))
        lines.append(f"{label:10}{cells}{values['n']:>8}")
    cost = found["usd_per_million_good_tok"]
    lines.append(
        f"output {found['output_tok_s']:.0f} tok/s, goodput {found['goodput']:.3g} requests/s"
        + (f", {cost:.3g} USD per million good tokens" if cost is not None else "")
    )
    lines.append(
        f"queue mean {found['queue_mean']:.1f}, peak {found['queue_peak']:.0f}; KV cache peak "
        f"{100 * found['kv_share_peak']:.0f} %; {found['preemptions']} preemptions"
    )
    if found["recovery_s"] is not None:
        back = found["recovery_s"]
        text = "not within the run" if math.isinf(back) else f"{back:.0f} s after the failure"
        lines.append(f"TTFT back to normal: {text}")
    return "\n".join(lines)


def _with_interval(value: dict[str, float], factor: float) -> str:
    mid, lo, hi = (value[key] * factor for key in ("value", "lo", "hi"))
    return f"{mid:.3g} [{lo:.3g}, {hi:.3g}]"
