"""Table of the replicas of a deployment, with recent requests in flight if they are known."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from shardwise.reports.bars import sparkline
from shardwise.reports.numbers import MISSING
from shardwise.reports.table import Cell, Column, Table, Tone, text_cell
from shardwise.units import GIB

if TYPE_CHECKING:
    from shardwise.hosting.operating import Seen
    from shardwise.hosting.state import State

LOOKS: Final = 30  #: samples in the sparkline, one per second
TONES: Final[dict[str, Tone]] = {
    "ready": "better",
    "dead": "worse",
    "gave up": "worse",
    "unready": "worse",
    "starting": "unclear",
    "waiting": "unclear",
    "draining": "unclear",
}


def status_table(
    now: State, seen: Sequence[Seen], history: Mapping[str, deque[float]] | None = None
) -> Table:
    """Return a row per replica; with `history`, recent requests in flight as a sparkline."""
    alive = now.balancer_process and now.balancer_process.alive
    rows = []
    for one in seen:
        name, busy = one.state.replica, one.in_flight
        rows.append(
            (
                text_cell(name, "strong"),
                text_cell(one.status, TONES.get(one.status, "plain")),
                text_cell(",".join(map(str, one.state.devices)) or MISSING),
                Cell(f"{one.memory_bytes / GIB:.2f}", float(one.memory_bytes)),
                Cell(MISSING if busy is None else str(busy), busy),
                *([] if history is None else [Cell(sparkline(history[name]))]),
                text_cell(one.state.restarts),
                text_cell(one.state.note),
            )
        )
    return Table(
        name="status",
        title=f"{now.name}: {now.balancer} on {now.url}: {'up' if alive else 'DOWN'}",
        columns=(
            Column("replica", "replica", align="left"),
            Column("state", "state", align="left"),
            Column("devices", "devices", align="left", optional=1),
            Column("memory", "memory_bytes", "GiB"),
            Column("in flight", "in_flight"),
            *([] if history is None else [Column(f"last {LOOKS} s", "", align="left")]),
            Column("restarts", "restarts", optional=2),
            Column("note", "note", align="left"),
        ),
        sections=(tuple(rows),),
        bar="" if history is not None else "in_flight",
    )
