"""Compare a deployment with and without speculative decoding, by concurrency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace

from shardwise.engines.registry import get
from shardwise.errors import ShardwiseError
from shardwise.evidence.record import Interval
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.speculation import MTP, Speculation, usual_acceptance
from shardwise.perfmodel.drafts import require_draft
from shardwise.perfmodel.estimate import Subject, sweep
from shardwise.perfmodel.intervals import with_speculation
from shardwise.perfmodel.serving import Served
from shardwise.planner.operating_point import MAX_SEQS, offered_in_waves
from shardwise.planner.plan import Plan
from shardwise.planner.rank import Candidate

#: Numbers of drafted tokens that a plan tries if the model has its own heads.
TRIED: Final = (1, 2, 3)
_CONCURRENCIES: Final = tuple(2**k for k in range(MAX_SEQS.bit_length()))


class Point(msgspec.Struct, frozen=True):
    """A replica at one concurrency, without and with speculation."""

    concurrency: int
    tpot_s: float
    tpot_with_s: float
    output_tok_s: float
    output_tok_with_s: float


class Drafted(msgspec.Struct, frozen=True):
    """Effect of speculation on one deployment.

    Attributes:
        points: By concurrency of a replica, including the requested one.
        speedup: Ratio of output throughput with and without speculation, at the requested load.
        break_even: Concurrency of a replica above which speculation lowers throughput: `inf` if
        not up to the last point; 0 if always. asked: Whether the plan uses speculation.
    """

    speculation: Speculation
    concurrency: int  #: of a replica, at the requested load
    points: tuple[Point, ...]
    speedup: Interval
    break_even: Interval
    asked: bool

    @property
    def here(self) -> Point:
        """The point at the plan's own load."""
        return next(p for p in self.points if p.concurrency == self.concurrency)

    @property
    def step_cost(self) -> float:
        """Ratio of the step times with and without speculation."""
        here = self.here
        return self.speculation.tokens_per_step() * here.tpot_with_s / here.tpot_s

    @property
    def helps(self) -> bool:
        """Whether speculation raises throughput."""
        return self.speedup.value > 1.0

    @property
    def certain(self) -> bool:
        """Whether the whole interval agrees."""
        return self.speedup.lo > 1.0 or self.speedup.hi <= 1.0


def drafted(plan: Plan) -> Drafted | None:
    """Return the effect of speculation on the plan's best candidate: as requested, or else with
    the model's own heads and the best number of tokens. None if there is no draft."""
    best, question = plan.best, plan.question
    if best.deployment.layout.pp_size > 1 or best.evidence.workload.osl < 2:
        return None
    subject = question.subject(best.deployment.dtypes.weight)
    if question.speculation is not None:
        return _compared(subject, best, [question.speculation], asked=True)
    mtp = [Speculation(MTP, tokens, usual_acceptance(MTP, tokens)) for tokens in TRIED]
    try:
        require_draft(subject.arch, mtp[0])
    except ShardwiseError:
        return None
    if MTP not in get(question.engine).capabilities.speculation:
        return None
    return _compared(subject, best, mtp, asked=False)


def _compared(
    subject: Subject, best: Candidate, tried: Sequence[Speculation], *, asked: bool
) -> Drafted:
    """Return the best of `tried` on `best`."""
    own = best.evidence.workload.concurrency
    loads = tuple(sorted({own, *_CONCURRENCIES}))
    at = loads.index(own)
    without = _served(replace(subject, speculation=None), best, loads)
    found = [(one, _served(replace(subject, speculation=one), best, loads)) for one in tried]
    chosen, served = max(found, key=lambda pair: float(pair[1].output_tok_s[at]))
    limited = without.kv_limited | served.kv_limited
    # beyond the cache's capacity requests queue, and results do not change
    held = max([at, *np.flatnonzero(~limited).tolist()]) + 1
    loads = loads[:held]
    ratio = (served.output_tok_s / without.output_tok_s)[:held]
    width = with_speculation(0.0, chosen, "output_tok_s")
    ends = [ratio * math.exp(sign * width) for sign in (0.0, -1.0, 1.0)]
    return Drafted(
        chosen,
        own,
        tuple(
            Point(
                load,
                *(float(s.tpot_s[i]) for s in (without, served)),
                *(float(s.output_tok_s[i]) for s in (without, served)),
            )
            for i, load in enumerate(loads)
        ),
        _interval([float(end[at]) for end in ends]),
        _interval([break_even(loads, end.tolist()) for end in ends]),
        asked,
    )


def _interval(ends: Sequence[float]) -> Interval:
    value, lo, hi = ends
    return Interval(value, lo, hi)


def _served(subject: Subject, best: Candidate, loads: Sequence[int]) -> Served:
    """Evaluate one replica of `best` at each concurrency, with sufficient limits."""
    workload, limits, shape = best.evidence.workload, best.deployment.limits, len(loads)
    concurrency = np.array(loads, np.float64)
    deployments = Deployments(
        Layouts.of([replace(best.deployment.layout, replicas=1)] * shape),
        max_num_seqs=np.maximum(concurrency, float(limits.max_num_seqs)),
        max_num_batched_tokens=np.full(shape, float(limits.max_num_batched_tokens)),
        gpu_memory_utilization=np.full(shape, limits.gpu_memory_utilization),
    )
    offered = offered_in_waves(concurrency, workload)
    return sweep(subject, "closed_loop", deployments, offered)


def break_even(loads: Sequence[int], ratio: Sequence[float]) -> float:
    """Return the concurrency from which `ratio` stays at or below 1, interpolated in logs: `inf`
    if the last one is above 1, 0 if none is.

    Args:
        loads: Increasing concurrencies.
        ratio: Throughput with speculation divided by that without, at each load.
    """
    if ratio[-1] > 1.0:
        return math.inf
    above = [i for i, value in enumerate(ratio) if value > 1.0]
    if not above:
        return 0.0
    i = above[-1]
    high, low = math.log(ratio[i]), math.log(ratio[i + 1])
    share = high / (high - low)
    return math.exp(math.log(loads[i]) + share * math.log(loads[i + 1] / loads[i]))
