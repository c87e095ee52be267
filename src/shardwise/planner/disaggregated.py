"""Compare pools of prefill and decode instances with the best aggregated layout.

The result is a verdict with numbers. The deployed layout is always the aggregated one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec
import numpy as np
from msgspec.structs import replace

from shardwise import metrics
from shardwise.engines.loading import usual_share
from shardwise.evidence.record import Interval
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout
from shardwise.perfmodel.estimate import Subject
from shardwise.perfmodel.intervals import half_width
from shardwise.perfmodel.memory import fits
from shardwise.perfmodel.pools import Pools, Requests, Served, Times, serve, times
from shardwise.planner.candidates import enumerate_candidates
from shardwise.planner.operating_point import WAVES
from shardwise.planner.plan import Plan
from shardwise.planner.question import Question
from shardwise.planner.rank import Candidate

Answer = Literal["for you", "measure it", "not for you"]
#: Error (log) of the ratio of disaggregated to aggregated: assumed, because no public rows compare
#: the two. Doubling it turns gains of up to 49 % from "for you" into "measure it".
RATIO_WIDTH: Final = 0.2
_METRICS: Final = ("ttft_s", "tpot_s", "e2e_latency_s", "output_tok_s")


class Point(msgspec.Struct, frozen=True):
    """Two pools under the demand.

    Attributes:
        values: By metric; `output_tok_s` is for the node.
        in_flight: Requests on the node.
        decode_batch: Mean sequences of a decode instance.
        prefill_busy: Utilization of the prefill instances.
        transfer_s: Seconds to send a prompt's KV cache.
        transfer_bytes: Bytes per prompt on one rank of a decode instance.
        over: Excess of each SLO's metric over its bound, as a share; at most 0 meets it.
    """

    pools: Pools
    values: Mapping[str, Interval]
    in_flight: float
    decode_batch: float
    prefill_busy: float
    transfer_s: float
    transfer_bytes: float
    over: Mapping[str, float]

    @property
    def excess(self) -> float:
        """The largest of `over`, at least 0."""
        return max(0.0, *self.over.values()) if self.over else 0.0


class Verdict(msgspec.Struct, frozen=True):
    """`gain` is the ratio of the objectives: above 1 the pools are better; None without a
    comparison."""

    answer: Answer
    reason: str
    aggregated: Candidate
    best: Point | None
    gain: Interval | None
    considered: int  #: pairs of pools


def judge(plan: Plan) -> Verdict:
    """Find the best pair of pools in the dtype of the plan's best candidate (or the nearest, if
    none meets the SLO), and judge it."""
    question = plan.question
    one = (*plan.ranked, *plan.missing)[0]
    subject = question.subject(one.deployment.dtypes.weight)
    layouts = _layouts(question, subject)
    pairs = list(_pairs(layouts, question.node.gpus))
    if not pairs:
        return Verdict("not for you", _no_room(question, layouts), one, None, None, 0)
    demand = question.demand
    requests = Requests(demand.isl, demand.osl, demand.cached_tokens)
    found = times(subject, layouts, requests, one.deployment.limits)
    points = [p for pools in pairs if (p := _point(question, subject, found, pools, requests))]
    if not points:
        reason = "no pair of pools sustains the request rate"
        return Verdict("not for you", reason, one, None, None, len(pairs))
    best = min(points, key=lambda p: (p.excess, _cost(question, p.values)))
    return _verdict(question, one, best, len(pairs))


def _layouts(question: Question, subject: Subject) -> list[Layout]:
    """Return layouts of one instance with one pipeline stage that break no rule and have room for
    a request."""
    possible, _ = enumerate_candidates(question)
    share = usual_share(question.engine, question.node.gpu, question.engine_version)
    found = []
    for option in possible:
        layout = replace(option.layout, replicas=1)
        if option.weight_dtype != subject.weight_dtype or layout.pp_size > 1 or layout in found:
            continue
        deployment = Deployment(
            question.arch.id,
            question.node.gpu.id,
            layout,
            question.limits.over(EngineLimits(gpu_memory_utilization=share)),
            Dtypes(subject.weight_dtype, subject.setting.kv_dtype),
            question.engine,
            question.engine_version,
            question.speculation,
        )
        if fits(question.arch, question.node.gpu, deployment, question.context):
            found.append(layout)
    return found


def _pairs(layouts: Sequence[Layout], gpus: int) -> Iterator[Pools]:
    """Return pairs of pools that leave no room for one more decode instance."""
    for prefill in layouts:
        for decode in layouts:
            for count in range(1, gpus // prefill.replica_gpus + 1):
                left = (gpus - count * prefill.replica_gpus) // decode.replica_gpus
                if left:
                    yield Pools(prefill, count, decode, left)


def _no_room(question: Question, layouts: Sequence[Layout]) -> str:
    gpus = question.node.gpus
    if not layouts:
        return f"no layout with one pipeline stage fits on {gpus} GPUs"
    least = min(layout.replica_gpus for layout in layouts)
    return (
        f"an instance of {question.arch.id} needs {least} of the {gpus} GPUs, so two pools need "
        f"{2 * least}"
    )


def _point(
    question: Question, subject: Subject, found: Times, pools: Pools, requests: Requests
) -> Point | None:
    """Evaluate the pools under the question's demand; None if they cannot sustain it."""
    demand = question.demand
    first = 0.0 if demand.request_rate is not None else 1.0 / WAVES
    served = serve(subject, found, pools, requests, first)
    at = _operating_point(question, served)
    if at is None:
        return None
    values = {name: float(np.interp(at, np.arange(len(served.batch)), getattr(served, name)))
              for name in (*_METRICS, "batch", "prefill_busy")}  # fmt: skip
    values["in_flight"] = values["output_tok_s"] / requests.osl * values["e2e_latency_s"]
    if demand.concurrency is not None and demand.concurrency > values["in_flight"]:
        # requests without room in either pool wait before the first
        rate = values["output_tok_s"] / requests.osl
        waits = (demand.concurrency - values["in_flight"]) / rate
        values["ttft_s"] += waits
        values["e2e_latency_s"] += waits
        values["in_flight"] = float(demand.concurrency)
    return Point(
        pools=pools,
        values={name: _interval(subject, values[name], name, pools) for name in _METRICS},
        in_flight=values["in_flight"],
        decode_batch=values["batch"],
        prefill_busy=values["prefill_busy"],
        transfer_s=served.transfer_s,
        transfer_bytes=float(found.cache_bytes[found.layouts.index(pools.decode)]),
        over={name: values[name] / bound - 1.0 for name, bound in question.slo.bounds().items()},
    )


def _operating_point(question: Question, served: Served) -> float | None:
    """Interpolate the demand's position on `served`; the last element if it is beyond."""
    demand, places = question.demand, np.arange(len(served.batch), dtype=np.float64)
    if not len(places):
        return None
    if demand.concurrency is not None:
        return _place_of(float(demand.concurrency), served)
    if demand.request_rate is not None:
        wanted = demand.request_rate * demand.osl
        reached = wanted <= served.output_tok_s[-1]
        return float(np.interp(wanted, served.output_tok_s, places)) if reached else None
    return float(_best(question, served))


def _place_of(in_flight: float, served: Served) -> float:
    """Interpolate the position at which rate times E2E latency are `in_flight` requests.

    Between two elements both are linear, so their product is a quadratic, whose root this is.
    """
    rate = served.in_flight / served.e2e_latency_s
    last = len(rate) - 1
    low = int(np.searchsorted(served.in_flight, in_flight)) - 1
    if low < 0 or low >= last:
        return float(min(max(low, 0), last))
    rises, slows = (np.diff(x)[low] for x in (rate, served.e2e_latency_s))
    linear = rate[low] * slows + served.e2e_latency_s[low] * rises
    missing = in_flight - served.in_flight[low]
    share = 2.0 * missing / (linear + np.sqrt(linear**2 + 4.0 * rises * slows * missing))
    return float(low + share)


def _best(question: Question, served: Served) -> int:
    """Return the element that is best for the objective within the SLO, or misses it by the
    least."""
    excess = np.zeros(len(served.batch))
    for name, bound in question.slo.bounds().items():
        excess = np.maximum(excess, getattr(served, name) / bound - 1.0)
    meets = excess <= 0
    if not meets.any():
        return int(np.argmin(excess))
    if question.objective == "latency":
        return int(np.argmin(np.where(meets, served.e2e_latency_s, np.inf)))
    return int(np.argmax(np.where(meets, served.output_tok_s, 0.0)))


def _interval(subject: Subject, value: float, metric: str, pools: Pools) -> Interval:
    """Return the interval of an aggregated layout, widened by the error of pools."""
    near = max(
        half_width(subject.calibrated.profile, subject.asked, metric, layout)
        for layout in (pools.prefill, pools.decode)
    )
    spread = math.exp(math.hypot(near, RATIO_WIDTH))
    return Interval(value, value / spread, value * spread)


def _cost(question: Question, values: Mapping[str, Interval]) -> float:
    """Return what the objective minimises; at a given rate all cost the same, and E2E latency
    decides."""
    if question.objective == "latency" or question.demand.request_rate is not None:
        return values["e2e_latency_s"].value
    return 1.0 / values["output_tok_s"].value


def _verdict(question: Question, one: Candidate, best: Point, considered: int) -> Verdict:
    """Judge the best pair of pools against `one`, the best aggregated candidate."""
    aggregated = {**one.evidence.metrics, "output_tok_s": one.node_output_tok_s}
    ratio = _cost(question, aggregated) / _cost(question, best.values)
    spread = math.exp(RATIO_WIDTH)
    gain = Interval(ratio, ratio / spread, ratio * spread)
    # a load that is not given is raised to the bounds, so only a given one can be far from them
    free = question.demand.concurrency is None and question.demand.request_rate is None
    certain = free or all((1.0 + over) * spread <= 1.0 for over in best.over.values())
    answer: Answer = "not for you"
    if best.excess > 0.0:
        reason = f"{best.pools.name} {_missed(best)}"
    elif not one.meets:
        answer = "for you" if certain else "measure it"
        reason = f"{best.pools.name} meet the SLO, but no aggregated layout does"
    else:
        reason = _compared(question, one, best)
        if gain.value > 1.0:
            answer = "for you" if certain and gain.lo > 1.0 else "measure it"
    return Verdict(answer, f"{reason}: {_cause(best)}", one, best, gain, considered)


def _missed(best: Point) -> str:
    return " and ".join(
        f"miss {metrics.ALL[name].label} by {100.0 * over:,.0f} %"
        for name, over in best.over.items()
        if over > 0.0
    )


def _compared(question: Question, one: Candidate, best: Point) -> str:
    """Return both values of the deciding metric."""
    if question.objective == "latency" or question.demand.request_rate is not None:
        mine, theirs = (v["e2e_latency_s"].value for v in (best.values, one.evidence.metrics))
        return (
            f"{best.pools.name} take {mine:.3g} s per request, {one.name} takes "
            f"{theirs:.3g} s "
            f"({metrics.percent_change(theirs, mine):+z.0f} %)"
        )
    mine, theirs = best.values["output_tok_s"].value, one.node_output_tok_s.value
    return (
        f"{best.pools.name} reach {mine:,.0f} output tok/s, {one.name} reaches {theirs:,.0f} "
        f"({metrics.percent_change(theirs, mine):+z.0f} %)"
    )


def _cause(best: Point) -> str:
    busy = f"prompts keep the prefill pool busy {best.prefill_busy:.0%} of the time"
    if best.prefill_busy < 0.5:
        return f"{busy}, and its GPUs are idle for the rest"
    if best.prefill_busy > 0.9:
        return f"{busy}, so they queue there"
    return f"{busy}, and no decode step waits for a prompt"
