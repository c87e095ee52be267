"""What a plan says beside its ranking: whether to draft, whether to disaggregate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from shardwise.errors import NothingMeetsError

if TYPE_CHECKING:
    from shardwise.planner.disaggregated import Verdict
    from shardwise.planner.plan import Plan
    from shardwise.planner.question import Question
    from shardwise.planner.speculating import Drafted
    from shardwise.reports.table import Table


class Verdicts(msgspec.Struct, frozen=True):
    """None: nothing to say of it, or not asked."""

    drafted: Drafted | None
    pools: Verdict | None
    link: str  #: between the node's GPUs, in words


def verdicts_of(plan: Plan, disaggregated: bool) -> Verdicts:
    """What is said of a plan."""
    from shardwise.planner.speculating import drafted
    from shardwise.reports.disaggregated_tables import link_of

    pools = None
    if disaggregated:
        from shardwise.planner.disaggregated import judge

        pools = judge(plan)
    return Verdicts(drafted(plan), pools, link_of(plan.question.node.gpu))


def document_of(found: Verdicts) -> dict[str, Any]:
    """For JSON: `speculation` always, `disaggregated` where it was asked."""
    from shardwise.reports.disaggregated_tables import disaggregated_document
    from shardwise.reports.speculation_tables import speculation_document

    drafted, pools = found.drafted, found.pools
    document: dict[str, Any] = {"speculation": speculation_document(drafted) if drafted else None}
    if pools:
        document["disaggregated"] = disaggregated_document(pools, found.link)
    return document


def verdict_lines(found: Verdicts) -> list[list[str]]:
    """What is said of drafting, then of pools; what there is nothing to say of is left out."""
    from shardwise.reports.disaggregated_tables import disaggregated_lines
    from shardwise.reports.speculation_tables import speculation_lines

    drafted, pools = found.drafted, found.pools
    said = (
        speculation_lines(drafted) if drafted else [],
        disaggregated_lines(pools, found.link) if pools else [],
    )
    return [list(lines) for lines in said if lines]


def verdict_table(found: Verdicts) -> Table | None:
    """Loads with and without drafting, where that was asked."""
    from shardwise.reports.speculation_tables import speculation_table

    drafted = found.drafted
    return speculation_table(drafted) if drafted and drafted.asked else None


def with_pools(question: Question, error: NothingMeetsError) -> NothingMeetsError:
    """`error`, that no aggregated layout meets the SLO, with what two pools would do."""
    from shardwise.planner.disaggregated import judge
    from shardwise.planner.plan import explore

    made = explore(question)
    if not made.missing:
        return error
    found = judge(made)
    return NothingMeetsError(
        f"{error}; disaggregated prefill and decode: {found.answer}: {found.reason}"
    )
