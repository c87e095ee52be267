"""`simulate`: simulate a deployment under arriving requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from shardwise.api.hardware import all_files
from shardwise.api.result import Result
from shardwise.api.seeds import require_seed
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence
from shardwise.files import AnyPath
from shardwise.hardware.catalogue import Catalogue, Price
from shardwise.layout.deployment import Deployment
from shardwise.metrics import ALL, GOOD_COST, RECOVERY, percentile_name
from shardwise.perfmodel.profiles import Profile, load_profile
from shardwise.perfmodel.subject import catalogue_for
from shardwise.reports.decision_tables import ranked_table
from shardwise.reports.prices import price_note
from shardwise.reports.table import Column, Table
from shardwise.simulator.capacity import highest_rate, highest_trace_rate
from shardwise.simulator.closed_loop import WAVES, ClosedLoop, draw_evenly
from shardwise.simulator.compiling import HAS_NUMBA, INSTALL
from shardwise.simulator.disaggregated import Pools, make_pools, simulate_pools
from shardwise.simulator.evidence import Simulated, evidence, simulate_thrice, timeline
from shardwise.simulator.fleet import Failure, Group, fabric_of, make_group
from shardwise.simulator.results import FEW, LATENCIES, PERCENTILES
from shardwise.simulator.sessions import SessionTraffic, draw_sessions
from shardwise.simulator.trace import Ints, Trace
from shardwise.simulator.trace_file import read_lengths, read_trace, with_lengths
from shardwise.simulator.traffic import Arrivals, Lengths, Stage, Traffic, draw, in_stages
from shardwise.workload.workload import TRAFFIC_CV, Slo

DURATION_S = 600.0  #: of arrivals, if none is given


class Asked(msgspec.Struct, frozen=True):
    """The load, in seconds and tokens; exactly one of the first five is given."""

    trace_file: AnyPath | None = None
    request_rate: float | None = None  #: of sessions if `turns` is given
    stages: tuple[Stage, ...] = ()
    concurrency: int | None = None
    hash_block: int | None = None
    arrivals: Arrivals = "poisson"
    isl: float = 1000.0
    osl: float = 500.0
    length_cv: float = TRAFFIC_CV
    lengths_file: AnyPath | None = None
    duration_s: float | None = None
    warmup_s: float = 0.0
    turns: float | None = None
    think_s: float = 20.0
    prefix_tokens: int = 0
    prefixes: int = 1
    policy: str = "least_loaded"
    failures: tuple[Failure, ...] = ()
    ttft_s: float | None = None
    tpot_s: float | None = None
    usd_per_gpu_hour: float | None = None
    seed: int = 0
    profile: str = "reference"
    catalogue_files: tuple[Path, ...] = ()
    prefix_caching: bool = True
    prefill_replicas: int = 0
    prefill_tp: int | None = None
    network: str = ""
    gpus_per_node: int | None = None


def _traffic(asked: Asked, groups: Sequence[Group]) -> Traffic:
    lengths = Lengths(asked.isl, asked.length_cv), Lengths(asked.osl, asked.length_cv)
    if asked.stages:
        traffic = in_stages(list(asked.stages), *lengths, arrivals=asked.arrivals)
    else:
        rate = 1.0 if asked.request_rate is None else asked.request_rate  # none: a closed loop
        traffic = Traffic(rate, *lengths, _duration_s(asked), asked.arrivals)
    traffic = replace(traffic, prefixes=asked.prefixes, prefix_tokens=asked.prefix_tokens)
    longest = min(group.longest for group in groups)
    mean = asked.isl + asked.osl + asked.prefix_tokens
    if mean > longest:
        raise InputError(
            f"requests of {mean:,.0f} tokens on average",
            f"allowed: up to {longest:,}, the limit of the model's context and the KV cache",
            "shorten --isl and --osl",
            field="isl",
        )
    return traffic.within(longest)


def _require_effect(asked: Asked) -> None:
    """Raise InputError for arguments that have no effect with the others."""
    rate, trace = asked.request_rate is not None, asked.trace_file is not None
    for used, name, needed in (
        (asked.turns is None or rate, "turns", "request_rate"),
        (
            asked.duration_s is None or rate or asked.concurrency is not None,
            "duration_s",
            "request_rate or concurrency",
        ),
        (not asked.prefix_tokens or not trace, "prefix_tokens", "random traffic"),
        (asked.hash_block is None or trace, "hash_block", "trace_file"),
    ):
        if not used:
            raise InputError(f"{name} without {needed}", "it would have no effect", field=name)


def _duration_s(asked: Asked) -> float:
    return DURATION_S if asked.duration_s is None else asked.duration_s


def _closed_loop(asked: Asked, groups: Sequence[Group]) -> ClosedLoop | None:
    """Return the closed loop that is asked for; None if it is a rate or a trace."""
    slots = asked.concurrency
    if slots is None:
        return None
    traffic = _traffic(asked, groups)
    given = _lengths(asked)

    @cache
    def requests(n: int) -> Trace:
        trace = draw_evenly(traffic, n, WAVES * slots, asked.seed)
        return trace if given is None else with_lengths(trace, given, asked.seed)

    return ClosedLoop(slots, requests, asked.duration_s)


def _trace(asked: Asked, groups: Sequence[Group]) -> Trace:
    if asked.trace_file is not None:
        trace = read_trace(Path(asked.trace_file), asked.hash_block)
    elif asked.turns is not None:
        assert asked.request_rate is not None
        if asked.lengths_file is not None:
            raise InputError("sessions of turns with a file of lengths", "allowed: one of them")
        trace = draw_sessions(sessions_of(asked, asked.request_rate), asked.seed)
    else:
        trace = draw(_traffic(asked, groups), asked.seed)
    given = _lengths(asked)
    if given is None:
        return trace
    if asked.trace_file is not None and trace.shared is not None:
        raise InputError(
            "a file of lengths with a trace of shared prefixes", "allowed: the trace's own lengths"
        )
    return with_lengths(trace, given, asked.seed)


def _lengths(asked: Asked) -> tuple[Ints, Ints] | None:
    """Return the pairs of lengths to draw from, with shared prefixes; None if none are given."""
    if asked.lengths_file is None:
        return None
    isl, osl = read_lengths(Path(asked.lengths_file))
    return isl + asked.prefix_tokens, osl


def sessions_of(asked: Asked, rate: float) -> SessionTraffic:
    """Return sessions that start at `rate`."""
    assert asked.turns is not None
    return SessionTraffic(
        session_rate=rate,
        turns=asked.turns,
        question=Lengths(asked.isl, asked.length_cv),
        answer=Lengths(asked.osl, asked.length_cv),
        think_s=asked.think_s,
        duration_s=_duration_s(asked),
        prefixes=asked.prefixes,
        prefix_tokens=asked.prefix_tokens,
    )


def with_caching(group: Group, caching: bool) -> Group:
    """Return `group` with the engine's prefix caching on or off."""
    return replace(group, scheduling=replace(group.scheduling, prefix_caching=caching))


def price_of(groups: Sequence[Group], given: float | None, catalogue: Catalogue) -> Price | None:
    """Return the price per GPU: as given, or the catalogue's if all are of one kind."""
    same = len({group.deployment.gpu for group in groups}) == 1
    if given is None and not same:
        return None
    return catalogue.price_used(groups[0].deployment.gpu, given)


def _rate_held(groups: list[Group], asked: Asked, trace: Trace) -> float:
    if asked.trace_file is not None or asked.turns is not None or asked.lengths_file is not None:
        return highest_trace_rate(groups, trace, policy=asked.policy, seed=asked.seed)
    return highest_rate(groups, _traffic(asked, groups), policy=asked.policy, seed=asked.seed)


class Simulation(Result):
    """Results of a deployment under a load."""

    kind = "simulate"

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """One record per group of replicas: means, and percentiles under their names."""
        return tuple(self.found["evidence"])

    @property
    def overloaded(self) -> bool:
        """Whether the queue grows without bound; `found["rate_held"]` is the sustainable rate."""
        return bool(self.found["overloaded"])

    def summary(self) -> str:
        """Report requests, cache hits, queue and preemptions of all replicas together."""
        return render(self.found)

    def tables(self) -> list[Table]:
        """Return percentiles of each group of replicas."""
        return tables(self.found)

    def _answer(self) -> dict[str, Any]:
        return self.found


def simulate(
    deployments: Deployment | Sequence[Deployment],
    *,
    request_rate: float | None = None,
    concurrency: int | None = None,
    stages: Sequence[Stage] = (),
    trace_file: AnyPath | None = None,
    isl: float = 1000.0,
    osl: float = 500.0,
    length_cv: float = TRAFFIC_CV,
    arrivals: Arrivals = "poisson",
    duration_s: float | None = None,
    warmup_s: float = 0.0,
    turns: float | None = None,
    think_s: float = 20.0,
    prefix_tokens: int = 0,
    prefixes: int = 1,
    prefix_caching: bool = True,
    policy: str = "least_loaded",
    failures: Sequence[Failure] = (),
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    usd_per_gpu_hour: float | None = None,
    seed: int = 0,
    profile: str = "reference",
    catalogue_files: Sequence[AnyPath] = (),
    node_file: AnyPath | None = None,
    lengths_file: AnyPath | None = None,
    hash_block: int | None = None,
    prefill_replicas: int = 0,
    prefill_tp: int | None = None,
    network: str = "",
    gpus_per_node: int | None = None,
) -> Simulation:
    """Simulate deployments under arriving requests, three times for the interval.

    Args:
        deployments: One, or several that serve different models or kinds of GPU.
        request_rate: Requests per second; sessions per second with `turns`.
        concurrency: Requests in flight, instead of a rate.
        stages: Consecutive rates, instead of one rate.
        trace_file: Recorded arrivals and lengths, instead of a rate.
        isl: Mean input tokens of a request.
        osl: Mean output tokens of a request.
        length_cv: Standard deviation of lengths over their mean.
        arrivals: `poisson`, `bursty` or `constant`.
        duration_s: How long requests, or sessions, arrive, in seconds; None: 10 minutes, and in a
            closed loop ten requests of each client.
        warmup_s: Time at the start whose requests are left out of the results, in seconds.
        turns: Mean turns of a session; None: single requests.
        think_s: Mean time from an answer to the next turn, in seconds.
        prefix_tokens: Tokens of a system prompt that requests share.
        prefixes: Number of different system prompts.
        prefix_caching: Whether the engine keeps finished blocks.
        policy: How the balancer chooses a replica.
        failures: Replicas that are down for a time.
        ttft_s: Bound on time to first token that a good request meets, in seconds.
        tpot_s: Bound on time per output token that a good request meets, in seconds.
        usd_per_gpu_hour: Price; None takes the catalogue's.
        seed: Seed of arrivals and lengths.
        profile: Name of a profile, or a shared profile file.
        catalogue_files: TOML files with your own GPUs and prices.
        node_file: Node file that `shardwise doctor --save` wrote; its links are those of its GPU.
        lengths_file: ShareGPT file or trace to draw lengths from.
        hash_block: Tokens of one of a trace's `hash_ids`.
        prefill_replicas: Replicas that compute prompts alone; the deployment's then decode alone.
        prefill_tp: TP of those; None: the deployment's.
        network: What joins nodes, where a replica takes several: `ib-ndr`, `roce-400`, ….
        gpus_per_node: GPUs of a node; None: as many as the GPU's usual node has.

    Raises:
        InputError: An argument cannot be used, or no request was answered.
        DoesNotFitError: A deployment does not have the memory.
    """
    given = {
        "request_rate": request_rate,
        "concurrency": concurrency,
        "stages": tuple(stages) or None,
        "trace_file": trace_file,
    }
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise InputError(
            f"given: {', '.join(named) or 'no load'}", f"needed: exactly one of {', '.join(given)}"
        )
    files = all_files(catalogue_files, node_file)
    asked = Asked(
        trace_file, request_rate, tuple(stages), concurrency, hash_block, arrivals, isl, osl,
        length_cv, lengths_file, duration_s, warmup_s, turns, think_s, prefix_tokens, prefixes,
        policy, tuple(failures), ttft_s, tpot_s, usd_per_gpu_hour, seed, profile,
        files, prefix_caching, prefill_replicas, prefill_tp, network, gpus_per_node,
    )  # fmt: skip
    _require_effect(asked)
    some = [deployments] if isinstance(deployments, Deployment) else list(deployments)
    if not some:
        raise InputError("0 deployments", "needed: at least 1", field="deployments")
    require_seed(seed)
    _require_load(asked)
    found = answer(some, asked)
    _require_answers(found)
    return Simulation(found)


def answer(deployments: list[Deployment], asked: Asked) -> dict[str, Any]:
    """Simulate and collect the command's output."""
    catalogue = catalogue_for(asked.catalogue_files)
    profile = load_profile(asked.profile)
    pools = None
    if asked.prefill_replicas:
        pools = _pools(deployments, asked, profile, _catalogue(asked, deployments[0]))
        groups = pools.groups
    else:
        groups = [
            with_caching(_group(asked, d, profile), asked.prefix_caching) for d in deployments
        ]
    price = price_of(groups, asked.usd_per_gpu_hour, catalogue)
    runs, trace = _runs(asked, groups, pools)
    result = runs.expected
    records = evidence(
        runs,
        slo=Slo(ttft_s=asked.ttft_s, tpot_s=asked.tpot_s),
        usd_per_gpu_hour=price.usd_per_hour if price else None,
        warmup_s=asked.warmup_s,
    )
    line = result.timeline()
    counted = int(result.counted(asked.warmup_s).sum())
    found: dict[str, Any] = {
        "evidence": records,
        "concurrency": asked.concurrency,
        "requests": len(result.requests.arrival),
        "counted": counted,
        "beyond_p99": counted // 100,
        "outcomes": result.outcomes(),
        "request_rate": trace.request_rate if trace is not None else None,
        "preemptions": result.preemptions,
        "cache_hit_rate": result.hit_rate(asked.warmup_s),
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
        "pools": pools.name if pools is not None else None,
        "transfer_s": None,
    }
    if pools is not None and trace is not None:
        found["transfer_s"] = float(pools.transfer_s(trace.isl).mean())
    if trace is not None and result.overloaded:
        found["overload"] = (
            f"overload: at {trace.request_rate:.3g} requests/s the queue grows without bound, up "
            f"to "
            f"{line.waiting.max():.0f} requests here"
        )
        if pools is None:
            held = found["rate_held"] = _rate_held(groups, asked, trace)
            found["overload"] += (
                f"; {held:.3g} requests/s are sustainable" if held else "; no rate is sustainable"
            )
    return found


def _runs(asked: Asked, groups: list[Group], pools: Pools | None) -> tuple[Simulated, Trace | None]:
    """Return the runs, and their requests; those of a closed loop have no times."""
    policy, seed, failures = asked.policy, asked.seed, asked.failures
    loop = _closed_loop(asked, groups)
    if loop is not None:
        return loop.run_thrice(groups, policy=policy, failures=failures, seed=seed), None
    trace = _trace(asked, groups)
    if pools is not None:
        return simulate_pools(pools, trace, policy=policy, seed=seed), trace
    return simulate_thrice(groups, trace, policy=policy, failures=failures, seed=seed), trace


def _catalogue(asked: Asked, deployment: Deployment) -> Catalogue:
    """Return the catalogue for the GPU of a deployment, as its engine uses it."""
    return catalogue_for(asked.catalogue_files, deployment.gpu, deployment.engine)


def _group(asked: Asked, deployment: Deployment, profile: Profile) -> Group:
    catalogue = _catalogue(asked, deployment)
    fabric = fabric_of(asked.network, asked.gpus_per_node, deployment, catalogue)
    return make_group(deployment, profile, catalogue, fabric)


def _pools(
    deployments: Sequence[Deployment], asked: Asked, profile: Profile, catalogue: Catalogue
) -> Pools:
    """Return the requested prefill pool: other replicas of the same model.

    Raises InputError for options that pools do not support.
    """
    for name, given in (
        ("several deployments", len(deployments) > 1),
        ("a concurrency", asked.concurrency is not None),
        ("sessions", asked.turns is not None),
        ("failures", bool(asked.failures)),
        ("a network between nodes", bool(asked.network)),
    ):
        if given:
            raise InputError(
                f"prefill replicas with {name}", "allowed: requests of one model at a rate"
            )
    decode = deployments[0]
    tp_size = asked.prefill_tp or decode.tp_size
    layout = replace(decode.layout, tp_size=tp_size, replicas=asked.prefill_replicas)
    made = make_pools(replace(decode, layout=layout), decode, profile, catalogue)
    prefill, decoding = (with_caching(group, asked.prefix_caching) for group in made.groups)
    return replace(made, prefill=prefill, decode=decoding)


def require_warmup(warmup_s: float, offered_s: float = math.inf) -> None:
    """Raise InputError unless a warm-up is shorter than `offered_s`, while requests arrive."""
    if not 0 <= warmup_s < offered_s:
        most = f", below the {offered_s:g} s of arrivals" if math.isfinite(offered_s) else ""
        raise InputError(
            f"warm-up is {warmup_s:g} s", f"allowed: 0 or more{most}", field="warmup_s"
        )


def _require_load(asked: Asked) -> None:
    """Raise InputError for values that no load can have."""
    if asked.concurrency is not None and asked.concurrency < 1:
        raise InputError(
            f"concurrency is {asked.concurrency}", "allowed: 1 or more", field="concurrency"
        )
    if asked.prefill_tp is not None and not (asked.prefill_replicas and asked.prefill_tp >= 1):
        raise InputError(
            f"prefill_tp is {asked.prefill_tp} with {asked.prefill_replicas} prefill replicas",
            "allowed: 1 or more of both",
            field="prefill_tp",
        )
    lasts = asked.request_rate is not None or asked.duration_s is not None
    # the last turns of sessions come after the duration
    offered_s = _duration_s(asked) if lasts and asked.turns is None else math.inf
    if asked.stages:
        offered_s = sum(stage.duration_s for stage in asked.stages)
    offered_s = offered_s if offered_s > 0 else math.inf  # refused with the traffic
    require_warmup(asked.warmup_s, offered_s)


def _require_answers(found: dict[str, Any]) -> None:
    """Raise InputError if no request was answered after the warm-up."""
    if not found["outcomes"].get("done"):
        said = ", ".join(f"{n} {name}" for name, n in found["outcomes"].items() if n)
        raise InputError(
            f"no request was answered: {said} of {found['requests']}",
            remedy="shorten --isl and --osl to fit the model and the KV cache",
        )
    if not any("ttft_s" in record.metrics for record in found["evidence"]):
        raise InputError("no request finished after the warm-up", remedy="shorten --warmup")


def tables(found: dict[str, Any]) -> list[Table]:
    """Return percentiles of each group of replicas."""
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
    few = "; mostly noise: run longer" if beyond < FEW else ""
    return ranked_table(
        "simulated",
        f"{d.model} {d.dtypes.weight} on {d.gpu}, "
        f"{found.get('pools') or f'{d.replicas} x {d.layout.name}'}, {d.engine}",
        (
            Column("", "metric", align="left"),
            Column("mean", "mean", "s"),
            *(Column(f"p{at:g}", f"p{at:g}", "s") for at in PERCENTILES),
        ),
        rows,
        (
            f"simulated, {n} requests; {record.source.name}",
            f"mean lengths: {w.isl:.0f} input and {w.osl:.0f} output tokens, coefficient of "
            f"variation "
            f"{w.length_cv:.2g}",
            f"slowest requests that the p99 is based on: {beyond}{few}",
            "intervals: 80 %, from step times and run-to-run variation",
            *([_closed(found["concurrency"])] if found.get("concurrency") else []),
            *(
                [f"sending a prompt's KV cache takes {1e3 * found['transfer_s']:.3g} ms"]
                if found.get("pools")
                else []
            ),
            *_goods(record, bool(found["failures"]), bool(found.get("pools"))),
            *([found["price_note"]] if found["price_note"] else []),
        ),
    )


def _closed(concurrency: int) -> str:
    """Say what the figures of a closed loop cover."""
    return (
        f"closed loop: {concurrency} in flight until the last of these requests ends, so the "
        f"throughput does not include an emptying loop; latencies include the start"
    )


def _goods(record: Evidence, failed: bool, pooled: bool) -> list[str]:
    m = record.metrics
    each = " per replica" if record.deployment.replicas > 1 and not pooled else ""
    cost = m.get(GOOD_COST.name)
    lines = [
        f"output {m['output_tok_s'].value:.0f} tok/s{each}, "
        f"goodput {m['goodput'].value:.3g} requests/s"
        + (f", {cost.value:.3g} USD per million good tokens" if cost else "")
    ]
    if failed:
        back = m.get(RECOVERY.name)
        text = f"{back.value:.0f} s after the failure" if back else "not within the run"
        lines.append(f"TTFT back to normal: {text}")
    return lines


def render(found: dict[str, Any]) -> str:
    """Format the results of all replicas together as lines of text."""
    lines = []
    if not found["compiled"]:
        lines.append(f"running without compilation (slow): {INSTALL}")
    outcomes = ", ".join(f"{n} {name}" for name, n in found["outcomes"].items() if n)
    rate = found["request_rate"]
    offered = f", {rate:.3g} requests/s offered" if rate else ""
    lines.append(f"{found['requests']} requests: {outcomes}{offered}")
    lines.append(
        f"prefix cache: {100 * found['cache_hit_rate']:.0f} % of prompt tokens found; the busiest "
        f"replica got {found['imbalance']:.2f} times the mean load"
    )
    lines.append(
        f"queue mean {found['queue_mean']:.1f}, peak {found['queue_peak']:.0f}; KV cache peak "
        f"{100 * found['kv_share_peak']:.0f} %; {found['preemptions']} preemptions"
    )
    return "\n".join(lines)
