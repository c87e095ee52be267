"""The answer of `shardwise simulate`, as plain data, as tables and as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from shardwise.cli.simulate_options import session_traffic, stages_of, with_caching
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence
from shardwise.hardware.catalogue import Catalogue, Price
from shardwise.layout.deployment import Deployment
from shardwise.metrics import ALL, GOOD_COST, RECOVERY, percentile_name
from shardwise.perfmodel.profiles import load_profile
from shardwise.perfmodel.subject import catalogue_for
from shardwise.reports.decision_tables import ranked_table
from shardwise.reports.prices import price_note
from shardwise.reports.table import Column, Table
from shardwise.simulator.capacity import highest_rate, highest_trace_rate
from shardwise.simulator.compiling import HAS_NUMBA, INSTALL
from shardwise.simulator.evidence import evidence, simulate_thrice, timeline
from shardwise.simulator.fleet import Failure, Group, make_group
from shardwise.simulator.results import LATENCIES, PERCENTILES
from shardwise.simulator.sessions import draw_sessions
from shardwise.simulator.trace import Trace
from shardwise.simulator.trace_file import read_lengths, read_trace, with_lengths
from shardwise.simulator.traffic import Lengths, Traffic, draw, in_stages
from shardwise.workload.workload import Slo

WAVES = 10  #: requests of each client of a closed loop
FEW = 10  #: requests beyond the 99th percentile, below which it is mostly chance


class Asked(msgspec.Struct, frozen=True):
    """The command's options."""

    trace: Path | None
    hash_block: int | None
    rate: float | None
    stage: tuple[str, ...]
    concurrency: int | None
    arrivals: Any
    isl: float
    osl: float
    length_cv: float
    lengths: Path | None
    duration: float
    warmup: float
    turns: float | None
    think: float
    prefix_tokens: int
    prefixes: int
    policy: str
    failures: tuple[Failure, ...]
    ttft: float | None
    tpot: float | None
    usd_per_gpu_hour: float | None
    seed: int
    profile: str
    catalogue_files: tuple[Path, ...]
    no_prefix_caching: bool


def _traffic(asked: Asked, groups: Sequence[Group]) -> Traffic:
    closed = asked.concurrency
    lengths = Lengths(asked.isl, asked.length_cv), Lengths(asked.osl, asked.length_cv)
    if asked.stage:
        traffic = in_stages(stages_of(asked.stage), *lengths, arrivals=asked.arrivals)
    else:
        rate = asked.rate if asked.rate is not None else float((closed or 1) * WAVES)
        duration_s = 1.0 if closed else asked.duration
        traffic = Traffic(rate, *lengths, duration_s, asked.arrivals)
    traffic = replace(traffic, prefixes=asked.prefixes, prefix_tokens=asked.prefix_tokens)
    longest = min(group.longest for group in groups)
    mean = asked.isl + asked.osl + asked.prefix_tokens
    if mean > longest:
        raise InputError(
            f"requests of {mean:,.0f} tokens on average",
            f"allowed: up to {longest:,}, the model's context and what the KV cache holds",
            "shorten --isl and --osl",
        )
    return traffic.within(longest)


def _trace(asked: Asked, groups: Sequence[Group]) -> Trace:
    if asked.trace is not None:
        trace = read_trace(asked.trace, asked.hash_block)
    elif asked.turns is not None:
        if asked.rate is None:
            raise InputError("--turns without --rate", "needed: the rate at which sessions begin")
        if asked.lengths is not None:
            raise InputError("--turns with --lengths", "allowed: one of both")
        trace = draw_sessions(session_traffic(asdict(asked), asked.rate), asked.seed)
    else:
        trace = draw(_traffic(asked, groups), asked.seed)
    if asked.lengths is not None:
        trace = with_lengths(trace, read_lengths(asked.lengths), asked.seed)
    return trace


def price_of(groups: Sequence[Group], given: float | None, catalogue: Catalogue) -> Price | None:
    """The price of every GPU: as given, or the catalogue's where all are of a kind."""
    same = len({group.deployment.gpu for group in groups}) == 1
    if given is None and not same:
        return None
    return catalogue.price_used(groups[0].deployment.gpu, given)


def _rate_held(groups: list[Group], asked: Asked, trace: Trace) -> float:
    if asked.trace is not None or asked.turns is not None or asked.lengths is not None:
        return highest_trace_rate(groups, trace, policy=asked.policy, seed=asked.seed)
    return highest_rate(groups, _traffic(asked, groups), policy=asked.policy, seed=asked.seed)


def answer(deployments: list[Deployment], asked: Asked) -> dict[str, Any]:
    """Simulate and gather what the command prints."""
    catalogue = catalogue_for(asked.catalogue_files)
    profile = load_profile(asked.profile)
    groups = [
        with_caching(make_group(deployment, profile, catalogue), not asked.no_prefix_caching)
        for deployment in deployments
    ]
    trace = _trace(asked, groups)
    price = price_of(groups, asked.usd_per_gpu_hour, catalogue)
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
    counted = int(result.counted(asked.warmup).sum())
    found: dict[str, Any] = {
        "evidence": records,
        "requests": len(trace),
        "counted": counted,
        "beyond_p99": counted // 100,
        "outcomes": result.outcomes(),
        "request_rate": trace.request_rate if not asked.concurrency else None,
        "preemptions": result.preemptions,
        "cache_hit_rate": result.hit_rate(asked.warmup),
        "imbalance": result.imbalance(),
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


def tables(found: dict[str, Any]) -> list[Table]:
    """Percentiles of each group of replicas."""
    return [_percentiles(record, found) for record in found["evidence"]]


def _percentiles(record: Evidence, found: dict[str, Any]) -> Table:
    d, m, w = record.deployment, record.metrics, record.workload
    n = m["ttft_s"].n if "ttft_s" in m else 0
    beyond = n // 100
    rows = [
        {
            "metric": ALL[name].label,
            "mean": m.get(name),
            **{f"p{at:g}": m.get(percentile_name(name, at)) for at in PERCENTILES},
        }
        for name in LATENCIES
    ]
    few = "; mostly chance: run longer" if beyond < FEW else ""
    return ranked_table(
        "simulated",
        f"{d.model} {d.dtypes.weight} on {d.gpu}, {d.replicas} x {d.layout.name}, {d.engine}",
        (
            Column("", "metric", align="left"),
            Column("mean", "mean", "s"),
            *(Column(f"p{at:g}", f"p{at:g}", "s") for at in PERCENTILES),
        ),
        rows,
        (
            f"simulated, {n} requests; {record.source.name}",
            f"{w.isl:.0f} tokens in and {w.osl:.0f} out on average, their spread {w.length_cv:.2g} "
            "of the mean",
            f"the p99 stands on the {beyond} slowest requests{few}",
            "intervals: 80 %, of step times and from run to run",
            *_goods(record, bool(found["failures"])),
            *([found["price_note"]] if found["price_note"] else []),
        ),
    )


def _goods(record: Evidence, failed: bool) -> list[str]:
    m = record.metrics
    cost = m.get(GOOD_COST.name)
    lines = [
        f"output {m['output_tok_s'].value:.0f} tok/s, goodput {m['goodput'].value:.3g} requests/s"
        + (f", {cost.value:.3g} USD per million good tokens" if cost else "")
    ]
    if failed:
        back = m.get(RECOVERY.name)
        text = f"{back.value:.0f} s after the failure" if back else "not within the run"
        lines.append(f"TTFT back to normal: {text}")
    return lines


def render(found: dict[str, Any]) -> str:
    """What holds for all replicas together, as lines of text."""
    lines = []
    if not found["compiled"]:
        lines.append(f"not compiled, so slower: {INSTALL}")
    outcomes = ", ".join(f"{n} {name}" for name, n in found["outcomes"].items() if n)
    rate = found["request_rate"]
    offered = f", {rate:.3g} requests/s offered" if rate else ""
    lines.append(f"{found['requests']} requests: {outcomes}{offered}")
    lines.append(
        f"prefix cache: {100 * found['cache_hit_rate']:.0f} % of prompt tokens found; the busiest "
        f"replica took {found['imbalance']:.2f} times the mean"
    )
    lines.append(
        f"queue mean {found['queue_mean']:.1f}, peak {found['queue_peak']:.0f}; KV cache peak "
        f"{100 * found['kv_share_peak']:.0f} %; {found['preemptions']} preemptions"
    )
    return "\n".join(lines)
