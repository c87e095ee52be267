"""A simulation as evidence, with the performance model's intervals propagated through its
queues."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from shardwise import metrics
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.simulator.fleet import Failure, Group
from shardwise.simulator.results import LATENCIES, PERCENTILES, Result
from shardwise.simulator.simulate import simulate
from shardwise.simulator.spread import run_spread, widened
from shardwise.simulator.trace import Trace
from shardwise.workload.workload import Slo, Workload


class Simulated(msgspec.Struct, frozen=True):
    """One trace run three times: as expected, and with every step at the fast and at the slow end
    of the performance model's 80 % interval."""

    expected: Result
    fast: Result
    slow: Result

    def of_group(self, number: int) -> Simulated:
        """Return the same runs for one group of replicas."""
        return Simulated(*(run.of_group(number) for run in (self.expected, self.fast, self.slow)))

    def interval(self, value: Callable[[Result], float], n: int = 0) -> Interval | None:
        """Return the interval of `value` over the three runs; None unless all are finite."""
        found = [value(run) for run in (self.expected, self.fast, self.slow)]
        if not all(map(math.isfinite, found)):
            return None
        return Interval(found[0], min(found), max(found), n)


def simulate_thrice(
    groups: Sequence[Group],
    trace: Trace,
    *,
    policy: str = "least_loaded",
    failures: Sequence[Failure] = (),
    seed: int = 0,
) -> Simulated:
    """Serve `trace` with steps as expected, fast and slow."""
    return thrice(
        groups,
        lambda some: simulate(some, trace, policy=policy, failures=failures, seed=seed),
    )


def thrice(groups: Sequence[Group], run: Callable[[Sequence[Group]], Result]) -> Simulated:
    """Run with steps as expected, fast and slow, by the half-width of TPOT's interval."""

    def once(sign: float) -> Result:
        return run([g.slower(math.exp(sign * g.half_widths.get("tpot_s", 0.0))) for g in groups])

    return Simulated(once(0.0), once(-1.0), once(1.0))


def evidence(
    runs: Simulated,
    *,
    slo: Slo | None = None,
    usd_per_gpu_hour: float | None = None,
    warmup_s: float = 0.0,
) -> list[Evidence]:
    """Return one record per group: latencies are means, with percentiles under their own names.

    Throughput and requests in flight are of one replica, goodput and cost of all. Intervals include
    the uncertainty of step times and the run-to-run variation. Missing metrics are omitted: TPOT
    for osl 1, a cost without a price or without good requests, a recovery that did not happen
    within the run.
    """
    slo = slo or Slo()
    found = []
    pooled = runs.expected.pooled
    for number, group in enumerate(runs.expected.groups[-1:] if pooled else runs.expected.groups):
        own = runs if pooled else runs.of_group(number)
        instances = 1 if pooled else group.deployment.replicas  # the pools are one instance
        values = {
            **_latencies(own, warmup_s),
            metrics.OUTPUT_THROUGHPUT.name: own.interval(
                lambda r, n=instances: r.output_tok_s(warmup_s) / n  # type: ignore[misc]
            ),
            metrics.GOODPUT.name: own.interval(lambda r: r.goodput(slo, warmup_s)),
        }
        if usd_per_gpu_hour is not None:
            price = usd_per_gpu_hour
            values[metrics.GOOD_COST.name] = own.interval(
                lambda r, price=price: r.usd_per_million_good_tok(slo, price, warmup_s)  # type: ignore[misc]
            )
        if runs.expected.failures:
            values[metrics.RECOVERY.name] = own.interval(lambda r: r.recovery_s() or 0.0)
        known = {name: value for name, value in values.items() if value is not None}
        source = Source("simulated", group.note or "step times as given")
        workload = _workload(own.expected, instances)
        found.append(Evidence(group.deployment, workload, known, source))
    return found


def _latencies(runs: Simulated, warmup_s: float) -> Mapping[str, Interval | None]:
    """Return means and percentiles, with intervals for the uncertainty of the steps and of the
    run."""
    out = {}
    for name in LATENCIES:
        values = runs.expected.ordered(name, warmup_s)
        beside = _beside(runs.expected.groups, name)

        def value(run: Result, at: float | None, name: str = name) -> float:
            found = run.percentiles(name, warmup_s, [] if at is None else [at])
            return found.mean if at is None else found.values[at]

        for at in (None, *PERCENTILES):
            of_steps = runs.interval(lambda run, at=at: value(run, at), len(values))  # type: ignore[misc]
            if of_steps is not None:
                middle, lo, hi = of_steps.value, of_steps.lo, of_steps.hi
                lo, hi = widened(middle, lo, hi, run_spread(values, at), beside)
                of_steps = replace(of_steps, lo=lo, hi=hi)
            out[name if at is None else metrics.percentile_name(name, at)] = of_steps
    return out


def _beside(groups: Sequence[Group], name: str) -> float:
    """Return the log half-width of a latency beyond that of the steps (TPOT's): waits outside
    steps."""
    widths = [g.half_widths for g in groups]
    beyond = [w.get(name, 0.0) ** 2 - w.get("tpot_s", 0.0) ** 2 for w in widths]
    return math.sqrt(max(0.0, *beyond))


def _workload(run: Result, instances: int) -> Workload:
    """Return mean lengths and their variation; by Little's law, requests in flight at each of the
    instances, among which the requests are shared evenly."""
    q = run.requests
    n = len(q.arrival)
    if not n:
        return Workload(1, 1, 1)
    span = run.window_s() if run.concurrency else run.span_s
    rate = n / span if span > 0 else 0.0
    in_flight = rate * float(run.percentiles("e2e_latency_s").mean or 0.0) / instances
    open_loop = not run.concurrency and 0 < rate < 1e9
    isl, osl = float(q.isl.mean()), float(q.osl.mean())
    return Workload(
        isl=isl,
        osl=osl,
        concurrency=max(1, round(in_flight) if math.isfinite(in_flight) else 1),
        length_spread=3.0**0.5 * float(q.osl.std()) / osl,
        request_rate=rate if open_loop else None,
        requests=min(max(1, round(n / instances)), 10_000_000),
    )


def timeline(run: Result) -> dict[str, list[float]]:
    """Return queue, batch and KV occupancy over time: means of equal intervals, summed over
    replicas."""
    line = run.timeline()
    return {
        "start_s": [round(float(x), 6) for x in line.start_s],
        "running": [round(float(x), 3) for x in line.running],
        "waiting": [round(float(x), 3) for x in line.waiting],
        "kv_share": [round(float(x), 4) for x in line.kv_share],
    }
