"""Find the batch of a published cost figure by chaining TP steps.

Going from TP=a to TP=b on a full node of g GPUs,

    latency ratio    = product of (1 + latency change) of the steps between
    throughput ratio = copies at b / copies at a x product of (1 + throughput change)
    cost share       = 1 / throughput ratio, as the same GPUs are paid for
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import msgspec

from shardwise import metrics
from shardwise.analysis.intervals import reciprocal, scaled
from shardwise.analysis.transitions import Step
from shardwise.errors import InputError
from shardwise.evidence.record import Interval, Source


class CostClaim(msgspec.Struct, frozen=True):
    """Ratios claimed for a full node when every replica moves from one TP to another."""

    gpus: int
    from_tp: int
    to_tp: int
    latency_ratio: float
    throughput_ratio: float
    cost_share: float
    source: Source

    @property
    def copies_ratio(self) -> float:
        """Ratio of replicas on the node after and before."""
        return (self.gpus // self.to_tp) / (self.gpus // self.from_tp)

    @property
    def allowed_throughput_ratio(self) -> float:
        """Throughput ratio that Little's law allows for the claimed latency, at the same batch per
        replica."""
        return self.copies_ratio / self.latency_ratio


class ClaimMatch(msgspec.Struct, frozen=True):
    """Ratios implied by the steps of one batch, compared with a claim.

    The intervals have every step at the same end of its own; mismatches are the percent by which
    implied values exceed claimed ones.
    """

    claim: CostClaim
    concurrency: int
    latency_ratio: Interval
    throughput_ratio: Interval
    cost_share: Interval

    @property
    def mismatches_pct(self) -> dict[str, float]:
        """Relative difference of each implied ratio from the claimed one, in percent."""
        implied_and_claimed = {
            "latency": (self.latency_ratio.value, self.claim.latency_ratio),
            "throughput": (self.throughput_ratio.value, self.claim.throughput_ratio),
            "cost": (self.cost_share.value, self.claim.cost_share),
        }
        return {
            name: metrics.percent_change(claimed, implied)
            for name, (implied, claimed) in implied_and_claimed.items()
        }

    @property
    def worst_mismatch_pct(self) -> float:
        """Largest absolute mismatch, in percent."""
        return max(map(abs, self.mismatches_pct.values()))


def match_claim(
    steps: Iterable[Step],
    claim: CostClaim,
    throughput: str = metrics.TOTAL_THROUGHPUT.name,
) -> tuple[ClaimMatch, ...]:
    """Return each batch with steps between the claim's TPs, the closest first."""
    steps = tuple(steps)
    matches = []
    for concurrency in sorted({step.concurrency for step in steps}):
        here = [step for step in steps if step.concurrency == concurrency]
        latency = chain(here, metrics.E2E.name, claim.from_tp, claim.to_tp)
        per_copy = chain(here, throughput, claim.from_tp, claim.to_tp)
        if latency is None or per_copy is None:
            continue
        node = scaled(per_copy, claim.copies_ratio)
        matches.append(ClaimMatch(claim, concurrency, latency, node, reciprocal(node)))
    return tuple(sorted(matches, key=lambda match: match.worst_mismatch_pct))


def chain(steps: Iterable[Step], metric: str, from_tp: int, to_tp: int) -> Interval | None:
    """Return the ratio after/before of `metric` from one TP to another; None if a step is missing.

    Uses the steps in that direction. Raises InputError for a chain from a TP to itself.
    """
    following = {
        step.from_tp: step
        for step in steps
        if step.metric == metric and step.is_up == (to_tp > from_tp)
    }
    path: list[Step] = []
    at = from_tp
    while at != to_tp:
        if at not in following:
            return None
        path.append(following[at])
        at = following[at].to_tp
    if not path:
        raise InputError(f"a chain from TP={from_tp} to itself", "give two TP sizes")
    return Interval(
        value=prod(step.ratio for step in path),
        lo=prod(1 + step.change_pct.lo / 100 for step in path),
        hi=prod(1 + step.change_pct.hi / 100 for step in path),
    )
