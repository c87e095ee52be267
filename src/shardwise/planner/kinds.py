"""Plan one question on several kinds of GPU, the best first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from shardwise.errors import DoesNotFitError, InputError, NothingMeetsError
from shardwise.planner.plan import Plan

_UNPRICED: Final = (
    "its price is unknown, so its cost cannot be compared; pass a price in a TOML file with "
    "--catalogue"
)


class NoPlan(msgspec.Struct, frozen=True):
    """A kind of GPU on which nothing fits or meets the bounds, with the reason."""

    gpu: str
    reason: str


class Kinds(msgspec.Struct, frozen=True):
    """`plans` by the pessimistic end of the objective, best first; `without` have no plan, or no
    price to compare with."""

    plans: tuple[Plan, ...]
    without: tuple[NoPlan, ...]

    @property
    def best(self) -> Plan:
        """The plan on the best kind of GPU."""
        return self.plans[0]


def plan_kinds(gpus: Sequence[str], plan_on: Callable[[str], Plan]) -> Kinds:
    """Apply `plan_on` to each of `gpus`.

    Raises InputError for a repeated kind, and NothingMeetsError if no kind has a plan.
    """
    if not gpus:
        raise InputError("0 kinds of GPU", "needed: at least 1", field="gpu")
    made: list[Plan] = []
    without: list[NoPlan] = []
    for gpu in gpus:
        if gpus.count(gpu) > 1:
            raise InputError(f"--gpu {gpu} is given {gpus.count(gpu)} times", "allowed: once")
        try:
            made.append(plan_on(gpu))
        except (DoesNotFitError, NothingMeetsError) as error:
            without.append(NoPlan(gpu, str(error)))
    if not made:
        reasons = "; ".join(f"{x.gpu}: {x.reason}" for x in without)
        raise NothingMeetsError(f"no plan on {' or '.join(gpus)}: {reasons}")
    objective = made[0].question.objective
    priced = [p for p in made if p.question.usd_per_gpu_hour is not None]
    if objective == "cost" and priced:
        without += [NoPlan(p.question.node.gpu.id, _UNPRICED) for p in made if p not in priced]
        made = priced
    made.sort(key=lambda p: p.best.objective(objective))
    return Kinds(tuple(made), tuple(without))
