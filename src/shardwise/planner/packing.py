"""Split one node's GPUs over several models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from shardwise.errors import DoesNotFitError, InputError, NothingMeetsError
from shardwise.planner.plan import Plan, explore
from shardwise.planner.question import Objective, Question


class Packed(msgspec.Struct, frozen=True):
    """One model's plan on its GPUs; devices are contiguous from `first_device`."""

    plan: Plan
    first_device: int


def pack(questions: Sequence[Question]) -> tuple[Packed, ...]:
    """Split the GPUs of one node over `questions` to maximise the sum of log throughput (for
    latency: minimise the sum of log E2E latency). Costs cover each model's GPUs.

    The best plan of each model is found for each number of GPUs. Dynamic programming then finds
    the exact optimum of the sum. Raises DoesNotFitError with the GPUs that each needs, or
    NothingMeetsError.
    """
    gpus = questions[0].node.gpus
    if len(questions) > gpus:
        raise DoesNotFitError(f"{len(questions)} models need at least one GPU each; given: {gpus}")
    if any(q.node != questions[0].node for q in questions):
        raise InputError("models of one plan on different nodes", "allowed: one node")
    options = [_options(q, gpus) for q in questions]
    _require_room(questions, options, gpus)
    score, shares = _best_split([{g: _score(p) for g, p in o.items()} for o in options], gpus)
    assert math.isfinite(score)
    packed, device = [], 0
    for option, share in zip(options, shares, strict=True):
        made = option[share]
        packed.append(Packed(made, device))
        device += made.question.node.gpus
    return tuple(packed)


def _options(question: Question, gpus: int) -> dict[int, Plan]:
    """Return GPUs -> plan for the numbers that have one. Raises the error on the whole node if
    none has."""
    objective: Objective = "latency" if question.objective == "latency" else "throughput"
    asked = replace(question, objective=objective)
    found: dict[int, Plan] = {}
    error: DoesNotFitError | None = None
    for count in range(1, gpus + 1):
        error = None
        try:
            made = explore(asked.on(count))
        except DoesNotFitError as short:
            error = short
            continue
        if made.ranked:
            found[count] = made
    if not found:
        if error is not None:  # there is no plan even on the whole node
            raise error
        raise NothingMeetsError(
            f"no deployment of {question.arch.id} meets its SLO and load, even on all {gpus} "
            f"{question.node.gpu.id}",
        )
    return found


def _require_room(
    questions: Sequence[Question], options: Sequence[dict[int, Plan]], gpus: int
) -> None:
    least = [min(option) for option in options]
    if sum(least) <= gpus:
        return
    each = ", ".join(f"{q.arch.id} {n}" for q, n in zip(questions, least, strict=True))
    raise DoesNotFitError(
        f"{len(questions)} models on {gpus} x {questions[0].node.gpu.id}: they need at least "
        f"{sum(least)} GPUs ({each}); use more GPUs, fewer models or a narrower dtype"
    )


def _score(plan: Plan) -> float:
    best = plan.best
    if plan.question.objective == "latency":
        return -math.log(best.evidence.metrics["e2e_latency_s"].value)
    return math.log(best.node_output_tok_s.value)


def _best_split(scores: Sequence[dict[int, float]], gpus: int) -> tuple[float, tuple[int, ...]]:
    """Return the best total of `scores` with at most `gpus` in total, and each model's GPUs."""
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for options in scores:
        reached: dict[int, tuple[float, tuple[int, ...]]] = {}
        for used, (total, shares) in best.items():
            for count, score in options.items():
                key = used + count
                candidate = (total + score, (*shares, count))
                if key <= gpus and (key not in reached or candidate[0] > reached[key][0]):
                    reached[key] = candidate
        best = reached
    return max(best.values())
