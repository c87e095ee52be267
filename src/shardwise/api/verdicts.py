"""Verdicts of a plan besides its ranking: speculation and disaggregation."""

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
    """None: not applicable or not requested."""

    drafted: Drafted | None
    pools: Verdict | None
    link: str  #: link between the node's GPUs, as text


def verdicts_of(plan: Plan, disaggregated: bool) -> Verdicts:
    """Return the verdicts of a plan."""
    from shardwise.planner.speculating import drafted
    from shardwise.reports.disaggregated_tables import link_of

    pools = None
    if disaggregated:
        from shardwise.planner.disaggregated import judge

        pools = judge(plan)
    return Verdicts(drafted(plan), pools, link_of(plan.question.node.gpu))


def document_of(found: Verdicts) -> dict[str, Any]:
    """Return for JSON: `speculation` always, `disaggregated` if requested."""
    from shardwise.reports.disaggregated_tables import disaggregated_document
    from shardwise.reports.speculation_tables import speculation_document

    drafted, pools = found.drafted, found.pools
    document: dict[str, Any] = {"speculation": speculation_document(drafted) if drafted else None}
    if pools:
        document["disaggregated"] = disaggregated_document(pools, found.link)
    return document


def verdict_lines(found: Verdicts) -> list[list[str]]:
    """Return the texts on speculation, then on pools, if applicable."""
    from shardwise.reports.disaggregated_tables import disaggregated_lines
    from shardwise.reports.speculation_tables import speculation_lines

    drafted, pools = found.drafted, found.pools
    said = (
        speculation_lines(drafted) if drafted else [],
        disaggregated_lines(pools, found.link) if pools else [],
    )
    return [list(lines) for lines in said if lines]


def verdict_table(found: Verdicts) -> Table | None:
    """Return loads with and without speculation, if requested."""
    from shardwise.reports.speculation_tables import speculation_table

    drafted = found.drafted
    return speculation_table(drafted) if drafted and drafted.asked else None


def with_pools(question: Question, error: NothingMeetsError) -> NothingMeetsError:
    """Add to `error` (no aggregated layout meets the SLO) whether two pools would."""
    from shardwise.planner.disaggregated import judge
    from shardwise.planner.plan import explore

    made = explore(question)
    if not made.missing:
        return error
    found = judge(made)
    return NothingMeetsError(
        f"{error}; disaggregated prefill and decode: {found.answer}: {found.reason}"
    )
