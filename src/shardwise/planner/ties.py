"""Choose the first candidate: the best, or in a tie by secondary criteria.

Predictions of two layouts of one model share most of their errors, so their difference is known
better than either value. A layout with less measured support is better only if the difference
exceeds its 80 % interval. A difference below its typical error, about half of that, is a tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from shardwise.evidence.record import Interval
from shardwise.perfmodel.intervals import ratio_width
from shardwise.planner.question import Question

if TYPE_CHECKING:
    from shardwise.planner.rank import Candidate

#: Half of a normal distribution is within 0.674 standard deviations, 80 % within 1.282.
TYPICAL: Final = 0.674 / 1.282
#: What put one candidate before another: it is better; more of it was measured; or, in a tie, it
#: has more replicas, cuts its experts, has a lower TTFT. Of the calibrated rows with cut and with
#: whole experts on the same GPUs under the same load, no model's are faster with whole ones: TPOT
#: is, in the median, 2 % higher (MiniMax-M2.5, vLLM 0.19), and 23 and 41 % higher with whole
#: experts and an older version (DeepSeek-R1 on B200, SGLang and TensorRT-LLM).
Reason = Literal["better", "measured", "replicas", "experts", "ttft"]


def criteria(question: Question) -> tuple[str, ...]:
    """Return the criteria of a comparison, in order. At a request rate all candidates cost the
    same, so E2E latency decides."""
    if question.demand.request_rate is not None and question.objective != "latency":
        return (question.objective, "latency")
    return (question.objective,)


def doubt(a: Candidate, b: Candidate, criterion: str) -> float:
    """Return the half-width (log) of the 80 % interval of the ratio of two candidates'
    objectives."""
    metric = "e2e_latency_s" if criterion == "latency" else "output_tok_s"
    return ratio_width(*(_width(c.evidence.metrics[metric]) for c in (a, b)))


def _width(value: Interval) -> float:
    return math.log(value.hi / value.value)


def apart(a: Candidate, b: Candidate, criterion: str) -> float:
    """Return the log ratio of b's to a's objective: above 0 if `a` is better."""
    return math.log(b.mean(criterion) / a.mean(criterion))


def _tied(a: Candidate, b: Candidate, criterion: str, share: float) -> bool:
    """Return whether `b` is not worse than `a` by more than a share of the uncertainty."""
    return apart(a, b, criterion) <= share * doubt(a, b, criterion) + 1e-9


def _clearly_sooner(question: Question, a: Candidate, b: Candidate) -> bool:
    """Return whether `a` is better than `b` in every mean, and its TTFT is lower by more than the
    uncertainty."""
    one, other = a.evidence.metrics["ttft_s"], b.evidence.metrics["ttft_s"]
    sooner = math.log(other.value / one.value) > ratio_width(_width(one), _width(other))
    return sooner and all(apart(a, b, name) >= 0 for name in criteria(question))


def first(question: Question, found: Sequence[Candidate]) -> Candidate:
    """Return the candidate to deploy.

    Of those that the best by the cautious end of its objective does not beat, and that no better
    one beats in TTFT, those of which most was measured; of these, in a tie, the one with most
    replicas, then with cut experts, then the lowest TTFT, then the best mean.
    """
    group = list(found)
    for name in criteria(question):
        leader = min(group, key=lambda c: c.objective(name))
        group = [c for c in group if _tied(leader, c, name, 1.0)]
    # a queue that the other one does not have is not within the uncertainty
    group = [c for c in group if not any(_clearly_sooner(question, d, c) for d in group)]
    least = min(len(c.unseen) for c in group)
    group = [c for c in group if len(c.unseen) == least]
    for name in criteria(question):
        leader = min(group, key=lambda c: c.mean(name))
        group = [c for c in group if _tied(leader, c, name, TYPICAL)]
    last = criteria(question)[-1]
    return min(
        group,
        key=lambda c: (
            -c.deployment.replicas,
            c.deployment.layout.expert_parallel,
            c.evidence.metrics["ttft_s"].value,
            c.mean(last),
        ),
    )


def reason(question: Question, ahead: Candidate, behind: Candidate) -> Reason:
    """Return why `ahead`, the first of a plan, ranks before `behind`."""
    names = criteria(question)
    near = all(_tied(ahead, behind, name, 1.0) for name in names)
    if not near or _clearly_sooner(question, ahead, behind):
        return "better"
    if len(ahead.unseen) < len(behind.unseen):
        return "measured"
    if not all(_tied(ahead, behind, name, TYPICAL) for name in names):
        return "better"
    return _between_tied(ahead, behind)


def _between_tied(ahead: Candidate, behind: Candidate) -> Reason:
    one, other = ahead.deployment, behind.deployment
    if one.replicas != other.replicas:
        return "replicas" if one.replicas > other.replicas else "better"
    if other.layout.expert_parallel and not one.layout.expert_parallel:
        return "experts"
    lower = ahead.evidence.metrics["ttft_s"].value < behind.evidence.metrics["ttft_s"].value
    return "ttft" if lower else "better"
