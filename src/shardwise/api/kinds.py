"""`plan` on several kinds of GPU: a plan for each, the best in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from shardwise.api.planning import Part, PlanResult, plan
from shardwise.api.result import Result
from shardwise.errors import InputError
from shardwise.files import AnyPath
from shardwise.planner.kinds import Kinds, plan_kinds

if TYPE_CHECKING:
    from shardwise.planner.plan import Plan
    from shardwise.reports.figure_style import Figure
    from shardwise.reports.table import Table


#: Arguments that apply to one kind of GPU, and their options.
_OF_ONE_KIND: Final = {
    "usd_per_gpu_hour": "--price",
    "node_file": "--node",
    "startup_log": "--startup-log",
}


class KindsResult(Result):
    """The same question on several kinds of GPU, the best first."""

    kind = "plan_kinds"

    def __init__(self, kinds: Kinds, results: Mapping[str, PlanResult]) -> None:
        self.kinds = kinds
        self.results = results  #: by GPU id, for the kinds that have a plan

    @property
    def best(self) -> PlanResult:
        """The plan on the best kind."""
        return self.results[self.kinds.best.question.node.gpu.id]

    def summary(self) -> str:
        """Return the recommendation for the best kind."""
        return self.best.summary()

    def parts(self) -> list[Part]:
        """Return the best kind's answer as texts and tables."""
        return self.best.parts()

    def tables(self) -> list[Table]:
        """Return a comparison of the kinds, then the ranking on the best."""
        from shardwise.reports.kind_tables import kinds_table

        return [kinds_table(self.kinds), *self.best.tables()]

    def charts(self) -> dict[str, Figure]:
        """Return the charts of the best kind."""
        return self.best.charts()

    def save(self, path: AnyPath) -> None:
        """Write the best kind's deployment to a file for `shardwise up`.

        Raises:
            InputError: The file cannot be written.
        """
        self.best.save(path)

    def _answer(self) -> dict[str, Any]:
        ordered = [self.results[p.question.node.gpu.id] for p in self.kinds.plans]
        return {"kinds": [r.models[0].document() for r in ordered], "without": self.kinds.without}


def compare_kinds(model: str, *, kinds: Sequence[str], **arguments: Any) -> KindsResult:
    """Plan `model` on nodes of each kind of GPU.

    Args:
        model: As in `plan`; one model.
        kinds: GPU ids of the catalogue, each once.
        arguments: Everything else of `plan`. A price, a node file or a start-up log applies to one
            kind and is not allowed.

    Raises:
        InputError: An argument cannot be used.
        NothingMeetsError: No kind has a deployment within the memory and the SLO.
    """
    for name, option in _OF_ONE_KIND.items():
        if arguments.get(name) is not None:
            raise InputError(
                f"{option} with {len(kinds)} kinds of GPU", "allowed: one kind", field=name
            )
    results: dict[str, PlanResult] = {}

    def plan_on(gpu: str) -> Plan:
        results[gpu] = found = plan(model, gpu=gpu, **arguments)
        return found.models[0].packed.plan

    return KindsResult(plan_kinds(kinds, plan_on), results)
