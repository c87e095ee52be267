"""Find the cheapest deployment that sustains a request rate: TP x replicas x GPU kind, simulated.

The planner enumerates what can run; the simulator evaluates it under arrivals, because percentiles
of a queue have no closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise import metrics
from shardwise.errors import DoesNotFitError, InputError, NothingMeetsError
from shardwise.evidence.record import Evidence, Interval
from shardwise.layout.deployment import Deployment, Dtypes
from shardwise.layout.nodes import nodes_of
from shardwise.planner.candidates import Option, Rejected, enumerate_candidates
from shardwise.planner.operating_point import limits_of, load_candidates
from shardwise.planner.question import Question
from shardwise.simulator.capacity import Target, highest_rate, holds
from shardwise.simulator.evidence import Simulated, evidence, simulate_thrice
from shardwise.simulator.fleet import Group, group_of
from shardwise.simulator.simulate import simulate
from shardwise.simulator.traffic import Lengths, Traffic, draw
from shardwise.workload.workload import Slo

REQUESTS: Final = 2000  #: counted in a run, so that 20 lie above the 99th percentile
SOJOURNS: Final = 4.0  #: latencies that a run lasts at least, so that a queue has time to grow
MAX_SEQS: Final = 512  #: more in flight than a node's replica serves within interactive bounds
FINALISTS: Final = 6
COARSE: Final = 0.05  #: precision of an interval's ends

Progress = Callable[[str, int, int], None]


class Finalist(msgspec.Struct, frozen=True):
    """The fewest replicas of a TP that sustain the rate. `evidence` is simulated at that rate."""

    question: Question
    evidence: Evidence
    usd_per_hour: float | None  #: of the GPUs used; None without a price
    rate_held: Interval  #: requests/s
    certain: bool  #: whether it also holds with every step at the slow end of its interval

    @property
    def deployment(self) -> Deployment:
        """The simulated deployment."""
        return self.evidence.deployment

    @property
    def cost(self) -> float:
        """USD per hour, or GPUs without a price."""
        return self.deployment.gpus if self.usd_per_hour is None else self.usd_per_hour


class SloSearch(msgspec.Struct, frozen=True):
    """Deployments that meet the bounds, cheapest first, and the reasons of the others."""

    targets: tuple[Target, ...]
    finalists: tuple[Finalist, ...]
    rejected: tuple[tuple[str, Rejected], ...]  #: GPU id and what was rejected on it

    @property
    def best(self) -> Finalist:
        """The recommended finalist."""
        return self.finalists[0]


class _Held(msgspec.Struct, frozen=True):
    """A layout on a GPU with the fewest replicas that meet the bounds."""

    question: Question
    group: Group
    usd_per_hour: float | None

    @property
    def cost(self) -> float:
        gpus = self.group.deployment.gpus
        return gpus if self.usd_per_hour is None else self.usd_per_hour


def hold(
    questions: Sequence[Question],
    targets: Sequence[Target],
    *,
    seed: int = 0,
    progress: Progress = lambda _what, _done, _total: None,
) -> SloSearch:
    """Find the deployments of one model that meet the bounds, cheapest first.

    `questions` ask for the same model and rate, each on its own kind of GPU. Raises
    NothingMeetsError naming the nearest, DoesNotFitError, or InputError.
    """
    _check(questions)
    possible: list[tuple[Question, Option]] = []
    rejected: list[tuple[str, Rejected]] = []
    for q in questions:
        fitting, against = _worth_simulating(q)
        possible += [(q, option) for option in fitting]
        rejected += [(q.node.gpu.id, r) for r in against]
    found: list[_Held] = []
    # the compiled loop holds no lock, so threads run on as many cores
    with ThreadPoolExecutor() as pool:
        tried = pool.map(lambda pair: _fewest_replicas(pair[0], pair[1], targets, seed), possible)
        for done, (pair, held) in enumerate(zip(possible, tried, strict=True), 1):
            progress(f"simulated {pair[1]} on {pair[0].node.gpu.id}", done, len(possible))
            if isinstance(held, _Held):
                found.append(held)
            else:
                rejected.append((pair[0].node.gpu.id, held))
        if not found:
            _explain(questions, rejected)
        found = sorted(found, key=lambda h: h.cost)[:FINALISTS]
        finalists = []
        for done, one in enumerate(pool.map(lambda h: _finalist(h, targets, seed), found), 1):
            progress(f"the rate that {_name(one.deployment)} holds", done, len(found))
            finalists.append(one)
    finalists.sort(key=lambda f: (f.cost, -f.rate_held.value))
    return SloSearch(tuple(targets), tuple(finalists), tuple(rejected))


def _check(questions: Sequence[Question]) -> None:
    for q in questions:
        if q.demand.request_rate is None:
            raise InputError("percentile bounds without a rate", remedy="add --request-rate")
        if q.usd_per_gpu_hour is None and len(questions) > 1:
            raise InputError(
                f"no price of {q.node.gpu.id} to compare it with the others by",
                remedy="add one in a file given with --catalogue",
            )


def _worth_simulating(q: Question) -> tuple[list[Option], list[Rejected]]:
    """Without PP within a node, those that fit and that the closed form does not already know to be
    too slow."""
    possible, rejected = enumerate_candidates(q)
    possible = [s for s in possible if _looked_at(q, s)]
    rejected = [r for r in rejected if _looked_at(q, r.option)]
    fitting: list[Option] = []
    for dtype in q.dtypes():
        loaded, against = load_candidates(q, [s for s in possible if s.weight_dtype == dtype])
        fitting += [x.option for x in loaded]
        rejected += against
    return fitting, rejected


def _looked_at(q: Question, option: Option) -> bool:
    layout = option.layout
    return layout.pp_size == 1 or nodes_of(layout, q.node.gpus_per_node) > 1


def _deployment(q: Question, option: Option, replicas: int) -> Deployment:
    subject = q.subject(option.weight_dtype)
    return Deployment(
        model=q.arch.id,
        gpu=q.node.gpu.id,
        layout=replace(option.layout, replicas=replicas),
        limits=limits_of(q, MAX_SEQS, q.context),
        dtypes=Dtypes(weight=subject.weight_dtype, kv=subject.kv_dtype),
        engine=q.engine,
        engine_version=q.engine_version,
        speculation=q.speculation,
    )


def _traffic(q: Question, group: Group) -> tuple[Traffic, float]:
    """What arrives at a replica of `group`'s kind, and the warm-up, in seconds.

    A run is long against the latency under a full batch, or an overload would not show in it.
    """
    rate = q.demand.request_rate
    assert rate is not None
    full = min(group.max_num_seqs, group.kv_capacity_tokens // (q.demand.isl + q.demand.osl) + 1)
    sojourn_s = q.demand.osl * float(group.table.decode[min(full, 64)])
    duration_s = sojourn_s + max(REQUESTS / rate, SOJOURNS * sojourn_s)
    cached = q.demand.cached_tokens
    cv = q.demand.length_cv
    lengths = Lengths(q.demand.isl - cached, cv), Lengths(q.demand.osl, cv)
    traffic = Traffic(rate, *lengths, duration_s, prefixes=int(cached > 0), prefix_tokens=cached)
    return traffic.within(group.longest), sojourn_s


def _with_replicas(group: Group, replicas: int) -> Group:
    return replace(group, deployment=group.deployment.with_layout(replicas=replicas))


def _fewest_replicas(
    q: Question, option: Option, targets: Sequence[Target], seed: int
) -> _Held | Rejected:
    """By bisection: what holds with some replicas holds with more."""
    most = option.layout.replicas
    try:
        group = group_of(q.subject(option.weight_dtype), _deployment(q, option, most))
    except DoesNotFitError as error:
        return Rejected(option, "memory", str(error))
    traffic, warmup_s = _traffic(q, group)
    trace = draw(traffic, seed)
    full = simulate([group], trace, seed=seed)
    if not holds(full, targets, warmup_s):
        reason = "the queue grows without end"
        if not full.overloaded:
            values = [
                (t, full.percentiles(t.metric, warmup_s, [t.percentile]).values[t.percentile])
                for t in targets
            ]
            reason = ", ".join(
                f"{label(t)} {1e3 * value:.4g} ms against {1e3 * t.bound_s:.4g} ms"
                for t, value in values
                if not value <= t.bound_s
            )
        return Rejected(option, "SLO", f"at {traffic.request_rate:g} requests/s: {reason}")
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        fewer = simulate([_with_replicas(group, middle)], trace, seed=seed)
        low, high = (low, middle) if holds(fewer, targets, warmup_s) else (middle, high)
    group = _with_replicas(group, high)
    price = q.usd_per_gpu_hour
    return _Held(q, group, None if price is None else price * group.deployment.gpus)


def _finalist(held: _Held, targets: Sequence[Target], seed: int) -> Finalist:
    q, group = held.question, held.group
    traffic, warmup_s = _traffic(q, group)
    runs: Simulated = simulate_thrice([group], draw(traffic, seed), seed=seed)
    slo = Slo(**{t.metric: t.bound_s for t in targets if t.percentile > 50})
    (record,) = evidence(runs, slo=slo, usd_per_gpu_hour=q.usd_per_gpu_hour, warmup_s=warmup_s)

    def rate_of(run: int, precision: float, start: float) -> float:
        scaled = [r.groups for r in (runs.expected, runs.fast, runs.slow)][run]
        asked = replace(traffic, request_rate=start)
        return highest_rate(
            scaled, asked, targets, warmup_s=warmup_s, seed=seed, precision=precision
        )

    rate = rate_of(0, 0.02, traffic.request_rate)
    ends = [rate_of(run, COARSE, rate) for run in (1, 2)]
    return Finalist(
        q,
        record,
        held.usd_per_hour,
        Interval(rate, min(rate, *ends), max(rate, *ends), runs.expected.percentiles("ttft_s").n),
        holds(runs.slow, targets, warmup_s),
    )


def label(target: Target) -> str:
    """`TTFT p99`, or `TTFT` for the median."""
    name = metrics.ALL[target.metric].label
    return name if target.percentile == 50 else f"{name} p{target.percentile:g}"


def _name(d: Deployment) -> str:
    return f"{Option(d.layout, f'in {d.dtypes.weight}')} on {d.gpu}"


def _explain(questions: Sequence[Question], rejected: Sequence[tuple[str, Rejected]]) -> None:
    """Raises the error that says what came nearest."""
    q = questions[0]
    where = " or ".join(f"{x.node.gpus} x {x.node.gpu.id}" for x in questions)
    what = f"no deployment of {q.arch.id} on {where} holds {q.demand.request_rate:g} requests/s"
    missing = [(gpu, r) for gpu, r in rejected if r.cause == "SLO"]
    if missing:
        gpu, near = missing[-1]
        raise NothingMeetsError(
            f"{what} within the SLO; nearest: {near.option} on {gpu}, {near.reason}; lower "
            "--request-rate or add GPUs"
        )
    slow = [(gpu, r) for gpu, r in rejected if r.cause == "overload"]
    if slow:
        gpu, most = max(slow, key=lambda pair: pair[1].request_rate)
        raise NothingMeetsError(
            f"{what}; nearest: {most.option} on {gpu} {most.reason}; lower --request-rate to "
            f"{most.request_rate:.3g} or add GPUs"
        )
    short = min((r for _, r in rejected if r.cause == "memory"), key=lambda r: r.shortfall_bytes)
    raise DoesNotFitError(f"{q.arch.id} on {where}: {short.option} is {short.reason}")
